//! A processor in the form in which it runs: the architectural state laid out for speed, plus what is derived from it.
//!
//! Engines convert it to and from [`VcpuState`] between runs ([`Cpu::state`], [`Cpu::set_state`]).

mod flags;
mod mode;
mod segmentation;
pub mod word;

use crate::cpuid::{CpuModel, InstructionSets};
use crate::exception::{Exception, Vector};
use crate::state::{
    Activity, Cr0, Cr4, Delivery, DescriptorTable, Dr6, Dr7, Efer, Extended, FpuState, Msrs, PendingEvent,
    Rflags, Segment, SegmentRegister, VcpuState, Xcr0,
};
pub use flags::LazyFlags;
pub use mode::Mode;
pub use segmentation::canonical;
pub use word::{Registers, Word};

/// One processor, running.
#[derive(Debug, Clone)]
pub struct Cpu {
    /// General-purpose registers and the two helper slots.
    pub gpr: Registers,
    /// The instruction pointer between blocks; inside a block it is the block's start plus the operation's offset.
    pub rip: u64,
    /// The arithmetic flags.
    pub flags: LazyFlags,
    /// What is added to an effective address, by segment register: zero for ES, CS, SS and DS in 64-bit code. The last
    /// two are zero for "no segment".
    pub address_base: [u64; 8],
    /// RFLAGS without the arithmetic flags.
    pub system_flags: Rflags,
    /// Derived: what decoded code depends on.
    pub mode: Mode,
    /// The current privilege level.
    pub cpl: u8,
    /// CR0.
    pub cr0: Cr0,
    /// CR2.
    pub cr2: u64,
    /// CR3.
    pub cr3: u64,
    /// CR4.
    pub cr4: Cr4,
    /// EFER.
    pub efer: Efer,
    /// XCR0.
    pub xcr0: Xcr0,
    /// ES, CS, SS, DS, FS, GS.
    pub segments: [Segment; 6],
    /// LDTR.
    pub ldtr: Segment,
    /// TR.
    pub tr: Segment,
    /// GDTR.
    pub gdtr: DescriptorTable,
    /// IDTR.
    pub idtr: DescriptorTable,
    /// DR0 to DR3.
    pub dr: [u64; 4],
    /// DR6.
    pub dr6: Dr6,
    /// DR7.
    pub dr7: Dr7,
    /// Model-specific registers.
    pub msrs: Msrs,
    /// x87, MMX, SSE and AVX registers.
    pub fpu: FpuState,
    /// What the processor is doing.
    pub activity: Activity,
    /// Events on their way.
    pub pending: PendingEvent,
    /// The exception that the last `Err(Stop::Exception)` stands for.
    pub exception: Exception,
    /// An exception to be delivered before the next instruction, with `rip` as it is. Deliveries that lead to another
    /// one leave it here, so that whoever runs the processor keeps control between them.
    pub deferred: Option<Exception>,
    /// What CPUID says.
    pub model: CpuModel,
    /// The instruction sets that the model offers.
    pub instruction_sets: InstructionSets,
}

impl Cpu {
    /// A processor of the given model in its reset state.
    #[must_use]
    pub fn new(model: CpuModel) -> Self {
        let reset = VcpuState::reset();
        let mut cpu = Self {
            gpr: [0; 32],
            rip: 0,
            flags: LazyFlags::default(),
            address_base: [0; 8],
            system_flags: Rflags::FIXED,
            mode: Mode::empty(),
            cpl: 0,
            cr0: reset.cr0,
            cr2: 0,
            cr3: 0,
            cr4: reset.cr4,
            efer: reset.efer,
            xcr0: reset.xcr0,
            segments: reset.segments,
            ldtr: reset.ldtr,
            tr: reset.tr,
            gdtr: reset.gdtr,
            idtr: reset.idtr,
            dr: reset.dr,
            dr6: reset.dr6,
            dr7: reset.dr7,
            msrs: reset.msrs,
            fpu: reset.fpu,
            activity: reset.activity,
            pending: reset.pending,
            exception: Exception::default(),
            deferred: None,
            instruction_sets: model.instruction_sets(),
            model,
        };
        cpu.set_state(&reset);
        cpu
    }

    /// The architectural state.
    #[must_use]
    pub fn state(&self) -> VcpuState {
        let mut gpr = [0; 16];
        gpr.copy_from_slice(&self.gpr[..16]);
        let mut state = VcpuState {
            gpr,
            rip: self.rip,
            rflags: self.rflags(),
            segments: self.segments,
            ldtr: self.ldtr,
            tr: self.tr,
            gdtr: self.gdtr,
            idtr: self.idtr,
            cr0: self.cr0,
            cr2: self.cr2,
            cr3: self.cr3,
            cr4: self.cr4,
            efer: self.efer,
            xcr0: self.xcr0,
            dr: self.dr,
            dr6: self.dr6,
            dr7: self.dr7,
            cpl: self.cpl,
            msrs: self.msrs,
            fpu: self.fpu,
            // A processor that has any is refused before it comes here.
            extended: Extended::default(),
            activity: self.activity,
            pending: self.pending,
        };
        if let Some(exception) = self.deferred {
            match exception.vector {
                Vector::Pf => state.cr2 = exception.payload,
                Vector::Db => state.dr6.note(exception.payload),
                _ => {}
            }
            let Exception { vector, error_code, .. } = exception;
            state.pending.delivery = Some(Delivery::Exception { vector: vector as u8, error_code });
        }
        state
    }

