//! What a driver can do wrong. A device that meets it does nothing more until it is reset (virtio 1.2, section 2.1.2,
//! DEVICE_NEEDS_RESET).

use thiserror::Error;

/// A rule that the driver has broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Violation {
    /// The driver was set in motion before it had agreed on features.
    #[error("the driver started the device before features were agreed on")]
    NotNegotiated,
    /// The driver took back what it had said in the status register, without a reset.
    #[error("the driver cleared bits of the status register")]
    StatusCleared,
    /// A queue's size is no power of two, or more than the device offers.
    #[error("queue {queue} is to have {size} entries")]
    QueueSize {
        /// The queue.
        queue: u16,
        /// What the driver chose.
        size: u16,
    },
    /// A part of a queue is not aligned, or not in memory.
    #[error("a part of queue {queue} is not in memory, or not aligned")]
    QueuePlace {
        /// The queue.
        queue: u16,
    },
    /// More buffers are available than the queue has entries.
    #[error("more buffers are available than the queue has entries")]
    TooManyAvailable,
    /// There is no descriptor of this number.
    #[error("there is no descriptor {0}")]
    NoDescriptor(u16),
    /// The descriptors are linked in a circle, or there are more than can be.
    #[error("a buffer's descriptors do not end")]
    Endless,
    /// A table of descriptors is not in memory.
    #[error("a descriptor at {0:#x} is not in memory")]
    DescriptorOutside(u64),
    /// A table of descriptors where none may be: not agreed on, inside another one, or with a successor.
    #[error("an indirect table of descriptors is where none may be")]
    IndirectForbidden,
    /// A table of descriptors of an impossible size.
    #[error("an indirect table of descriptors has {0} bytes")]
    IndirectSize(u32),
    /// A descriptor without bytes.
    #[error("a descriptor has no bytes")]
    Empty,
    /// A buffer that the device may only read follows one that it may write.
    #[error("a buffer for reading follows one for writing")]
    Order,
    /// A buffer of more than 2^32 bytes.
    #[error("a buffer has more than 4 GiB")]
    TooLong,
    /// A buffer is not, or not wholly, in memory.
    #[error("a buffer of {length} bytes at {address:#x} is not in memory")]
    BufferOutside {
        /// Guest-physical.
        address: u64,
        /// In bytes.
        length: u32,
    },
    /// A request has not the parts that its kind must have.
    #[error("{0}")]
    Request(&'static str),
    /// Nobody can be asked any more: the host has no thread or descriptor for the device.
    #[error("the host cannot go on with the device")]
    Host,
}
