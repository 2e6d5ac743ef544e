//! The descriptor of a VMDK: text that says of which extents the disk is made. VMware's "Virtual Disk Format 1.1", "The
//! Descriptor File".

use crate::error::Fault;

/// The most bytes of a descriptor; usual ones have a few hundred.
pub(crate) const MOST: usize = 64 << 10;
/// The most extents: 2 GiB each, of a disk of 64 TiB.
const MOST_EXTENTS: usize = 32 << 10;

/// What a descriptor says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Descriptor {
    /// `createType`.
    pub kind: String,
    /// The file of the disk that this one stands on.
    pub parent: Option<String>,
    /// In the disk's order.
    pub extents: Vec<Extent>,
    /// Where the eight digits of the content's identifier are, in bytes from the beginning.
    pub id_place: Option<usize>,
}

/// A part of the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Extent {
    /// Whether it may be written.
    pub is_writable: bool,
    /// Sectors of 512 bytes.
    pub sectors: u64,
    /// What is there.
    pub contents: Contents,
}

/// What an extent holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Contents {
    /// The bytes of a file, from a sector on.
    Flat { file: String, start: u64 },
    /// A sparse file.
    Sparse { file: String },
    /// Zeros.
    Zero,
}

impl Descriptor {
    /// Reads a descriptor, which may be followed by zeros.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, Fault> {
        let text = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
        let text =
            std::str::from_utf8(text).map_err(|_| Fault::Damaged("its descriptor is no text".to_owned()))?;
        if !text.starts_with("# Disk DescriptorFile") {
            return Err(Fault::Alien("it has no descriptor".to_owned()));
        }
        let mut descriptor = Self::default();
        let mut parent_id = String::new();
        let mut place = 0;
        for line in text.split('\n') {
            let start = place;
            place += line.len() + 1;
            let trimmed = line.trim();
            if trimmed.is_empty() || trimmed.starts_with('#') {
                continue;
            }
            if let Some(extent) = parse_extent(trimmed)? {
                descriptor.extents.push(extent);
                if descriptor.extents.len() > MOST_EXTENTS {
                    return Err(Fault::Damaged("its descriptor has too many extents".to_owned()));
                }
                continue;
            }
            let Some((key, value)) = trimmed.split_once('=') else { continue };
            let value = value.trim().trim_matches('"');
            match key.trim() {
                "createType" => value.clone_into(&mut descriptor.kind),
                "parentCID" => value.clone_into(&mut parent_id),
                "parentFileNameHint" => descriptor.parent = Some(value.to_owned()),
                "CID" if value.len() == 8 => {
                    descriptor.id_place = line.find(value).map(|within| start + within);
                }
                "encoding" if !matches!(value.to_ascii_lowercase().as_str(), "utf-8" | "windows-1252") => {
                    return Err(Fault::Unsupported(format!(
                        "has names in encoding {value}, which is not known here"
                    )));
                }
                _ => {}
            }
        }
        if parent_id.is_empty() || parent_id.eq_ignore_ascii_case("ffffffff") {
            descriptor.parent = None;
        } else if descriptor.parent.is_none() {
            return Err(Fault::Damaged("it stands on another disk, and does not say on which".to_owned()));
        }
        Ok(descriptor)
    }
}

/// Reads `RW 4192256 SPARSE "name.vmdk"`, if the line is of that kind.
fn parse_extent(line: &str) -> Result<Option<Extent>, Fault> {
    let mut words = line.splitn(4, ' ');
    let is_writable = match words.next() {
        Some("RW") => true,
        Some("RDONLY") => false,
        Some("NOACCESS") => {
            return Err(Fault::Unsupported("has a part that may not be accessed".to_owned()));
        }
        _ => return Ok(None),
    };
    let wrong = || Fault::Damaged(format!("its descriptor has a line that makes no sense: '{line}'"));
    let sectors: u64 = words.next().and_then(|word| word.parse().ok()).ok_or_else(wrong)?;
    if sectors > 1 << 46 {
        return Err(wrong());
    }
    let kind = words.next().ok_or_else(wrong)?;
    let rest = words.next().unwrap_or_default().trim();
    let (file, behind) = match rest.strip_prefix('"').and_then(|rest| rest.split_once('"')) {
        Some((file, behind)) => (file.to_owned(), behind.trim()),
        None => (String::new(), ""),
    };
    let contents = match kind {
        "ZERO" => Contents::Zero,
        _ if file.is_empty() => return Err(wrong()),
        "FLAT" | "VMFS" => {
            let start = if behind.is_empty() { 0 } else { behind.parse().map_err(|_| wrong())? };
            Contents::Flat { file, start }
        }
        "SPARSE" => Contents::Sparse { file },
        other => {
            return Err(Fault::Unsupported(format!(
                "has an extent of kind {other}: convert it with VMware's tools (`vmkfstools`, `ovftool`) or `qemu-img convert`"
            )));
        }
    };
    Ok(Some(Extent { is_writable, sectors, contents }))
}

