//! The typed conversation of a processor with its machine.

/// Why a processor stopped running: the question that the machine must answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VmExit {
    /// The guest reads an I/O port. Answer with [`VmEntry::Value`].
    PortIn {
        /// Port number.
        port: u16,
        /// 1, 2 or 4 bytes.
        size: u8,
    },
    /// The guest writes an I/O port. Answer with [`VmEntry::Resume`].
    PortOut {
        /// Port number.
        port: u16,
        /// 1, 2 or 4 bytes.
        size: u8,
        /// The value, in its low `size` bytes.
        data: u32,
    },
    /// The guest reads physical memory that is not RAM. Answer with [`VmEntry::Value`].
    MmioRead {
        /// Guest-physical address.
        address: u64,
        /// 1, 2, 4 or 8 bytes.
        size: u8,
    },
    /// The guest writes physical memory that is not RAM. Answer with [`VmEntry::Resume`].
    MmioWrite {
        /// Guest-physical address.
        address: u64,
        /// 1, 2, 4 or 8 bytes.
        size: u8,
        /// The value, in its low `size` bytes.
        data: u64,
    },
    /// The processor was kicked. Enter again to go on.
    Kicked,
    /// The processor met a fault while it delivered a double fault and has shut down (APM volume 2, section 8.2.9).
    /// Its state shows where.
    TripleFault,
}

/// How a processor is entered: the answer to its last exit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VmEntry {
    /// Go on; a write has been carried out.
    Resume,
    /// The value that was read, in its low bytes.
    Value(u64),
}
