//! Every script that fuzzing found worth keeping, carried out as the fuzz targets do it.
//!
//! The files and the targets are in the folder `fuzz` of the repository.

use std::path::Path;

#[path = "../../../fuzz/src/virtio.rs"]
mod virtio;

/// Replays the corpus of `target` and returns the number of files.
fn replay(target: &str, carry_out: fn(&[u8])) -> usize {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target);
    let files = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let replay = |entry: std::io::Result<std::fs::DirEntry>| {
        let path = entry.expect("the corpus is readable").path();
        carry_out(&std::fs::read(&path).expect("the corpus holds files"));
    };
    files.map(replay).count()
}

macro_rules! corpora {
    ($($name:ident: $target:literal, $carry_out:path;)*) => {
        $(
            #[test]
            fn $name() {
                assert!(replay($target, $carry_out) > 0);
            }
        )*
    };
}

corpora! {
    drivers_of_disks_leave_the_device_and_the_host_as_they_are: "virtio-block", virtio::block;
    drivers_of_consoles_leave_the_device_and_the_host_as_they_are: "virtio-console", virtio::console;
    drivers_of_sockets_leave_the_device_and_the_host_as_they_are: "virtio-vsock", virtio::vsock;
    drivers_of_balloons_leave_the_device_and_the_host_as_they_are: "virtio-balloon", virtio::balloon;
    drivers_of_random_numbers_leave_the_device_and_the_host_as_they_are: "virtio-rng", virtio::rng;
    accesses_to_registers_leave_the_device_and_the_host_as_they_are: "virtio-transport", virtio::transport;
}
