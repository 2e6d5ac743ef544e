//! ELF executables: which bytes go to which physical address, and where to enter (System V gABI, chapters 4 and 5).
//!
//! Segments are placed at their *physical* addresses (`p_paddr`); relocations and sections play no part.

use thiserror::Error;

use super::bytes::{range_within, u16_at, u32_at, u64_at};
use super::note;
use super::segment::Segment;

const MAGIC: &[u8] = b"\x7fELF";
const EI_CLASS: usize = 4;
const EI_DATA: usize = 5;
const ELFDATA2LSB: u8 = 1;
const ET_EXEC: u16 = 2;
const ET_DYN: u16 = 3;
const EM_386: u16 = 3;
const EM_X86_64: u16 = 62;
const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;
/// The program headers' number does not fit `e_phnum` and stands elsewhere: no kernel has that many.
const PN_XNUM: u16 = 0xffff;

/// Why an ELF file cannot be loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ElfError {
    /// The magic number is missing.
    #[error("it has no ELF magic number")]
    NotElf,
    /// The file ends inside its headers.
    #[error("the file ends inside its {0}: it is truncated")]
    Truncated(&'static str),
    /// Neither a little-endian 32-bit nor 64-bit file.
    #[error("ELF class {class} with data encoding {encoding} is not a little-endian 32-bit or 64-bit file")]
    Encoding {
        /// `EI_CLASS`.
        class: u8,
        /// `EI_DATA`.
        encoding: u8,
    },
    /// Made for another processor.
    #[error("it is made for another processor (machine {0}), not for x86: build it for x86-64")]
    Machine(u16),
    /// An object file, a core dump, ...
    #[error("it is no executable (type {0}): link it first")]
    Type(u16),
    /// Program headers of another size than the class has, or too many.
    #[error("its program header table is malformed ({count} entries of {size} bytes)")]
    HeaderTable {
        /// `e_phnum`.
        count: u16,
        /// `e_phentsize`.
        size: u16,
    },
    /// No `PT_LOAD` segment occupies memory.
    #[error("it has nothing to load")]
    NothingToLoad,
    /// A segment's bytes lie outside the file.
    #[error("the bytes of program header {0} lie outside the file: it is truncated")]
    SegmentOutsideFile(u16),
    /// `p_filesz` is greater than `p_memsz`.
    #[error("program header {0} has more bytes in the file than in memory")]
    SegmentLargerInFile(u16),
    /// A segment runs past the end of the address space.
    #[error("program header {0} runs past the end of the address space")]
    SegmentWraps(u16),
    /// Two segments want the same memory.
    #[error("two segments overlap at physical address {0:#x}")]
    SegmentsOverlap(u64),
    /// A note runs out of its segment, or the PVH note holds no 32-bit address.
    #[error("the notes of program header {0} are malformed")]
    Notes(u16),
    /// An entry point outside every segment.
    #[error("its entry point {0:#x} lies in none of its segments")]
    EntryOutside(u64),
}

/// What loading needs of an ELF executable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Elf {
    /// Whether it is a 64-bit file.
    pub is_64_bit: bool,
    /// `e_entry` as it stands: physical or virtual, as the kernel's linker script likes it.
    pub entry: u64,
    /// The PVH entry point, a physical address inside a segment, if the file has Xen's note of it.
    pub pvh_entry: Option<u32>,
    /// Whether a note says that it is a Linux.
    pub has_linux_note: bool,
    /// At least one; ascending by address, disjoint.
    pub segments: Vec<Segment>,
}

impl Elf {
    /// Reads the headers of `file`.
    ///
    /// # Errors
    /// The file is no x86 executable, is truncated, or its headers contradict themselves.
    pub fn parse(file: &[u8]) -> Result<Self, ElfError> {
        let layout = Layout::of(file)?;
        let header = |field| ElfError::Truncated(field);
        let kind = u16_at(file, 16).ok_or(header("ELF header"))?;
        let machine = u16_at(file, 18).ok_or(header("ELF header"))?;
        if !matches!(machine, EM_386 | EM_X86_64) {
            return Err(ElfError::Machine(machine));
        }
        if !matches!(kind, ET_EXEC | ET_DYN) {
            return Err(ElfError::Type(kind));
        }
        let entry = layout.word(file, layout.entry).ok_or(header("ELF header"))?;
        let table_offset = layout.word(file, layout.phoff).ok_or(header("ELF header"))?;
        let size = u16_at(file, layout.phentsize).ok_or(header("ELF header"))?;
        let count = u16_at(file, layout.phentsize + 2).ok_or(header("ELF header"))?;
        if usize::from(size) != layout.program_header_size || count == PN_XNUM {
            return Err(ElfError::HeaderTable { count, size });
        }
        let table = range_within(table_offset, u64::from(size) * u64::from(count), file.len())
            .ok_or(header("program headers"))?;

        let mut elf = Self {
            is_64_bit: layout.is_64_bit,
            entry,
            pvh_entry: None,
            has_linux_note: false,
            segments: Vec::new(),
        };
        for (index, header) in (0..count).zip(file[table].chunks_exact(layout.program_header_size)) {
            let header = layout.program_header(header).ok_or(ElfError::Truncated("program headers"))?;
            elf.add(file, index, &header)?;
        }
        elf.check()
    }

