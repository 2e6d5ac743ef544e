//! Whether a request is nothing but transfers between memory and files, and which.

#![allow(unsafe_code)]

use std::io;
use std::mem;
use std::sync::Arc;

use crate::image::{Access, Hold, Image, Place};
use crate::memory::{Source, Target};
use crate::request::Buffer;
use crate::storage::Storage;

/// A transfer between memory and one place in a file.
#[derive(Debug)]
pub(super) struct Transfer {
    pub storage: Arc<dyn Storage>,
    pub offset: u64,
    /// What is still to be done.
    pub buffers: Vec<Buffer>,
    pub length: usize,
}

/// What a request comes down to.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub transfers: Vec<Transfer>,
    /// Parts of the request, by start and length, that read as zeros.
    pub zeros: Vec<(usize, usize)>,
    pub holds: Vec<Hold>,
}

/// More pieces than this are done one after the other by a thread.
const MOST_TRANSFERS: usize = 64;

/// Makes the plan, or none if it takes more than transfers that io_uring can do.
///
/// # Errors
/// The image's metadata cannot be read.
pub(super) fn plan(
    image: &dyn Image,
    offset: u64,
    memory: &Target<'_>,
    access: Access,
) -> io::Result<Option<Plan>> {
    let mut plan = Plan::default();
    let mut done = 0;
    while done < memory.len() {
        let left = memory.len() - done;
        let run = image.locate(offset + done as u64, left as u64, access)?;
        let length = usize::try_from(run.length).unwrap_or(left).min(left);
        match run.place {
            Place::Zero => plan.zeros.push((done, length)),
            Place::Stored(storage, at) => {
                let Some((_, alignment)) = storage.descriptor() else { return Ok(None) };
                let part = memory.slice(done, length);
                if !is_aligned(at, part.buffers(), alignment) {
                    return Ok(None);
                }
                match plan.transfers.last_mut() {
                    Some(last) if last.is_continued_by(&storage, at) => {
                        last.buffers.extend_from_slice(part.buffers());
                        last.length += length;
                    }
                    _ => plan.transfers.push(Transfer {
                        storage,
                        offset: at,
                        buffers: part.into_buffers(),
                        length,
                    }),
                }
            }
            Place::Elsewhere => return Ok(None),
        }
        if plan.transfers.len() > MOST_TRANSFERS {
            return Ok(None);
        }
        if let Some(hold) = run.hold
            && !plan.holds.last().is_some_and(|last| Arc::ptr_eq(last, &hold))
        {
            plan.holds.push(hold);
        }
        done += length;
    }
    Ok(Some(plan))
}

impl Plan {
    /// Makes the transfers that need not wait for a device, or the parts of them that need not; what is left stays.
    ///
    /// # Safety
    /// The buffers may be accessed.
    pub(super) unsafe fn carry_out_at_once(&mut self, access: Access) {
        self.transfers.retain_mut(|transfer| {
            let buffers = mem::take(&mut transfer.buffers);
            let done = match access {
                Access::Read => {
                    // SAFETY: the caller's promise.
                    let target = unsafe { Target::new(buffers) };
                    let done = transfer.storage.read_at_once(&target, transfer.offset);
                    transfer.buffers = target.into_buffers();
                    done
                }
                Access::Write => {
                    // SAFETY: the caller's promise.
                    let source = unsafe { Source::new(buffers) };
                    let done = transfer.storage.write_at_once(&source, transfer.offset);
                    transfer.buffers = source.into_buffers();
                    done
                }
            };
            transfer.advance(done.min(transfer.length));
            transfer.length > 0
        });
    }
}

fn is_aligned(offset: u64, buffers: &[Buffer], alignment: usize) -> bool {
    alignment <= 1
        || offset.is_multiple_of(alignment as u64)
            && buffers.iter().all(|buffer| {
                buffer.start().addr().is_multiple_of(alignment) && buffer.length().is_multiple_of(alignment)
            })
}

impl Transfer {
    fn is_continued_by(&self, storage: &Arc<dyn Storage>, offset: u64) -> bool {
        Arc::ptr_eq(&self.storage, storage) && self.offset + self.length as u64 == offset
    }

    /// Notes that `done` bytes are transferred.
    pub(super) fn advance(&mut self, done: usize) {
        self.offset += done as u64;
        self.length -= done;
        let mut skip = done;
        let whole = self.buffers.iter().take_while(|buffer| {
            let is_done = skip >= buffer.length();
            skip -= if is_done { buffer.length() } else { 0 };
            is_done
        });
        let whole = whole.count();
        self.buffers.drain(..whole);
        if let Some(first) = self.buffers.first_mut() {
            *first = Buffer::new(first.start().wrapping_add(skip), first.length() - skip);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::Raw;
    use crate::storage::memory::MemoryStorage;

    #[test]
    fn a_transfer_goes_on_where_it_stopped() {
        let mut bytes = [0_u8; 30];
        let start = bytes.as_mut_ptr();
        let buffers = [(0, 10), (10, 0), (10, 5), (15, 15)]
            .map(|(skip, length)| Buffer::new(start.wrapping_add(skip), length));
        let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::default());
        let mut transfer = Transfer { storage, offset: 100, buffers: buffers.to_vec(), length: 30 };
        for (step, (pieces, first)) in [(4, (4, 6)), (6, (2, 5)), (7, (1, 13)), (13, (0, 0))] {
            transfer.advance(step);
            assert_eq!(transfer.buffers.len(), pieces, "{step}");
            assert_eq!(transfer.buffers.first().map_or(0, Buffer::length), first, "{step}");
        }
        assert_eq!((transfer.offset, transfer.length), (130, 0));
    }

    #[test]
    fn storage_without_a_descriptor_has_no_plan() {
        let storage = Arc::new(MemoryStorage::new(vec![0; 4096]));
        let image = Raw::new(storage, 0, 4096, true, true);
        let mut bytes = [0; 512];
        let target = Target::of(&mut bytes);
        assert!(plan(&image, 0, &target, Access::Read).unwrap().is_none());
    }
}
