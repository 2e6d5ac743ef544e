//! What a format must know so that its images can be used: which of the disk's blocks is where in the file.

use std::fmt::Debug;
use std::io;

/// Where a block, or a part of one, is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Found {
    /// In the file.
    Data {
        /// At this offset.
        offset: u64,
        /// Whether it may be overwritten: nothing else refers to it.
        is_writable: bool,
    },
    /// Nowhere; it reads as zeros.
    Zero,
    /// Nowhere; it reads as what the image stands on, or as zeros if it stands on nothing.
    Absent,
    /// In the file, compressed.
    Packed {
        /// How.
        packed: Packed,
        /// Where the offset that was asked for is in what comes out.
        within: u64,
    },
}

/// A compressed piece of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Packed {
    /// Where it begins in the file.
    pub offset: u64,
    /// How many bytes it takes at most.
    pub length: u64,
    /// How many bytes come out.
    pub unpacked: u64,
    /// How it was made.
    pub method: Method,
}

/// Compression methods.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Method {
    /// RFC 1951, with nothing around it.
    Deflate,
    /// RFC 1950.
    Zlib,
    /// RFC 8878.
    Zstandard,
}

/// Blocks of the file that were taken for new data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Allocated {
    /// Where they begin in the file.
    pub offset: u64,
    /// How many there are, one after the other.
    pub count: u64,
    /// Whether they read as zeros as long as nobody writes them.
    pub is_fresh: bool,
}

/// A stretch of the file that nothing refers to any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Freed {
    /// Where it begins.
    pub offset: u64,
    /// Bytes.
    pub length: u64,
}

/// Bytes that are to be written to the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Change {
    /// Where.
    pub offset: u64,
    /// What.
    pub bytes: Vec<u8>,
}

/// What blocks are to become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cleared {
    /// Zeros without space in the file.
    Zero,
    /// As if never written.
    Absent,
}

/// Which block is where. Implementations keep changes in memory until [`Self::prepare`].
///
/// The promises that make an image survive crashes: the data of a block is in the file before [`Self::install`], but maybe not
/// on the host's disk; so nothing that [`Self::install`] changed may be in the file before the first sync after it. That is
/// what the stages are for.
pub(crate) trait Map: Debug + Send {
    /// Bytes of a block, a power of two.
    fn block_size(&self) -> u64;

    /// Where the bytes from `offset` on are, and how many of at most `length` are there.
    fn find(&mut self, offset: u64, length: u64) -> io::Result<(Found, u64)>;

    /// Takes up to `count` blocks of the file for the disk's blocks from `block` on.
    fn allocate(&mut self, block: u64, count: u64) -> io::Result<Allocated>;

    /// They were not needed after all.
    fn give_back(&mut self, allocated: Allocated);

    /// From now on the disk's blocks from `block` on are there. What they were before is freed.
    fn install(&mut self, block: u64, allocated: Allocated) -> io::Result<()>;

    /// Changes what `count` blocks from `block` on are. `false` if the format cannot say that.
    fn clear(&mut self, block: u64, count: u64, to: Cleared) -> io::Result<bool>;

    /// Everything that was changed, in stages: the first is written at once, each other after the one before it and all data are on the
    /// host's disk. The file is as good as before during each stage, whatever part of it was written.
    fn prepare(&mut self) -> io::Result<Vec<Vec<Change>>>;

    /// The stages that [`Self::prepare`] gave are on the host's disk. Returns what was freed before that: nothing in the file refers to it any
    /// more.
    fn committed(&mut self) -> Vec<Freed>;

    /// They could not be written: they belong to the next [`Self::prepare`].
    fn not_committed(&mut self);

    /// A stretch that was freed may be used again. Returns whether nothing refers to it now: a snapshot may.
    fn reclaim(&mut self, freed: Freed) -> io::Result<bool>;

    /// Whether there is nothing that [`Self::prepare`] would give.
    fn is_settled(&self) -> bool;

    /// Whether so much waits for [`Self::prepare`] that it should be soon.
    fn is_pressed(&self) -> bool;
}