    fn add(&mut self, file: &[u8], index: u16, header: &ProgramHeader) -> Result<(), ElfError> {
        if !matches!(header.kind, PT_LOAD | PT_NOTE) {
            return Ok(());
        }
        let bytes = range_within(header.offset, header.file_size, file.len())
            .ok_or(ElfError::SegmentOutsideFile(index))?;
        if header.kind == PT_NOTE {
            let found = note::read(&file[bytes], header.align).map_err(|_| ElfError::Notes(index))?;
            self.pvh_entry = self.pvh_entry.or(found.pvh_entry);
            self.has_linux_note |= found.is_linux;
            return Ok(());
        }
        if header.file_size > header.memory_size {
            return Err(ElfError::SegmentLargerInFile(index));
        }
        if header.physical.checked_add(header.memory_size).is_none() {
            return Err(ElfError::SegmentWraps(index));
        }
        if header.memory_size > 0 {
            self.segments.push(Segment {
                file: bytes,
                address: header.physical,
                virtual_address: header.virtual_address,
                memory_size: header.memory_size,
            });
        }
        Ok(())
    }

    fn check(mut self) -> Result<Self, ElfError> {
        if self.segments.is_empty() {
            return Err(ElfError::NothingToLoad);
        }
        self.segments.sort_unstable_by_key(|segment| segment.address);
        if let Some(pair) = self.segments.windows(2).find(|pair| pair[0].end() > pair[1].address) {
            return Err(ElfError::SegmentsOverlap(pair[1].address));
        }
        match self.pvh_entry {
            Some(entry) if !self.holds(entry.into()) => Err(ElfError::EntryOutside(entry.into())),
            _ => Ok(self),
        }
    }

    fn holds(&self, address: u64) -> bool {
        self.segments.iter().any(|segment| (segment.address..segment.end()).contains(&address))
    }

    /// The entry point as a physical address: `e_entry` may be either kind.
    ///
    /// # Errors
    /// [`ElfError::EntryOutside`] if it is neither, or not below 4 GiB.
    pub fn physical_entry(&self) -> Result<u32, ElfError> {
        let offset_in = |segment: &Segment| {
            let offset = self.entry.checked_sub(segment.virtual_address)?;
            (offset < segment.memory_size).then(|| segment.address + offset)
        };
        self.segments
            .iter()
            .find_map(offset_in)
            .or_else(|| self.holds(self.entry).then_some(self.entry))
            .and_then(|entry| u32::try_from(entry).ok())
            .ok_or(ElfError::EntryOutside(self.entry))
    }

    /// Whether `file`, which this was read from, is an x86-64 Linux kernel: then its entry point follows the 64-bit
    /// boot protocol. It is known by its notes, or by its version banner, which every Linux kernel carries in its read-only
    /// data.
    #[must_use]
    pub fn is_linux(&self, file: &[u8]) -> bool {
        const BANNER: &[u8] = b"Linux version ";
        let has_banner = |segment: &Segment| {
            let bytes = file.get(segment.file.clone()).unwrap_or_default();
            memchr::memmem::find(bytes, BANNER).is_some()
        };
        self.is_64_bit && (self.has_linux_note || self.segments.iter().any(has_banner))
    }
}

struct ProgramHeader {
    kind: u32,
    offset: u64,
    virtual_address: u64,
    physical: u64,
    file_size: u64,
    memory_size: u64,
    align: u64,
}

/// Where the two classes keep their fields.
struct Layout {
    is_64_bit: bool,
    entry: usize,
    phoff: usize,
    /// `e_phnum` follows it.
    phentsize: usize,
    program_header_size: usize,
}

impl Layout {
    fn of(file: &[u8]) -> Result<Self, ElfError> {
        if !file.starts_with(MAGIC) {
            return Err(ElfError::NotElf);
        }
        let ident = |index: usize| file.get(index).copied().ok_or(ElfError::Truncated("ELF header"));
        match (ident(EI_CLASS)?, ident(EI_DATA)?) {
            (1, ELFDATA2LSB) => {
                Ok(Self { is_64_bit: false, entry: 24, phoff: 28, phentsize: 42, program_header_size: 32 })
            }
            (2, ELFDATA2LSB) => {
                Ok(Self { is_64_bit: true, entry: 24, phoff: 32, phentsize: 54, program_header_size: 56 })
            }
            (class, encoding) => Err(ElfError::Encoding { class, encoding }),
        }
    }

    /// An address- or offset-sized field.
    fn word(&self, bytes: &[u8], offset: usize) -> Option<u64> {
        if self.is_64_bit { u64_at(bytes, offset) } else { u32_at(bytes, offset).map(u64::from) }
    }

    fn program_header(&self, bytes: &[u8]) -> Option<ProgramHeader> {
        // p_offset, p_vaddr, p_paddr, p_filesz, p_memsz, p_align; p_flags stands among them in the 32-bit class.
        let at = if self.is_64_bit { [8, 16, 24, 32, 40, 48] } else { [4, 8, 12, 16, 20, 28] };
        Some(ProgramHeader {
            kind: u32_at(bytes, 0)?,
            offset: self.word(bytes, at[0])?,
            virtual_address: self.word(bytes, at[1])?,
            physical: self.word(bytes, at[2])?,
            file_size: self.word(bytes, at[3])?,
            memory_size: self.word(bytes, at[4])?,
            align: self.word(bytes, at[5])?,
        })
    }
}

#[cfg(test)]
mod tests;
