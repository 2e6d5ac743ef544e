//! Lanes keep their promises, whatever they go through.

use std::io::ErrorKind;
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tern_disk::{Buffer, Cache, Completion, DiskOptions, Operation, Transport};

use crate::client::Client;

/// Both ways of requests.
const TRANSPORTS: [Transport; 2] = [Transport::Automatic, Transport::Threads];

fn image(size: u64) -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("disk.img");
    std::fs::File::create(&path).unwrap().set_len(size).unwrap();
    (directory, path)
}

fn options(path: &Path, transport: Transport) -> DiskOptions {
    let mut options = DiskOptions::new(path);
    options.transport = transport;
    options
}

#[test]
fn what_is_written_is_read_back_through_every_transport_and_cache() {
    for transport in TRANSPORTS {
        for cache in [Cache::WriteBack, Cache::None, Cache::Unsafe] {
            let (_directory, path) = image(1 << 20);
            let mut options = options(&path, transport);
            options.cache = cache;
            let Ok(disk) = tern_disk::open(&options) else {
                assert_eq!(cache, Cache::None, "only direct access may be refused");
                continue;
            };
            let mut client = Client::of(disk);
            let bytes: Vec<u8> = (0..300 * 512_u32).map(|n| (n / 3) as u8).collect();
            client.write(512, &bytes, 700).unwrap();
            client.flush().unwrap();
            assert!(client.read(512, bytes.len(), 1000).unwrap() == bytes);
            assert_eq!(client.read(0, 512, 512).unwrap(), [0; 512]);
            assert!(std::fs::read(&path).unwrap()[512..][..bytes.len()] == bytes);
        }
    }
}

#[test]
fn more_pieces_than_the_host_takes_at_once_are_one_request() {
    for transport in TRANSPORTS {
        let (_directory, path) = image(1 << 20);
        let mut client = Client::open(&options(&path, transport));
        let bytes: Vec<u8> = (0..40 * 512_u32).map(|n| (n / 5) as u8).collect();
        client.write(4096, &bytes, 4).unwrap();
        assert!(client.read(4096, bytes.len(), 3).unwrap() == bytes);
    }
}

#[test]
fn many_requests_are_in_flight_and_each_is_completed_once() {
    for transport in TRANSPORTS {
        let (_directory, path) = image(8 << 20);
        let mut client = Client::open(&options(&path, transport));
        let mut memory: Vec<Vec<u8>> = (0..1000_u32).map(|n| vec![n as u8; 4096]).collect();
        for (tag, bytes) in memory.iter_mut().enumerate() {
            let buffers = [Buffer::new(bytes.as_mut_ptr(), bytes.len())];
            let operation = Operation::Write { offset: tag as u64 * 4096, buffers: &buffers };
            // SAFETY: the memory lives until the lane is drained.
            unsafe { client.lane.submit(tag as u64, operation) };
        }
        assert_eq!(client.lane.in_flight(), 1000);
        let mut done = Vec::new();
        client.lane.drain(&mut done);
        assert!(done.iter().all(|completion| completion.result.is_ok()));
        let mut tags: Vec<u64> = done.iter().map(|completion| completion.tag).collect();
        tags.sort_unstable();
        assert!(tags.into_iter().eq(0..1000));
        for (index, bytes) in memory.iter().enumerate() {
            assert!(client.read(index as u64 * 4096, 4096, 4096).unwrap() == *bytes);
        }
    }
}

#[test]
fn the_descriptor_tells_of_completions_and_only_of_them() {
    for transport in TRANSPORTS {
        let (_directory, path) = image(1 << 20);
        let mut client = Client::open(&options(&path, transport));
        let mut done = Vec::new();
        for _ in 0..100 {
            let is_ready = |client: &Client, seconds| {
                let descriptor = client.lane.wait_descriptor();
                let mut polled = [PollFd::from_borrowed_fd(descriptor.as_fd(), PollFlags::IN)];
                let time = Timespec { tv_sec: seconds, tv_nsec: 0 };
                poll(&mut polled, Some(&time)).unwrap() == 1
            };
            assert!(!is_ready(&client, 0));
            // This is never done at once.
            let operation = Operation::Discard { offset: 0, length: 512 };
            // SAFETY: there are no buffers.
            unsafe { client.lane.submit(5, operation) };
            client.lane.start();
            while done.is_empty() {
                assert!(is_ready(&client, 10), "a completion was not told");
                client.lane.completions(&mut done);
            }
            done.clear();
        }
    }
}

