//! Files that are no kernels, machines that cannot be: each gets its clear end, and soon.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;
use tern_guests::debian::{self, Flavour, Suite};
use tern_guests::{End, Tern};

/// The exit code for bad usage.
const USAGE: i32 = 2;
/// The exit code for bad input.
const INPUT: i32 = 66;

/// No machine begins to run here, so all of this is soon over.
const SOON: Duration = Duration::from_secs(60);

fn host_kernel() -> PathBuf {
    debian::kernel(Suite::Host, Flavour::Cloud)
}

/// A file with this content, in a folder that lives as long as the test.
struct Sample {
    _directory: TempDir,
    path: PathBuf,
}

impl Sample {
    fn new(content: &[u8]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("sample");
        fs::write(&path, content).unwrap();
        Self { _directory: directory, path }
    }
}

/// The input is refused with all of these words.
#[track_caller]
fn refused(run: Tern, parts: &[&str]) -> End {
    let end = run.within(SOON).finish().expect_code(INPUT);
    end.expect_errors(&["error: "]);
    end.expect_errors(parts);
    assert_eq!(end.console, "", "standard output is the guest's alone");
    end
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let missing = Path::new("/no/such/kernel");
    let _ = refused(Tern::kernel(missing), &["'/no/such/kernel'", "No such file"]);
    let _ =
        refused(Tern::kernel(&host_kernel()).arg("--initrd").arg(missing), &["initramfs '/no/such/kernel'"]);
}

#[test]
fn what_is_no_kernel_is_told_from_one() {
    let text = Sample::new(b"#!/bin/sh\necho this boots nothing\n".repeat(100).as_slice());
    let _ = refused(Tern::kernel(&text.path), &["sample", "not a kernel"]);
    let _ = refused(Tern::kernel(&debian::initramfs()), &["initrd.cpio", "not a kernel"]);
    let _ = refused(Tern::kernel(&Sample::new(b"").path), &["sample"]);
    let program = std::env::current_exe().unwrap();
    let _ = refused(Tern::kernel(&program), &["ELF"]);
}

#[test]
fn a_truncated_kernel_is_refused_at_every_length() {
    let kernel = fs::read(host_kernel()).unwrap();
    for length in [1, 511, 512, 600, 0x1000, 0x5000, 1 << 20, kernel.len() / 2, kernel.len() - 5000] {
        let end = refused(Tern::kernel(&Sample::new(&kernel[..length]).path), &["sample"]);
        assert!(!end.errors.contains("panicked"), "{length}: {}", end.errors);
    }
}

#[test]
fn a_damaged_kernel_is_refused() {
    let mut kernel = fs::read(host_kernel()).unwrap();
    let middle = kernel.len() / 2;
    kernel[middle..middle + 4096].fill(0xa5);
    let _ = refused(Tern::kernel(&Sample::new(&kernel).path), &["unpack"]);
}

/// An ELF file of x86-64 with one program header and a PVH note.
fn elf(change: impl Fn(&mut Vec<u8>)) -> Sample {
    let mut file = vec![0; 0x200];
    let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"\x7fELF\x02\x01\x01");
    put(0x10, &2_u16.to_le_bytes()); // e_type: an executable
    put(0x12, &62_u16.to_le_bytes()); // e_machine: x86-64
    put(0x14, &1_u32.to_le_bytes()); // e_version
    put(0x18, &0x10_0000_u64.to_le_bytes()); // e_entry
    put(0x20, &0x40_u64.to_le_bytes()); // e_phoff
    put(0x34, &64_u16.to_le_bytes()); // e_ehsize
    put(0x36, &56_u16.to_le_bytes()); // e_phentsize
    put(0x38, &2_u16.to_le_bytes()); // e_phnum
    put(0x40, &1_u32.to_le_bytes()); // p_type: to be loaded
    for (field, value) in [(0x08, 0x180_u64), (0x10, 0x10_0000), (0x18, 0x10_0000), (0x20, 2), (0x28, 2)] {
        put(0x40 + field, &value.to_le_bytes()); // p_offset, p_vaddr, p_paddr, p_filesz, p_memsz
    }
    put(0x78, &4_u32.to_le_bytes()); // p_type: a note
    for (field, value) in [(0x08, 0x100_u64), (0x20, 20), (0x28, 20), (0x30, 4)] {
        put(0x78 + field, &value.to_le_bytes());
    }
    for (at, value) in [(0x100, 4_u32), (0x104, 4), (0x108, 18)] {
        put(at, &value.to_le_bytes()); // sizes of the name and of the content; PHYS32_ENTRY
    }
    put(0x10c, b"Xen\0");
    put(0x110, &0x10_0000_u32.to_le_bytes());
    put(0x180, &[0xeb, 0xfe]);
    change(&mut file);
    Sample::new(&file)
}

