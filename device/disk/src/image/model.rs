//! What every image must be like: a `Vec<u8>`. Random requests go to both, one after the other or from several threads.

use std::ops::Range;
use std::sync::Arc;
use std::thread;

use proptest::prelude::*;

use super::Image;
use crate::storage::memory::MemoryStorage;

/// A request. Offsets and lengths are in sectors of 512 bytes, and cut to the disk's size.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Request {
    Write { sector: u64, count: u64, byte: u8 },
    WriteZeroes { sector: u64, count: u64, may_unmap: bool },
    Discard { sector: u64, count: u64 },
    Read { sector: u64, count: u64 },
    Flush,
}

/// Requests for a disk of `sectors`, short ones more often than long ones.
pub(crate) fn requests(sectors: u64, most: usize) -> impl Strategy<Value = Vec<Request>> {
    let count = prop_oneof![4 => 1..9_u64, 2 => 1..129_u64, 1 => 1..sectors];
    let request =
        (0..sectors, count, any::<u8>(), 0..16_u8).prop_map(|(sector, count, byte, kind)| match kind {
            0..7 => Request::Write { sector, count, byte },
            7 | 8 => Request::WriteZeroes { sector, count, may_unmap: kind == 7 },
            9 => Request::Discard { sector, count },
            10 => Request::Flush,
            _ => Request::Read { sector, count },
        });
    proptest::collection::vec(request, 1..most)
}

/// A disk's contents; `None` where anything may be.
#[derive(Debug, Clone)]
pub(crate) struct Model(pub Vec<Option<u8>>);

impl Model {
    /// Of a disk that begins with `bytes`.
    pub(crate) fn new(bytes: &[u8]) -> Self {
        Self(bytes.iter().copied().map(Some).collect())
    }

    fn range(&self, sector: u64, count: u64) -> Range<usize> {
        let end = usize::try_from((sector + count) * 512).unwrap().min(self.0.len());
        usize::try_from(sector * 512).unwrap().min(end)..end
    }

    /// Does the request on both, and compares what is read.
    pub(crate) fn carry_out(&mut self, image: &dyn Image, request: Request) {
        match request {
            Request::Write { sector, count, byte } => {
                let range = self.range(sector, count);
                // Each byte tells where it belongs.
                let bytes: Vec<u8> = range.clone().map(|at| byte ^ (at / 512) as u8 ^ at as u8).collect();
                image.write_at(range.start as u64, &bytes).unwrap();
                for (place, byte) in self.0[range].iter_mut().zip(bytes) {
                    *place = Some(byte);
                }
            }
            Request::WriteZeroes { sector, count, may_unmap } => {
                let range = self.range(sector, count);
                image.write_zeroes(range.start as u64, range.len() as u64, may_unmap).unwrap();
                self.0[range].fill(Some(0));
            }
            Request::Discard { sector, count } => {
                let range = self.range(sector, count);
                image.discard(range.start as u64, range.len() as u64).unwrap();
                self.0[range].fill(None);
            }
            Request::Read { sector, count } => {
                let range = self.range(sector, count);
                self.compare(image, range);
            }
            Request::Flush => image.flush().unwrap(),
        }
    }

    fn compare(&self, image: &dyn Image, range: Range<usize>) {
        let mut found = vec![0xee; range.len()];
        image.read_at(range.start as u64, &mut found).unwrap();
        for (index, (expected, found)) in self.0[range.clone()].iter().zip(found).enumerate() {
            let at = range.start + index;
            assert!(expected.is_none_or(|expected| expected == found), "at {at}: {found}, not {expected:?}");
        }
    }

    /// Compares everything.
    pub(crate) fn compare_all(&self, image: &dyn Image) {
        assert_eq!(image.size(), self.0.len() as u64);
        self.compare(image, 0..self.0.len());
    }
}

/// Does all requests one after the other, and compares at the end.
pub(crate) fn agree(image: &dyn Image, before: &[u8], requests: &[Request]) -> Model {
    let mut model = Model::new(before);
    for request in requests {
        model.carry_out(image, *request);
    }
    model.compare_all(image);
    model
}

