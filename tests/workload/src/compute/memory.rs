//! Memory: loads that depend on each other, and copies.

use std::hint::black_box;
use std::io;

use crate::data::{self, Random};
use crate::measure::Repetition;

/// As much as a cache line holds; the links below are that far apart.
#[derive(Debug, Clone, Copy)]
#[repr(align(64))]
struct Line {
    next: u32,
}

/// A chain of loads through 8 MiB, each of whose addresses comes from the load before: neither the caches nor the TLB hold
/// all of it, a software TLB of a few hundred pages least of all.
pub(crate) fn chase() -> io::Result<Repetition> {
    const LINES: usize = (8 << 20) / size_of::<Line>();
    // One short of the whole ring, so that the answer is not where it begins.
    const LOADS: u32 = LINES as u32 - 1;
    let lines = ring(LINES);
    let work = move || {
        let mut at = 0;
        for _ in 0..black_box(LOADS) {
            at = lines[at as usize].next;
        }
        Ok(at.into())
    };
    Ok(Repetition { units: LOADS, answer: 0x1_fb13, work: Box::new(work) })
}

/// One ring through `count` lines, in no order (Sattolo, "An algorithm to generate a random cyclic permutation").
fn ring(count: usize) -> Vec<Line> {
    let mut random = Random::new();
    let mut lines: Vec<Line> = (0..).take(count).map(|next| Line { next }).collect();
    for index in (1..count).rev() {
        lines.swap(index, random.below(index));
    }
    lines
}

/// The C library's memcpy(3), as it chooses it for the processor that it finds, within the first-level cache.
pub(crate) fn copy() -> io::Result<Repetition> {
    const KIB: u32 = 8;
    const TIMES: u32 = 16;
    let source = data::noise(KIB as usize * 1024);
    let mut target = vec![0; source.len()];
    let work = move || {
        for _ in 0..TIMES {
            black_box(&mut target).copy_from_slice(black_box(&source));
        }
        let [first, .., last] = target.as_slice() else { unreachable!("it is not empty") };
        Ok(u64::from(*first) << 8 | u64::from(*last))
    };
    Ok(Repetition { units: KIB * TIMES, answer: 0xe2ef, work: Box::new(work) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ring_goes_through_every_line() {
        let lines = ring(1000);
        let mut at = 0;
        for step in 1..=lines.len() {
            at = lines[at].next as usize;
            assert_eq!(at == 0, step == lines.len());
        }
    }
}
