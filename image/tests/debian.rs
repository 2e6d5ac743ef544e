//! Images fetched for real. They need a Debian host and its mirror, so they run on request:
//! `cargo test -p tern-image --test debian -- --ignored`.

use std::fs;

use tern_image::debian::{Flavour, Suite, guest_kernel, kernel};
use tern_image::{Cache, OnStderr, Silent, tiny};

#[test]
#[ignore = "needs a Debian host and its mirror"]
fn the_tiny_guest_is_fetched_once() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let cache = Cache::at(directory.path().to_owned());
    let image = tiny(&cache, &OnStderr::new()).expect("the tiny guest");
    let kernel = fs::read(&image.kernel).expect("its kernel");
    assert_eq!(&kernel[0x202..0x206], b"HdrS");
    let initrd = fs::read(image.initrd.as_ref().expect("its initramfs")).expect("readable");
    assert_eq!(&initrd[..6], b"070701");

    let entries = cache.entries().expect("a readable cache");
    assert_eq!(entries.len(), 3, "{entries:?}");
    for entry in &entries {
        cache.check(&entry.key, &mut |_, _| ()).expect("an undamaged entry");
        assert!(!cache.root().join(&entry.key).join("work").exists());
    }
    let before = fs::metadata(&image.kernel).and_then(|data| data.modified());
    assert_eq!(tiny(&cache, &Silent).expect("again"), image);
    let after = fs::metadata(&image.kernel).and_then(|data| data.modified());
    assert_eq!(before.ok(), after.ok());
}

#[test]
#[ignore = "needs a Debian host and its mirror"]
fn kernels_of_another_suite_come_from_the_same_mirror() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let cache = Cache::at(directory.path().to_owned());
    for flavour in [Flavour::Cloud, Flavour::Generic] {
        let path = kernel(&cache, Suite::Trixie, flavour, &OnStderr::new()).expect("a kernel");
        let name = path.file_name().expect("a name").display().to_string();
        assert!(name.starts_with("vmlinuz-6.12."), "{name}");
    }
    let guest = guest_kernel(&cache, Suite::Trixie, &Silent).expect("from the cache");
    assert!(guest.release.starts_with("6.12."), "{guest:?}");
    let disk = guest.modules.iter().find(|module| module.ends_with("virtio_blk.ko")).expect("it is a module");
    assert_eq!(&fs::read(disk).expect("readable")[..4], b"\x7fELF", "it is unpacked");
    assert!(!guest.modules.iter().any(|module| module.ends_with("virtio_pci.ko")), "it is built in");
}
