//! Systems that are fetched as cloud images, from a server that the test is itself.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use sha2::{Digest as _, Sha512};
use tempfile::TempDir;
use tern_guests::web::Web;
use tern_guests::{PROMPT, Tern, debian};

/// Where Debian has its maker of file systems. The rig is no Debian.
const MAKER: &str = "/usr/sbin/mke2fs";

/// The image's name on the server, and the folder that it is in.
const IMAGE: &str = "debian-13-nocloud-amd64.qcow2";
const FOLDER: &str = "/trixie/latest";

const BLOCK: u64 = 512;
/// Where the root file system begins on the disk, and how many blocks it has.
const FIRST: u64 = 2048;
const BLOCKS: u64 = 96 * 2048;

/// The type of a partition with an x86-64 Linux's root.
const ROOT: [u8; 16] =
    [0xe3, 0xbc, 0x68, 0x4f, 0xcd, 0xe8, 0xb1, 0x4d, 0x96, 0xe7, 0xfb, 0xca, 0xf9, 0x84, 0xb7, 0x09];

/// A disk like a cloud image's: divided, with a root file system that has a kernel and its initramfs in /boot. They are the tiny
/// guest's.
fn cloud_image(directory: &Path) -> Vec<u8> {
    let root = directory.join("root");
    for folder in ["boot", "etc"] {
        fs::create_dir_all(root.join(folder)).unwrap();
    }
    let kernel = debian::kernel(debian::Suite::Host, debian::Flavour::Cloud);
    fs::copy(kernel, root.join("boot/vmlinuz-6.1.9-cloud-amd64")).unwrap();
    fs::copy(debian::initramfs(), root.join("boot/initrd.img-6.1.9-cloud-amd64")).unwrap();
    // An older one, and one that could not start.
    fs::write(root.join("boot/vmlinuz-6.1.8-cloud-amd64"), "old").unwrap();
    fs::write(root.join("boot/initrd.img-6.1.8-cloud-amd64"), "old").unwrap();
    fs::write(root.join("boot/vmlinuz-6.99.0-cloud-amd64"), "no initramfs").unwrap();
    fs::write(root.join("etc/debian_version"), "13.9\n").unwrap();

    let raw = directory.join("disk.raw");
    let disk = File::create(&raw).unwrap();
    disk.set_len((FIRST + BLOCKS + 2048) * BLOCK).unwrap();
    let mut header = vec![0; BLOCK as usize];
    header[..8].copy_from_slice(b"EFI PART");
    header[72..80].copy_from_slice(&2_u64.to_le_bytes());
    header[80..88].copy_from_slice(&[128, 0, 0, 0, 128, 0, 0, 0]);
    disk.write_all_at(&header, BLOCK).unwrap();
    let mut entry = vec![0; 128];
    entry[..16].copy_from_slice(&ROOT);
    entry[32..40].copy_from_slice(&FIRST.to_le_bytes());
    entry[40..48].copy_from_slice(&(FIRST + BLOCKS - 1).to_le_bytes());
    // Not the first one.
    disk.write_all_at(&entry, 2 * BLOCK + 128 * 3).unwrap();
    let mut maker = Command::new(MAKER);
    maker.args(["-q", "-F", "-t", "ext4", "-U", "01234567-89ab-cdef-0123-456789abcdef", "-E"]);
    maker
        .arg(format!("offset={}", FIRST * BLOCK))
        .arg("-d")
        .arg(&root)
        .arg(&raw)
        .arg(format!("{}K", BLOCKS / 2));
    assert!(maker.status().unwrap().success());
    let image = directory.join("image.qcow2");
    let _ = Tern::new(["image", "convert"]).arg(&raw).arg(&image).finish().expect_code(0);
    fs::read(image).unwrap()
}

/// A line of SHA512SUMS.
fn sum(bytes: &[u8]) -> String {
    let digest: String = Sha512::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{digest}  {IMAGE}\n")
}

