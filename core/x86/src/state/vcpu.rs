//! One processor's whole state as a value.

use serde::{Deserialize, Serialize};

use super::{
    Attributes, Cr0, Cr4, DescriptorTable, Dr6, Dr7, Efer, Extended, FpuState, Rflags, Segment, Xcr0,
};

/// The number of general-purpose registers.
pub const GPR_COUNT: usize = 16;

/// What a processor is doing between instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Activity {
    /// Executing instructions.
    #[default]
    Running,
    /// In HLT, until an interrupt.
    Halted,
    /// After INIT, until a start-up interrupt (SIPI).
    WaitForSipi,
    /// After a triple fault, until a reset.
    Shutdown,
}

/// An event on its way to its handler: nobody else holds it any more. What it leaves in CR2 or DR6 is there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Delivery {
    /// An exception; RIP is where its handler is to return to.
    Exception {
        /// Its vector.
        vector: u8,
        /// The error code, if it has one.
        error_code: Option<u32>,
    },
    /// An interrupt that the interrupt controllers take as acknowledged.
    Interrupt {
        /// Its vector.
        vector: u8,
    },
    /// A non-maskable interrupt.
    Nmi,
}

/// An event that was recognised but whose delivery did not happen yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PendingEvent {
    /// What is delivered before anything else.
    pub delivery: Option<Delivery>,
    /// A non-maskable interrupt waits.
    pub nmi: bool,
    /// The last instruction was STI, MOV SS or POP SS: interrupts are held off for one more.
    pub interrupt_shadow: bool,
    /// The last instruction was MOV SS or POP SS: debug exceptions are held off for one more, too. The bits of DR6 that are due
    /// behind it: of the breakpoints which that load of SS has met.
    pub debug_shadow: Option<u64>,
    /// A non-maskable interrupt is in service: further ones wait for IRET.
    pub nmi_blocked: bool,
    /// Another processor has said ([`crate::paravirtual::hypercall::KICK_CPU`]) not to halt at the next HLT.
    pub woken: bool,
}

/// Model-specific registers that belong to the processor core. The local APIC's are the chipset's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Msrs {
    /// IA32_SYSENTER_CS.
    pub sysenter_cs: u64,
    /// IA32_SYSENTER_ESP.
    pub sysenter_esp: u64,
    /// IA32_SYSENTER_EIP.
    pub sysenter_eip: u64,
    /// STAR: selectors for SYSCALL and SYSRET, and the 32-bit target.
    pub star: u64,
    /// LSTAR: SYSCALL target of 64-bit code.
    pub lstar: u64,
    /// CSTAR: SYSCALL target of compatibility-mode code.
    pub cstar: u64,
    /// SFMASK: flags that SYSCALL clears.
    pub sfmask: u64,
    /// KernelGSBase: what SWAPGS exchanges with GS's base.
    pub kernel_gs_base: u64,
    /// TSC_AUX: what RDTSCP and RDPID return.
    pub tsc_aux: u64,
    /// What the guest's time-stamp counter adds to the machine's clock, in ticks, wrapping.
    pub tsc_offset: u64,
    /// IA32_TSC_ADJUST: what software has added to the counter, in ticks, wrapping.
    pub tsc_adjust: u64,
    /// IA32_PAT.
    pub pat: u64,
    /// IA32_MISC_ENABLE.
    pub misc_enable: u64,
    /// DebugCtl.
    pub debug_ctl: u64,
    /// MTRRdefType.
    pub mtrr_def_type: u64,
    /// The eleven fixed-range MTRRs, by ascending MSR number.
    pub mtrr_fixed: [u64; 11],
    /// The eight variable-range MTRRs: base and mask in turn.
    pub mtrr_variable: [u64; 16],
    /// SPEC_CTRL.
    pub spec_ctrl: u64,
    /// VIRT_SPEC_CTRL: SPEC_CTRL's SSBD where a hypervisor carries it out (AMD).
    pub virt_spec_ctrl: u64,
    /// IA32_TSX_CTRL (Intel).
    pub tsx_ctrl: u64,
    /// IA32_ARCH_CAPABILITIES.
    pub arch_capabilities: u64,
    /// KVM's [`crate::paravirtual::msr::SYSTEM_TIME`].
    pub kvm_system_time: u64,
    /// KVM's [`crate::paravirtual::msr::PV_EOI`].
    pub kvm_pv_eoi: u64,
}

impl Msrs {
    /// [`Msrs::debug_ctl`]: RFLAGS.TF steps from branch to branch.
    pub const BTF: u64 = 1 << 1;
}

