//! The header of a qcow2 file: QEMU's `docs/interop/qcow2.txt`, "Header" and "Header extensions".

use crate::bytes::{be32_at, be64_at};
use crate::error::Fault;

/// `QFI\xfb`.
pub(crate) const MAGIC: u32 = 0x5146_49fb;

/// The most bytes of an L1 table.
pub(crate) const MOST_L1: u64 = 32 << 20;
/// The most bytes of a refcount table.
pub(crate) const MOST_REFCOUNT_TABLE: u64 = 8 << 20;
/// The most internal snapshots.
pub(crate) const MOST_SNAPSHOTS: u32 = 65_536;
/// The most bytes of a backing file's name.
pub(crate) const MOST_NAME: usize = 1023;
/// The largest disk, in bytes: what fits into an L1 table of the largest size, and is no file's limit.
pub(crate) const MOST_SIZE: u64 = 1 << 56;

/// Incompatible features: who does not know them must not open the file.
pub(crate) mod incompatible {
    /// Refcounts may be wrong: the image was not closed.
    pub(crate) const DIRTY: u64 = 1 << 0;
    /// Metadata is damaged.
    pub(crate) const CORRUPT: u64 = 1 << 1;
    /// Data is in another file.
    pub(crate) const DATA_FILE: u64 = 1 << 2;
    /// The header names a compression method.
    pub(crate) const COMPRESSION: u64 = 1 << 3;
    /// L2 entries tell of parts of clusters.
    pub(crate) const EXTENDED_L2: u64 = 1 << 4;
}

/// Header extensions.
mod extension {
    pub(super) const END: u32 = 0;
    pub(super) const BACKING_FORMAT: u32 = 0xe279_2aca;
    pub(super) const FEATURE_NAMES: u32 = 0x6803_f857;
}

/// Where things are in the header, for those who change them.
pub(crate) mod field {
    pub(crate) const BACKING_OFFSET: u64 = 8;
    pub(crate) const SIZE: u64 = 24;
    pub(crate) const L1_SIZE: u64 = 36;
    pub(crate) const REFCOUNT_TABLE: u64 = 48;
    pub(crate) const INCOMPATIBLE: u64 = 72;
    pub(crate) const AUTOCLEAR: u64 = 88;
}

/// A header, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Header {
    /// 2 or 3.
    pub version: u32,
    /// 9 to 21: clusters have 2 to this power bytes.
    pub cluster_bits: u32,
    /// Bytes of the disk, a multiple of 512.
    pub size: u64,
    /// Entries of the L1 table.
    pub l1_size: u32,
    /// Where it is.
    pub l1_offset: u64,
    /// Where the refcount table is.
    pub refcount_table_offset: u64,
    /// How many clusters it takes.
    pub refcount_table_clusters: u32,
    /// How many internal snapshots there are.
    pub snapshots: u32,
    /// Where the snapshot table is.
    pub snapshots_offset: u64,
    /// See [`incompatible`].
    pub incompatible: u64,
    /// Features that are lost if somebody writes who does not know them.
    pub autoclear: u64,
    /// 0 to 6: refcounts have 2 to this power bits.
    pub refcount_order: u32,
    /// Whether compressed clusters are Zstandard frames.
    pub is_zstandard: bool,
    /// The backing file, as it is written there.
    pub backing: Option<Vec<u8>>,
    /// Its format's name.
    pub backing_format: Option<String>,
}

impl Header {
    /// Bytes of a cluster.
    pub(crate) fn cluster(&self) -> u64 {
        1 << self.cluster_bits
    }

    /// Entries of an L2 table.
    pub(crate) fn l2_entries(&self) -> u64 {
        self.cluster() / 8
    }

    /// Whether it was not closed, and counts may be wrong.
    pub(crate) fn is_dirty(&self) -> bool {
        self.incompatible & incompatible::DIRTY != 0
    }

    /// Whether it is marked as damaged.
    pub(crate) fn is_corrupt(&self) -> bool {
        self.incompatible & incompatible::CORRUPT != 0
    }

