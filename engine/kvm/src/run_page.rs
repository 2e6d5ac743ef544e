//! The memory that a processor shares with the kernel (`struct kvm_run`): why it left the guest, and the room for answers.
//!
//! The kernel writes it during KVM_RUN only. One byte, `immediate_exit`, is for everybody: whoever wants the processor to
//! leave the guest sets it.

use std::io;
use std::mem::offset_of;
use std::os::fd::AsRawFd;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32};

use kvm_bindings::{
    KVM_EXIT_FAIL_ENTRY, KVM_EXIT_INTERNAL_ERROR, KVM_EXIT_INTR, KVM_EXIT_IO, KVM_EXIT_IO_IN, KVM_EXIT_MMIO,
    KVM_EXIT_SHUTDOWN, KVM_EXIT_UNKNOWN, kvm_run,
};

/// Where in the mapping the processor's own pages end (`kvm_run`, port data), and what the whole machine shares begins.
const FIRST_SHARED: usize = 0x2000;

/// A mapping of the shared memory.
#[derive(Debug)]
pub struct Mapping {
    start: NonNull<u8>,
    size: usize,
}

// SAFETY: the memory belongs to the value, not to a thread. Through a shared reference only atomics are reachable.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps the first `size` bytes of a processor's file.
    ///
    /// # Errors
    /// The host refuses.
    pub fn new(vcpu: &impl AsRawFd, size: usize) -> io::Result<Self> {
        if size < size_of::<kvm_run>() {
            return Err(io::Error::other("the kernel's kvm_run is smaller than it should be"));
        }
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping at a place that the kernel chooses touches no memory of ours.
        let start = unsafe {
            libc::mmap(std::ptr::null_mut(), size, protection, libc::MAP_SHARED, vcpu.as_raw_fd(), 0)
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast()).ok_or_else(|| io::Error::other("mapped at address zero"))?;
        Ok(Self { start, size })
    }

    /// The byte that makes KVM_RUN return at once with EINTR.
    pub fn immediate_exit(&self) -> &AtomicU8 {
        // SAFETY: the byte lies in the mapping, which lives as long as `self`; it is accessed as an atomic only.
        unsafe { AtomicU8::from_ptr(self.start.add(offset_of!(kvm_run, immediate_exit)).as_ptr()) }
    }

    /// The four bytes at a multiple of 4 that lies behind the processor's own pages, which the kernel changes at any time; none
    /// if the mapping ends before.
    pub fn atomic(&self, offset: usize) -> Option<&AtomicU32> {
        if offset < FIRST_SHARED || !offset.is_multiple_of(4) || offset.checked_add(4)? > self.size {
            return None;
        }
        // SAFETY: the bytes lie in the mapping, which lives as long as `self`, and are aligned. Behind the page of `kvm_run`
        // and the page for port data nobody of ours accesses the mapping in any other way.
        Some(unsafe { AtomicU32::from_ptr(self.start.add(offset).as_ptr().cast()) })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: `start` and `size` are a mapping of our own, and nothing borrows from it any more.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.size) };
    }
}

/// Why KVM_RUN returned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// Port accesses of `count` elements of `size` bytes, whose data is at `offset` in the page.
    Port { is_read: bool, port: u16, size: u8, count: u32, offset: u64 },
    /// An access of `length` bytes to memory that is not there.
    Memory { is_write: bool, address: u64, length: u8, data: [u8; 8] },
    /// A triple fault.
    Shutdown,
    /// A signal.
    Interrupted,
    /// The hardware refused to enter the guest, with the manual's or the vendor's own code.
    FailEntry { code: u64 },
    /// The hardware left the guest for a reason that KVM does not know, by the manual's number.
    Unknown { code: u64 },
    /// KVM could not go on.
    Internal { suberror: u32, data: Vec<u64> },
    /// One that should not occur, by its number.
    Other(u32),
}

/// The page, for the one thread that runs the processor.
#[derive(Debug)]
pub struct RunPage {
    mapping: Arc<Mapping>,
}

impl RunPage {
    /// The processor's own way to `mapping`; there must not be another.
    pub const fn new(mapping: Arc<Mapping>) -> Self {
        Self { mapping }
    }

