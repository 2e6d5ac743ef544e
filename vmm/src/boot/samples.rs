//! Small kernel files, built by and for the tests.

/// A bzImage of protocol 2.15 with four setup sectors and a 64-bit entry point; the payload follows 16 bytes of code.
pub(super) fn bzimage(payload: &[u8]) -> Vec<u8> {
    const PROTECTED_MODE: usize = 5 * 512;
    let mut file = vec![0; PROTECTED_MODE];
    let mut set = |offset: usize, bytes: &[u8]| file[offset..offset + bytes.len()].copy_from_slice(bytes);
    set(0x1f1, &[4]);
    set(0x1fe, &[0x55, 0xaa, 0xeb, 0x6a]);
    set(0x202, b"HdrS\x0f\x02");
    set(0x22c, &0x7fff_ffff_u32.to_le_bytes());
    set(0x236, &[1]);
    set(0x238, &2047_u32.to_le_bytes());
    set(0x248, &16_u32.to_le_bytes());
    set(0x24c, &(payload.len() as u32).to_le_bytes());
    set(0x258, &0x100_0000_u64.to_le_bytes());
    set(0x260, &0x20_0000_u32.to_le_bytes());
    file.extend([0x90; 16]);
    file.extend(payload);
    file
}

/// A program header and its bytes.
#[derive(Clone)]
pub(super) struct Part {
    pub(super) kind: u32,
    pub(super) virtual_address: u64,
    pub(super) address: u64,
    pub(super) bytes: Vec<u8>,
    pub(super) memory_size: u64,
}

/// A segment that is loaded.
pub(super) fn load(address: u64, bytes: &[u8], memory_size: u64) -> Part {
    Part { kind: 1, virtual_address: address, address, bytes: bytes.to_vec(), memory_size }
}

/// Xen's note of the PVH entry point.
pub(super) fn pvh_note(entry: u32) -> Part {
    let fields = [4, 4, 18, u32::from_le_bytes(*b"Xen\0"), entry];
    let bytes = fields.iter().flat_map(|field| field.to_le_bytes()).collect();
    Part { kind: 4, virtual_address: 0, address: 0, bytes, memory_size: 20 }
}

/// A note of Linux's own.
pub(super) fn linux_note() -> Part {
    let mut bytes = Vec::new();
    for field in [6, 4, 0x100] {
        bytes.extend(u32::to_le_bytes(field));
    }
    bytes.extend(b"Linux\0\0\0\0\0\0\0");
    Part { kind: 4, virtual_address: 0, address: 0, memory_size: bytes.len() as u64, bytes }
}

/// A 64-bit executable, entered at its first part.
pub(super) fn elf(parts: &[Part]) -> Vec<u8> {
    build_elf(parts, true)
}

/// A 32-bit executable, entered at its first part.
pub(super) fn elf32(parts: &[Part]) -> Vec<u8> {
    build_elf(parts, false)
}

fn build_elf(parts: &[Part], is_64_bit: bool) -> Vec<u8> {
    let (header_size, part_size) = if is_64_bit { (64, 56) } else { (52, 32) };
    let word = |value: u64| value.to_le_bytes()[..if is_64_bit { 8 } else { 4 }].to_vec();
    let mut file = b"\x7fELF".to_vec();
    file.extend([if is_64_bit { 2 } else { 1 }, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    file.extend([2, 0, if is_64_bit { 62 } else { 3 }, 0, 1, 0, 0, 0]);
    file.extend(word(parts.first().map_or(0, |part| part.virtual_address)));
    file.extend(word(header_size));
    file.extend(word(0)); // section headers
    file.extend([0; 4]); // flags
    for half in [header_size as u16, part_size as u16, parts.len() as u16, 0, 0, 0] {
        file.extend(half.to_le_bytes());
    }
    let mut offset = header_size + part_size * parts.len() as u64;
    for part in parts {
        file.extend(part.kind.to_le_bytes());
        if is_64_bit {
            file.extend([0; 4]); // flags
        }
        for value in [offset, part.virtual_address, part.address, part.bytes.len() as u64, part.memory_size] {
            file.extend(word(value));
        }
        if !is_64_bit {
            file.extend([0; 4]); // flags
        }
        file.extend(word(4));
        offset += part.bytes.len() as u64;
    }
    for part in parts {
        file.extend(&part.bytes);
    }
    file
}

/// A multiboot header behind four bytes, with `addresses` for its address fields, and `rest` behind it.
pub(super) fn multiboot(flags: u32, addresses: &[u32], rest: &[u8]) -> Vec<u8> {
    let magic = 0x1bad_b002_u32;
    let checksum = 0_u32.wrapping_sub(magic).wrapping_sub(flags);
    let header = [0, magic, flags, checksum].into_iter().chain(addresses.iter().copied());
    let mut file: Vec<u8> = header.flat_map(u32::to_le_bytes).collect();
    file.extend(rest);
    file
}

/// All proper beginnings of `file`.
pub(super) fn truncations(file: &[u8]) -> impl Iterator<Item = &[u8]> {
    (0..file.len()).map(|length| &file[..length])
}