    /// How many bytes from the file's beginning [`Self::parse`] wants: the first cluster, if this is a header's beginning.
    pub(crate) fn wanted(start: &[u8]) -> Option<usize> {
        let bits = be32_at(start, 20).filter(|bits| (9..=21).contains(bits))?;
        Some(1 << bits)
    }

    /// Reads a header from the file's first cluster.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, Fault> {
        let short = || Fault::Damaged("its header is cut short".to_owned());
        let word = |at: u64| be32_at(bytes, at as usize).ok_or_else(short);
        let double = |at: u64| be64_at(bytes, at as usize).ok_or_else(short);
        if word(0)? != MAGIC {
            return Err(Fault::Alien("it does not begin with 'QFI'".to_owned()));
        }
        let version = word(4)?;
        if !(2..=3).contains(&version) {
            return Err(Fault::Unsupported(format!(
                "has version {version}, of which nothing is known here: versions 2 and 3 are"
            )));
        }
        let cluster_bits = word(20)?;
        if !(9..=21).contains(&cluster_bits) {
            return Err(Fault::Damaged(format!("its cluster size is 2^{cluster_bits}, not 512 to 2M")));
        }
        let is_3 = version == 3;
        let header_length = if is_3 { word(100)? } else { 72 };
        if is_3 && (header_length < 104 || !header_length.is_multiple_of(8) || header_length > 4096) {
            return Err(Fault::Damaged(format!("its header has {header_length} bytes")));
        }
        let incompatible = if is_3 { double(field::INCOMPATIBLE)? } else { 0 };
        let backing_format = read_extensions(bytes, header_length as usize, incompatible)?;
        match word(32)? {
            0 => {}
            kind => {
                return Err(Fault::Unsupported(format!(
                    "is encrypted (method {kind}): decrypt it with `qemu-img convert` first"
                )));
            }
        }
        let refcount_order = if is_3 { word(96)? } else { 4 };
        if refcount_order > 6 {
            return Err(Fault::Damaged(format!("its refcounts have 2^{refcount_order} bits, not 1 to 64")));
        }
        let compression = if header_length > 104 { bytes.get(104).copied().unwrap_or(0) } else { 0 };
        if compression > 1 {
            return Err(Fault::Unsupported(format!(
                "is compressed by method {compression}, which is not known here"
            )));
        }
        let header = Self {
            version,
            cluster_bits,
            size: double(field::SIZE)?,
            l1_size: word(field::L1_SIZE)?,
            l1_offset: double(40)?,
            refcount_table_offset: double(field::REFCOUNT_TABLE)?,
            refcount_table_clusters: word(56)?,
            snapshots: word(60)?,
            snapshots_offset: double(64)?,
            incompatible,
            autoclear: if is_3 { double(field::AUTOCLEAR)? } else { 0 },
            refcount_order,
            is_zstandard: compression == 1,
            backing: read_backing(bytes, double(field::BACKING_OFFSET)?, word(16)?)?,
            backing_format,
        };
        header.check()?;
        Ok(header)
    }

    fn check(&self) -> Result<(), Fault> {
        let cluster = self.cluster();
        let aligned = |what: &str, offset: u64| {
            if offset.is_multiple_of(cluster) && offset < MOST_SIZE {
                Ok(())
            } else {
                Err(Fault::Damaged(format!("its {what} is at {offset:#x}, where no cluster begins")))
            }
        };
        aligned("L1 table", self.l1_offset)?;
        aligned("refcount table", self.refcount_table_offset)?;
        aligned("snapshot table", self.snapshots_offset)?;
        if self.size > MOST_SIZE || !self.size.is_multiple_of(512) {
            return Err(Fault::Damaged(format!("its disk has {} bytes", self.size)));
        }
        let needed = self.size.div_ceil(cluster * self.l2_entries());
        if u64::from(self.l1_size) < needed || u64::from(self.l1_size) * 8 > MOST_L1 {
            return Err(Fault::Damaged(format!(
                "its L1 table has {} entries, and needs {needed}",
                self.l1_size
            )));
        }
        let table = u64::from(self.refcount_table_clusters) * cluster;
        if table == 0 || table > MOST_REFCOUNT_TABLE || self.refcount_table_offset == 0 {
            return Err(Fault::Damaged(format!("its refcount table has {table} bytes")));
        }
        if self.l1_size > 0 && self.l1_offset == 0 {
            return Err(Fault::Damaged("its L1 table is where its header is".to_owned()));
        }
        if self.snapshots > MOST_SNAPSHOTS {
            return Err(Fault::Damaged(format!("it has {} snapshots", self.snapshots)));
        }
        Ok(())
    }
}

