//! The guest's system structures: page tables, descriptor tables, task-state segment and stubs (APM volume 2, chapters 4,
//! 5, 8 and 12), with the control registers that Linux runs user code with.

use tern_x86::cpuid::InstructionSets;
use tern_x86::state::{
    Attributes, Cr0, Cr4, DescriptorTable, Efer, Rflags, Segment, SegmentRegister, VcpuState, Xcr0,
};

use crate::codes::SETS;
use crate::layout::{AREAS, BASE, MEMORY_SIZE, PAGE};
use crate::registers::RSP;

/// Bytes of guest RAM.
pub const RAM_SIZE: usize = 1 << 20;

/// Physical addresses.
const PML4: u64 = 0x1000;
const LOW_TABLES: u64 = 0x2000;
const HIGH_TABLES: u64 = 0x5000;
const GDT: u64 = 0x8000;
const IDT: u64 = 0x9000;
const TSS: u64 = 0xa000;
const STUBS: u64 = 0xb000;
/// The end of the privileged stack.
pub const STACK_TOP: u64 = 0xe000;
/// Where code lies before it is copied.
pub const STAGING: u64 = 0x1_0000;
/// Where [`crate::layout::Memory`] lies.
pub const MEMORY: u64 = 0x2_0000;

/// The port that says that code has been copied.
pub const COPIED: u16 = 0x100;

/// Indices of the segment registers with a base.
pub const FS: usize = SegmentRegister::Fs as usize;
/// See [`FS`].
pub const GS: usize = SegmentRegister::Gs as usize;

/// Linux's selectors.
const KERNEL_CS: u16 = 0x10;
const USER_CS: u16 = 0x33;
const USER_SS: u16 = 0x2b;
const TSS_SELECTOR: u16 = 0x40;
const TSS_LIMIT: u16 = 0x67;

/// Attributes as [`Attributes`] packs them.
const CODE0: u16 = 0xa9b;
const CODE3: u16 = 0xafb;
const DATA0: u16 = 0xc93;
const DATA3: u16 = 0xcf3;
const BUSY_TSS: u16 = 0x08b;
/// A present 64-bit interrupt gate.
const INTERRUPT_GATE: u64 = 0x8e;

/// Page-table entry bits.
const PRESENT: u64 = 1;
const WRITABLE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const LARGE: u64 = 1 << 7;
const NO_EXECUTE: u64 = 1 << 63;

/// Bytes between two stubs.
const STUB_SIZE: u64 = 8;

/// Where privileged code sees physical memory, in the upper half of the address space.
#[must_use]
pub const fn linear(physical: u64) -> u64 {
    0xffff_8000_0000_0000 + physical
}

/// The contents of guest RAM: physical addresses with bytes.
#[must_use]
pub fn image() -> Vec<(u64, Vec<u8>)> {
    let mut image = page_tables();
    image.extend([(GDT, bytes(&gdt())), (IDT, bytes(&idt())), (TSS, tss()), (STUBS, stubs())]);
    image
}