/// A new descriptor. `id` is the content's identifier, `extents` its lines.
pub(crate) fn encode(kind: &str, id: u32, extents: &str, size: u64) -> String {
    let cylinders = (size / (16 * 63 * 512)).min(65535);
    format!(
        "# Disk DescriptorFile\nversion=1\nCID={id:08x}\nparentCID=ffffffff\ncreateType=\"{kind}\"\n\n# Extent description\n{extents}\n\n\
         # The Disk Data Base\n#DDB\n\nddb.virtualHWVersion = \"4\"\nddb.geometry.cylinders = \"{cylinders}\"\n\
         ddb.geometry.heads = \"16\"\nddb.geometry.sectors = \"63\"\nddb.adapterType = \"ide\"\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# Disk DescriptorFile\nversion=1\nCID=0123abcd\nparentCID=ffffffff\ncreateType=\"twoGbMaxExtentFlat\"\n\
        RW 4192256 FLAT \"disk one-f001.vmdk\" 0\nRW 2048 FLAT \"disk-f002.vmdk\" 128\nRDONLY 63 ZERO\nRW 10 SPARSE \"s.vmdk\"\n\
        ddb.adapterType = \"ide\"\n";

    #[test]
    fn extents_are_read_in_their_order() {
        let found = Descriptor::parse(TEXT.as_bytes()).unwrap();
        assert_eq!((found.kind.as_str(), found.parent), ("twoGbMaxExtentFlat", None));
        let flat = |file: &str, start| Contents::Flat { file: file.to_owned(), start };
        let contents: Vec<Contents> = found.extents.iter().map(|extent| extent.contents.clone()).collect();
        let sparse = Contents::Sparse { file: "s.vmdk".to_owned() };
        assert_eq!(
            contents,
            [flat("disk one-f001.vmdk", 0), flat("disk-f002.vmdk", 128), Contents::Zero, sparse]
        );
        assert_eq!(found.extents[0].sectors, 4_192_256);
        assert!(!found.extents[2].is_writable);
        let place = found.id_place.unwrap();
        assert_eq!(&TEXT[place..place + 8], "0123abcd");
    }

    #[test]
    fn a_parent_is_only_one_if_the_identifier_says_so() {
        let with = TEXT.replace("parentCID=ffffffff", "parentCID=11112222\nparentFileNameHint=\"base.vmdk\"");
        assert_eq!(Descriptor::parse(with.as_bytes()).unwrap().parent.as_deref(), Some("base.vmdk"));
        let lost = TEXT.replace("parentCID=ffffffff", "parentCID=11112222");
        assert!(Descriptor::parse(lost.as_bytes()).is_err());
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for line in [
            "RW",
            "RW x FLAT \"a\"",
            "RW 5",
            "RW 5 FLAT",
            "RW 5 FLAT \"a\" x",
            "RW 5 WARP \"a\"",
            "RW 99999999999999999 ZERO",
        ] {
            assert!(Descriptor::parse(format!("{TEXT}{line}\n").as_bytes()).is_err(), "{line}");
        }
        assert!(Descriptor::parse(b"version=1").is_err());
    }

    #[test]
    fn what_was_encoded_is_parsed() {
        let text = encode("monolithicSparse", 7, "RW 2048 SPARSE \"a.vmdk\"", 1 << 20);
        let found = Descriptor::parse(text.as_bytes()).unwrap();
        assert_eq!((found.kind.as_str(), found.extents.len()), ("monolithicSparse", 1));
    }
}
