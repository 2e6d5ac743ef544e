//! Lockstep: each translated unit runs on trial, the interpreter does the same on trial, and both must agree; then the
//! interpreter does it for good.
//!
//! Both trials work on copies of the pages ([`TrialPages`]) and of the page tables' entries ([`TrialTables`]) that were taken
//! once, so that what devices and other processors write meanwhile is seen by both or by neither. Units do not lead to each
//! other then, and leave to the interpreter what has effects beyond memory.

use std::collections::HashMap;
use std::fmt::Write as _;

use iced_x86::{Instruction, OpKind};
use tern_x86::cpu::{Cpu, Mode};
use tern_x86::decode;
use tern_x86::exception::Exception;
use tern_x86::paging::PhysicalMemory;
use tern_x86::state::{FpuState, Rflags};

use super::flags::{FlagSet, live_at};
use super::scan::Unit;
use crate::host;
use crate::ram::{PAGE, Ram};

/// The pages that the trials of a unit have accessed, by host address.
#[derive(Debug, Default)]
pub struct TrialPages {
    pages: HashMap<u64, Copies>,
    /// Eight bytes each of the page tables that were walked, by guest-physical address.
    entries: HashMap<u64, u64>,
}

/// What became of a page.
#[derive(Debug, Clone)]
struct Copies {
    /// As it was when it was accessed first.
    before: Page,
    /// As the trial that runs has made it; boxed, since the TLB leads here.
    now: Box<Page>,
    /// As the translated unit left it.
    translated: Page,
}

#[derive(Debug, Clone, PartialEq)]
#[repr(align(4096))]
struct Page([u8; PAGE as usize]);

impl TrialPages {
    /// Where the trial finds the page of RAM at `host`: a copy, so that what is read and what is written is in one place from
    /// the start.
    pub fn page(&mut self, host: u64) -> u64 {
        let copies = self.pages.entry(host).or_insert_with(|| {
            let before = Page::at(host);
            Copies { now: Box::new(before.clone()), translated: before.clone(), before }
        });
        copies.now.0.as_mut_ptr() as u64
    }

    /// The page tables in `ram` as the trials see them.
    pub fn tables<'a>(&'a mut self, ram: &'a Ram) -> TrialTables<'a> {
        TrialTables { ram, entries: &mut self.entries }
    }

    /// The translated unit has run: the interpreter's trial starts from the same pages.
    pub fn rewind(&mut self) {
        for copies in self.pages.values_mut() {
            copies.translated = (*copies.now).clone();
            copies.now.0 = copies.before.0;
        }
    }

    /// The first difference between what the unit wrote and what the interpreter did.
    pub fn difference(&self) -> Option<String> {
        let different = self.pages.values().find(|copies| *copies.now != copies.translated)?;
        let (translated, interpreted) = (&different.translated.0, &different.now.0);
        let at = (0..translated.len()).find(|&at| translated[at] != interpreted[at])?;
        let range = at & !7..(at & !7) + 8;
        Some(format!(
            "memory at offset {at:#x} of a page: {:02x?}, interpreted {:02x?}",
            &translated[range.clone()],
            &interpreted[range]
        ))
    }
}

/// The page tables as they were when a trial read them first. Accessed and Dirty are not set: that is done when the interpreter
/// does the work for good.
#[derive(Debug)]
pub struct TrialTables<'a> {
    ram: &'a Ram,
    entries: &'a mut HashMap<u64, u64>,
}

impl PhysicalMemory for TrialTables<'_> {
    fn read_u64(&mut self, physical: u64) -> Option<u64> {
        if let Some(&known) = self.entries.get(&physical) {
            return Some(known);
        }
        let entry = self.ram.read_u64(physical)?;
        self.entries.insert(physical, entry);
        Some(entry)
    }

    fn read_u32(&mut self, physical: u64) -> Option<u32> {
        let both = self.read_u64(physical & !7)?;
        Some((both >> (8 * (physical & 4))) as u32)
    }

    fn exchange_u64(&mut self, _: u64, _: u64, _: u64) -> bool {
        true
    }

    fn exchange_u32(&mut self, _: u64, _: u32, _: u32) -> bool {
        true
    }
}

