//! CPUID feature bits by their names in APM volume 3, appendix D and E.

/// A register that CPUID returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Register {
    /// EAX.
    Eax,
    /// EBX.
    Ebx,
    /// ECX.
    Ecx,
    /// EDX.
    Edx,
}

impl Register {
    pub(super) const fn of(self, result: &super::CpuidResult) -> u32 {
        match self {
            Self::Eax => result.eax,
            Self::Ebx => result.ebx,
            Self::Ecx => result.ecx,
            Self::Edx => result.edx,
        }
    }

    pub(super) const fn of_mut(self, result: &mut super::CpuidResult) -> &mut u32 {
        match self {
            Self::Eax => &mut result.eax,
            Self::Ebx => &mut result.ebx,
            Self::Ecx => &mut result.ecx,
            Self::Edx => &mut result.edx,
        }
    }
}

/// Where CPUID shows a feature.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Feature {
    pub(super) function: u32,
    pub(super) index: u32,
    pub(super) register: Register,
    bit: u32,
}

impl Feature {
    const fn new(function: u32, index: u32, register: Register, bit: u32) -> Self {
        Self { function, index, register, bit }
    }

    /// Whether its leaf, which `result` is, shows it.
    pub(super) const fn is_in(self, result: &super::CpuidResult) -> bool {
        self.register.of(result) & self.mask() != 0
    }

    /// The feature's bit as a mask of its register.
    #[must_use]
    pub const fn mask(self) -> u32 {
        1 << self.bit
    }
}

/// The masks of several features, which must lie in the same register.
pub(super) const fn masks(features: &[Feature]) -> u32 {
    let (mut all, mut n) = (0, 0);
    while n < features.len() {
        let (first, this) = (features[0], features[n]);
        let same = first.function == this.function
            && first.index == this.index
            && first.register as u8 == this.register as u8;
        assert!(same, "features of one register only");
        all |= this.mask();
        n += 1;
    }
    all
}

/// The name of the feature at this place, if it has one here.
pub(super) fn name(function: u32, index: u32, register: Register, bit: u32) -> Option<&'static str> {
    let place = Feature::new(function, index, register, bit);
    NAMES.iter().find(|(feature, _)| *feature == place).map(|(_, name)| *name)
}

macro_rules! features {
    ($($function:literal $index:literal $register:ident { $($bit:literal $name:ident $text:literal)* })*) => {
        $($(
            #[doc = $text]
            pub const $name: Feature = Feature::new($function, $index, Register::$register, $bit);
        )*)*

        const NAMES: &[(Feature, &str)] = &[$($(($name, stringify!($name)),)*)*];
    };
}

