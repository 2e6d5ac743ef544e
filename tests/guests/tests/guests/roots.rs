//! Guests that live on a disk: their root file system is in an image of each format, and an overlay over it.
//!
//! ```text
//! initramfs   the tiny guest's, and `bin/to-disk` in place of its init: drivers, mount, switch_root(8)
//! /dev/vda    an ext4 that mke2fs(8) has filled: busybox, and `init`
//! ```

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use sha2::{Digest as _, Sha256};
use tempfile::TempDir;
use tern_guests::debian::{self, CMDLINE, Flavour, Suite};
use tern_guests::{Guest, PROMPT, Tern};

/// The host's tools for file systems.
const MKE2FS: &str = "/usr/sbin/mke2fs";
const E2FSCK: &str = "/usr/sbin/e2fsck";
const DEBUGFS: &str = "/usr/sbin/debugfs";

/// The file system's size, as mke2fs takes it: busybox, its names and the data that are written, and some room.
const SIZE: &str = "24M";

/// The initramfs's first process. The disk is there when its driver is.
const TO_DISK: &str = "#!/bin/busybox sh
busybox mount -a
/init drivers
busybox mkdir /disk
busybox mount -t ext4 /dev/vda /disk
for place in dev proc sys; do busybox mount -o move /$place /disk/$place; done
exec busybox switch_root /disk /init
";

/// The disk's first process. It writes busybox's names to the root, and leaves that read-only at its end.
const INIT: &str = "#!/bin/busybox sh
export PATH=/bin PS1='tern:\\w# '
busybox --install -s /bin
stty cols $COLUMNS </dev/console
setsid -c sh </dev/console
umount -a -r
poweroff -f
";

/// What a guest does on its root: files of every kind of size, a name that goes away, and the digest of what stays.
const WORK: &str = "mkdir /made; seq 30 | while read n; do echo $n >/made/$n; done; rm /made/7; \
                    dd if=/dev/urandom of=/data bs=64k count=48 2>/dev/null; sync; sha256sum </data";

/// What is asked of the host's tools, and must be done.
#[track_caller]
fn host_runs(program: &str, arguments: &[&str]) -> Vec<u8> {
    let output = Command::new(program).args(arguments).output().unwrap();
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{program} {arguments:?}: {}\n{told}", output.status);
    output.stdout
}