#[test]
fn what_is_in_the_hosts_memory_is_done_when_it_is_started() {
    let file = rustix::fs::memfd_create("disk", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    rustix::fs::ftruncate(&file, 1 << 20).unwrap();
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let mut client = Client::open(&options(path.as_ref(), Transport::Automatic));
    let mut bytes: Vec<u8> = (0..8192_u32).map(|n| n as u8).collect();
    let written = [Buffer::new(bytes.as_mut_ptr(), 8192)];
    let mut found = vec![0; 8192];
    let read = [Buffer::new(found.as_mut_ptr(), 5), Buffer::new(found[5..].as_mut_ptr(), 8187)];
    for operation in [
        Operation::Write { offset: 512, buffers: &written },
        Operation::Flush,
        Operation::Read { offset: 512, buffers: &read },
    ] {
        // SAFETY: the memory lives until the completion.
        unsafe { client.lane.submit(3, operation) };
        client.lane.start();
        let mut done = Vec::new();
        client.lane.completions(&mut done);
        assert!(matches!(done[..], [Completion { tag: 3, result: Ok(()) }]), "{operation:?}: {done:?}");
        assert_eq!(client.lane.in_flight(), 0);
    }
    assert_eq!(found, bytes);
}

#[test]
fn requests_that_make_no_sense_have_no_effect() {
    for transport in TRANSPORTS {
        let (_directory, path) = image(1 << 20);
        let mut client = Client::open(&options(&path, transport));
        let bytes = [7; 1024];
        for (offset, length) in
            [(1, 512), (0, 511), (1 << 20, 512), ((1 << 20) - 512, 1024), (u64::MAX - 511, 512)]
        {
            let error = client.write(offset, &bytes[..length], 512).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{offset} {length}");
            assert!(client.read(offset, length, 512).is_err());
        }
        for operation in [
            Operation::Discard { offset: 512, length: u64::MAX - 511 },
            Operation::WriteZeroes { offset: 1 << 20, length: 512, may_unmap: true },
        ] {
            assert_eq!(client.ask(operation).unwrap_err().kind(), ErrorKind::InvalidInput);
        }
        assert!(std::fs::read(&path).unwrap().iter().all(|byte| *byte == 0));
    }
}

#[test]
fn a_disk_that_is_read_only_refuses_every_write() {
    for transport in TRANSPORTS {
        let (_directory, path) = image(4096);
        let mut options = options(&path, transport);
        options.is_read_only = true;
        let mut client = Client::open(&options);
        assert!(client.disk.is_read_only());
        assert_eq!(client.write(0, &[1; 512], 512).unwrap_err().kind(), ErrorKind::ReadOnlyFilesystem);
        let zeros = Operation::WriteZeroes { offset: 0, length: 512, may_unmap: false };
        assert_eq!(client.ask(zeros).unwrap_err().kind(), ErrorKind::ReadOnlyFilesystem);
        client.flush().unwrap();
        assert_eq!(client.read(0, 4096, 4096).unwrap(), [0; 4096]);
    }
}

#[test]
fn zeros_are_written_and_discarded_ranges_leave_the_rest() {
    for transport in TRANSPORTS {
        let (_directory, path) = image(1 << 20);
        let mut client = Client::open(&options(&path, transport));
        client.write(0, &[5; 1 << 20], 1 << 20).unwrap();
        client.ask(Operation::WriteZeroes { offset: 512, length: 1024, may_unmap: false }).unwrap();
        client.ask(Operation::WriteZeroes { offset: 65536, length: 131_072, may_unmap: true }).unwrap();
        client.ask(Operation::Discard { offset: 524_288, length: 65536 }).unwrap();
        let found = client.read(0, 1 << 20, 4096).unwrap();
        for (index, byte) in found.iter().enumerate() {
            match index {
                512..1536 | 65536..196_608 => assert_eq!(*byte, 0, "{index}"),
                524_288..589_824 => {}
                _ => assert_eq!(*byte, 5, "{index}"),
            }
        }
    }
}

#[test]
fn the_last_sector_of_an_odd_file_is_filled_with_zeros() {
    for transport in TRANSPORTS {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("odd.img");
        std::fs::write(&path, [9; 700]).unwrap();
        let mut client = Client::open(&options(&path, transport));
        assert_eq!(client.disk.size(), 1024);
        let found = client.read(0, 1024, 100).unwrap();
        assert!(found[..700].iter().all(|byte| *byte == 9) && found[700..].iter().all(|byte| *byte == 0));
        client.write(512, &[8; 512], 512).unwrap();
        assert_eq!(client.read(512, 512, 512).unwrap(), [8; 512]);
    }
}

#[test]
fn a_lane_that_is_dropped_waits_for_what_is_in_flight() {
    for transport in TRANSPORTS {
        let (_directory, path) = image(64 << 20);
        let mut client = Client::open(&options(&path, transport));
        let mut bytes = vec![3; 32 << 20];
        let buffers = [Buffer::new(bytes.as_mut_ptr(), bytes.len())];
        // SAFETY: the memory lives longer than the lane.
        unsafe { client.lane.submit(1, Operation::Write { offset: 0, buffers: &buffers }) };
        drop(client);
        drop(bytes);
        assert!(std::fs::read(&path).unwrap()[..32 << 20].iter().all(|byte| *byte == 3));
    }
}

#[test]
fn a_lane_may_move_to_another_thread() {
    for transport in TRANSPORTS {
        let (_directory, path) = image(1 << 20);
        let mut client = Client::open(&options(&path, transport));
        client.write(0, &[1; 512], 512).unwrap();
        let found = std::thread::spawn(move || client.read(0, 512, 512).unwrap()).join().unwrap();
        assert_eq!(found, [1; 512]);
    }
}
