//! Feature bits that do not belong to a kind of device (virtio 1.2, chapter 6).

use virtio_bindings::virtio_config::{VIRTIO_F_RING_RESET, VIRTIO_F_VERSION_1};
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};

/// The mask of a feature bit.
#[must_use]
pub const fn bit(number: u32) -> u64 {
    1 << number
}

/// The device follows virtio 1: a driver that does not know that cannot use it.
pub const VERSION_1: u64 = bit(VIRTIO_F_VERSION_1);
/// Buffers may be described by tables of their own.
pub const INDIRECT_DESC: u64 = bit(VIRTIO_RING_F_INDIRECT_DESC);
/// Both sides say from which element on they want to be notified.
pub const EVENT_IDX: u64 = bit(VIRTIO_RING_F_EVENT_IDX);
/// Queues can be reset one by one.
pub const RING_RESET: u64 = bit(VIRTIO_F_RING_RESET);

/// What every device offers.
///
/// Not ACCESS_PLATFORM: there is no IOMMU, and addresses in queues are guest-physical. A guest whose memory the host cannot
/// see in full will need it, and with it a device that follows.
pub const OF_EVERY_DEVICE: u64 = VERSION_1 | INDIRECT_DESC | EVENT_IDX | RING_RESET;