fn digest(mut from: impl io::Read) -> String {
    let mut digest = Sha256::new();
    io::copy(&mut from, &mut digest).unwrap();
    digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn digest_of(path: &Path) -> String {
    digest(File::open(path).unwrap())
}

/// A disk image with a root, and what boots from it.
struct Root {
    directory: TempDir,
    /// The image's name.
    name: &'static str,
}

impl Root {
    /// Makes a root and an image of it, as `tern image convert` does with these options.
    fn new(name: &'static str, options: &[&str]) -> Self {
        let root = Self { directory: tempfile::tempdir().unwrap(), name };
        let files = root.path("files");
        for folder in ["", "bin", "dev", "proc", "sys"] {
            fs::create_dir(files.join(folder)).unwrap();
        }
        fs::copy(debian::busybox(), files.join("bin/busybox")).unwrap();
        fs::write(files.join("init"), INIT).unwrap();
        for program in ["bin/busybox", "init"] {
            fs::set_permissions(files.join(program), Permissions::from_mode(0o755)).unwrap();
        }
        let (files, made) = (root.text("files"), root.text("made"));
        let _ = host_runs(MKE2FS, &["-q", "-t", "ext4", "-E", "root_owner=0:0", "-d", &files, &made, SIZE]);
        root.convert("made", name, options);
        let programs = [("to-disk", TO_DISK.as_bytes().to_vec())];
        fs::write(root.path("initramfs"), debian::initramfs_with(&programs)).unwrap();
        root
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    #[track_caller]
    fn convert(&self, from: &str, to: &str, options: &[&str]) {
        let convert = Tern::new(["image", "convert"]).arg(self.path(from)).arg(self.path(to));
        let _ = options.iter().fold(convert, |convert, option| convert.arg(*option)).finish().expect_code(0);
    }

    /// The guest at its prompt, on the image with these further options of `--disk`.
    #[track_caller]
    fn up(&self, options: &str) -> Guest {
        let run = Tern::kernel(&debian::kernel(Suite::Host, Flavour::Cloud));
        let run = run.arg("--initrd").arg(self.path("initramfs"));
        let run = run.arg("--cmdline").arg(format!("{CMDLINE} rdinit=/bin/to-disk"));
        let mut guest = run.arg("--disk").arg(format!("{}{options}", self.text(self.name))).start();
        guest.wait_for(PROMPT);
        let mounts = guest.ask("grep ' / ' /proc/mounts");
        assert!(mounts.lines().any(|line| line.starts_with("/dev/vda / ext4 rw")), "{mounts}");
        guest
    }

    /// Has the guest write, and switch itself off; gives what it says of its data.
    #[track_caller]
    fn work(&self, options: &str) -> String {
        let mut guest = self.up(options);
        assert_eq!(guest.ask("ls -d /made"), "ls: /made: No such file or directory");
        let digest = guest.ask(WORK).trim_end_matches("  -").to_owned();
        let complaints = guest.ask("dmesg | grep -E 'I/O error|EXT4-fs (error|warning)'");
        assert_eq!(complaints, "");
        guest.send("exit\n");
        let _ = guest.end().expect_code(0);
        digest
    }

    /// The file system that is in the image now, as a file of its own.
    fn raw(&self, from: &[&str]) -> String {
        self.convert(self.name, "raw", &[&["--force", "--format", "raw"], from].concat());
        self.text("raw")
    }

    /// A guest on an overlay leaves every byte of the image as it is; one on the image itself leaves there what it wrote, in a file
    /// system that needs no mending.
    #[track_caller]
    fn is_lived_on(&self, disk: &str, from: &[&str]) {
        let before = digest_of(&self.path(self.name));
        let _ = self.work(&format!(",overlay{disk}"));
        assert_eq!(digest_of(&self.path(self.name)), before, "under the overlay");

        let data = self.work(disk);
        assert_ne!(digest_of(&self.path(self.name)), before, "without one");
        let raw = self.raw(from);
        let told = host_runs(E2FSCK, &["-f", "-n", &raw]);
        assert!(!String::from_utf8_lossy(&told).contains("recover"), "{}", String::from_utf8_lossy(&told));
        let ask = |request: &str| host_runs(DEBUGFS, &["-R", request, &raw]);
        assert_eq!(digest(&*ask("cat /data")), data);
        assert_eq!(ask("cat /made/30"), b"30\n");
        assert_eq!(ask("cat /made/7"), b"");
    }
}

#[test]
fn a_guest_lives_on_a_raw_disk() {
    Root::new("disk", &["--format", "raw"]).is_lived_on(",format=raw", &["--from-format", "raw"]);
}

#[test]
fn a_guest_lives_on_a_qcow2() {
    Root::new("disk.qcow2", &[]).is_lived_on("", &[]);
}

#[test]
fn a_guest_lives_on_a_qcow2_over_another_image() {
    let root = Root::new("layer.qcow2", &[]);
    fs::rename(root.path("layer.qcow2"), root.path("below.qcow2")).unwrap();
    let below = digest_of(&root.path("below.qcow2"));
    let create = Tern::new(["image", "create", "--backing"]).arg(root.path("below.qcow2"));
    let _ = create.arg(root.path("layer.qcow2")).finish().expect_code(0);
    root.is_lived_on("", &[]);
    assert_eq!(digest_of(&root.path("below.qcow2")), below);
}

#[test]
fn a_guest_lives_on_a_compressed_qcow2() {
    Root::new("disk.qcow2", &["--compress"]).is_lived_on("", &[]);
}

#[test]
fn a_guest_lives_on_a_vmdk() {
    Root::new("disk.vmdk", &[]).is_lived_on("", &[]);
}

#[test]
fn a_guest_lives_on_a_vhd_that_grows() {
    Root::new("disk.vhd", &[]).is_lived_on("", &[]);
}

#[test]
fn a_guest_lives_on_a_vhd_of_one_size() {
    Root::new("disk.vhd", &["--fixed"]).is_lived_on("", &[]);
}

#[test]
fn a_guest_lives_on_a_vhdx() {
    Root::new("disk.vhdx", &[]).is_lived_on("", &[]);
}
