//! The boundary between a disk's device (virtio-blk, or whatever shows it to a guest) and its image.

use std::fmt::Debug;
use std::io;
use std::os::fd::BorrowedFd;

use rustix::event::{PollFd, PollFlags, poll};

use crate::error::DiskError;
use crate::request::{Completion, Operation};

/// What a disk can do with a range in one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RangeLimits {
    /// Most bytes of a single request; a longer one is refused. A multiple of 512.
    pub most: u64,
    /// Offsets and lengths that are multiples of this many bytes have the most effect; others are allowed.
    pub alignment: u32,
}

/// An opened disk image. All queues of a device share it. When the last lane and the disk are dropped, the image is
/// closed: what was written is then in the file, though only a [`Operation::Flush`] makes it survive the host's crash.
pub trait Disk: Debug + Send + Sync {
    /// Size in bytes, a multiple of 512. It does not change while the disk is open.
    fn size(&self) -> u64;

    /// Whether writes of any kind are refused.
    fn is_read_only(&self) -> bool;

    /// The logical block: offsets and lengths of requests are multiples of it. In bytes; 512 unless an image demands more.
    fn block_size(&self) -> u32;

    /// The least that is written without reading what is around it: a power of two of bytes, at least [`Self::block_size`].
    /// It is what a guest should align its writes to, and may be larger than any guest uses.
    fn optimal_size(&self) -> u32;

    /// What [`Operation::Discard`] takes, or `None` if the image has nothing to give back.
    fn discard(&self) -> Option<RangeLimits>;

    /// What [`Operation::WriteZeroes`] takes, or `None` if only writing zeros would do.
    fn write_zeroes(&self) -> Option<RangeLimits>;

    /// Makes all that was written survive a crash of this program and of the host, beside the lanes; blocks until then.
    ///
    /// # Errors
    /// The host's file cannot be written.
    fn flush(&self) -> io::Result<()>;

    /// Opens a way to the image, for one queue.
    ///
    /// # Errors
    /// The host has no descriptors, threads or memory left.
    fn open_lane(&self) -> Result<Box<dyn Lane>, DiskError>;
}

/// One queue's own way to a disk: requests go in, completions come out, in any order. It may move between threads, and is
/// used by one at a time.
///
/// Dropping a lane waits until nothing is in flight any more: no buffer is touched afterwards.
pub trait Lane: Debug + Send {
    /// Takes a request; exactly one [`Completion`] with this `tag` follows, if only with an error: there is no other way to
    /// fail. It may be kept back until [`Self::start`], so that the host is asked once for a whole batch. `operation` may
    /// be let go at once, but not the memory that its buffers describe.
    ///
    /// Requests that overlap and are in flight together may be done in either order. A [`Operation::Flush`] covers
    /// the writes whose completions were returned before it was submitted, those of other lanes included.
    ///
    /// Tags are the caller's: they come back as they are. Any number of requests may be in flight.
    ///
    /// # Safety
    /// The buffers stay mapped, and nobody has Rust references into them, until the completion was returned or the lane was
    /// dropped. A guest that accesses them meanwhile is no harm.
    #[allow(unsafe_code)]
    unsafe fn submit(&mut self, tag: u64, operation: Operation<'_>);

    /// Makes sure that everything submitted is under way. Cheap if it is.
    fn start(&mut self);

    /// Appends to `done` what has been completed since the last call. Does not block. Some requests are done when they were
    /// started: look here before you wait.
    fn completions(&mut self, done: &mut Vec<Completion>);

    /// How many requests have been submitted whose completion was not yet returned.
    fn in_flight(&self) -> usize;

    /// Becomes readable when there may be completions of what was still in flight at the last call of [`Self::completions`], for
    /// `poll` or `epoll`, and stays so until the next; the caller never reads it. The same descriptor for the whole life of the
    /// lane.
    fn wait_descriptor(&self) -> BorrowedFd<'_>;

    /// Starts what was submitted and appends all completions to `done`: blocks until nothing is in flight.
    fn drain(&mut self, done: &mut Vec<Completion>) {
        self.start();
        self.completions(done);
        while self.in_flight() > 0 {
            let mut descriptors = [PollFd::from_borrowed_fd(self.wait_descriptor(), PollFlags::IN)];
            // An interrupted or refused wait costs a turn of this loop and nothing else.
            let _ = poll(&mut descriptors, None);
            self.completions(done);
        }
    }
}
