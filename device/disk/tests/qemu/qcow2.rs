//! qcow2 in both directions.

use std::path::Path;

use crate::tool::{Folder, Random, assert_same, img, read_all, write_randomly};

const SIZE: u64 = 8 << 20;

fn check(name: &str, folder: &Folder) {
    img(&["check", "-f", "qcow2", name], folder.path());
}

/// Options of `qemu-img create` and `convert` that make different files.
const KINDS: [&str; 8] = [
    "compat=v3",
    "compat=0.10",
    "cluster_size=512",
    "cluster_size=4k,refcount_bits=1",
    "cluster_size=2M",
    "refcount_bits=64",
    "refcount_bits=8,cluster_size=1k",
    "preallocation=metadata",
];

#[test]
fn what_qemu_makes_is_read() {
    let folder = Folder::new();
    let bytes = folder.raw("disk.raw", SIZE, 1);
    for kind in KINDS {
        img(&["convert", "-f", "raw", "-O", "qcow2", "-o", kind, "disk.raw", "disk.qcow2"], folder.path());
        assert_same(&folder.as_read_here("disk.qcow2"), &bytes, kind);
    }
}

#[test]
fn compressed_clusters_are_read_and_written_over() {
    let folder = Folder::new();
    let bytes = folder.raw("disk.raw", SIZE, 2);
    for kind in ["compat=v3", "compat=0.10", "compression_type=zstd", "cluster_size=4k", "cluster_size=2M"] {
        let line = ["convert", "-c", "-f", "raw", "-O", "qcow2", "-o", kind, "disk.raw", "disk.qcow2"];
        img(&line, folder.path());
        assert_same(&folder.as_read_here("disk.qcow2"), &bytes, kind);
        let mut model = bytes.clone();
        write_randomly(&mut folder.writable("disk.qcow2"), &mut model, 3, 150);
        check("disk.qcow2", &folder);
        assert_same(&folder.as_qemu_reads("disk.qcow2", "qcow2"), &model, kind);
        assert_same(&folder.as_read_here("disk.qcow2"), &model, kind);
    }
}

#[test]
fn what_is_written_here_is_what_qemu_reads_and_finds_sound() {
    for (seed, kind) in KINDS.into_iter().enumerate() {
        let folder = Folder::new();
        img(&["create", "-f", "qcow2", "-o", kind, "disk.qcow2", "8M"], folder.path());
        let mut model = vec![0; SIZE as usize];
        for round in 0..3 {
            let mut client = folder.writable("disk.qcow2");
            write_randomly(&mut client, &mut model, (seed * 10 + round) as u64, 120);
            drop(client);
            check("disk.qcow2", &folder);
            assert_same(&folder.as_qemu_reads("disk.qcow2", "qcow2"), &model, kind);
        }
        assert_same(&folder.as_read_here("disk.qcow2"), &model, kind);
    }
}

#[test]
fn chains_are_read_through_and_only_the_top_is_written() {
    let folder = Folder::new();
    let mut model = folder.raw("base.raw", SIZE / 2, 4);
    let create = |backing: &str, format: &str, name: &str, size: &str| {
        img(&["create", "-f", "qcow2", "-b", backing, "-F", format, name, size], folder.path());
    };
    create("base.raw", "raw", "middle.qcow2", "6M");
    model.resize(6 << 20, 0);
    write_randomly(&mut folder.writable("middle.qcow2"), &mut model, 5, 60);
    let (base, middle) = (
        std::fs::read(folder.file("base.raw")).unwrap(),
        std::fs::read(folder.file("middle.qcow2")).unwrap(),
    );
    create("middle.qcow2", "qcow2", "top.qcow2", "8M");
    model.resize(8 << 20, 0);
    write_randomly(&mut folder.writable("top.qcow2"), &mut model, 6, 60);
    check("top.qcow2", &folder);
    assert_same(&folder.as_qemu_reads("top.qcow2", "qcow2"), &model, "the disk");
    assert_same(&folder.as_read_here("top.qcow2"), &model, "the disk");
    assert!(std::fs::read(folder.file("base.raw")).unwrap() == base);
    assert!(std::fs::read(folder.file("middle.qcow2")).unwrap() == middle);
}

