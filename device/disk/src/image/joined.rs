//! Images one after the other, as one.

use std::io;
use std::sync::Arc;

use super::{Access, Facts, FlushWay, Image, Run};
use crate::memory::{Source, Target};

/// Images in the order of the disk.
#[derive(Debug)]
pub(crate) struct Joined {
    /// Where each begins.
    parts: Vec<(u64, Arc<dyn Image>)>,
    size: u64,
    facts: Facts,
}

impl Joined {
    /// `parts`, of which there is at least one, one after the other.
    pub(crate) fn new(parts: Vec<Arc<dyn Image>>) -> Self {
        let mut size = 0;
        let mut facts: Option<Facts> = None;
        let mut placed = Vec::with_capacity(parts.len());
        for part in parts {
            let more = part.facts();
            facts = Some(facts.map_or(more, |facts| Facts {
                is_writable: facts.is_writable && more.is_writable,
                block_size: facts.block_size.max(more.block_size),
                optimal_size: facts.optimal_size.max(more.optimal_size),
                discard: facts.discard.or(more.discard),
                write_zeroes: facts.write_zeroes.or(more.write_zeroes),
            }));
            let start = size;
            size += part.size();
            placed.push((start, part));
        }
        let facts = facts.unwrap_or(Facts {
            is_writable: false,
            block_size: 512,
            optimal_size: 4096,
            discard: None,
            write_zeroes: None,
        });
        Self { parts: placed, size, facts }
    }

    /// The part that has `offset`: where that is in it, and how much of it is left.
    fn part(&self, offset: u64) -> io::Result<(&dyn Image, u64, u64)> {
        let behind = self.parts.partition_point(|(start, _)| *start <= offset);
        let (start, part) = self.parts.get(behind.wrapping_sub(1)).ok_or(io::ErrorKind::InvalidInput)?;
        let within = offset - start;
        Ok((&**part, within, part.size().saturating_sub(within).max(1)))
    }

    /// Does something with each part of a range: the part, where the range begins in it, where that is from the range's beginning,
    /// and how much of it is there.
    fn each(
        &self,
        offset: u64,
        length: u64,
        mut action: impl FnMut(&dyn Image, u64, u64, u64) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut done = 0;
        while done < length {
            let (part, within, left) = self.part(offset + done)?;
            let count = left.min(length - done);
            action(part, within, done, count)?;
            done += count;
        }
        Ok(())
    }
}

impl Image for Joined {
    fn size(&self) -> u64 {
        self.size
    }

    fn facts(&self) -> Facts {
        self.facts
    }

    fn locate(&self, offset: u64, length: u64, access: Access) -> io::Result<Run> {
        let (part, within, left) = self.part(offset)?;
        part.locate(within, length.min(left), access)
    }

    fn read_elsewhere(&self, offset: u64, target: &Target<'_>) -> io::Result<()> {
        // All within a usize, as the target is.
        self.each(offset, target.len() as u64, |part, within, start, count| {
            part.read(within, &target.slice(start as usize, count as usize))
        })
    }

    fn write(&self, offset: u64, source: &Source<'_>) -> io::Result<()> {
        self.each(offset, source.len() as u64, |part, within, start, count| {
            part.write(within, &source.slice(start as usize, count as usize))
        })
    }

    fn write_zeroes(&self, offset: u64, length: u64, may_unmap: bool) -> io::Result<()> {
        self.each(offset, length, |part, within, _, count| part.write_zeroes(within, count, may_unmap))
    }

    fn discard(&self, offset: u64, length: u64) -> io::Result<()> {
        self.each(offset, length, |part, within, _, count| part.discard(within, count))
    }

    fn flush(&self) -> io::Result<()> {
        self.parts.iter().try_for_each(|(_, part)| part.flush())
    }

    fn flush_way(&self) -> FlushWay {
        match &*self.parts {
            [(_, only)] => only.flush_way(),
            _ if self.facts.is_writable => FlushWay::Slow,
            _ => FlushWay::Nothing,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::image::Raw;
    use crate::image::model::{agree, requests};
    use crate::storage::memory::MemoryStorage;

    proptest! {
        #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

        #[test]
        fn parts_are_one_disk(requests in requests(2048, 40)) {
            let parts = [512_u64, 300_032, 1024, 700_000 / 512 * 512].into_iter().map(|size| {
                let storage = Arc::new(MemoryStorage::new(vec![0; usize::try_from(size).unwrap()]));
                Arc::new(Raw::new(storage, 0, size, true, true)) as Arc<dyn Image>
            });
            let image = Joined::new(parts.collect());
            agree(&image, &vec![0; usize::try_from(image.size()).unwrap()], &requests);
        }
    }
}