/// Reads the extensions: refuses features that are not known here by their names, and returns the backing file's format.
fn read_extensions(bytes: &[u8], start: usize, incompatible: u64) -> Result<Option<String>, Fault> {
    let mut names = Vec::new();
    let mut format = None;
    let mut at = start;
    // The name of the backing file follows, so that a header without extensions ends anyhow.
    while let Some(kind) = be32_at(bytes, at).filter(|kind| *kind != extension::END) {
        let length = be32_at(bytes, at + 4).unwrap_or(0) as usize;
        let data = (at + 8).checked_add(length).and_then(|end| bytes.get(at + 8..end));
        let Some(data) = data else {
            return Err(Fault::Damaged("a header extension is longer than the header".to_owned()));
        };
        match kind {
            extension::BACKING_FORMAT => format = Some(String::from_utf8_lossy(data).into_owned()),
            extension::FEATURE_NAMES => names = data.to_vec(),
            _ => {}
        }
        at += 8 + length.next_multiple_of(8);
    }
    let known = incompatible::DIRTY
        | incompatible::CORRUPT
        | incompatible::COMPRESSION
        | incompatible::DATA_FILE
        | incompatible::EXTENDED_L2;
    let unknown = incompatible & !known;
    if unknown != 0 {
        let bit = unknown.trailing_zeros();
        let name = feature_name(&names, bit).unwrap_or_else(|| format!("number {bit}"));
        return Err(Fault::Unsupported(format!(
            "uses a feature that is not known here ({name}): convert it with a current `qemu-img convert`"
        )));
    }
    for (bit, name) in [
        (incompatible::DATA_FILE, "keeps its data in another file"),
        (incompatible::EXTENDED_L2, "has extended L2 entries (subclusters)"),
    ] {
        if incompatible & bit != 0 {
            return Err(Fault::Unsupported(format!(
                "{name}, which is not supported: convert it with `qemu-img convert -O qcow2`"
            )));
        }
    }
    Ok(format)
}

/// The name of incompatible feature `bit` in a feature name table.
fn feature_name(table: &[u8], bit: u32) -> Option<String> {
    let entry = table.chunks_exact(48).find(|entry| entry[0] == 0 && u32::from(entry[1]) == bit)?;
    let name = entry[2..].split(|byte| *byte == 0).next().unwrap_or_default();
    Some(String::from_utf8_lossy(name).into_owned())
}

fn read_backing(bytes: &[u8], offset: u64, length: u32) -> Result<Option<Vec<u8>>, Fault> {
    if offset == 0 || length == 0 {
        return Ok(None);
    }
    let length = length as usize;
    let start = usize::try_from(offset).unwrap_or(usize::MAX);
    let name =
        start.checked_add(length).and_then(|end| bytes.get(start..end)).filter(|_| length <= MOST_NAME);
    let name =
        name.ok_or_else(|| Fault::Damaged("its backing file's name is not in its first cluster".to_owned()))?;
    Ok(Some(name.to_vec()))
}

