//! Writing compressed clusters: `qcow2.txt`, "Compressed Clusters Descriptor". Only whole new images are written so.

use std::io;
use std::sync::Arc;

use flate2::{Compress, Compression, FlushCompress, Status};

use super::entry::L2Entry;
use super::{open, read_header};
use crate::error::Fault;
use crate::image::{Access, Image, Place};
use crate::storage::Storage;

/// Readers look back as far as 2 to this power bytes, and no farther.
const WINDOW_BITS: u8 = 12;

/// Fills the image in `storage`, which is new and empty, with what `from` holds.
pub(crate) fn write_compressed(
    storage: &Arc<dyn Storage>,
    from: &dyn Image,
    told: crate::tool::Told<'_>,
) -> io::Result<()> {
    let header = read_header(&**storage).map_err(Fault::into_io)?;
    let image = open(Arc::clone(storage), &header, None, true, false).map_err(Fault::into_io)?;
    let cluster = header.cluster();
    let mut bytes = vec![0; cluster as usize];
    let mut at = 0;
    while at < from.size() {
        told(at, from.size());
        let run = from.locate(at, from.size() - at, Access::Read)?;
        if matches!(run.place, Place::Zero) && run.length >= cluster {
            at += run.length / cluster * cluster;
            continue;
        }
        let length = cluster.min(from.size() - at) as usize;
        bytes[length..].fill(0);
        from.read_at(at, &mut bytes[..length])?;
        if bytes.iter().any(|byte| *byte != 0) {
            match deflate(&bytes)? {
                Some(packed) => {
                    let place = image.with_map(|map| map.take_bytes(packed.len() as u64))?;
                    storage.write_at(&packed, place)?;
                    let entry = L2Entry::compressed(place, packed.len() as u64, header.cluster_bits);
                    image.with_map(|map| map.install_compressed(at / cluster, entry))?;
                }
                None => {
                    let dynamic: &dyn Image = &image;
                    dynamic.write_at(at, &bytes[..length])?;
                }
            }
            if image.with_map(|map| crate::image::mapped::Map::is_pressed(map)) {
                image.flush()?;
            }
        }
        at += cluster;
    }
    // A compressed cluster's length is told in sectors: the last is there as a whole.
    storage.set_length(storage.length()?.next_multiple_of(512))?;
    image.flush()
}

/// The bytes compressed, if that makes them fewer.
fn deflate(bytes: &[u8]) -> io::Result<Option<Vec<u8>>> {
    let mut packed = Vec::with_capacity(bytes.len());
    let mut compress = Compress::new_with_window_bits(Compression::default(), false, WINDOW_BITS);
    let status =
        compress.compress_vec(bytes, &mut packed, FlushCompress::Finish).map_err(io::Error::other)?;
    let is_less = status == Status::StreamEnd && packed.len() < bytes.len();
    Ok(is_less.then_some(packed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_get_smaller_stays_as_it_is() {
        let mut noise = 1_u64;
        let bytes: Vec<u8> = (0..65536)
            .map(|_| {
                noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (noise >> 40) as u8
            })
            .collect();
        assert_eq!(deflate(&bytes).unwrap(), None);
        assert!(deflate(&[7; 65536]).unwrap().unwrap().len() < 1000);
    }
}
