//! Every format through every transport and cache, with many requests in flight on several lanes.

use tern_disk::tool::{self, Existing, NewBacking, NewImage};
use tern_disk::{Buffer, Cache, DiskOptions, Format, Lane, Operation, Transport};

use crate::client::Client;

const SIZE: u64 = 8 << 20;
const LANES: usize = 3;
/// Requests that are in flight together.
const TOGETHER: usize = 40;

/// Random numbers that are the same in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 24
    }
}

/// A request, with the memory that it is about.
struct Request {
    kind: u64,
    start: usize,
    bytes: Vec<u8>,
}

/// Requests that do not overlap: each to a stretch of its own.
fn batch(random: &mut Random) -> Vec<Request> {
    let stretch = usize::try_from(SIZE).unwrap() / TOGETHER / 512 * 512;
    (0..TOGETHER)
        .map(|index| {
            let offset = usize::try_from(random.next()).unwrap() % (stretch / 512) * 512;
            let length = (1 + usize::try_from(random.next()).unwrap() % 200) * 512;
            let byte = random.next() as u8;
            let bytes = (0..length.min(stretch - offset)).map(|at| byte ^ (at / 100) as u8).collect();
            Request { kind: random.next() % 10, start: index * stretch + offset, bytes }
        })
        .collect()
}

/// Hands a batch to the lanes, waits for it, and compares with the model.
fn carry_out(lanes: &mut [Box<dyn Lane>], batch: &mut [Request], model: &mut [u8]) {
    for (tag, request) in batch.iter_mut().enumerate() {
        let lane = &mut lanes[tag % LANES];
        let length = request.bytes.len() as u64;
        let offset = request.start as u64;
        // Guests do not align their memory.
        let buffers: Vec<Buffer> = request
            .bytes
            .chunks_mut(1000)
            .map(|piece| Buffer::new(piece.as_mut_ptr(), piece.len()))
            .collect();
        let operation = match request.kind {
            0 => Operation::WriteZeroes { offset, length, may_unmap: true },
            1 => Operation::WriteZeroes { offset, length, may_unmap: false },
            2..6 => Operation::Read { offset, buffers: &buffers },
            _ => Operation::Write { offset, buffers: &buffers },
        };
        // SAFETY: the memory lives until the lanes are drained, and nobody looks at it before.
        unsafe { lane.submit(tag as u64, operation) };
    }
    for lane in lanes {
        let mut done = Vec::new();
        lane.drain(&mut done);
        assert!(done.iter().all(|completion| completion.result.is_ok()), "{done:?}");
    }
    for request in batch {
        let place = &mut model[request.start..request.start + request.bytes.len()];
        match request.kind {
            0 | 1 => place.fill(0),
            2..6 => assert!(place == request.bytes, "at {}", request.start),
            _ => place.copy_from_slice(&request.bytes),
        }
    }
}

fn use_disk(options: &DiskOptions, model: &mut [u8], seed: u64) {
    let mut client = Client::open(options);
    let mut lanes: Vec<_> = (0..LANES).map(|_| client.disk.open_lane().unwrap()).collect();
    let mut random = Random(seed);
    for turn in 0..12 {
        carry_out(&mut lanes, &mut batch(&mut random), model);
        if turn % 3 == 2 {
            client.flush().unwrap();
        }
    }
    compare(&mut client, model);
}

fn compare(client: &mut Client, model: &[u8]) {
    for (index, part) in model.chunks(1 << 20).enumerate() {
        assert!(client.read((index << 20) as u64, part.len(), 65536).unwrap() == part, "MiB {index}");
    }
}

#[test]
fn every_format_is_a_disk_through_every_transport_and_cache() {
    let mut seed = 0;
    for format in Format::ALL {
        for transport in [Transport::Automatic, Transport::Threads] {
            for cache in [Cache::WriteBack, Cache::None, Cache::Unsafe] {
                seed += 1;
                let folder = tempfile::tempdir().unwrap();
                let path = folder.path().join(format.name());
                tool::create(&NewImage::new(&path, format, Some(SIZE))).unwrap();
                let mut options = DiskOptions::new(&path);
                (options.format, options.transport, options.cache) = (Some(format), transport, cache);
                if let Err(error) = tern_disk::open(&options) {
                    assert_eq!(cache, Cache::None, "only direct access may be refused: {error}");
                    continue;
                }
                let mut model = vec![0; usize::try_from(SIZE).unwrap()];
                use_disk(&options, &mut model, seed);
                use_disk(&options, &mut model, seed + 1000);
                let mut image = Existing::new(&path);
                image.format = Some(format);
                let checked = tool::check(&image, false, &mut |_, _| {}).unwrap();
                assert_eq!(
                    (checked.problems, checked.leaked),
                    (Vec::new(), 0),
                    "{format} {transport:?} {cache:?}"
                );
            }
        }
    }
}

#[test]
fn overlays_take_everything_and_are_gone() {
    for transport in [Transport::Automatic, Transport::Threads] {
        let folder = tempfile::tempdir().unwrap();
        let base = folder.path().join("base.img");
        let contents: Vec<u8> = (0..SIZE).map(|at| (at / 333) as u8).collect();
        std::fs::write(&base, &contents).unwrap();
        let top = folder.path().join("top.qcow2");
        let mut new = NewImage::new(&top, Format::Qcow2, None);
        new.backing = Some(NewBacking { path: base.clone(), format: None });
        tool::create(&new).unwrap();
        let before = std::fs::read(&top).unwrap();
        let mut options = DiskOptions::new(&top);
        (options.has_overlay, options.transport) = (true, transport);
        let mut model = contents.clone();
        use_disk(&options, &mut model, 7);
        // Two at a time, each with its own.
        let (mut one, mut two) = (Client::open(&options), Client::open(&options));
        one.write(0, &[1; 512], 512).unwrap();
        assert_eq!(two.read(0, 512, 512).unwrap(), contents[..512]);
        drop((one, two));
        assert!(std::fs::read(&base).unwrap() == contents && std::fs::read(&top).unwrap() == before);
    }
}

#[test]
fn discarded_space_is_given_back() {
    use std::os::unix::fs::MetadataExt as _;
    for format in Format::ALL {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk");
        tool::create(&NewImage::new(&path, format, Some(64 << 20))).unwrap();
        let mut options = DiskOptions::new(&path);
        options.format = Some(format);
        let mut client = Client::open(&options);
        let taken = || path.metadata().unwrap().blocks() * 512;
        for turn in 0..4_u64 {
            for part in 0..8 {
                client.write((turn * 8 + part) << 20, &[7; 1 << 20], 65536).unwrap();
            }
            client.flush().unwrap();
            assert!(taken() >= 8 << 20);
            client.ask(Operation::Discard { offset: turn << 23, length: 8 << 20 }).unwrap();
            // One flush tells the file that nothing is there, and the space goes when nobody looks at it any more.
            client.flush().unwrap();
            client.flush().unwrap();
            assert!(taken() < 3 << 20, "{format}: {} bytes are taken", taken());
        }
        drop(client);
        assert!(path.metadata().unwrap().len() < 80 << 20, "{format} grew");
    }
}
