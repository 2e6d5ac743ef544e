//! Devices on the PCI bus.

mod rules;
mod virtio;

/// Flags of a descriptor.
const NEXT: u64 = 1;
const WRITE: u64 = 2;

/// The two words of a descriptor.
const fn descriptor(address: u64, length: u32, flags: u64, next: u64) -> [u64; 2] {
    [address, length as u64 | flags << 32 | next << 48]
}

/// The first word of an available ring with `count` buffers, the first two of which begin with these descriptors.
const fn available(count: u16, heads: [u16; 2]) -> u64 {
    (count as u64) << 16 | (heads[0] as u64) << 32 | (heads[1] as u64) << 48
}
