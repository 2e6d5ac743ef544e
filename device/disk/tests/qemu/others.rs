//! VMDK, VHD and VHDX in both directions.

use tern_disk::DiskOptions;

use crate::tool::{Folder, assert_same, img, read_all, write_randomly};

const SIZE: u64 = 8 << 20;

/// Kinds of images: name, QEMU's format, options.
const KINDS: [(&str, &str, &str); 10] = [
    ("sparse.vmdk", "vmdk", "subformat=monolithicSparse"),
    ("hw.vmdk", "vmdk", "subformat=monolithicSparse,adapter_type=lsilogic,hwversion=6"),
    ("zeroed.vmdk", "vmdk", "subformat=monolithicSparse,zeroed_grain=on"),
    ("flat.vmdk", "vmdk", "subformat=monolithicFlat"),
    ("split.vmdk", "vmdk", "subformat=twoGbMaxExtentSparse"),
    ("parts.vmdk", "vmdk", "subformat=twoGbMaxExtentFlat"),
    ("dynamic.vhd", "vpc", "subformat=dynamic,force_size"),
    ("fixed.vhd", "vpc", "subformat=fixed,force_size"),
    ("dynamic.vhdx", "vhdx", "subformat=dynamic,block_size=1M"),
    ("fixed.vhdx", "vhdx", "subformat=fixed"),
];

fn check(name: &str, format: &str, folder: &Folder) {
    // QEMU cannot check VHDs.
    if format != "vpc" {
        img(&["check", "-f", format, name], folder.path());
    }
}

#[test]
fn what_qemu_makes_is_read() {
    let folder = Folder::new();
    let bytes = folder.raw("disk.raw", SIZE, 1);
    for (name, format, options) in KINDS {
        img(&["convert", "-f", "raw", "-O", format, "-o", options, "disk.raw", name], folder.path());
        assert_same(&folder.as_read_here(name), &bytes, name);
    }
}

#[test]
fn what_is_written_here_is_what_qemu_reads_and_finds_sound() {
    for (seed, (name, format, options)) in KINDS.into_iter().enumerate() {
        let folder = Folder::new();
        img(&["create", "-f", format, "-o", options, name, "8M"], folder.path());
        let mut model = vec![0; SIZE as usize];
        for round in 0..2 {
            let mut client = folder.writable(name);
            assert!(!client.disk.is_read_only());
            write_randomly(&mut client, &mut model, (seed * 10 + round) as u64, 120);
            drop(client);
            check(name, format, &folder);
            assert_same(&folder.as_read_here(name), &model, &format!("{name}, here"));
            assert_same(&folder.as_qemu_reads(name, format), &model, &format!("{name}, by QEMU"));
        }
    }
}

#[test]
fn streams_are_read_and_take_an_overlay_to_be_written() {
    let folder = Folder::new();
    let mut bytes = folder.raw("disk.raw", SIZE - 512, 2);
    let options = "subformat=streamOptimized";
    img(&["convert", "-f", "raw", "-O", "vmdk", "-o", options, "disk.raw", "disk.vmdk"], folder.path());
    assert_same(&folder.as_read_here("disk.vmdk"), &bytes, "the disk");
    let before = std::fs::read(folder.file("disk.vmdk")).unwrap();
    let error = tern_disk::open(&DiskOptions::new(folder.file("disk.vmdk"))).unwrap_err().to_string();
    assert!(error.contains("',overlay'"), "{error}");
    let mut options = DiskOptions::new(folder.file("disk.vmdk"));
    options.has_overlay = true;
    let mut client = crate::client::Client::open(&options);
    write_randomly(&mut client, &mut bytes, 3, 100);
    assert!(read_all(&mut client) == bytes);
    drop(client);
    assert!(std::fs::read(folder.file("disk.vmdk")).unwrap() == before);
}

#[test]
fn a_vmdk_stands_on_another() {
    let folder = Folder::new();
    let mut model = folder.raw("disk.raw", SIZE, 4);
    img(&["convert", "-f", "raw", "-O", "vmdk", "disk.raw", "base.vmdk"], folder.path());
    img(&["create", "-f", "vmdk", "-b", "base.vmdk", "-F", "vmdk", "top.vmdk"], folder.path());
    assert_same(&folder.as_read_here("top.vmdk"), &model, "the disk");
    write_randomly(&mut folder.writable("top.vmdk"), &mut model, 5, 80);
    assert_same(&folder.as_read_here("top.vmdk"), &model, "the disk");
    assert_same(&folder.as_qemu_reads("top.vmdk", "vmdk"), &model, "the disk");
}

#[test]
fn a_split_disk_needs_all_of_its_parts() {
    let folder = Folder::new();
    img(&["create", "-f", "vmdk", "-o", "subformat=twoGbMaxExtentFlat", "disk.vmdk", "3G"], folder.path());
    assert_eq!(folder.writable("disk.vmdk").disk.size(), 3 << 30);
    std::fs::remove_file(folder.file("disk-f002.vmdk")).unwrap();
    let error = tern_disk::open(&DiskOptions::new(folder.file("disk.vmdk"))).unwrap_err().to_string();
    assert!(error.contains("disk-f002.vmdk' is missing"), "{error}");
}
