//! VHDs against a model.

use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::image::model::{requests, survives_closing, survives_crashes, threads_agree};
use crate::storage::memory::MemoryStorage;

const SIZE: u64 = (4 << 20) + 512;

fn new_image(is_fixed: bool) -> Arc<MemoryStorage> {
    let storage = Arc::new(MemoryStorage::default());
    create(&*storage, SIZE, is_fixed).unwrap();
    storage
}

fn open_writable(storage: &Arc<MemoryStorage>) -> Arc<dyn Image> {
    open(Arc::clone(storage) as _, true, true).unwrap().0
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn an_image_is_a_disk_before_and_after_it_is_closed(
        is_fixed in any::<bool>(),
        first in requests(SIZE / 512, 30),
        second in requests(SIZE / 512, 30),
    ) {
        let storage = new_image(is_fixed);
        survives_closing(|| open_writable(&storage), || {}, &vec![0; SIZE as usize], [&first, &second]);
    }

    #[test]
    fn a_crash_of_the_host_loses_nothing_that_was_flushed(requests in requests(SIZE / 512, 20), seed in any::<u64>()) {
        let storage = new_image(false);
        survives_crashes(&storage, open_writable, |_| {}, &vec![0; SIZE as usize], &requests, seed);
    }
}

#[test]
fn threads_do_not_disturb_each_other() {
    for seed in 0..4 {
        threads_agree(&open_writable(&new_image(false)), seed);
    }
}

#[test]
fn sectors_without_their_bit_read_as_zeros() {
    for is_writable in [false, true] {
        let storage = new_image(false);
        let image = open_writable(&storage);
        image.write_at(0, &[5; 8192]).unwrap();
        image.flush().unwrap();
        drop(image);
        // The block is behind the table, and begins with the bitmap: keep the bits of sectors 2 and 3.
        let block = 1536 + 512;
        (&*storage as &dyn Storage).write_at(&[0x30], block).unwrap();
        (&*storage as &dyn Storage).write_at(&[0; 511], block + 1).unwrap();
        let image = open(Arc::clone(&storage) as _, is_writable, true).unwrap().0;
        let mut found = [1; 4096];
        image.read_at(0, &mut found).unwrap();
        assert!(found[..1024].iter().chain(&found[2048..]).all(|byte| *byte == 0));
        assert_eq!(found[1024..2048], [5; 1024]);
        if is_writable {
            image.write_at(0, &[6; 512]).unwrap();
            image.read_at(0, &mut found).unwrap();
            assert_eq!((found[0], found[512], found[1024]), (6, 0, 5));
        }
    }
}

#[test]
fn the_footer_of_a_fixed_disk_is_not_part_of_it() {
    let storage = new_image(true);
    let footer = Footer { kind: Kind::Fixed, size: SIZE + 512, header_offset: u64::MAX };
    (&*storage as &dyn Storage).write_at(&footer.encode([1; 16], 0), SIZE).unwrap();
    assert!(matches!(open(storage, true, true), Err(Fault::Damaged(_))));
}

#[test]
fn a_guest_cannot_make_its_fixed_disk_a_dynamic_one() {
    let storage = new_image(true);
    let larger = Arc::new(MemoryStorage::default());
    create(&*larger, SIZE * 4, false).unwrap();
    open_writable(&storage).write_at(0, &larger.bytes()).unwrap();
    let (image, summary) = open(storage, true, true).unwrap();
    assert_eq!((image.size(), summary.is_fixed), (SIZE, true));
}