#[test]
fn internal_snapshots_stay_as_they_were() {
    for kind in ["compat=v3", "compat=0.10", "cluster_size=1k"] {
        let folder = Folder::new();
        img(&["create", "-f", "qcow2", "-o", kind, "disk.qcow2", "8M"], folder.path());
        let mut model = vec![0; SIZE as usize];
        let mut kept = Vec::new();
        for round in 0..3 {
            write_randomly(&mut folder.writable("disk.qcow2"), &mut model, 20 + round, 80);
            img(&["snapshot", "-c", &format!("s{round}"), "disk.qcow2"], folder.path());
            kept.push(model.clone());
        }
        write_randomly(&mut folder.writable("disk.qcow2"), &mut model, 30, 80);
        check("disk.qcow2", &folder);
        assert_same(&folder.as_qemu_reads("disk.qcow2", "qcow2"), &model, "the disk");
        for (round, model) in kept.iter().enumerate() {
            img(&["snapshot", "-a", &format!("s{round}"), "disk.qcow2"], folder.path());
            assert_same(&folder.as_read_here("disk.qcow2"), model, &format!("{kind}: snapshot {round}"));
        }
        img(&["snapshot", "-d", "s1", "disk.qcow2"], folder.path());
        check("disk.qcow2", &folder);
    }
}

#[test]
fn an_image_that_was_not_closed_is_mended_when_it_is_opened() {
    let folder = Folder::new();
    img(&["create", "-f", "qcow2", "-o", "lazy_refcounts=on", "disk.qcow2", "8M"], folder.path());
    // Ends without closing the image.
    let script = "write -P 7 0 1M\nflush\nabort\n";
    let shell = format!("ulimit -c 0; printf '{script}' | qemu-io disk.qcow2 >/dev/null 2>&1; true");
    std::process::Command::new("sh").args(["-c", &shell]).current_dir(folder.path()).status().unwrap();
    let dirty = std::fs::read(folder.file("disk.qcow2")).unwrap()[79] & 1;
    assert_eq!(dirty, 1, "qemu-io should have left the image dirty");
    let mut client = folder.writable("disk.qcow2");
    assert!(client.read(0, 1 << 20, 4096).unwrap().iter().all(|byte| *byte == 7));
    client.write(4 << 20, &[8; 65536], 4096).unwrap();
    drop(client);
    check("disk.qcow2", &folder);
}

#[test]
fn a_large_sparse_disk_takes_little_space() {
    let folder = Folder::new();
    img(&["create", "-f", "qcow2", "disk.qcow2", "2T"], folder.path());
    let mut client = folder.writable("disk.qcow2");
    let mut random = Random(9);
    let mut places: Vec<u64> = (0..64).map(|_| random.next() % (1 << 30) * 2048).collect();
    places.sort_unstable();
    places.dedup();
    for place in &places {
        client.write(*place, &place.to_le_bytes().repeat(64), 512).unwrap();
    }
    drop(client);
    check("disk.qcow2", &folder);
    let mut client = folder.writable("disk.qcow2");
    for place in &places {
        assert_eq!(client.read(*place, 512, 512).unwrap(), place.to_le_bytes().repeat(64));
    }
    let metadata = Path::metadata(&folder.file("disk.qcow2")).unwrap();
    assert!(metadata.len() < 64 << 20, "{}", metadata.len());
}

#[test]
fn both_lock_each_other_out() {
    let folder = Folder::new();
    img(&["create", "-f", "qcow2", "disk.qcow2", "1M"], folder.path());
    let client = folder.writable("disk.qcow2");
    let output = std::process::Command::new("qemu-io")
        .args(["-c", "write 0 512", "disk.qcow2"])
        .current_dir(folder.path())
        .output()
        .unwrap();
    assert!(!output.status.success(), "QEMU wrote an image that is in use");
    drop(client);
    let mut other = std::process::Command::new("qemu-io")
        .args(["disk.qcow2"])
        .current_dir(folder.path())
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    // It prompts when it has the image.
    let mut prompt = [0; 8];
    std::io::Read::read_exact(other.stdout.as_mut().unwrap(), &mut prompt).unwrap();
    let error = tern_disk::open(&tern_disk::DiskOptions::new(folder.file("disk.qcow2"))).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("qemu-io (process"), "{text}");
    drop(other.stdin.take());
    other.wait().unwrap();
    assert!(read_all(&mut folder.writable("disk.qcow2")).iter().all(|byte| *byte == 0));
}