    /// Takes over an architectural state. The environment's translations must be dropped by the caller; and it must deliver
    /// interrupts that were on their way ([`PendingEvent::delivery`]): exceptions are, as [`Cpu::deferred`]. Components of XCR0 that the
    /// model does not have are not taken over: engines go by it where they use the host's registers.
    pub fn set_state(&mut self, state: &VcpuState) {
        self.gpr[..16].copy_from_slice(&state.gpr);
        self.gpr[16..].fill(0);
        self.rip = state.rip;
        self.set_rflags(state.rflags);
        self.segments = state.segments;
        self.ldtr = state.ldtr;
        self.tr = state.tr;
        self.gdtr = state.gdtr;
        self.idtr = state.idtr;
        self.cr0 = state.cr0;
        self.cr2 = state.cr2;
        self.cr3 = state.cr3;
        self.cr4 = state.cr4;
        self.efer = state.efer;
        self.xcr0 = state.xcr0 & (self.model.xcr0_bits() | Xcr0::X87);
        self.dr = state.dr;
        self.dr6 = state.dr6;
        self.dr7 = state.dr7;
        self.cpl = state.cpl & 3;
        self.msrs = state.msrs;
        self.fpu = state.fpu;
        self.activity = state.activity;
        self.pending = PendingEvent { delivery: None, ..state.pending };
        self.deferred = match state.pending.delivery {
            Some(Delivery::Exception { vector, error_code }) => Vector::from_number(vector).map(|vector| {
                // Delivery records it once more.
                let payload = match vector {
                    Vector::Pf => state.cr2,
                    Vector::Db => state.dr6.bits(),
                    _ => 0,
                };
                Exception { vector, error_code, payload }
            }),
            _ => None,
        };
        self.derive_mode();
    }

    /// RFLAGS.
    #[must_use]
    pub fn rflags(&self) -> Rflags {
        self.system_flags | self.flags.bits()
    }

    /// Sets RFLAGS. The fixed bits are forced; whether each flag may change is the caller's business.
    pub fn set_rflags(&mut self, rflags: Rflags) {
        self.flags = LazyFlags::from_bits(rflags);
        self.system_flags = Rflags::from_bits_truncate(rflags.bits()) & !Rflags::STATUS | Rflags::FIXED;
    }

    /// A segment register.
    #[must_use]
    pub const fn segment(&self, register: SegmentRegister) -> &Segment {
        &self.segments[register as usize]
    }

    /// Long mode is active (64-bit or compatibility code).
    #[must_use]
    pub const fn long_mode(&self) -> bool {
        self.efer.contains(Efer::LMA)
    }

    /// 64-bit code.
    #[must_use]
    pub const fn code64(&self) -> bool {
        self.mode.contains(Mode::LONG)
    }

    /// A breakpoint is enabled in DR7.
    #[must_use]
    pub fn breakpoints_enabled(&self) -> bool {
        self.dr7.intersects(Dr7::ENABLES)
    }

    /// RFLAGS.TF traps behind branches that are taken, and not behind every instruction.
    #[must_use]
    pub const fn steps_by_branches(&self) -> bool {
        self.msrs.debug_ctl & Msrs::BTF != 0
    }

    /// The operating system has enabled AVX: CR4.OSXSAVE is set, and XCR0 has SSE and AVX.
    #[must_use]
    pub const fn avx_enabled(&self) -> bool {
        self.cr4.contains(Cr4::OSXSAVE) && self.xcr0.contains(Xcr0::SSE.union(Xcr0::AVX))
    }

    /// Protected mode, virtual-8086 mode excluded.
    #[must_use]
    pub const fn protected(&self) -> bool {
        self.cr0.contains(Cr0::PE) && !self.system_flags.contains(Rflags::VM)
    }

    /// Protected mode was entered and EFLAGS.VM is set.
    #[must_use]
    pub const fn virtual_8086(&self) -> bool {
        self.system_flags.contains(Rflags::VM)
    }

    /// The instruction pointer's mask: the code's width decides it.
    #[must_use]
    pub const fn rip_mask(&self) -> u64 {
        match self.mode.bitness() {
            64 => u64::MAX,
            32 => 0xffff_ffff,
            _ => 0xffff,
        }
    }

    /// The stack pointer's mask: SS.B and the mode decide its width.
    #[must_use]
    pub const fn stack_mask(&self) -> u64 {
        if self.mode.contains(Mode::LONG) {
            u64::MAX
        } else if self.mode.contains(Mode::STACK32) {
            0xffff_ffff
        } else {
            0xffff
        }
    }
}
