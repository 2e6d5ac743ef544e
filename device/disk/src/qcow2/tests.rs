//! qcow2 images against a model, and their files against the rules.

use std::sync::Arc;

use proptest::prelude::*;

use super::check::Findings;
use super::*;
use crate::image::Raw;
use crate::image::model::{requests, survives_closing, survives_crashes, threads_agree};
use crate::storage::memory::MemoryStorage;

const SIZE: u64 = 1 << 18;

fn new_image(new: &NewQcow2) -> Arc<MemoryStorage> {
    let storage = Arc::new(MemoryStorage::default());
    create(&*storage, new).unwrap();
    storage
}

fn open_writable(storage: &Arc<MemoryStorage>, backing: Option<Arc<dyn Image>>) -> Qcow2 {
    let header = read_header(&**storage).unwrap();
    open(Arc::clone(storage) as _, &header, backing, true, true).unwrap()
}

/// Checks a closed image: nothing is damaged, nothing is lost.
fn assert_clean(storage: &Arc<MemoryStorage>) {
    let findings = findings(storage, false);
    assert_eq!((findings.damages.told, findings.leaked), (Vec::new(), 0));
}

fn findings(storage: &Arc<MemoryStorage>, is_mended: bool) -> Findings {
    let header = read_header(&**storage).unwrap();
    let (snapshots, length) = read_snapshots(&**storage, &header).unwrap();
    let storage: Arc<dyn Storage> = Arc::clone(storage) as _;
    check(&storage, &header, &snapshots, length, is_mended, &mut |_, _| {}).unwrap()
}

fn backing() -> (Vec<u8>, Arc<dyn Image>) {
    // Smaller than the disk, and no multiple of a cluster.
    let bytes: Vec<u8> = (0..SIZE / 2 + 1536).map(|at| (at / 99) as u8).collect();
    let raw = Raw::new(Arc::new(MemoryStorage::new(bytes.clone())), 0, bytes.len() as u64, false, false);
    let mut all = bytes;
    all.resize(SIZE as usize, 0);
    (all, Arc::new(raw))
}

fn kinds() -> impl Strategy<Value = NewQcow2> {
    (9..14_u32, 0..7_u32, 2..4_u32, any::<bool>()).prop_map(|(cluster_bits, order, version, has_backing)| {
        NewQcow2 {
            size: SIZE,
            version,
            cluster_bits,
            refcount_order: if version == 2 { 4 } else { order },
            backing: has_backing.then(|| (b"base".to_vec(), "raw".to_owned())),
            is_zstandard: false,
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn an_image_is_a_disk_before_and_after_it_is_closed(
        new in kinds(),
        first in requests(SIZE / 512, 40),
        second in requests(SIZE / 512, 40),
    ) {
        let storage = new_image(&new);
        let (bytes, below) = backing();
        let below = new.backing.as_ref().map(|_| below);
        let bytes = if below.is_some() { bytes } else { vec![0; SIZE as usize] };
        let open = || Arc::new(open_writable(&storage, below.clone())) as Arc<dyn Image>;
        survives_closing(open, || assert_clean(&storage), &bytes, [&first, &second]);
    }
}

#[test]
fn threads_do_not_disturb_each_other() {
    for seed in 0..8 {
        let mut new = NewQcow2::new(SIZE);
        new.cluster_bits = 12;
        new.backing = Some((b"base".to_vec(), "raw".to_owned()));
        let storage = new_image(&new);
        let image: Arc<dyn Image> = Arc::new(open_writable(&storage, Some(backing().1)));
        threads_agree(&image, seed);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, ..ProptestConfig::default() })]

    #[test]
    fn a_crash_of_the_host_loses_nothing_that_was_flushed(
        new in kinds(),
        requests in requests(SIZE / 512, 60),
        seed in any::<u64>(),
    ) {
        let storage = new_image(&new);
        let (bytes, below) = backing();
        let below = new.backing.as_ref().map(|_| below);
        let bytes = if below.is_some() { bytes } else { vec![0; SIZE as usize] };
        let open = |storage: &Arc<MemoryStorage>| Arc::new(open_writable(storage, below.clone())) as Arc<dyn Image>;
        let is_sound = |storage: &Arc<MemoryStorage>| {
            assert_eq!(findings(storage, false).damages.told, Vec::<String>::new());
        };
        survives_crashes(&storage, open, is_sound, &bytes, &requests, seed);
    }
}
