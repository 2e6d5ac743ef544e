//! The kernel's own counters (KVM_GET_STATS_FD, Linux 5.14): what it did for the guest without asking us.
//!
//! ```text
//!  file:  header: flags, name size, count, offsets of ID, descriptors, data │ ID │ descriptors │ data: u64s
//!  descriptor: flags: u32 │ exponent: i16 │ size: u16 │ offset in data: u32 │ bucket size: u32 │ name
//! ```

use std::fs::File;
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::fs::FileExt;

use kvm_bindings::KVMIO;
use vmm_sys_util::ioctl::ioctl;

mod number {
    #![allow(missing_docs)]
    use super::KVMIO;
    vmm_sys_util::ioctl_io_nr!(KVM_GET_STATS_FD, KVMIO, 0xce);
}

/// More than any kernel's file of counters; the most that is read.
const MOST_BYTES: usize = 256 << 10;

/// A processor's counters that are shown, as the kernel and as users call them. An exit that none of the kinds counts
/// (CPUID, model-specific registers, page faults in nested paging) is in the sum only.
const OF_PROCESSORS: [(&str, &str); 17] = [
    ("exits", "kvm-exits"),
    ("io_exits", "kvm-port-exits"),
    ("mmio_exits", "kvm-mmio-exits"),
    ("halt_exits", "kvm-halt-exits"),
    ("irq_exits", "kvm-host-interrupt-exits"),
    ("irq_window_exits", "kvm-interrupt-window-exits"),
    ("nmi_window_exits", "kvm-nmi-window-exits"),
    ("signal_exits", "kvm-signal-exits"),
    ("request_irq_exits", "kvm-requested-window-exits"),
    ("pf_taken", "kvm-page-faults"),
    ("pf_fixed", "kvm-pages-mapped"),
    ("insn_emulation", "kvm-emulated-instructions"),
    ("hypercalls", "kvm-hypercalls"),
    ("irq_injections", "kvm-interrupts-injected"),
    ("halt_successful_poll", "kvm-halts-polled"),
    ("halt_wakeup", "kvm-halts-slept"),
    ("preemption_reported", "kvm-preemptions-reported"),
];

/// A machine's counters that are shown.
const OF_MACHINES: [(&str, &str); 4] = [
    ("remote_tlb_flush", "kvm-remote-tlb-flushes"),
    ("pages_4k", "kvm-mapped-4k-pages"),
    ("pages_2m", "kvm-mapped-2m-pages"),
    ("pages_1g", "kvm-mapped-1g-pages"),
];

/// The counters of a processor or of a machine.
#[derive(Debug)]
pub struct KernelStatistics {
    file: File,
    shown: &'static [(&'static str, &'static str)],
}

impl KernelStatistics {
    /// A processor's, if the kernel keeps them.
    pub fn of_processor(vcpu: &impl AsRawFd) -> Option<Self> {
        Some(Self { file: open(vcpu)?, shown: &OF_PROCESSORS })
    }

    /// A machine's, if the kernel keeps them.
    pub fn of_machine(vm: &impl AsRawFd) -> Option<Self> {
        Some(Self { file: open(vm)?, shown: &OF_MACHINES })
    }

    /// What is shown, by the names that users read; what this kernel does not count is left out.
    pub fn read(&self) -> Vec<(&'static str, u64)> {
        let bytes = contents(&self.file);
        let counters = parse(&bytes).unwrap_or_default();
        let value =
            |name: &str| counters.iter().find(|(counter, _)| *counter == name).map(|(_, value)| *value);
        self.shown.iter().filter_map(|(kernel, shown)| Some((*shown, value(kernel)?))).collect()
    }
}

fn open(owner: &impl AsRawFd) -> Option<File> {
    // SAFETY: the call takes no argument and gives a new descriptor, or an error on anything that has no counters.
    let fd = unsafe { ioctl(owner, number::KVM_GET_STATS_FD()) };
    // SAFETY: the descriptor is new and ours.
    (fd >= 0).then(|| unsafe { File::from_raw_fd(fd) })
}

fn contents(file: &File) -> Vec<u8> {
    let mut bytes = vec![0; 16 << 10];
    let mut length = 0;
    while let Ok(read @ 1..) = file.read_at(&mut bytes[length..], length as u64) {
        length += read;
        if length == bytes.len() {
            if length >= MOST_BYTES {
                break;
            }
            bytes.resize(2 * length, 0);
        }
    }
    bytes.truncate(length);
    bytes
}

/// The counters that are single numbers. None if the file is not what the kernel documents.
fn parse(file: &[u8]) -> Option<Vec<(&str, u64)>> {
    let word = |at: usize| {
        let bytes = file.get(at..at.checked_add(4)?)?;
        Some(u32::from_le_bytes(bytes.try_into().ok()?) as usize)
    };
    let (name_size, count) = (word(4)?, word(8)?);
    let (descriptors, data) = (word(16)?, word(20)?);
    let mut counters = Vec::new();
    for index in 0..count {
        let at = index.checked_mul(name_size.checked_add(16)?)?.checked_add(descriptors)?;
        // Exponent in the low half, number of values in the high half.
        let size = word(at.checked_add(4)?)? >> 16;
        let offset = word(at.checked_add(8)?)?;
        let name = at.checked_add(16)?;
        let name = file.get(name..name.checked_add(name_size)?)?.split(|byte| *byte == 0).next()?;
        let value = data.checked_add(offset)?;
        let value = file.get(value..value.checked_add(8)?)?;
        if size == 1 {
            counters.push((str::from_utf8(name).ok()?, u64::from_le_bytes(value.try_into().ok()?)));
        }
    }
    Some(counters)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file with three counters, of which the second is a histogram of two buckets.
    fn file() -> Vec<u8> {
        let mut file = Vec::new();
        let (id, descriptors) = (24_u32, 24 + 8);
        let data = descriptors + 3 * (16 + 8);
        for word in [0, 8, 3, id, descriptors, data] {
            file.extend(word.to_le_bytes());
        }
        file.extend(*b"kvm-1\0\0\0");
        for (name, size, offset) in
            [(b"exits\0\0\0", 1_u16, 0_u32), (b"wait\0\0\0\0", 2, 8), (b"io_exits", 1, 24)]
        {
            file.extend(0_u32.to_le_bytes());
            file.extend((-9_i16).to_le_bytes());
            file.extend(size.to_le_bytes());
            file.extend(offset.to_le_bytes());
            file.extend(0_u32.to_le_bytes());
            file.extend(name);
        }
        for value in [1000_u64, 7, 8, 42] {
            file.extend(value.to_le_bytes());
        }
        file
    }

    #[test]
    fn single_numbers_are_read_and_histograms_left_out() {
        assert_eq!(parse(&file()).unwrap(), [("exits", 1000), ("io_exits", 42)]);
    }

    #[test]
    fn a_file_that_ends_too_soon_gives_nothing() {
        let file = file();
        for length in 0..file.len() {
            assert_eq!(parse(&file[..length]), None, "{length}");
        }
    }
}