/// Does some requests, closes the image, opens it again and does others. `open` opens it, `is_sound` looks at it when it is closed.
pub(crate) fn survives_closing(
    open: impl Fn() -> Arc<dyn Image>,
    is_sound: impl Fn(),
    before: &[u8],
    requests: [&[Request]; 2],
) {
    let mut model = Model::new(before);
    for requests in requests {
        let image = open();
        model.compare_all(&*image);
        for request in requests {
            model.carry_out(&*image, *request);
        }
        drop(image);
        is_sound();
    }
    model.compare_all(&*open());
}

/// Threads that write each to sectors of their own, in the same blocks, see nothing of each other.
pub(crate) fn threads_agree(image: &Arc<dyn Image>, seed: u64) {
    const THREADS: u64 = 4;
    let sectors = image.size() / 512;
    let work = |thread: u64| {
        let image = Arc::clone(image);
        move || {
            let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ thread;
            let mut expected = vec![None; usize::try_from(sectors).unwrap()];
            for turn in 0..300_u64 {
                random =
                    random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let sector = (random >> 20) % (sectors / THREADS) * THREADS + thread;
                let byte = (turn ^ thread << 6) as u8;
                match random >> 60 {
                    0 => image.flush().unwrap(),
                    1 | 2 => {
                        image.write_zeroes(sector * 512, 512, true).unwrap();
                        expected[usize::try_from(sector).unwrap()] = Some(0);
                    }
                    3..6 => {
                        let mut bytes = [0xee; 512];
                        image.read_at(sector * 512, &mut bytes).unwrap();
                        if let Some(byte) = expected[usize::try_from(sector).unwrap()] {
                            assert_eq!(bytes, [byte; 512]);
                        }
                    }
                    _ => {
                        image.write_at(sector * 512, &[byte; 512]).unwrap();
                        expected[usize::try_from(sector).unwrap()] = Some(byte);
                    }
                }
            }
            expected
        }
    };
    let threads: Vec<_> = (0..THREADS).map(|thread| thread::spawn(work(thread))).collect();
    for thread in threads {
        for (sector, byte) in thread.join().unwrap().into_iter().enumerate() {
            let Some(byte) = byte else { continue };
            let mut bytes = [0xee; 512];
            image.read_at(sector as u64 * 512, &mut bytes).unwrap();
            assert_eq!(bytes, [byte; 512], "sector {sector}");
        }
    }
}

/// How a disk stands up to crashes of its host: at any moment, what was flushed is there afterwards, and the image is sound.
///
/// `open` opens the image in a storage, `is_sound` looks at one that is closed.
pub(crate) fn survives_crashes(
    storage: &Arc<MemoryStorage>,
    open: impl Fn(&Arc<MemoryStorage>) -> Arc<dyn Image>,
    is_sound: impl Fn(&Arc<MemoryStorage>),
    before: &[u8],
    requests: &[Request],
    seed: u64,
) {
    storage.keep_journal();
    let image = open(storage);
    let mut model = Model::new(before);
    // After each request: the moment, what the disk holds then, and whether all of that was flushed.
    let mut steps = vec![(storage.moment(), model.clone(), true)];
    for request in requests {
        model.carry_out(&*image, *request);
        steps.push((storage.moment(), model.clone(), matches!(request, Request::Flush)));
    }
    drop(image);
    let mut random = seed | 1;
    let mut next = || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random
    };
    for _ in 0..6 {
        let moment = usize::try_from(next() % (storage.moment() as u64 + 1)).unwrap();
        let begun = steps.partition_point(|(at, ..)| *at < moment).min(steps.len() - 1);
        let flushed = steps[..=begun].iter().rposition(|(at, _, is_flushed)| *is_flushed && *at <= moment);
        let flushed = flushed.unwrap_or(0);
        let mut expected = steps[flushed].1.clone();
        for (_, after, _) in &steps[flushed..=begun] {
            for (place, after) in expected.0.iter_mut().zip(&after.0) {
                if place != after {
                    *place = None;
                }
            }
        }
        let odds = 1 + next() % 6;
        let left = Arc::new(MemoryStorage::new(storage.after_crash(moment, || next() % odds != 0)));
        is_sound(&left);
        expected.compare_all(&*open(&left));
    }
}
