//! A process that writes and flushes, and is killed at any moment: what it was told to be flushed is there afterwards.

use std::io::{BufRead, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use tern_disk::tool::{self, Existing};
use tern_disk::{Buffer, DiskOptions, Format, Operation, Transport};

use crate::client::Client;
use crate::tool::{Folder, Random, img, read_all};

const SIZE: u64 = 16 << 20;
/// What is written at a time: a few sectors, so that blocks are filled up.
const CHUNK: u64 = 1536;
const CHUNKS: u64 = SIZE / CHUNK;

/// The chunks that turn `turn` writes, each once.
fn chunks(seed: u64, turn: u64) -> Vec<u64> {
    let mut random = Random(seed ^ turn << 32);
    let mut chunks: Vec<u64> = (0..1 + random.next() % 24).map(|_| random.next() % CHUNKS).collect();
    chunks.sort_unstable();
    chunks.dedup();
    chunks
}

/// What turn `turn` writes into a chunk.
fn contents(turn: u64, chunk: u64) -> Vec<u8> {
    let mut random = Random(turn << 32 | chunk);
    (0..CHUNK).map(|_| random.next() as u8).collect()
}

/// The process that is killed: it is this program, started again for this test alone.
#[test]
#[ignore = "started by the tests below"]
fn writer() {
    let Ok(path) = std::env::var("TERN_DISK_WRITER") else { return };
    let seed: u64 = std::env::var("TERN_DISK_SEED").unwrap().parse().unwrap();
    let mut options = DiskOptions::new(path);
    if seed % 2 == 1 {
        options.transport = Transport::Threads;
    }
    let mut client = Client::open(&options);
    let mut second = client.disk.open_lane().unwrap();
    for turn in 1.. {
        let written: Vec<(u64, Vec<u8>)> =
            chunks(seed, turn).into_iter().map(|chunk| (chunk, contents(turn, chunk))).collect();
        for (chunk, bytes) in &written {
            let buffers = [Buffer::new(bytes.as_ptr().cast_mut(), bytes.len())];
            let operation = Operation::Write { offset: chunk * CHUNK, buffers: &buffers };
            let lane = if chunk % 2 == 0 { &mut client.lane } else { &mut second };
            // SAFETY: the memory lives until both lanes are drained.
            unsafe { lane.submit(*chunk, operation) };
        }
        for lane in [&mut client.lane, &mut second] {
            let mut done = Vec::new();
            lane.drain(&mut done);
            assert!(done.iter().all(|completion| completion.result.is_ok()), "{done:?}");
        }
        client.flush().unwrap();
        let mut out = std::io::stdout().lock();
        writeln!(out, "flushed {turn}").unwrap();
        out.flush().unwrap();
    }
}

/// Lets the writer work for a while, kills it, and returns the last turn that it has flushed.
fn write_and_kill(path: &Path, seed: u64, milliseconds: u64) -> u64 {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "killed::writer", "--ignored", "--nocapture"])
        .env("TERN_DISK_WRITER", path)
        .env("TERN_DISK_SEED", seed.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let reader = std::thread::spawn(move || {
        let turns =
            lines.map_while(Result::ok).filter_map(|line| line.strip_prefix("flushed ")?.parse().ok());
        turns.last().unwrap_or(0_u64)
    });
    std::thread::sleep(Duration::from_millis(milliseconds));
    child.kill().unwrap();
    child.wait().unwrap();
    reader.join().unwrap()
}

fn killed_in_loops(name: &str, format: Format, qemu_name: &str, options: &str, has_backing: bool) {
    let folder = Folder::new();
    let mut model = vec![0; SIZE as usize];
    let mut line = vec!["create", "-f", qemu_name, "-o", options];
    if has_backing {
        model = folder.raw("base.raw", SIZE, 5);
        line.extend(["-b", "base.raw", "-F", "raw"]);
    }
    line.extend([name, "16M"]);
    img(&line, folder.path());
    let mut image = Existing::new(folder.file(name));
    image.format = Some(format);
    let mut random = Random(u64::from(std::process::id()));
    let mut turns = 0;
    for round in 0..6 {
        let seed = random.next();
        let flushed = write_and_kill(&folder.file(name), seed, 20 + random.next() % 400);
        turns += flushed;
        for turn in 1..=flushed {
            for chunk in chunks(seed, turn) {
                let start = usize::try_from(chunk * CHUNK).unwrap();
                model[start..start + CHUNK as usize].copy_from_slice(&contents(turn, chunk));
            }
        }
        let checked = tool::check(&image, false, &mut |_, _| {}).unwrap();
        assert_eq!(checked.problems, Vec::<String>::new(), "{name}, round {round}");
        if format == Format::Qcow2 {
            // Leaks are allowed, and nothing else.
            let mended = tool::check(&image, true, &mut |_, _| {}).unwrap();
            assert_eq!((mended.damages, mended.leaked), (0, 0));
        }
        if !matches!(format, Format::Raw | Format::Vhd) {
            img(&["check", "-f", qemu_name, name], folder.path());
        }
        let mut options = DiskOptions::new(folder.file(name));
        (options.is_read_only, options.format) = (true, Some(format));
        let found = read_all(&mut Client::open(&options));
        // What was under way may be there, sector by sector.
        let mut maybe = model.clone();
        for chunk in chunks(seed, flushed + 1) {
            let start = usize::try_from(chunk * CHUNK).unwrap();
            maybe[start..start + CHUNK as usize].copy_from_slice(&contents(flushed + 1, chunk));
        }
        for (at, found) in found.chunks(512).enumerate() {
            let range = at * 512..at * 512 + 512;
            assert!(
                *found == model[range.clone()] || *found == maybe[range],
                "{name}, round {round}: sector {at} was lost after turn {flushed}"
            );
        }
        model = found;
    }
    assert!(turns > 0, "the writer never got to flush anything");
}

#[test]
fn a_killed_process_loses_nothing_of_a_raw_disk() {
    killed_in_loops("disk.raw", Format::Raw, "raw", "preallocation=off", false);
}

#[test]
fn a_killed_process_loses_nothing_of_a_qcow2() {
    killed_in_loops("disk.qcow2", Format::Qcow2, "qcow2", "cluster_size=64k", false);
}

#[test]
fn a_killed_process_loses_nothing_of_a_qcow2_with_small_clusters() {
    killed_in_loops("disk.qcow2", Format::Qcow2, "qcow2", "cluster_size=1k", false);
}

#[test]
fn a_killed_process_loses_nothing_of_a_qcow2_over_another_image() {
    killed_in_loops("disk.qcow2", Format::Qcow2, "qcow2", "cluster_size=64k", true);
}

#[test]
fn a_killed_process_loses_nothing_of_a_vmdk() {
    killed_in_loops("disk.vmdk", Format::Vmdk, "vmdk", "subformat=monolithicSparse", false);
}

#[test]
fn a_killed_process_loses_nothing_of_a_vhd() {
    killed_in_loops("disk.vhd", Format::Vhd, "vpc", "subformat=dynamic,force_size", false);
}

#[test]
fn a_killed_process_loses_nothing_of_a_vhdx() {
    killed_in_loops("disk.vhdx", Format::Vhdx, "vhdx", "subformat=dynamic,block_size=1M", false);
}
