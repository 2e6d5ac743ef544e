//! Disks that guests use as they like, and what is in the host's files afterwards.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;
use tern_guests::debian::CMDLINE;
use tern_guests::{Guest, PROMPT, Tern, host};

const MIB: u64 = 1 << 20;

/// Where Debian has its checker of file systems. The rig is no Debian.
const CHECKER: &str = "/usr/sbin/e2fsck";

/// What the tiny guest's first process says.
const BANNER: &str = "busybox shell.";

/// A raw image of zeros.
fn image(directory: &TempDir, name: &str, size: u64) -> PathBuf {
    let path = directory.path().join(name);
    File::create(&path).unwrap().set_len(size).unwrap();
    path
}

fn with_disk(run: Tern, path: &Path, options: &str) -> Tern {
    run.arg("--disk").arg(format!("{},format=raw{options}", path.display()))
}

fn up(run: Tern) -> Guest {
    let mut guest = run.arg("--cmdline").arg(CMDLINE).start();
    guest.wait_for(PROMPT);
    guest
}

/// The kernel has found nothing to complain about.
#[track_caller]
fn expect_calm(guest: &mut Guest) {
    let complaints =
        guest.ask("dmesg | grep -E 'I/O error|EXT4-fs error|EXT4-fs warning|virtio.*fail|hung|BUG|WARNING'");
    if complaints.lines().any(|line| !host::explains(line)) {
        guest.fail("the kernel complains");
    }
}

#[test]
fn what_is_synced_is_in_the_hosts_file_while_the_guest_still_runs() {
    let directory = tempfile::tempdir().unwrap();
    let path = image(&directory, "disk.raw", 16 * MIB);
    let mut guest = up(with_disk(Tern::run(), &path, ""));
    assert_eq!(guest.ask("cat /sys/block/vda/size /sys/block/vda/serial"), "32768\ndisk.raw");
    guest.ask("printf 'from the guest' | dd of=/dev/vda bs=512 seek=1000 conv=fsync,notrunc 2>/dev/null");
    let mut seen = [0; 14];
    File::open(&path).unwrap().read_exact_at(&mut seen, 1000 * 512).unwrap();
    assert_eq!(&seen, b"from the guest");
    expect_calm(&mut guest);
    let _ = guest.power_off();
}

/// Has io_uring refused to this thread and to what it starts, as containers and careful hosts do.
fn refuse_io_uring() {
    /// The number of io_uring_setup(2).
    const IO_URING_SETUP: i64 = 425;
    let rules = BTreeMap::from([(IO_URING_SETUP, Vec::new())]);
    let refusal = SeccompAction::Errno(rustix::io::Errno::PERM.raw_os_error().cast_unsigned());
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, refusal, TargetArch::x86_64).unwrap();
    seccompiler::apply_filter(&BpfProgram::try_from(filter).unwrap()).unwrap();
}

#[test]
fn a_host_that_refuses_io_uring_serves_disks_by_threads() {
    let check = || {
        refuse_io_uring();
        let directory = tempfile::tempdir().unwrap();
        let path = image(&directory, "disk.raw", 16 * MIB);
        let mut guest = up(with_disk(Tern::run(), &path, ""));
        let descriptors = fs::read_dir(format!("/proc/{}/fd", guest.process())).unwrap().flatten();
        let leads_to_a_ring =
            |path: PathBuf| fs::read_link(path).is_ok_and(|to| to.to_string_lossy().contains("io_uring"));
        assert!(!descriptors.map(|descriptor| descriptor.path()).any(leads_to_a_ring));
        guest.ask("dd if=/dev/urandom of=/dev/vda bs=64k count=99 conv=fsync 2>/dev/null");
        let seen = guest.ask("echo 3 >/proc/sys/vm/drop_caches; sha256sum </dev/vda");
        let digest: String =
            Sha256::digest(fs::read(&path).unwrap()).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(seen, format!("{digest}  -"));
        expect_calm(&mut guest);
        let _ = guest.power_off();
    };
    // The filter is for good, and other tests need none.
    thread::spawn(check).join().unwrap();
}

#[test]
fn a_guest_reads_what_is_in_the_hosts_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = image(&directory, "disk.raw", 16 * MIB);
    let bytes: Vec<u8> = (0..4 * MIB).map(|index| ((index * 31) >> 7) as u8).collect();
    fs::write(&path, &bytes).unwrap();
    let mut guest = up(with_disk(Tern::run(), &path, ""));
    assert_eq!(
        guest.ask("dd if=/dev/vda of=/copy bs=64k 2>/dev/null; wc -c </copy"),
        bytes.len().to_string()
    );
    assert_eq!(guest.ask("cmp /copy /dev/vda && echo same"), "same");
    let sum = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    assert_eq!(guest.ask("sha256sum </copy"), format!("{sum}  -"));
    expect_calm(&mut guest);
    let _ = guest.power_off();
}