impl Page {
    /// A copy of the page of RAM at `host`.
    fn at(host: u64) -> Self {
        let mut copy = Self([0; PAGE as usize]);
        for (n, bytes) in (0u64..).zip(copy.0.chunks_exact_mut(8)) {
            // SAFETY: trials only know pages of RAM, which stay mapped.
            let word = unsafe { host::load::<u64>(host + 8 * n) };
            bytes.copy_from_slice(&word.to_le_bytes());
        }
        copy
    }
}

/// The arithmetic flags that are defined, as the interpreter goes on.
#[derive(Debug, Clone, Copy)]
pub struct Defined(FlagSet);

impl Defined {
    /// All of them.
    pub const fn all() -> Self {
        Self(FlagSet::all())
    }

    /// After one more instruction; `None` if it depends on flags that are not, or what it computes is not defined, so that there is
    /// nothing to agree about.
    pub fn after(self, bytes: &[u8], cpu: &Cpu) -> Option<Self> {
        use iced_x86::Mnemonic as M;
        let Some(instruction) = decode::decode(bytes, cpu.mode) else { return Some(self) };
        let set = FlagSet::from_bits_truncate;
        if !self.0.contains(set(instruction.rflags_read())) {
            return None;
        }
        match shift_count(&instruction, cpu) {
            // It leaves the flags as they are.
            Some(0) => return Some(self),
            // A double shift of 16 bits by more: its result is undefined.
            Some(17..) if is_narrow_double_shift(&instruction) => return None,
            _ => {}
        }
        let mut undefined = set(instruction.rflags_undefined());
        let mut defined =
            set(instruction.rflags_written() | instruction.rflags_cleared() | instruction.rflags_set());
        match instruction.mnemonic() {
            // By counts above 1 OF is undefined, and AF always.
            M::Shl | M::Sal | M::Shr | M::Sar | M::Shld | M::Shrd => undefined |= FlagSet::OF | FlagSet::AF,
            M::Rol | M::Ror | M::Rcl | M::Rcr => undefined |= FlagSet::OF,
            // It is clear behind these, here and there, and PUSHF must be comparable.
            M::And | M::Or | M::Xor | M::Test => {
                undefined -= FlagSet::AF;
                defined |= FlagSet::AF;
            }
            _ => {}
        }
        Some(Self(self.0.union(defined.difference(undefined)).difference(undefined)))
    }

    /// Of them, those that may be read at `offset` of the page that holds the code, as the translator knew it: where it breaks
    /// off in the middle of `unit`, or else where it leads to.
    pub fn live(self, unit: Option<&Unit<'_>>, page: &[u8], mode: Mode, offset: usize) -> Rflags {
        let inside = unit.and_then(|unit| unit.instructions.iter().find(|guest| guest.offset() == offset));
        let live = match inside {
            Some(guest) => guest.live_before(),
            None if offset < page.len() => live_at(page, mode, offset).0,
            None => FlagSet::all(),
        };
        let mut bits = Rflags::empty();
        for (flag, bit) in [
            (FlagSet::CF, Rflags::CF),
            (FlagSet::PF, Rflags::PF),
            (FlagSet::AF, Rflags::AF),
            (FlagSet::ZF, Rflags::ZF),
            (FlagSet::SF, Rflags::SF),
            (FlagSet::OF, Rflags::OF),
        ] {
            bits.set(bit, (live & self.0).contains(flag));
        }
        bits
    }
}

