//! VHDX files against a model, and their logs.

use std::sync::Arc;

use proptest::prelude::*;

use super::guid::Guid;
use super::header::seal;
use super::*;
use crate::image::model::{requests, survives_closing, survives_crashes, threads_agree};
use crate::storage::memory::MemoryStorage;

const SIZE: u64 = 6 << 20;

/// A new image with small blocks, so that a test's disk has some.
fn new_image() -> Arc<MemoryStorage> {
    let storage = Arc::new(MemoryStorage::default());
    create(&*storage, SIZE).unwrap();
    let metadata =
        Metadata { size: SIZE, block_size: 1 << 20, sector: 512, physical_sector: 4096, is_fixed: false };
    storage.write_at(&metadata.encode([1; 16]), 2 * UNIT).unwrap();
    storage
}

fn open_writable(storage: &Arc<MemoryStorage>) -> Arc<dyn Image> {
    open(Arc::clone(storage) as _, true, true).unwrap().0
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]

    #[test]
    fn an_image_is_a_disk_before_and_after_it_is_closed(
        first in requests(SIZE / 512, 30),
        second in requests(SIZE / 512, 30),
    ) {
        let storage = new_image();
        survives_closing(|| open_writable(&storage), || {}, &vec![0; SIZE as usize], [&first, &second]);
    }

    #[test]
    fn a_crash_of_the_host_loses_nothing_that_was_flushed(requests in requests(SIZE / 512, 20), seed in any::<u64>()) {
        let storage = new_image();
        // Opened once before: what a crash during the very first opening leaves is another question.
        drop(open_writable(&storage));
        survives_crashes(&storage, open_writable, |_| {}, &vec![0; SIZE as usize], &requests, seed);
    }
}

#[test]
fn threads_do_not_disturb_each_other() {
    for seed in 0..4 {
        threads_agree(&open_writable(&new_image()), seed);
    }
}

/// A log entry that writes one page.
fn log_entry(log: Guid, sequence: u64, tail: u32, offset: u64, page: &[u8; 4096]) -> Vec<u8> {
    let mut bytes = vec![0; 8192];
    bytes[..4].copy_from_slice(b"loge");
    bytes[8..12].copy_from_slice(&8192_u32.to_le_bytes());
    bytes[12..16].copy_from_slice(&tail.to_le_bytes());
    bytes[16..24].copy_from_slice(&sequence.to_le_bytes());
    bytes[24..28].copy_from_slice(&1_u32.to_le_bytes());
    bytes[32..48].copy_from_slice(&log);
    bytes[64..68].copy_from_slice(b"desc");
    bytes[68..72].copy_from_slice(&page[4092..]);
    bytes[72..80].copy_from_slice(&page[..8]);
    bytes[80..88].copy_from_slice(&offset.to_le_bytes());
    bytes[88..96].copy_from_slice(&sequence.to_le_bytes());
    bytes[4096..].copy_from_slice(page);
    bytes[4096..4100].copy_from_slice(b"data");
    bytes[4100..4104].copy_from_slice(&((sequence >> 32) as u32).to_le_bytes());
    bytes[8188..].copy_from_slice(&(sequence as u32).to_le_bytes());
    seal(&mut bytes);
    bytes
}

/// An image whose first block is only known to its log.
fn image_with_log() -> Arc<MemoryStorage> {
    let storage = new_image();
    let image = open_writable(&storage);
    image.write_at(4096, &[7; 512]).unwrap();
    image.flush().unwrap();
    drop(image);
    let (mut header, _) = read_header(&*storage).unwrap();
    header.log = [9; 16];
    header.sequence += 1;
    storage.write_at(&header.encode(), HEADERS[0]).unwrap();
    let mut page = [0; 4096];
    storage.read_at(&mut page, 3 * UNIT).unwrap();
    storage.write_at(&[0; 4096], 3 * UNIT).unwrap();
    // An older sequence that is over, then the one that counts, which goes over the end of the log.
    storage.write_at(&log_entry([9; 16], 4, 0, 3 * UNIT, &[0xff; 4096]), UNIT).unwrap();
    let last = log_entry([9; 16], 11, (UNIT - 4096) as u32, 3 * UNIT, &page);
    let (head, rest) = last.split_at(4096);
    storage.write_at(head, UNIT + UNIT - 4096).unwrap();
    storage.write_at(rest, UNIT).unwrap();
    storage
}

#[test]
fn what_the_log_holds_is_read_and_carried_out_when_the_file_may_be_written() {
    for is_writable in [false, true] {
        let storage = image_with_log();
        let before = storage.bytes();
        let (image, summary) = open(Arc::clone(&storage) as _, is_writable, true).unwrap();
        assert!(summary.has_log);
        let mut found = [0; 512];
        image.read_at(4096, &mut found).unwrap();
        assert_eq!(found, [7; 512], "writable: {is_writable}");
        drop(image);
        assert_eq!(storage.bytes() == before, !is_writable);
        if is_writable {
            let (image, summary) = open(Arc::clone(&storage) as _, false, true).unwrap();
            assert!(!summary.has_log);
            image.read_at(4096, &mut found).unwrap();
            assert_eq!(found, [7; 512]);
        }
    }
}

#[test]
fn one_header_is_enough() {
    for place in HEADERS {
        let storage = new_image();
        drop(open_writable(&storage));
        storage.write_at(&[0; 4096], place).unwrap();
        assert!(open(Arc::clone(&storage) as _, false, true).is_ok());
    }
}