/// The bytes of a new header, with what follows it in the first cluster: version 3, or version 2 if nothing needs 3.
pub(crate) fn encode(header: &Header) -> Vec<u8> {
    let mut bytes = vec![0; header.cluster() as usize];
    let put32 =
        |bytes: &mut [u8], at: usize, value: u32| bytes[at..at + 4].copy_from_slice(&value.to_be_bytes());
    let put64 =
        |bytes: &mut [u8], at: usize, value: u64| bytes[at..at + 8].copy_from_slice(&value.to_be_bytes());
    put32(&mut bytes, 0, MAGIC);
    put32(&mut bytes, 4, header.version);
    put32(&mut bytes, 20, header.cluster_bits);
    put64(&mut bytes, 24, header.size);
    put32(&mut bytes, 36, header.l1_size);
    put64(&mut bytes, 40, header.l1_offset);
    put64(&mut bytes, 48, header.refcount_table_offset);
    put32(&mut bytes, 56, header.refcount_table_clusters);
    let mut at = 72;
    if header.version == 3 {
        put64(&mut bytes, 72, header.incompatible);
        put32(&mut bytes, 96, header.refcount_order);
        put32(&mut bytes, 100, 112);
        bytes[104] = u8::from(header.is_zstandard);
        at = 112;
    }
    if let Some(format) = &header.backing_format {
        put32(&mut bytes, at, extension::BACKING_FORMAT);
        put32(&mut bytes, at + 4, format.len() as u32);
        bytes[at + 8..at + 8 + format.len()].copy_from_slice(format.as_bytes());
        at += 8 + format.len().next_multiple_of(8);
    }
    // The end of the extensions: eight zeros.
    at += 8;
    if let Some(name) = &header.backing {
        put64(&mut bytes, 8, at as u64);
        put32(&mut bytes, 16, name.len() as u32);
        bytes[at..at + name.len()].copy_from_slice(name);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        Header {
            version: 3,
            cluster_bits: 16,
            size: 1 << 30,
            l1_size: 2,
            l1_offset: 3 << 16,
            refcount_table_offset: 1 << 16,
            refcount_table_clusters: 1,
            snapshots: 0,
            snapshots_offset: 0,
            incompatible: 0,
            autoclear: 0,
            refcount_order: 4,
            is_zstandard: false,
            backing: Some(b"base.img".to_vec()),
            backing_format: Some("raw".to_owned()),
        }
    }

    #[test]
    fn what_was_encoded_is_parsed() {
        let three = header();
        assert_eq!(Header::parse(&encode(&three)).unwrap(), three);
        let two = Header { version: 2, backing: None, backing_format: None, ..three };
        assert_eq!(Header::parse(&encode(&two)).unwrap(), two);
    }

    #[test]
    fn impossible_numbers_are_refused() {
        let good = encode(&header());
        for (at, bytes) in [
            (0, &[0_u8; 4][..]),
            (4, &[0, 0, 0, 9]),
            (20, &[0, 0, 0, 8]),
            (20, &[0, 0, 0, 64]),
            (24, &[0xff; 8]),
            (36, &[0, 0, 0, 1]),
            (36, &[0xff; 4]),
            (40, &[0; 8]),
            (40, &[0, 0, 0, 0, 0, 3, 0, 1]),
            (56, &[0; 4]),
            (56, &[0xff; 4]),
            (60, &[0xff; 4]),
            (8, &[0, 0, 0, 0, 0xff, 0, 0, 0]),
            (16, &[0xff; 4]),
            (32, &[0, 0, 0, 1]),
            (79, &[0x20]),
            (96, &[0, 0, 0, 7]),
            (100, &[0, 0, 0, 0]),
            (104, &[9]),
            (116, &[0xff; 4]),
        ] {
            let mut bad = good.clone();
            bad[at..at + bytes.len()].copy_from_slice(bytes);
            assert!(Header::parse(&bad).is_err(), "{at}: {bytes:?}");
        }
        for length in [0, 3, 71, 100] {
            assert!(Header::parse(&good[..length]).is_err(), "{length}");
        }
    }

    #[test]
    fn unknown_features_are_named() {
        let mut table = vec![0; 48];
        table[1] = 7;
        table[2..6].copy_from_slice(b"moon");
        assert_eq!(feature_name(&table, 7).as_deref(), Some("moon"));
        assert_eq!(feature_name(&table, 6), None);
    }
}
