//! Sparse extents against a model.

use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::image::Raw;
use crate::image::model::{requests, survives_closing, survives_crashes, threads_agree};
use crate::storage::memory::MemoryStorage;

const SIZE: u64 = (2 << 20) + 1536;

fn new_image() -> Arc<MemoryStorage> {
    let storage = Arc::new(MemoryStorage::default());
    create(&*storage, SIZE, "disk.vmdk").unwrap();
    storage
}

fn open_with(storage: &Arc<MemoryStorage>, backing: Option<Arc<dyn Image>>) -> Arc<dyn Image> {
    let contained = read(&**storage).unwrap();
    contained.claim(&**storage).unwrap();
    let header = contained.header.unwrap();
    sparse(Arc::clone(storage) as _, header, header.size, backing, true, true).unwrap()
}

fn open_writable(storage: &Arc<MemoryStorage>) -> Arc<dyn Image> {
    open_with(storage, None)
}

fn parent() -> (Vec<u8>, Arc<dyn Image>) {
    let bytes: Vec<u8> = (0..SIZE).map(|at| (at / 55) as u8).collect();
    let storage = Arc::new(MemoryStorage::new(bytes.clone()));
    (bytes, Arc::new(Raw::new(storage, 0, SIZE, false, false)))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn an_image_is_a_disk_before_and_after_it_is_closed(
        has_parent in any::<bool>(),
        first in requests(SIZE / 512, 40),
        second in requests(SIZE / 512, 40),
    ) {
        let storage = new_image();
        let (bytes, parent) = parent();
        let (bytes, parent) = if has_parent { (bytes, Some(parent)) } else { (vec![0; SIZE as usize], None) };
        let open = || open_with(&storage, parent.clone());
        survives_closing(open, || {}, &bytes, [&first, &second]);
    }

    #[test]
    fn a_crash_of_the_host_loses_nothing_that_was_flushed(requests in requests(SIZE / 512, 30), seed in any::<u64>()) {
        let storage = new_image();
        survives_crashes(&storage, open_writable, |_| {}, &vec![0; SIZE as usize], &requests, seed);
    }
}

#[test]
fn threads_do_not_disturb_each_other() {
    for seed in 0..4 {
        threads_agree(&open_writable(&new_image()), seed);
    }
}

#[test]
fn whoever_writes_changes_the_identifier() {
    let storage = new_image();
    let id = |storage: &MemoryStorage| {
        let text = String::from_utf8_lossy(&storage.bytes()[512..1024]).into_owned();
        text.lines().find(|line| line.starts_with("CID=")).unwrap().to_owned()
    };
    let before = id(&storage);
    drop(open_writable(&storage));
    assert_ne!(id(&storage), before);
    assert!(read(&*storage).is_ok());
}
