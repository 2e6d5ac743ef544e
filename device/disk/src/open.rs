//! Opening a disk.
//!
//! For now every image is taken as raw, and a lane does its requests at once.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use rustix::event::{EventfdFlags, eventfd};

use crate::disk::{Disk, Lane, RangeLimits};
use crate::error::DiskError;
use crate::options::DiskOptions;
use crate::request::{Buffer, Completion, Operation};

/// Opens a disk.
///
/// # Errors
/// The file is missing, forbidden, in use by somebody else, or not what it is said to be.
pub fn open(options: &DiskOptions) -> Result<Arc<dyn Disk>, DiskError> {
    let io = |action| move |source| DiskError::Io { action, path: options.path.clone(), source };
    let file = OpenOptions::new()
        .read(true)
        .write(!options.is_read_only)
        .open(&options.path)
        .map_err(io("open disk image"))?;
    let size = file.metadata().map_err(io("look at disk image"))?.len() / 512 * 512;
    Ok(Arc::new(Raw { file: Arc::new(file), size, is_read_only: options.is_read_only }))
}

#[derive(Debug)]
struct Raw {
    file: Arc<File>,
    size: u64,
    is_read_only: bool,
}

impl Disk for Raw {
    fn size(&self) -> u64 {
        self.size
    }
    fn is_read_only(&self) -> bool {
        self.is_read_only
    }
    fn block_size(&self) -> u32 {
        512
    }
    fn optimal_size(&self) -> u32 {
        4096
    }
    fn discard(&self) -> Option<RangeLimits> {
        None
    }
    fn write_zeroes(&self) -> Option<RangeLimits> {
        None
    }
    fn open_lane(&self) -> Result<Box<dyn Lane>, DiskError> {
        let event = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC);
        let event = event.map_err(|error| DiskError::Lane(error.into()))?;
        Ok(Box::new(AtOnce {
            file: Arc::clone(&self.file),
            size: self.size,
            is_read_only: self.is_read_only,
            event,
            done: Vec::new(),
        }))
    }
}

#[derive(Debug)]
struct AtOnce {
    file: Arc<File>,
    size: u64,
    is_read_only: bool,
    event: OwnedFd,
    done: Vec<Completion>,
}

impl AtOnce {
    fn check(&self, offset: u64, buffers: &[Buffer]) -> io::Result<()> {
        let length: u64 = buffers.iter().map(|buffer| buffer.length() as u64).sum();
        let end = offset.checked_add(length).filter(|end| *end <= self.size);
        if end.is_none() || !offset.is_multiple_of(512) || !length.is_multiple_of(512) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        Ok(())
    }

    fn transfer(&self, mut offset: u64, buffers: &[Buffer], write: bool) -> io::Result<()> {
        self.check(offset, buffers)?;
        for buffer in buffers {
            let mut bytes = vec![0; buffer.length()];
            if write {
                // SAFETY: the caller of `submit` keeps the buffer mapped.
                #[allow(unsafe_code)]
                unsafe {
                    std::ptr::copy(buffer.start(), bytes.as_mut_ptr(), bytes.len());
                };
                self.file.write_all_at(&bytes, offset)?;
            } else {
                self.file.read_exact_at(&mut bytes, offset)?;
                // SAFETY: the caller of `submit` keeps the buffer mapped.
                #[allow(unsafe_code)]
                unsafe {
                    std::ptr::copy(bytes.as_ptr(), buffer.start(), bytes.len());
                };
            }
            offset += bytes.len() as u64;
        }
        Ok(())
    }
}

impl Lane for AtOnce {
    #[allow(unsafe_code)]
    unsafe fn submit(&mut self, tag: u64, operation: Operation<'_>) {
        let result = match operation {
            Operation::Read { offset, buffers } => self.transfer(offset, buffers, false),
            _ if self.is_read_only && !matches!(operation, Operation::Flush) => {
                Err(io::ErrorKind::ReadOnlyFilesystem.into())
            }
            Operation::Write { offset, buffers } => self.transfer(offset, buffers, true),
            Operation::Flush => self.file.sync_data(),
            Operation::Discard { .. } | Operation::WriteZeroes { .. } => {
                Err(io::ErrorKind::Unsupported.into())
            }
        };
        self.done.push(Completion { tag, result });
        let _ = rustix::io::write(&self.event, &1_u64.to_ne_bytes());
    }

    fn start(&mut self) {}

    fn completions(&mut self, done: &mut Vec<Completion>) {
        let _ = rustix::io::read(&self.event, &mut [0; 8]);
        done.append(&mut self.done);
    }

    fn in_flight(&self) -> usize {
        self.done.len()
    }

    fn wait_descriptor(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}