impl Default for Msrs {
    fn default() -> Self {
        Self {
            sysenter_cs: 0,
            sysenter_esp: 0,
            sysenter_eip: 0,
            star: 0,
            lstar: 0,
            cstar: 0,
            sfmask: 0,
            kernel_gs_base: 0,
            tsc_aux: 0,
            tsc_offset: 0,
            tsc_adjust: 0,
            pat: 0x0007_0406_0007_0406,
            misc_enable: 1,
            debug_ctl: 0,
            mtrr_def_type: 0,
            mtrr_fixed: [0; 11],
            mtrr_variable: [0; 16],
            spec_ctrl: 0,
            virt_spec_ctrl: 0,
            tsx_ctrl: 0,
            arch_capabilities: 0,
            kvm_system_time: 0,
            kvm_pv_eoi: 0,
        }
    }
}

/// The architectural state of one processor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VcpuState {
    /// RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8 to R15: in the order of their encoding.
    pub gpr: [u64; GPR_COUNT],
    /// The instruction pointer, an offset into CS.
    pub rip: u64,
    /// The flags.
    pub rflags: Rflags,
    /// ES, CS, SS, DS, FS, GS: indexed by [`super::SegmentRegister`].
    pub segments: [Segment; 6],
    /// The local descriptor table.
    pub ldtr: Segment,
    /// The task register.
    pub tr: Segment,
    /// The global descriptor table.
    pub gdtr: DescriptorTable,
    /// The interrupt descriptor table.
    pub idtr: DescriptorTable,
    /// CR0.
    pub cr0: Cr0,
    /// CR2: the last page fault's linear address.
    pub cr2: u64,
    /// CR3: the page-table base.
    pub cr3: u64,
    /// CR4.
    pub cr4: Cr4,
    /// EFER.
    pub efer: Efer,
    /// XCR0.
    pub xcr0: Xcr0,
    /// DR0 to DR3: breakpoint addresses.
    pub dr: [u64; 4],
    /// DR6.
    pub dr6: Dr6,
    /// DR7.
    pub dr7: Dr7,
    /// The current privilege level, 0 to 3.
    pub cpl: u8,
    /// Model-specific registers.
    pub msrs: Msrs,
    /// x87, MMX, SSE and AVX registers.
    pub fpu: FpuState,
    /// Registers that no model has.
    pub extended: Extended,
    /// What the processor is doing.
    pub activity: Activity,
    /// Events on their way.
    pub pending: PendingEvent,
}

impl VcpuState {
    /// The state after power-on or RESET (APM volume 2, table 14-1): real mode at F000:FFF0.
    #[must_use]
    pub fn reset() -> Self {
        let mut segments = [Segment::real_mode(0); 6];
        segments[1] = Segment {
            selector: 0xf000,
            attributes: Attributes::from_bits_retain(0x9b),
            limit: 0xffff,
            base: 0xffff_0000,
        };
        let system = |kind: u16| Segment {
            selector: 0,
            attributes: Attributes::from_bits_retain(0x80 | kind),
            limit: 0xffff,
            base: 0,
        };
        Self {
            gpr: [0; GPR_COUNT],
            rip: 0xfff0,
            rflags: Rflags::default(),
            segments,
            ldtr: system(2),
            tr: system(0xb),
            gdtr: DescriptorTable { base: 0, limit: 0xffff },
            idtr: DescriptorTable { base: 0, limit: 0xffff },
            cr0: Cr0::default(),
            cr2: 0,
            cr3: 0,
            cr4: Cr4::default(),
            efer: Efer::default(),
            xcr0: Xcr0::default(),
            dr: [0; 4],
            dr6: Dr6::default(),
            dr7: Dr7::default(),
            cpl: 0,
            msrs: Msrs::default(),
            fpu: FpuState::new(),
            extended: Extended::default(),
            activity: Activity::Running,
            pending: PendingEvent::default(),
        }
    }

    /// The state that an INIT signal leaves (APM volume 2, section 14.1.4): as reset, but caches, FPU, the
    /// model-specific registers and the debug-independent parts keep their contents.
    #[must_use]
    pub fn after_init(&self) -> Self {
        let reset = Self::reset();
        let kept = Cr0::CD | Cr0::NW;
        Self {
            cr0: self.cr0 & kept | Cr0::ET,
            msrs: self.msrs,
            fpu: self.fpu,
            extended: self.extended.clone(),
            xcr0: self.xcr0,
            activity: Activity::WaitForSipi,
            ..reset
        }
    }

    /// The state in which a start-up interrupt (SIPI) with `vector` starts a processor that waits for one.
    #[must_use]
    pub fn after_sipi(&self, vector: u8) -> Self {
        let mut state = self.clone();
        let mut cs = Segment::real_mode(u16::from(vector) << 8);
        cs.attributes = Attributes::from_bits_retain(0x9b);
        state.segments[1] = cs;
        state.rip = 0;
        state.activity = Activity::Running;
        state
    }
}
