//! ELF notes, as far as booting reads them (System V gABI, "Note Section"; Xen's `elfnote.h`).

use super::bytes::{range_within, u32_at};

/// The owner name of Xen's notes, with its terminator.
const XEN: &[u8] = b"Xen\0";
/// The owner name of Linux's own notes, of which every kernel since 4.19 has one.
const LINUX: &[u8] = b"Linux\0";
/// `XEN_ELFNOTE_PHYS32_ENTRY`: the physical address at which a PVH loader enters the kernel.
const PHYS32_ENTRY: u32 = 18;
/// Bytes of a note's header: name size, descriptor size, type.
const HEADER: usize = 12;

/// A note runs out of its segment, or an entry note does not hold a 32-bit address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BadNote;

/// What notes say about a kernel.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Notes {
    /// The PVH entry point.
    pub pvh_entry: Option<u32>,
    /// It is a Linux.
    pub is_linux: bool,
}

/// What `notes` say, the contents of a `PT_NOTE` segment whose fields are padded to `align` bytes.
pub(super) fn read(notes: &[u8], align: u64) -> Result<Notes, BadNote> {
    let align: usize = if align == 8 { 8 } else { 4 };
    let mut found = Notes::default();
    let mut rest = notes;
    while rest.len() >= HEADER {
        let field = |offset| u32_at(rest, offset).ok_or(BadNote);
        let (name_size, descriptor_size, kind) = (field(0)?, field(4)?, field(8)?);
        let name = range_within(HEADER as u64, name_size.into(), rest.len()).ok_or(BadNote)?;
        let descriptor_start = name.end.next_multiple_of(align);
        let descriptor =
            range_within(descriptor_start as u64, descriptor_size.into(), rest.len()).ok_or(BadNote)?;
        if kind == PHYS32_ENTRY && &rest[name.clone()] == XEN && found.pvh_entry.is_none() {
            found.pvh_entry = Some(entry_address(&rest[descriptor.clone()])?);
        }
        found.is_linux |= &rest[name] == LINUX;
        // The padding after the last note may be missing.
        rest = rest.get(descriptor.end.next_multiple_of(align)..).unwrap_or_default();
    }
    Ok(found)
}

/// Kernels write the address as 4 or as 8 bytes.
fn entry_address(descriptor: &[u8]) -> Result<u32, BadNote> {
    let address = match *descriptor {
        [a, b, c, d] => u64::from(u32::from_le_bytes([a, b, c, d])),
        [a, b, c, d, e, f, g, h] => u64::from_le_bytes([a, b, c, d, e, f, g, h]),
        _ => return Err(BadNote),
    };
    u32::try_from(address).map_err(|_| BadNote)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(name: &[u8], kind: u32, descriptor: &[u8], align: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        for field in [name.len() as u32, descriptor.len() as u32, kind] {
            bytes.extend(field.to_le_bytes());
        }
        bytes.extend(name);
        bytes.resize(bytes.len().next_multiple_of(align), 0);
        bytes.extend(descriptor);
        bytes.resize(bytes.len().next_multiple_of(align), 0);
        bytes
    }

    #[test]
    fn the_entry_is_found_behind_other_notes_in_both_sizes() {
        for (align, size) in [(4, 4), (4, 8), (8, 8)] {
            let mut notes = note(b"GNU\0", PHYS32_ENTRY, &[1; 20], align);
            notes.extend(note(XEN, 6, b"linux\0", align));
            notes.extend(note(XEN, PHYS32_ENTRY, &0x0100_0850_u64.to_le_bytes()[..size], align));
            let found = Notes { pvh_entry: Some(0x0100_0850), is_linux: false };
            assert_eq!(read(&notes, align as u64), Ok(found));
            notes.extend(note(LINUX, 0x100, b"", align));
            assert_eq!(read(&notes, align as u64), Ok(Notes { is_linux: true, ..found }));
        }
    }

    #[test]
    fn notes_of_others_hold_no_entry() {
        assert_eq!(read(&note(b"GNU\0", PHYS32_ENTRY, &[0; 4], 4), 4), Ok(Notes::default()));
        assert_eq!(read(&[], 4), Ok(Notes::default()));
    }

    #[test]
    fn a_truncated_note_is_refused() {
        let notes = note(XEN, PHYS32_ENTRY, &[0; 8], 4);
        for length in HEADER..notes.len() {
            assert_eq!(read(&notes[..length], 4), Err(BadNote), "{length} bytes");
        }
    }

    #[test]
    fn an_entry_above_4_gib_is_refused() {
        assert_eq!(read(&note(XEN, PHYS32_ENTRY, &(1_u64 << 32).to_le_bytes(), 4), 4), Err(BadNote));
    }
}
