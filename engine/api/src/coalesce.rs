//! Writes that need no answer at once: gathered while the guest goes on, carried out before anything that could tell the
//! difference.
//!
//! Where the kernel runs the guest this is its coalesced MMIO and port I/O (`Documentation/virt/kvm/api.rst`,
//! KVM_REGISTER_COALESCED_MMIO): a write costs no exit of its own.

use crate::EngineError;

/// Addresses whose writes may be gathered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteRange {
    /// I/O ports.
    Ports {
        /// The first port.
        first: u16,
        /// How many.
        count: u16,
    },
    /// Guest-physical memory that is not RAM.
    Memory {
        /// The first address.
        first: u64,
        /// How many bytes.
        length: u32,
    },
}

/// A write that was gathered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GatheredWrite {
    /// To an I/O port.
    Port {
        /// Port number.
        port: u16,
        /// 1, 2 or 4 bytes.
        size: u8,
        /// The value, in its low `size` bytes.
        data: u32,
    },
    /// To memory that is not RAM.
    Memory {
        /// Guest-physical address.
        address: u64,
        /// 1 to 8 bytes.
        size: u8,
        /// The value, in its low `size` bytes.
        data: u64,
    },
}

/// Takes the gathered writes, in the order in which the guest made them. It is called by whichever thread notices them
/// first, also while other processors run, but never by two threads at once; it must not call the engine.
///
/// This is the boundary's one callback: were the writes exits, a processor could carry out its own next access while another
/// one still holds the write before it.
pub type WriteSink = dyn Fn(GatheredWrite) + Send + Sync;

/// How writes are gathered. An engine whose exits are cheap may ignore it: then the writes are exits as ever.
pub trait Coalescing {
    /// Who takes the writes. Set once, before [`Coalescing::coalesce`].
    fn set_write_sink(&self, sink: Box<WriteSink>);

    /// Lets the guest's writes in `range` be gathered. Before any exit is handed out, and before any processor reads a
    /// device, all writes before it have reached the sink; if the guest does nothing else, they may wait for ever. So a
    /// range must hold registers whose writes have no effect of their own until another register is accessed.
    ///
    /// # Errors
    /// The host has no room for another range.
    fn coalesce(&self, range: WriteRange) -> Result<(), EngineError>;

    /// Lets everything gathered reach the sink now.
    fn flush_writes(&self);
}
