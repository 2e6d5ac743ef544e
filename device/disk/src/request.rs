//! What goes over the boundary: requests with the guest memory that they are about, and what became of them.

use std::io;

use vm_memory::VolatileSlice;
use vm_memory::bitmap::BitmapSlice;

/// A piece of guest memory, by its address in this process. Laid out as `struct iovec`, so that a slice of these is what
/// readv(2) and io_uring take.
#[derive(Debug, Clone, Copy)]
#[repr(transparent)]
pub struct Buffer(libc::iovec);

// SAFETY: it is an address and a length; whoever turns them into an access (`Lane::submit`) has the duties.
#[allow(unsafe_code)]
unsafe impl Send for Buffer {}
// SAFETY: as above; nothing can be done through a shared reference but to read the two numbers.
#[allow(unsafe_code)]
unsafe impl Sync for Buffer {}

impl Buffer {
    /// `length` bytes from `start`.
    #[must_use]
    pub fn new(start: *mut u8, length: usize) -> Self {
        Self(libc::iovec { iov_base: start.cast(), iov_len: length })
    }

    /// The memory behind `slice`.
    ///
    /// What a disk writes there is not seen by the slice's bitmap: whoever submits a read calls `mark_dirty` when it is done.
    #[must_use]
    pub fn of<B: BitmapSlice>(slice: &VolatileSlice<'_, B>) -> Self {
        Self::new(slice.ptr_guard_mut().as_ptr(), slice.len())
    }

    /// The first byte's address.
    #[must_use]
    pub fn start(&self) -> *mut u8 {
        self.0.iov_base.cast()
    }

    /// Bytes.
    #[must_use]
    pub fn length(&self) -> usize {
        self.0.iov_len
    }
}

/// What a queue asks for. Offsets and lengths are in bytes, from the disk's beginning, and multiples of
/// [`crate::Disk::block_size`]; the buffers of one request together have such a length, each alone may have any, none included.
///
/// A request that is not aligned, or not wholly within the disk, is answered with an error and has no effect.
#[derive(Debug, Clone, Copy)]
pub enum Operation<'a> {
    /// Fills the buffers with what is at `offset`.
    Read {
        /// Where on the disk.
        offset: u64,
        /// Where in memory, one after the other.
        buffers: &'a [Buffer],
    },
    /// Puts what is in the buffers to `offset`.
    Write {
        /// Where on the disk.
        offset: u64,
        /// From where in memory, one after the other.
        buffers: &'a [Buffer],
    },
    /// Makes every write that was completed before survive a crash of this process and of the host.
    Flush,
    /// The range's contents are no longer needed: it may read as anything, and gives back its space if possible.
    Discard {
        /// Where on the disk.
        offset: u64,
        /// How much.
        length: u64,
    },
    /// The range reads as zeros from now on.
    WriteZeroes {
        /// Where on the disk.
        offset: u64,
        /// How much.
        length: u64,
        /// Whether the range may lose its space in the file, and need it anew when it is written.
        may_unmap: bool,
    },
}

/// What became of a request.
#[derive(Debug)]
pub struct Completion {
    /// The request's.
    pub tag: u64,
    /// Whether it was carried out in full. After an error of a read the buffers may have been written to in part; after one
    /// of a write the range may hold old and new blocks.
    ///
    /// The kinds that a device may want to tell apart: `ReadOnlyFilesystem` for any write to a disk that is read-only,
    /// `InvalidInput` for a range that is outside or not aligned, `Unsupported` for what the disk does not offer, `StorageFull`
    /// when the host has no space.
    pub result: io::Result<()>,
}
