//! The device's configuration, `virtio_blk_config` (virtio 1.2, section 5.2.4).

use tern_disk::{Disk, RangeLimits};

use super::SEGMENTS;

/// The sector: what capacities, offsets and limits are counted in, whatever the disk's blocks are. In bytes.
pub(super) const SECTOR: u64 = 512;
/// Pieces that a discard or a write of zeros may have.
pub(super) const RANGES: u32 = 1;
/// The physical block that guests are told of is no larger: they choose their own blocks by it. In bytes.
const MOST_PHYSICAL: u32 = 4096;

/// Bytes of the structure.
const SIZE: usize = 60;

/// Answers a read.
pub(super) fn read(disk: &dyn Disk, queues: u16, offset: u64, data: &mut [u8]) {
    let bytes = bytes(disk, queues);
    let start = usize::try_from(offset).unwrap_or(SIZE);
    for (byte, value) in data.iter_mut().zip(bytes.iter().skip(start)) {
        *byte = *value;
    }
}

fn bytes(disk: &dyn Disk, queues: u16) -> [u8; SIZE] {
    let mut bytes = [0; SIZE];
    let mut put = |offset: usize, value: &[u8]| bytes[offset..offset + value.len()].copy_from_slice(value);
    put(0, &(disk.size() / SECTOR).to_le_bytes());
    put(12, &SEGMENTS.to_le_bytes());
    let block = disk.block_size();
    put(20, &block.to_le_bytes());
    let optimal = disk.optimal_size().max(block);
    let physical = optimal.min(MOST_PHYSICAL.max(block));
    // As a power of two, in blocks.
    put(24, &[u8::try_from((physical / block).ilog2()).unwrap_or(0)]);
    put(26, &u16::try_from(physical / block).unwrap_or(1).to_le_bytes());
    put(28, &(optimal / block).to_le_bytes());
    put(34, &queues.to_le_bytes());
    if let Some(limits) = disk.discard() {
        put(36, &sectors(limits.most).to_le_bytes());
        put(40, &RANGES.to_le_bytes());
        put(44, &alignment(limits).to_le_bytes());
    }
    if let Some(limits) = disk.write_zeroes() {
        put(48, &sectors(limits.most).to_le_bytes());
        put(52, &RANGES.to_le_bytes());
        // They may be.
        put(56, &[1]);
    }
    bytes
}

fn sectors(bytes: u64) -> u32 {
    u32::try_from(bytes / SECTOR).unwrap_or(u32::MAX)
}

fn alignment(limits: RangeLimits) -> u32 {
    sectors(limits.alignment.into()).max(1)
}