features! {
    0x1 0 Ecx {
        0 SSE3 "SSE3."
        1 PCLMULQDQ "PCLMULQDQ."
        9 SSSE3 "Supplemental SSE3."
        12 FMA "Fused multiplication and addition, of three operands."
        13 CMPXCHG16B "CMPXCHG16B."
        17 PCID "Process-context identifiers."
        19 SSE4_1 "SSE4.1."
        20 SSE4_2 "SSE4.2."
        21 X2APIC "x2APIC mode of the local APIC."
        22 MOVBE "MOVBE."
        23 POPCNT "POPCNT."
        24 TSC_DEADLINE "The APIC timer's TSC-deadline mode."
        25 AES "AES rounds."
        26 XSAVE "XSAVE and its kin."
        27 OSXSAVE "CR4.OSXSAVE is set."
        28 AVX "AVX."
        29 F16C "Conversions of half precision."
        30 RDRAND "RDRAND."
        31 HYPERVISOR "A hypervisor is present."
    }
    0x1 0 Edx {
        0 FPU "x87 on chip."
        2 DE "Debugging extensions."
        3 PSE "4 MiB pages."
        4 TSC "Time-stamp counter."
        5 MSR "Model-specific registers."
        6 PAE "Physical-address extensions."
        8 CMPXCHG8B "CMPXCHG8B."
        9 APIC "Local APIC."
        11 SYSENTER "SYSENTER and SYSEXIT."
        12 MTRR "Memory-type range registers."
        13 PGE "Global pages."
        15 CMOV "CMOVcc."
        16 PAT "Page-attribute table."
        17 PSE36 "36-bit addresses of 4 MiB pages."
        19 CLFLUSH "CLFLUSH."
        23 MMX "MMX."
        24 FXSR "FXSAVE and FXRSTOR."
        25 SSE "SSE."
        26 SSE2 "SSE2."
        28 HTT "Several logical processors in the package."
    }
    0x6 0 Eax {
        2 ARAT "The APIC timer always runs."
    }
    0x7 0 Ebx {
        0 FSGSBASE "RDFSBASE and its kin."
        1 TSC_ADJUST "The TSC_ADJUST register."
        3 BMI1 "Bit manipulation, first set; TZCNT."
        5 AVX2 "AVX2."
        7 SMEP "Supervisor-mode execution prevention."
        8 BMI2 "Bit manipulation, second set."
        9 ERMS "Fast REP MOVSB and STOSB."
        10 INVPCID "INVPCID."
        13 FCS_FDS_DEPRECATED "x87 pointers have no selectors."
        16 AVX512F "AVX-512."
        18 RDSEED "RDSEED."
        19 ADX "ADCX and ADOX."
        20 SMAP "Supervisor-mode access prevention."
        29 SHA "SHA-1 and SHA-256."
    }
    0x7 0 Ecx {
        2 UMIP "User-mode instruction prevention."
        8 GFNI "Galois-field arithmetic."
        9 VAES "AES rounds on 256 bits."
        10 VPCLMULQDQ "PCLMULQDQ on 256 bits."
        22 RDPID "RDPID."
    }
    0x7 0 Edx {
        4 FSRM "Fast short REP MOVSB."
        29 ARCH_CAPABILITIES "IA32_ARCH_CAPABILITIES, which says which flaws the hardware lacks."
    }
    0x7 1 Eax {
        10 FZRM "Fast zero-length REP MOVSB."
        11 FSRS "Fast short REP STOSB."
    }
    0xd 1 Eax {
        0 XSAVEOPT "XSAVEOPT."
        1 XSAVEC "XSAVEC and the compacted form of XRSTOR."
        2 XGETBV1 "XGETBV with ECX = 1."
    }
    0x8000_0001 0 Ecx {
        0 LAHF "LAHF and SAHF in 64-bit mode."
        1 CMP_LEGACY "The logical processors are cores."
        5 LZCNT "LZCNT."
        8 PREFETCHW "PREFETCH and PREFETCHW."
    }
    0x8000_0001 0 Edx {
        11 SYSCALL "SYSCALL and SYSRET."
        20 NX "No-execute pages."
        22 MMXEXT "AMD's extensions of MMX."
        26 PDPE1GB "1 GiB pages."
        27 RDTSCP "RDTSCP."
        29 LM "Long mode."
    }
    0x8000_0007 0 Edx {
        8 TSC_INVARIANT "The TSC runs at a constant rate in every state."
    }
    0x8000_0008 0 Ebx {
        2 RSTR_FP_ERR_PTRS "FXRSTOR and XRSTOR always restore the x87 error pointers."
        26 SSB_NO "No speculative store bypass."
        29 BTC_NO "No branch type confusion."
    }
    0x8000_0021 0 Eax {
        0 NO_NESTED_DATA_BP "Data breakpoints are not reported while another is."
        2 LFENCE_ALWAYS_SERIALIZING "LFENCE is dispatch-serialising."
        6 NULL_SELECT_CLEARS_BASE "Loading a null selector clears the base."
        8 AUTOIBRS "Automatic indirect-branch restricted speculation."
        29 SRSO_NO "No speculative return stack overflow."
        30 SRSO_USER_KERNEL_NO "None across privilege levels."
    }
    0x8000_0021 0 Ecx {
        1 TSA_SQ_NO "No transient scheduler attack through the store queue."
        2 TSA_L1_NO "No transient scheduler attack through the L1 data cache."
    }
}
