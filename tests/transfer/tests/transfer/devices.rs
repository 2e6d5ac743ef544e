//! Virtio devices that go along with their machine, amid requests.

use std::sync::Arc;

use tempfile::TempDir;
use tern_disk::{DiskOptions, Format};
use tern_test_transfer::seeds;
use tern_virtio::balloon::Balloon;
use tern_virtio::block::Block;
use tern_virtio::console::{Console, PortConfig};
use tern_virtio::device::VirtioDevice;
use tern_virtio::rng::Rng;
use tern_virtio::vsock::Vsock;
use tern_vmm::config::{DeviceConfig, MachineConfig};
use tern_vmm::machine::End;

use super::{journeys, linux, name};

/// Files are written through to the disk and read again from it; random numbers are asked for all the time.
const WORK: &str = "\
mke2fs -q /dev/vda >/dev/null; mkdir /mnt; mount -t ext4 /dev/vda /mnt\n\
(while :; do dd if=/dev/hwrng of=/dev/null bs=512 count=1 2>/dev/null; done) &\n\
w() { i=0; while [ $i -lt 10 ]; do dd if=/dev/urandom bs=16k count=6 2>/dev/null | tee /mnt/$1$i | md5sum; sync; i=$((i + 1)); done >/$1; }\n\
r() { i=0; while [ $i -lt 10 ]; do md5sum </mnt/$1$i; i=$((i + 1)); done; }\n\
w a & w b & wait %2 %3; umount /mnt; mount -t ext4 /dev/vda /mnt\n\
for f in a b; do r $f | cmp - /$f && echo files $f are there; done\n\
umount /mnt; dmesg | grep -E 'I/O error|EXT4-fs error|virtio.*fail'\n\
poweroff\n";

/// A machine with every device; its files are in a folder of their own, which must outlive it.
fn machine(cpus: u32) -> (MachineConfig, TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    std::fs::File::create(path("disk")).unwrap().set_len(32 << 20).unwrap();
    let mut options = DiskOptions::new(path("disk"));
    options.format = Some(Format::Raw);
    let disk = tern_disk::open(&options).unwrap();
    let console = Console::new(vec![PortConfig::terminal(&path("terminal")).unwrap()]).unwrap();
    let devices: [(&str, Arc<dyn VirtioDevice>); 5] = [
        ("disk", Arc::new(Block::new(disk, "disk", u16::try_from(cpus).unwrap()))),
        ("console", Arc::new(console)),
        ("vsock", Arc::new(Vsock::new(3, &path("vsock")).unwrap())),
        ("balloon", Arc::new(Balloon::new(0).unwrap())),
        ("rng", Arc::new(Rng)),
    ];
    let device = |(name, device)| DeviceConfig { name: String::from(name), device };
    let devices = devices.into_iter().map(device).collect();
    (MachineConfig { devices, ..linux::machine(cpus) }, directory)
}

fn travels(cpus: u32, departures: usize) {
    for journey in journeys(departures, 500..240_000) {
        let cpu_model = journey.processor(|| machine(cpus).0);
        for seed in seeds(1) {
            let (config, _directory) = machine(cpus);
            let config = MachineConfig { cpu_model: cpu_model.clone(), ..config };
            let arrival = journey.travel(config, WORK, seed);
            let output = &arrival.output;
            let fail = |why: &str| -> ! { panic!("{}, seed {seed}: {why}\n{output}", name(&journey)) };
            if !matches!(arrival.end, End::PowerOff) {
                fail(&format!("it ended otherwise: {:?}", arrival.end));
            }
            if !["files a are there", "files b are there"]
                .iter()
                .all(|line| output.contains(&format!("\n{line}")))
            {
                fail("the disk does not hold what was written");
            }
            let complaints = ["I/O error,", "EXT4-fs error (", "virtio_blk virtio0: fail"];
            if complaints.iter().any(|complaint| output.contains(complaint)) {
                fail("the kernel complains");
            }
            if arrival.departures <= 5 {
                fail("it ended before it could leave");
            }
        }
    }
}

#[test]
fn a_guest_that_works_on_its_disk_goes_from_engine_to_engine() {
    travels(1, 51);
}

#[test]
fn two_processors_and_their_queues_go_together() {
    travels(2, 51);
}