    /// Why the last KVM_RUN returned.
    pub fn reason(&self) -> Reason {
        let run = self.mapping.start.cast::<kvm_run>().as_ptr();
        // SAFETY: `run` is a page-aligned, mapped kvm_run, which the kernel changes during KVM_RUN only; whoever calls
        // this is the thread that would do that. The exit reason tells which member of the union was written, and all of
        // them are integers for which every bit pattern is valid.
        unsafe {
            let union = &raw const (*run).__bindgen_anon_1;
            match (*run).exit_reason {
                KVM_EXIT_IO => {
                    let io = (*union).io;
                    Reason::Port {
                        is_read: u32::from(io.direction) == KVM_EXIT_IO_IN,
                        port: io.port,
                        size: io.size,
                        count: io.count,
                        offset: io.data_offset,
                    }
                }
                KVM_EXIT_MMIO => {
                    let mmio = (*union).mmio;
                    Reason::Memory {
                        is_write: mmio.is_write != 0,
                        address: mmio.phys_addr,
                        length: mmio.len.min(8) as u8,
                        data: mmio.data,
                    }
                }
                KVM_EXIT_SHUTDOWN => Reason::Shutdown,
                KVM_EXIT_INTR => Reason::Interrupted,
                KVM_EXIT_FAIL_ENTRY => {
                    Reason::FailEntry { code: (*union).fail_entry.hardware_entry_failure_reason }
                }
                KVM_EXIT_UNKNOWN => Reason::Unknown { code: (*union).hw.hardware_exit_reason },
                KVM_EXIT_INTERNAL_ERROR => {
                    let internal = (*union).internal;
                    let count = (internal.ndata as usize).min(internal.data.len());
                    Reason::Internal { suberror: internal.suberror, data: internal.data[..count].to_vec() }
                }
                other => Reason::Other(other),
            }
        }
    }

    /// Copies `bytes.len()` bytes from `offset`; zeros if they are not all in the page.
    pub fn read(&self, offset: u64, bytes: &mut [u8]) {
        bytes.fill(0);
        if let Some(from) = self.place(offset, bytes.len()) {
            // SAFETY: `place` checked the range; nobody writes it while the processor is out of the guest.
            unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), bytes.as_mut_ptr(), bytes.len()) };
        }
    }

    /// Copies `bytes` to `offset`, if they fit into the page.
    pub fn write(&mut self, offset: u64, bytes: &[u8]) {
        if let Some(to) = self.place(offset, bytes.len()) {
            // SAFETY: `place` checked the range; nobody reads it while the processor is out of the guest.
            unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to.as_ptr(), bytes.len()) };
        }
    }

    /// Gives the answer to a [`Reason::Memory`] that was a read.
    pub fn answer_memory(&mut self, data: [u8; 8]) {
        let run = self.mapping.start.cast::<kvm_run>().as_ptr();
        // SAFETY: as in `reason`; the field lies in the mapping.
        unsafe { (*run).__bindgen_anon_1.mmio.data = data };
    }

    fn place(&self, offset: u64, length: usize) -> Option<NonNull<u8>> {
        let offset = usize::try_from(offset).ok()?;
        let end = offset.checked_add(length)?;
        // SAFETY: the result lies within the mapping.
        (end <= self.mapping.size).then(|| unsafe { self.mapping.start.add(offset) })
    }
}

#[cfg(test)]
pub mod tests {
    use std::fs::File;
    use std::sync::atomic::Ordering;

    use super::*;

    /// A page that a test fills in instead of the kernel.
    fn page() -> RunPage {
        RunPage::new(mapping())
    }

    /// Three pages of memory.
    pub fn mapping() -> Arc<Mapping> {
        let name = c"kvm_run";
        // SAFETY: the name is a C string; the result is checked by `from_raw_fd`'s user.
        let fd = unsafe { libc::memfd_create(name.as_ptr(), 0) };
        assert!(fd >= 0);
        // SAFETY: the descriptor is new and ours.
        let file = unsafe { <File as std::os::fd::FromRawFd>::from_raw_fd(fd) };
        file.set_len(0x3000).unwrap();
        Arc::new(Mapping::new(&file, 0x3000).unwrap())
    }

    #[test]
    fn data_outside_the_page_is_neither_read_nor_written() {
        let mut page = page();
        page.write(0x2ffc, &[1, 2, 3, 4]);
        page.write(0x2ffd, &[9; 4]);
        page.write(u64::MAX, &[9]);
        let mut bytes = [7; 4];
        page.read(0x2ffc, &mut bytes);
        assert_eq!(bytes, [1, 2, 3, 4]);
        page.read(0x2ffd, &mut bytes);
        assert_eq!(bytes, [0; 4]);
    }

    #[test]
    fn the_immediate_exit_is_the_second_byte() {
        let page = page();
        page.mapping.immediate_exit().store(1, Ordering::SeqCst);
        let mut bytes = [0; 2];
        page.read(0, &mut bytes);
        assert_eq!(bytes, [0, 1]);
    }

    #[test]
    fn a_port_exit_is_read_as_the_kernel_wrote_it() {
        let mut page = page();
        page.write(8, &KVM_EXIT_IO.to_le_bytes());
        let mut io = vec![1, 2];
        io.extend(0x3f8_u16.to_le_bytes());
        io.extend(3_u32.to_le_bytes());
        io.extend(0x1000_u64.to_le_bytes());
        page.write(32, &io);
        let expected = Reason::Port { is_read: false, port: 0x3f8, size: 2, count: 3, offset: 0x1000 };
        assert_eq!(page.reason(), expected);
    }
}