/// A command with a cache of its own.
fn tern<const N: usize>(cache: &TempDir, words: [&str; N]) -> Tern {
    Tern::new(words).environment("TERN_CACHE_DIR", cache.path().join("cache"))
}

/// What is in the cache, but for what is only there while something is made.
fn entries(cache: &TempDir) -> Vec<String> {
    let names = fs::read_dir(cache.path().join("cache")).into_iter().flatten().flatten();
    let names = names.map(|entry| entry.file_name().into_string().unwrap());
    names.filter(|name| !name.ends_with(".lock")).collect()
}

#[test]
fn a_cloud_image_is_fetched_checked_and_started_by_its_own_kernel() {
    if !Path::new(MAKER).exists() {
        return;
    }
    let (web, directory) = (Web::start(), tempfile::tempdir().unwrap());
    let image = cloud_image(directory.path());
    web.put(&format!("{FOLDER}/{IMAGE}"), image.clone());
    web.put(&format!("{FOLDER}/SHA512SUMS"), sum(&image));
    let pull = tern(&directory, ["image", "pull", "debian"]).environment("TERN_IMAGE_SERVER", web.address());
    let end = pull.finish().expect_code(0);
    assert_eq!(end.console, "debian:13: Debian 13.9 with Linux 6.1.9-cloud-amd64\n");
    end.expect_errors(&["fetching the cloud image of Debian 13"]);
    assert_eq!(entries(&directory), ["debian-13"]);
    let list = tern(&directory, ["image", "list"]).finish().expect_code(0).console;
    assert!(list.contains(&web.address()), "{list}");

    let run = || {
        let run = Tern::run().environment("TERN_CACHE_DIR", directory.path().join("cache"));
        run.arg("debian").memory("512M").cpus(1)
    };
    let mut guest = run().start();
    guest.wait_for(PROMPT);
    let cmdline = guest.ask("cat /proc/cmdline");
    assert!(cmdline.contains("root=UUID=01234567-89ab-cdef-0123-456789abcdef"), "{cmdline}");
    let _ = guest.power_off();
    let command = run().arg("--quiet").arg("--").arg("sh").arg("-c").arg("echo in it; exit 3");
    assert_eq!(command.finish().expect_code(3).console, "in it\n");
}

#[test]
fn what_arrives_damaged_or_cannot_be_checked_is_refused_and_nothing_of_it_stays() {
    let (web, directory) = (Web::start(), tempfile::tempdir().unwrap());
    let pull = || {
        let from = format!("{}{FOLDER}", web.address());
        tern(&directory, ["image", "pull", "--quiet", "debian", "--from"]).arg(from).finish().expect_code(66)
    };
    pull().expect_errors(&["cannot fetch", "SHA512SUMS", "404", "--from"]);
    web.put(&format!("{FOLDER}/SHA512SUMS"), "0123  another-file\n");
    pull().expect_errors(&["no checksum", IMAGE]);
    web.put(&format!("{FOLDER}/SHA512SUMS"), sum(b"whole"));
    pull().expect_errors(&["cannot fetch", IMAGE]);
    web.put(&format!("{FOLDER}/{IMAGE}"), "damaged");
    pull().expect_errors(&["arrived damaged", "SHA-512"]);
    web.put(&format!("{FOLDER}/{IMAGE}"), "whole");
    pull().expect_errors(&["holds no system"]);
    assert_eq!(entries(&directory), [""; 0]);
}

#[test]
fn a_missing_tool_is_named_with_its_package() {
    let directory = tempfile::tempdir().unwrap();
    let nothing = directory.path().to_owned();
    let end = tern(&directory, ["image", "pull", "debian"]).environment("PATH", nothing).finish();
    // The administrators' folders are looked at, too; curl is in none of them.
    end.expect_code(74).expect_errors(&["no `", "install the package '"]);
}