#[test]
fn a_file_system_survives_machines_that_come_and_go() {
    let directory = tempfile::tempdir().unwrap();
    let path = image(&directory, "disk.raw", 64 * MIB);
    let mut guest = up(with_disk(Tern::run().cpus(2), &path, ""));
    assert_eq!(guest.ask("ls /sys/block/vda/mq | wc -l"), "2", "a queue for each processor");
    guest.ask("mke2fs -q /dev/vda; mkdir /mnt; mount -t ext4 /dev/vda /mnt && echo mounted");
    // Many files by both processors at once, each written through to the disk.
    guest.ask(
        "w() { n=0; while [ $n -lt 20 ]; do n=$((n+1)); dd if=/dev/urandom of=/mnt/$1.$n bs=16k count=8 conv=fsync 2>/dev/null; done; }",
    );
    guest.ask("w a & w b & wait; cat /mnt/* | md5sum >/mnt/sum; ls /mnt | wc -l");
    let sum = guest.ask("cat /mnt/sum");
    expect_calm(&mut guest);
    // No unmounting: what matters was synced, and the rest is the file system's to repair.
    guest.ask("sync");
    let _ = guest.power_off();

    let mut guest = up(with_disk(Tern::run(), &path, ""));
    guest.ask("mkdir /mnt; mount -t ext4 /dev/vda /mnt");
    assert_eq!(guest.ask("cat /mnt/[ab].* | md5sum"), sum);
    guest.send("reboot\n");
    guest.wait_for(BANNER);
    guest.wait_for(PROMPT);
    guest.ask("mkdir /mnt; mount -t ext4 /dev/vda /mnt");
    assert_eq!(guest.ask("cat /mnt/[ab].* | md5sum"), sum, "after a reboot");
    guest.ask("umount /mnt");
    expect_calm(&mut guest);
    let _ = guest.power_off();
    if Path::new(CHECKER).exists() {
        let output = Command::new(CHECKER).args(["-f", "-n"]).arg(&path).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    }
}

/// Formats of images, as `tern image convert --format` and files' names have them; and one that is an overlay's.
const FORMATS: [&str; 6] = ["raw", "qcow2", "vmdk", "vhd", "vhdx", "layered"];

/// Runs a program of this host that must succeed.
#[track_caller]
fn host_runs(program: &str, arguments: &[&str], codes: &[i32]) {
    let output = Command::new(program).args(arguments).output().unwrap();
    let code = output.status.code().unwrap_or(-1);
    assert!(
        codes.contains(&code),
        "{program} {arguments:?}: {code}\n{}",
        String::from_utf8_lossy(&output.stdout)
    );
}

#[test]
fn file_systems_on_every_image_format_have_all_that_was_synced_and_are_sound_after_a_kill() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    host_runs("/usr/sbin/mke2fs", &["-q", "-t", "ext4", &path("made"), "48M"], &[0]);
    for format in FORMATS {
        let (form, name) = if format == "layered" { ("qcow2", "below") } else { (format, format) };
        let convert = Tern::new(["image", "convert", "--format", form]);
        let _ = convert.arg(path("made")).arg(path(name)).finish().expect_code(0);
    }
    let create = Tern::new(["image", "create", "--format", "qcow2", "--backing"]);
    let _ = create.arg(path("below")).arg(path("layered")).finish().expect_code(0);

    let mut run = Tern::run().cpus(2).within(Duration::from_secs(900));
    for format in FORMATS {
        run = run.arg("--disk").arg(format!(
            "{}{}",
            path(format),
            if format == "raw" { ",format=raw" } else { "" }
        ));
    }
    let mut guest = up(run);
    let mut sums = Vec::new();
    for (format, letter) in FORMATS.iter().zip('a'..) {
        guest.ask(&format!("mkdir /{letter}; mount -t ext4 /dev/vd{letter} /{letter}"));
        // Many files of one size, each written through; then what is not waited for.
        guest.ask(&format!(
            "n=0; while [ $n -lt 12 ]; do n=$((n+1)); dd if=/dev/urandom of=/{letter}/$n bs=16k count=8 conv=fsync 2>/dev/null; done; sync"
        ));
        sums.push((format, letter, guest.ask(&format!("cat /{letter}/[0-9]* | md5sum"))));
    }
    guest.send("for d in a b c d e f; do (while :; do cp /$d/1 /$d/new; mv /$d/new /$d/newer; rm /$d/newer; done) & done\n");
    std::thread::sleep(Duration::from_secs(2));
    guest.signal(rustix::process::Signal::KILL);
    let _ = guest.end().expect_signal(rustix::process::Signal::KILL);

    let mut run = Tern::run().cpus(2).within(Duration::from_secs(900));
    for format in FORMATS {
        let copy = path("copy");
        let convert = Tern::new(["image", "convert", "--force", "--format", "raw"]);
        let _ = convert.arg(path(format)).arg(&copy).finish().expect_code(0);
        // The journal is replayed, and then there is nothing to mend.
        host_runs(CHECKER, &["-f", "-p", &copy], &[0, 1]);
        host_runs(CHECKER, &["-f", "-n", &copy], &[0]);
        run = run.arg("--disk").arg(format!(
            "{}{}",
            path(format),
            if format == "raw" { ",format=raw" } else { "" }
        ));
    }
    let mut guest = up(run);
    for (format, letter, sum) in sums {
        guest.ask(&format!("mkdir /{letter}; mount -t ext4 /dev/vd{letter} /{letter}"));
        assert_eq!(guest.ask(&format!("cat /{letter}/[0-9]* | md5sum")), sum, "{format}");
        guest.ask(&format!("umount /{letter}"));
    }
    expect_calm(&mut guest);
    let _ = guest.power_off();
}

