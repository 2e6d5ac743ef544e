//! Devices on the PCI bus.

mod virtio;