#[test]
fn hostile_elf_headers_are_refused() {
    let set = |at: usize, value: u64| elf(move |file| file[at..at + 8].copy_from_slice(&value.to_le_bytes()));
    for (what, sample) in [
        ("a program header table beyond the file", set(0x20, u64::MAX - 8)),
        ("content beyond the file", set(0x48, 1 << 40)),
        ("an address beyond memory", set(0x58, u64::MAX - 1)),
        ("more content than bytes in memory", set(0x68, 1)),
        ("more memory than there is", set(0x68, 1 << 60)),
        ("a note beyond the file", set(0x80, u64::MAX)),
        ("no program headers", elf(|file| file[0x38] = 0)),
        ("another architecture", elf(|file| file[0x12] = 183)),
        ("no entry", elf(|file| file[0x108] = 0)),
    ] {
        let end = refused(Tern::kernel(&sample.path), &["because: "]);
        assert!(!end.errors.contains("panicked"), "{what}: {}", end.errors);
    }
}

#[test]
fn the_elf_file_that_the_hostile_ones_are_made_from_is_good() {
    let sample = elf(|file| file[0x180..0x185].copy_from_slice(&tern_guests::boot_sector::debug_exit(3)));
    let longer = fs::read(&sample.path).map(|mut file| {
        file[0x60] = 5; // p_filesz
        file[0x68] = 5; // p_memsz
        file
    });
    let sample = Sample::new(&longer.unwrap());
    let _ = Tern::kernel(&sample.path).arg("--debug-exit").within(SOON).finish().expect_code(7);
}

#[test]
fn an_initramfs_larger_than_memory_is_refused() {
    let huge = Sample::new(b"");
    // A file with a hole: large, and no burden on the disk.
    fs::File::options().write(true).open(&huge.path).unwrap().set_len(200 << 20).unwrap();
    let run = || Tern::kernel(&host_kernel()).arg("--initrd").arg(&huge.path);
    refused(run().memory("128M"), &["sample", "memory"]).expect_errors(&["--memory"]);
    // It would fit by itself, but not beside the kernel.
    fs::File::options().write(true).open(&huge.path).unwrap().set_len(120 << 20).unwrap();
    refused(run().memory("128M"), &["memory"]).expect_errors(&["--memory"]);
}

#[test]
fn too_little_memory_is_told_before_the_guest_starts() {
    for size in ["1M", "16M", "32M"] {
        refused(Tern::linux(&host_kernel()).memory(size), &["memory"]).expect_errors(&["--memory"]);
    }
}

#[test]
fn a_command_line_that_is_too_long_is_refused_with_its_limit() {
    let cmdline = "console=ttyS0 ".repeat(300);
    let run = Tern::kernel(&host_kernel()).arg("--cmdline").arg(&cmdline);
    let _ = refused(run, &["command line", &cmdline.len().to_string(), "2047"]);
}

#[test]
fn bad_usage_says_what_would_work() {
    for (words, hint) in [
        (["--cpus", "0"], "from 1 to 64"),
        (["--engine", "warp"], "soft"),
        (["--memory", "12"], "12M"),
        (["--memory", "1023G"], "256G"),
        (["--format", "floppy"], "boot-sector"),
    ] {
        let end = Tern::new(["run", words[0], words[1]]).within(SOON).finish().expect_code(USAGE);
        end.expect_errors(&[words[0], hint]);
        assert_eq!(end.console, "");
    }
}