#[test]
fn a_read_only_disk_stays_as_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let path = image(&directory, "disk.raw", MIB);
    fs::write(&path, [b'x'; MIB as usize]).unwrap();
    let mut guest = up(with_disk(Tern::run(), &path, ",ro"));
    assert_eq!(guest.ask("cat /sys/block/vda/ro"), "1");
    assert_eq!(guest.ask("dd if=/dev/vda bs=1 count=4 2>/dev/null"), "xxxx");
    let refused = guest.ask("dd if=/dev/zero of=/dev/vda bs=512 count=1 conv=fsync");
    assert!(refused.contains("not permitted") || refused.contains("Read-only"), "{refused}");
    let _ = guest.power_off();
    assert!(fs::read(&path).unwrap() == [b'x'; MIB as usize]);
}

#[test]
fn several_disks_keep_their_order_and_an_overlay_leaves_its_image_alone() {
    let directory = tempfile::tempdir().unwrap();
    let names = ["first", "second", "third"];
    let mut run = Tern::run();
    for name in names {
        let path = image(&directory, name, MIB);
        run = with_disk(run, &path, if name == "second" { ",overlay" } else { "" });
    }
    let mut guest = up(run);
    for (name, letter) in names.iter().zip(["a", "b", "c"]) {
        assert_eq!(guest.ask(&format!("cat /sys/block/vd{letter}/serial")), *name);
        guest.ask(&format!("echo {name} | dd of=/dev/vd{letter} conv=fsync,notrunc 2>/dev/null"));
        assert_eq!(guest.ask(&format!("head -n 1 /dev/vd{letter}")), *name);
    }
    expect_calm(&mut guest);
    let _ = guest.power_off();
    for name in names {
        let bytes = fs::read(directory.path().join(name)).unwrap();
        let is_written = bytes.starts_with(name.as_bytes());
        assert_eq!(is_written, name != "second", "{name}");
    }
}

#[test]
fn a_driver_that_goes_and_comes_finds_the_disk_again() {
    let directory = tempfile::tempdir().unwrap();
    let path = image(&directory, "disk.raw", 16 * MIB);
    let mut guest = up(with_disk(Tern::run(), &path, ""));
    for round in 0..5 {
        guest.ask(&format!("echo {round} | dd of=/dev/vda conv=fsync,notrunc 2>/dev/null; rmmod virtio_blk"));
        assert_eq!(
            guest.ask("ls /dev/vda; modprobe virtio_blk; head -n 1 /dev/vda").lines().last(),
            Some(round.to_string().as_str())
        );
    }
    expect_calm(&mut guest);
    let _ = guest.power_off();
}

#[test]
fn a_kernel_without_message_interrupts_is_served_by_lines() {
    let directory = tempfile::tempdir().unwrap();
    let mut run = Tern::run().arg("--cmdline").arg(format!("{CMDLINE} pci=nomsi")).cpus(2);
    for name in ["first", "second"] {
        run = with_disk(run, &image(&directory, name, 16 * MIB), "");
    }
    let mut guest = run.start();
    guest.wait_for(PROMPT);
    assert_eq!(guest.ask("grep -c MSI /proc/interrupts"), "0");
    for disk in ["vda", "vdb"] {
        guest.ask(&format!(
            "dd if=/dev/urandom of=/data bs=64k count=16 2>/dev/null; dd if=/data of=/dev/{disk} conv=fsync"
        ));
        guest.ask("echo 3 >/proc/sys/vm/drop_caches");
        assert_eq!(guest.ask(&format!("head -c 1048576 /dev/{disk} | cmp - /data && echo same")), "same");
    }
    assert_eq!(guest.ask("dmesg | grep -c 'nobody cared'"), "0");
    expect_calm(&mut guest);
    let _ = guest.power_off();
}

#[test]
fn a_disk_that_cannot_be_used_is_refused_with_its_name() {
    let end = Tern::run().arg("--disk").arg("/nowhere/disk.raw").finish().expect_code(66);
    end.expect_errors(&["/nowhere/disk.raw"]);
    let directory = tempfile::tempdir().unwrap();
    let path = image(&directory, "disk.raw", MIB);
    let mut guest = up(with_disk(Tern::run(), &path, ""));
    let end = with_disk(Tern::run(), &path, "").finish().expect_code(66);
    end.expect_errors(&["disk.raw"]);
    assert_eq!(guest.ask("cat /sys/block/vda/size"), "2048");
    let _ = guest.power_off();
}