/// By how much an instruction shifts or rotates, if it does.
fn shift_count(instruction: &Instruction, cpu: &Cpu) -> Option<u8> {
    use iced_x86::Mnemonic as M;
    let shifts = matches!(
        instruction.mnemonic(),
        M::Shl | M::Sal | M::Shr | M::Sar | M::Rol | M::Ror | M::Rcl | M::Rcr | M::Shld | M::Shrd
    );
    let last = instruction.op_count().checked_sub(1).filter(|_| shifts)?;
    let count = match instruction.op_kind(last) {
        OpKind::Register => cpu.gpr[1] as u8,
        _ => instruction.immediate(last) as u8,
    };
    // The first operand is what is shifted.
    let is_wide = match instruction.op0_kind() {
        OpKind::Register => instruction.op0_register().size() == 8,
        _ => instruction.memory_size().size() == 8,
    };
    Some(count & if is_wide { 63 } else { 31 })
}

/// Whether it is SHLD or SHRD of 16 bits.
fn is_narrow_double_shift(instruction: &Instruction) -> bool {
    instruction.op_count() == 3 && instruction.op1_register().size() == 2
}

/// How an execution ended.
#[derive(Debug, Clone)]
pub struct End {
    /// The processor.
    pub cpu: Box<Cpu>,
    /// The exception that it ended with.
    pub exception: Option<Exception>,
}

/// What differs between the ends of a unit and of the interpreter, as text, if anything does. `flags` are compared.
pub fn compare(translated: &End, interpreted: &End, flags: Rflags) -> Option<String> {
    let mut text = String::new();
    let mut differ = |name: &str, translated: u64, interpreted: u64| {
        if translated != interpreted {
            let _ = writeln!(text, "  {name}: {translated:#x}, interpreted {interpreted:#x}");
        }
    };
    const NAMES: [&str; 16] = [
        "RAX", "RCX", "RDX", "RBX", "RSP", "RBP", "RSI", "RDI", "R8", "R9", "R10", "R11", "R12", "R13",
        "R14", "R15",
    ];
    let (a, b) = (&translated.cpu, &interpreted.cpu);
    for (n, name) in NAMES.iter().enumerate() {
        differ(name, a.gpr[n], b.gpr[n]);
    }
    differ("RIP", a.rip, b.rip);
    differ("RFLAGS", (a.rflags() & flags).bits(), (b.rflags() & flags).bits());
    differ("RFLAGS, system part", a.system_flags.bits(), b.system_flags.bits());
    for n in 0..6 {
        differ("a segment's base", a.segments[n].base, b.segments[n].base);
        differ("a base in use", a.address_base[n], b.address_base[n]);
    }
    differ("KERNEL_GS_BASE", a.msrs.kernel_gs_base, b.msrs.kernel_gs_base);
    differ("MXCSR", a.fpu.mxcsr().bits().into(), b.fpu.mxcsr().bits().into());
    let word = |bytes: &[u8], n: usize| {
        bytes[8 * n..8 * n + 8].iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte))
    };
    let image = |cpu: &Cpu, n: usize| word(cpu.fpu.image(), n);
    let ymm = |cpu: &Cpu, n: usize| word(cpu.fpu.ymm(), n);
    const XMM: usize = FpuState::XMM_OFFSET / 8;
    // MXCSR, which lies between, is compared already.
    for n in (0..XMM).filter(|&n| n != FpuState::MXCSR_OFFSET / 8) {
        differ("x87, a word of the FXSAVE image", image(a, n), image(b, n));
    }
    for n in 0..32 {
        differ("YMM, upper half", ymm(a, n), ymm(b, n));
        differ(
            if n % 2 == 0 { "XMM, low half" } else { "XMM, high half" },
            image(a, XMM + n),
            image(b, XMM + n),
        );
    }
    if translated.exception != interpreted.exception {
        let (ours, theirs) = (translated.exception, interpreted.exception);
        let _ = writeln!(text, "  exception: {ours:?}, interpreted {theirs:?}");
    }
    (!text.is_empty()).then_some(text)
}
