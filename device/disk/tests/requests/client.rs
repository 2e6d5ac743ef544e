//! One queue of a made-up device, with memory of its own in place of a guest's.

use std::io;
use std::sync::Arc;

use tern_disk::{Buffer, Completion, Disk, DiskOptions, Lane, Operation};

/// A disk and a lane to it.
pub struct Client {
    pub disk: Arc<dyn Disk>,
    pub lane: Box<dyn Lane>,
}

impl Client {
    pub fn open(options: &DiskOptions) -> Self {
        let disk = tern_disk::open(options).unwrap_or_else(|error| panic!("{error}"));
        Self::of(disk)
    }

    pub fn of(disk: Arc<dyn Disk>) -> Self {
        let lane = disk.open_lane().unwrap();
        Self { disk, lane }
    }

    fn wait(&mut self) -> io::Result<()> {
        let mut done = Vec::new();
        self.lane.drain(&mut done);
        let [Completion { tag: 77, result }] = <[_; 1]>::try_from(done).unwrap() else {
            panic!("not our tag")
        };
        result
    }

    /// One request, alone.
    pub fn ask(&mut self, operation: Operation<'_>) -> io::Result<()> {
        // SAFETY: the callers keep the memory until this returns.
        unsafe { self.lane.submit(77, operation) };
        self.wait()
    }

    /// Reads into pieces of `cut` bytes, so that requests look as guests make them.
    pub fn read(&mut self, offset: u64, length: usize, cut: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0xee; length];
        let buffers: Vec<Buffer> =
            bytes.chunks_mut(cut).map(|piece| Buffer::new(piece.as_mut_ptr(), piece.len())).collect();
        self.ask(Operation::Read { offset, buffers: &buffers })?;
        Ok(bytes)
    }

    /// Writes from pieces of `cut` bytes.
    pub fn write(&mut self, offset: u64, bytes: &[u8], cut: usize) -> io::Result<()> {
        let buffers: Vec<Buffer> =
            bytes.chunks(cut).map(|piece| Buffer::new(piece.as_ptr().cast_mut(), piece.len())).collect();
        self.ask(Operation::Write { offset, buffers: &buffers })
    }

    pub fn flush(&mut self) -> io::Result<()> {
        self.ask(Operation::Flush)
    }
}
