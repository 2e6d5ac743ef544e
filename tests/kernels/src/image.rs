//! Kernel files of every format that can be booted.

/// A piece of a kernel: where it is loaded, and its bytes.
#[derive(Debug, Clone)]
pub struct Piece {
    /// Physical address.
    pub address: u64,
    /// Contents.
    pub bytes: Vec<u8>,
}

/// A 64-bit ELF file with Xen's note of the PVH entry point `entry` (System V gABI; Xen, `docs/misc/pvh.pandoc`).
#[must_use]
pub fn pvh(entry: u32, pieces: &[Piece]) -> Vec<u8> {
    const HEADER: u64 = 64;
    const PART: u64 = 56;
    const EXECUTABLE: u16 = 2;
    const X86_64: u16 = 62;
    const LOAD: u32 = 1;
    const NOTE: u32 = 4;
    // Name size, descriptor size, XEN_ELFNOTE_PHYS32_ENTRY, name, descriptor.
    let note: Vec<u8> =
        [4, 4, 18, u32::from_le_bytes(*b"Xen\0"), entry].iter().flat_map(|word| word.to_le_bytes()).collect();
    let mut parts: Vec<(u32, u64, &[u8])> =
        pieces.iter().map(|piece| (LOAD, piece.address, &piece.bytes[..])).collect();
    parts.push((NOTE, 0, &note));

    let mut file = b"\x7fELF\x02\x01\x01".to_vec();
    file.resize(16, 0);
    file.extend([EXECUTABLE, X86_64, 1, 0].iter().flat_map(|half| half.to_le_bytes()));
    file.extend([entry.into(), HEADER, 0].iter().flat_map(|word: &u64| word.to_le_bytes()));
    file.extend([0; 4]);
    let count = u16::try_from(parts.len()).expect("a kernel has few pieces");
    file.extend([HEADER as u16, PART as u16, count, 0, 0, 0].iter().flat_map(|half| half.to_le_bytes()));
    let mut offset = HEADER + PART * u64::from(count);
    for (kind, address, bytes) in &parts {
        let length = bytes.len() as u64;
        file.extend(kind.to_le_bytes());
        file.extend([0; 4]);
        let fields = [offset, *address, *address, length, length, 4];
        file.extend(fields.iter().flat_map(|word| word.to_le_bytes()));
        offset += length;
    }
    parts.iter().for_each(|(.., bytes)| file.extend(*bytes));
    file
}

/// A multiboot 1 kernel that is loaded at `address` and entered there, behind its header: `code` begins at
/// [`multiboot_entry`] (Multiboot Specification 0.6.96, section 3.1).
#[must_use]
pub fn multiboot(address: u32, code: &[u8]) -> Vec<u8> {
    const MAGIC: u32 = 0x1bad_b002;
    // Page-aligned modules, memory map, address fields.
    const FLAGS: u32 = 0x1_0003;
    let checksum = 0_u32.wrapping_sub(MAGIC).wrapping_sub(FLAGS);
    let header = [MAGIC, FLAGS, checksum, address, address, 0, 0, multiboot_entry(address)];
    let mut file: Vec<u8> = header.iter().flat_map(|word| word.to_le_bytes()).collect();
    file.extend(code);
    file
}

/// Where the code of a multiboot kernel loaded at `address` begins.
#[must_use]
pub const fn multiboot_entry(address: u32) -> u32 {
    address + 32
}

/// A bzImage whose payload has no known compression, so that its own 64-bit entry point is used: `code` is entered at
/// [`BZIMAGE_ENTRY`] (Linux, `Documentation/arch/x86/boot.rst`).
#[must_use]
pub fn bzimage(code: &[u8]) -> Vec<u8> {
    const SETUP_SECTORS: u8 = 1;
    const ENTRY_64: usize = 0x200;
    let mut file = vec![0; (usize::from(SETUP_SECTORS) + 1) * 512];
    let mut set = |offset: usize, bytes: &[u8]| file[offset..offset + bytes.len()].copy_from_slice(bytes);
    set(0x1f1, &[SETUP_SECTORS]);
    set(0x1fe, &[0x55, 0xaa, 0xeb, 0x6a]); // boot flag, jump over the header
    set(0x202, b"HdrS\x0f\x02"); // protocol 2.15
    set(0x22c, &0x7fff_ffff_u32.to_le_bytes()); // initrd_addr_max
    set(0x236, &1_u16.to_le_bytes()); // xloadflags: XLF_KERNEL_64
    set(0x238, &255_u32.to_le_bytes()); // cmdline_size
    set(0x248, &0_u32.to_le_bytes()); // payload_offset
    set(0x24c, &16_u32.to_le_bytes()); // payload_length
    set(0x258, &0x10_0000_u64.to_le_bytes()); // pref_address
    set(0x260, &0x10_0000_u32.to_le_bytes()); // init_size
    file.extend([0; ENTRY_64]);
    file.extend(code);
    file
}

/// Where the code of a [`bzimage`] is entered.
pub const BZIMAGE_ENTRY: u64 = 0x10_0200;