fn bytes(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

fn entry(table: u64, index: u64, value: u64) -> (u64, Vec<u8>) {
    (table + 8 * index, value.to_le_bytes().to_vec())
}

/// The areas for users; all of RAM for privileged code.
fn page_tables() -> Vec<(u64, Vec<u8>)> {
    const TABLE: u64 = PRESENT | WRITABLE | USER;
    let [pdpt, directory, table] = [0, 1, 2].map(|n| LOW_TABLES + n * PAGE);
    let high_directory = HIGH_TABLES + PAGE;
    let mut tables = vec![
        entry(PML4, BASE >> 39 & 511, pdpt | TABLE),
        entry(pdpt, BASE >> 30 & 511, directory | TABLE),
        entry(directory, BASE >> 21 & 511, table | TABLE),
        entry(PML4, 256, HIGH_TABLES | TABLE),
        entry(HIGH_TABLES, 0, high_directory | TABLE),
        entry(high_directory, 0, PRESENT | WRITABLE | LARGE),
    ];
    for area in AREAS {
        for page in 0..area.pages as u64 {
            let mut flags = PRESENT | USER;
            flags |= if area.writable { WRITABLE } else { 0 };
            flags |= if area.executable { 0 } else { NO_EXECUTE };
            let physical = MEMORY + area.offset as u64 + page * PAGE;
            tables.push(entry(table, (area.linear >> 12 & 511) + page, physical | flags));
        }
    }
    tables
}

/// A flat segment descriptor.
const fn descriptor(attributes: u16) -> u64 {
    let attributes = attributes as u64;
    0xffff | (attributes & 0xff) << 40 | 0xf << 48 | (attributes >> 8) << 52
}

fn gdt() -> [u64; 10] {
    let mut gdt = [0; 10];
    gdt[usize::from(KERNEL_CS >> 3)] = descriptor(CODE0);
    gdt[usize::from(KERNEL_CS >> 3) + 1] = descriptor(DATA0);
    gdt[usize::from(USER_SS >> 3)] = descriptor(DATA3);
    gdt[usize::from(USER_CS >> 3)] = descriptor(CODE3);
    let tss = linear(TSS);
    gdt[usize::from(TSS_SELECTOR >> 3)] =
        u64::from(TSS_LIMIT) | (tss & 0xff_ffff) << 16 | u64::from(BUSY_TSS) << 40 | (tss >> 24 & 0xff) << 56;
    gdt[usize::from(TSS_SELECTOR >> 3) + 1] = tss >> 32;
    gdt
}

/// A gate for every vector; users may raise only #BP and #OF, as under Linux.
fn idt() -> Vec<u64> {
    (0..256)
        .flat_map(|vector| {
            let stub = linear(STUBS) + vector * STUB_SIZE;
            let privilege = if matches!(vector, 3 | 4) { 3 } else { 0 };
            let low = stub & 0xffff
                | u64::from(KERNEL_CS) << 16
                | (INTERRUPT_GATE | privilege << 5) << 40
                | (stub >> 16 & 0xffff) << 48;
            [low, stub >> 32]
        })
        .collect()
}

/// RSP0 is the privileged stack; the I/O map lies behind the limit, so that every port is forbidden.
fn tss() -> Vec<u8> {
    let mut tss = vec![0; usize::from(TSS_LIMIT) + 1];
    tss[4..12].copy_from_slice(&linear(STACK_TOP).to_le_bytes());
    tss[0x66..0x68].copy_from_slice(&(TSS_LIMIT + 1).to_le_bytes());
    tss
}

/// For each vector `out vector, al; hlt`; behind them `rep movsq; mov dx, COPIED; out dx, al`.
fn stubs() -> Vec<u8> {
    let mut stubs: Vec<u8> =
        (0..=255).flat_map(|vector| [0xe6, vector, 0xf4, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc]).collect();
    let [low, high] = COPIED.to_le_bytes();
    stubs.extend([0xf3, 0x48, 0xa5, 0x66, 0xba, low, high, 0xee, 0xf4]);
    stubs
}

/// The state in which privileged code starts to copy.
#[must_use]
pub fn privileged_state() -> VcpuState {
    let mut state = state(KERNEL_CS, CODE0, KERNEL_CS + 8, DATA0);
    state.rip = linear(STUBS) + 256 * STUB_SIZE;
    state.gpr[RSP] = linear(STACK_TOP);
    state
}

/// The state of user code.
#[must_use]
pub fn user_state() -> VcpuState {
    let mut state = state(USER_CS, CODE3, USER_SS, DATA3);
    state.cpl = 3;
    state
}

fn state(cs: u16, code: u16, ss: u16, data: u16) -> VcpuState {
    const _: () = assert!(MEMORY as usize + MEMORY_SIZE <= RAM_SIZE);
    let mut state = VcpuState::reset();
    state.rflags = Rflags::FIXED;
    state.segments = [Segment::default(); 6];
    state.segments[SegmentRegister::Cs as usize] = Segment::flat(cs, Attributes::from_bits_retain(code));
    state.segments[SegmentRegister::Ss as usize] = Segment::flat(ss, Attributes::from_bits_retain(data));
    let limit = u32::from(TSS_LIMIT);
    let attributes = Attributes::from_bits_retain(BUSY_TSS);
    state.tr = Segment { selector: TSS_SELECTOR, attributes, limit, base: linear(TSS) };
    state.gdtr = DescriptorTable { base: linear(GDT), limit: 10 * 8 - 1 };
    state.idtr = DescriptorTable { base: linear(IDT), limit: 256 * 16 - 1 };
    state.cr0 = Cr0::PE | Cr0::MP | Cr0::ET | Cr0::NE | Cr0::WP | Cr0::AM | Cr0::PG;
    state.cr3 = PML4;
    state.cr4 =
        Cr4::PAE | Cr4::PGE | Cr4::OSFXSR | Cr4::OSXMMEXCPT | Cr4::OSXSAVE | Cr4::FSGSBASE | Cr4::UMIP;
    if SETS.contains(InstructionSets::AVX) {
        state.xcr0 |= Xcr0::SSE | Xcr0::AVX;
    }
    state.efer = Efer::SCE | Efer::LME | Efer::LMA | Efer::NXE;
    state
}
