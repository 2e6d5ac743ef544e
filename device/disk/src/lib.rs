//! A disk's host side: what an image file holds, and the way of a queue's requests to it.
//!
//! ```text
//! disk.rs       the boundary: Disk (an opened image) and Lane (one queue's way to it)
//! request.rs    what goes over it: Buffer, Operation, Completion
//! options.rs    `--disk PATH[,ro][,format=][,cache=][,overlay]`
//! error.rs      why a disk cannot be opened
//! open.rs       from options to a Disk
//! chain.rs      an image with the images that it stands on
//! probe.rs      what a file is, by its contents
//! lane/         the ways of requests: at once, io_uring, threads
//! image/        what is where in an image, whatever its format
//! qcow2/ vmdk/ vhd/ vhdx/   the formats
//! tool/         what `tern image` does with images
//! storage/      the host's files: reading, writing, locks
//! memory.rs     guest memory as the source and target of bytes
//! bytes.rs      numbers at places in bytes
//! random.rs     identifiers
//! hostile.rs    what the fuzz targets do
//! ```
//!
//! A device opens a disk once, and a lane for each of its queues:
//!
//! ```text
//! DiskOptions ──open──► Arc<dyn Disk> ──open_lane──► Box<dyn Lane>    one per queue, owned by its thread
//!                                                      │  ▲
//!                        submit(tag, Operation)… start │  │ completions(&mut Vec<Completion>)
//!                                                      ▼  │
//!                                                the host's files
//! ```
//!
//! # How a queue uses a lane
//!
//! ```no_run
//! # use std::os::fd::AsFd;
//! # use tern_disk::{Buffer, Completion, DiskOptions, Operation};
//! # fn take_from_guest() -> Option<(u64, u64, Vec<Buffer>)> { None }
//! # fn answer_guest(_: Completion) {}
//! # fn main() -> Result<(), tern_disk::DiskError> {
//! let disk = tern_disk::open(&DiskOptions::new("disk.qcow2"))?;
//! let mut lane = disk.open_lane()?;
//! let mut done = Vec::new();
//! loop {
//!     // The queue's thread polls the guest's doorbell and lane.wait_descriptor().
//!     while let Some((tag, offset, buffers)) = take_from_guest() {
//!         // SAFETY: `buffers` are guest memory, which stays mapped until the lane is dropped.
//!         unsafe { lane.submit(tag, Operation::Read { offset, buffers: &buffers }) };
//!     }
//!     lane.start(); // once per batch
//!     lane.completions(&mut done);
//!     for completion in done.drain(..) {
//!         answer_guest(completion); // a Read also tells the memory's bitmap what was written
//!     }
//! #   break;
//! }
//! # Ok(())
//! # }
//! ```
//!
//! To pause or reset a device, stop submitting and call [`Lane::drain`]. At the machine's end a flush says whether everything is
//! in the image; what is not flushed is written when the disk is dropped, as far as that works.

mod bytes;
mod chain;
mod disk;
mod error;
#[doc(hidden)]
pub mod hostile;
mod image;
mod lane;
mod memory;
mod open;
mod options;
mod probe;
mod qcow2;
mod random;
mod request;
mod storage;
pub mod tool;
mod vhd;
mod vhdx;
mod vmdk;

pub use disk::{Disk, Lane, RangeLimits};
pub use error::DiskError;
pub use open::open;
pub use options::{Cache, DiskOptions, Format, Transport};
pub use request::{Buffer, Completion, Operation};
