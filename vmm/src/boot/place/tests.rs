//! Each protocol's memory contents and processor state, read back as a kernel would read them.

use vm_memory::GuestMemoryMmap;

use tern_x86::state::{Attributes, Cr0, Cr4, Efer, Rflags, SegmentRegister};

use super::*;
use crate::boot::KernelKind;
use crate::boot::samples::{bzimage, elf, load as segment, multiboot, pvh_note};

const MIB: u64 = 1 << 20;
const RSDP: u64 = 0xe_0000;

/// A machine's memory, filled with a pattern, and its map.
struct Machine {
    memory: GuestMemory,
    map: MemoryMap,
}

impl Machine {
    fn new(mib: usize) -> Self {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), mib << 20)]).unwrap();
        memory.write_slice(&vec![0xaa; mib << 20], GuestAddress(0)).unwrap();
        Self { memory, map: MemoryMap::pc((mib as u64) << 20).unwrap() }
    }

    fn parameters(&self) -> BootParameters<'_> {
        BootParameters {
            command_line: "console=ttyS0",
            initrd: None,
            modules: &[],
            rsdp: RSDP,
            memory_map: &self.map,
        }
    }

    fn load(&self, file: &[u8], parameters: &BootParameters<'_>) -> Result<VcpuState, PlaceError> {
        load(&Kernel::parse(file, None).unwrap(), parameters, &self.memory)
    }

    fn bytes(&self, address: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.memory.read_slice(&mut bytes, GuestAddress(address)).unwrap();
        bytes
    }

    fn u32(&self, address: u64) -> u64 {
        self.memory.read_obj::<u32>(GuestAddress(address)).unwrap().into()
    }

    fn u64(&self, address: u64) -> u64 {
        self.memory.read_obj(GuestAddress(address)).unwrap()
    }

    fn string(&self, address: u64) -> String {
        let bytes = self.bytes(address, 64);
        String::from_utf8(bytes.split(|byte| *byte == 0).next().unwrap().to_vec()).unwrap()
    }
}

fn pvh_kernel() -> Vec<u8> {
    elf(&[segment(0x100_0000, b"code", 0x2_0000), pvh_note(0x100_0002)])
}

fn cs(state: &VcpuState) -> tern_x86::state::Segment {
    state.segments[SegmentRegister::Cs as usize]
}

#[test]
fn pvh_enters_in_flat_protected_mode_with_its_start_info() {
    let machine = Machine::new(32);
    let modules = [Module { bytes: b"module", command_line: "words" }];
    let parameters = BootParameters { initrd: Some(b"initrd"), modules: &modules, ..machine.parameters() };
    let state = machine.load(&pvh_kernel(), &parameters).unwrap();

    assert_eq!(state.rip, 0x100_0002);
    assert_eq!((state.cr0, state.efer, state.rflags), (Cr0::PE | Cr0::ET, Efer::empty(), Rflags::FIXED));
    let code = cs(&state);
    assert_eq!((code.base, code.limit), (0, u32::MAX));
    assert!(code.attributes.contains(Attributes::CODE | Attributes::DEFAULT_BIG | Attributes::PRESENT));

    let info = state.gpr[3];
    assert_eq!([0, 4, 8, 12].map(|offset| machine.u32(info + offset)), [0x336e_c578, 1, 0, 2]);
    assert_eq!(machine.string(machine.u64(info + 24)), "console=ttyS0");
    assert_eq!(machine.u64(info + 32), RSDP);

    let list = machine.u64(info + 16);
    assert_eq!(machine.bytes(machine.u64(list), 6), b"initrd");
    assert_eq!([machine.u64(list), machine.u64(list + 8)], [32 * MIB - 4096, 6]);
    assert_eq!(machine.u64(list + 16), 0);
    assert_eq!(machine.bytes(machine.u64(list + 32), 6), b"module");
    assert_eq!(machine.string(machine.u64(list + 48)), "words");

    let map = machine.u64(info + 40);
    assert_eq!(machine.u32(info + 48), 3);
    let last = map + 2 * 24;
    assert_eq!([machine.u64(last), machine.u64(last + 8), machine.u32(last + 16)], [MIB, 31 * MIB, 1]);
}

#[test]
fn a_segment_is_its_bytes_and_then_zeros() {
    let machine = Machine::new(32);
    machine.load(&pvh_kernel(), &machine.parameters()).unwrap();
    assert_eq!(machine.bytes(0x100_0000, 6), b"code\0\0");
    assert!(machine.bytes(0x100_0004, 0x2_0000 - 4).iter().all(|byte| *byte == 0));
    assert_eq!(machine.bytes(0x102_0000, 1), [0xaa]);
}

#[test]
fn linux_elf_enters_in_long_mode_with_its_zero_page() {
    let machine = Machine::new(32);
    let kernel = elf(&[segment(0x100_0000, b"Linux version ", 0x1000)]);
    let parameters = BootParameters { initrd: Some(b"initrd"), ..machine.parameters() };
    let state = machine.load(&kernel, &parameters).unwrap();

    assert_eq!(state.rip, 0x100_0000);
    assert_eq!(state.cr0, Cr0::PE | Cr0::PG | Cr0::ET);
    assert_eq!((state.cr4, state.efer), (Cr4::PAE, Efer::LME | Efer::LMA));
    assert!(cs(&state).attributes.contains(Attributes::CODE | Attributes::LONG));
    assert_eq!((cs(&state).selector, state.segments[SegmentRegister::Ds as usize].selector), (0x10, 0x18));
    assert_eq!(machine.u64(state.gdtr.base + 0x10), 0x00af_9b00_0000_ffff);

    let zero_page = state.gpr[6];
    assert_eq!(machine.bytes(zero_page + 0x202, 4), b"HdrS");
    assert_eq!(machine.string(machine.u32(zero_page + 0x228)), "console=ttyS0");
    assert_eq!(machine.bytes(machine.u32(zero_page + 0x218), 6), b"initrd");
    assert_eq!(machine.u32(zero_page + 0x21c), 6);
    assert_eq!(machine.u64(zero_page + 0x70), RSDP);
    assert_eq!(machine.bytes(zero_page + 0x1e8, 1), [3]);
    assert_eq!(machine.u64(zero_page + 0x2d0 + 40), MIB);
}

#[test]
fn long_mode_maps_the_first_4_gib_to_themselves() {
    let machine = Machine::new(32);
    let kernel = elf(&[segment(0x100_0000, b"Linux version ", 0x1000)]);
    let state = machine.load(&kernel, &machine.parameters()).unwrap();
    for address in [0, 0x123_4567, 0xffff_ffff_u64] {
        let mut table = state.cr3;
        for shift in [39, 30] {
            let entry = machine.u64(table + (address >> shift & 0x1ff) * 8);
            assert_eq!(entry & 0xfff, 0b11);
            table = entry & !0xfff;
        }
        let page = machine.u64(table + (address >> 21 & 0x1ff) * 8);
        assert_eq!(page, address & !0x1f_ffff | 0b1000_0011);
    }
}

#[test]
fn a_bzimage_without_pvh_keeps_its_header() {
    let machine = Machine::new(32);
    let file = bzimage(b"unknown compression");
    let state = machine.load(&file, &machine.parameters()).unwrap();
    assert_eq!(state.rip, 0x10_0200);
    assert_eq!(machine.bytes(0x10_0010, 7), b"unknown");
    let zero_page = state.gpr[6];
    assert_eq!(machine.bytes(zero_page + 0x22c, 0x40), file[0x22c..0x26c]);
    assert_eq!(machine.bytes(zero_page + 0x210, 1), [0xff]);
    assert_eq!(machine.bytes(zero_page + 0x1ef, 1), [0]);
}

#[test]
fn a_bzimage_needs_memory_to_unpack_itself() {
    let machine = Machine::new(17);
    let result = machine.load(&bzimage(b"unknown compression"), &machine.parameters());
    assert!(matches!(result, Err(PlaceError::TooLittleMemory { .. })));
}

#[test]
fn multiboot_enters_with_its_information_structure() {
    let machine = Machine::new(4);
    let kernel = multiboot(0x1_0003, &[0x10_0004, 0x10_0000, 0, 0x10_1001, 0x10_0024], b"code");
    let modules = [Module { bytes: b"module", command_line: "words" }];
    let parameters = BootParameters { initrd: Some(b"initrd"), modules: &modules, ..machine.parameters() };
    let state = machine.load(&kernel, &parameters).unwrap();

    assert_eq!((state.rip, state.gpr[0]), (0x10_0024, 0x2bad_b002));
    assert_eq!(state.cr0, Cr0::PE | Cr0::ET);
    assert!(!state.rflags.contains(Rflags::IF));
    assert_eq!(machine.bytes(0x10_0024, 4), b"code");

    let info = state.gpr[3];
    assert_eq!(machine.u32(info), 0b10_0100_1101);
    assert_eq!([machine.u32(info + 4), machine.u32(info + 8)], [639, 3072]);
    assert_eq!(machine.string(machine.u32(info + 16)), "console=ttyS0");
    assert_eq!(machine.string(machine.u32(info + 64)), "Tern");

    let list = machine.u32(info + 24);
    assert_eq!(machine.u32(info + 20), 2);
    assert_eq!([machine.u32(list), machine.u32(list + 4)], [0x10_2000, 0x10_2006]);
    assert_eq!([machine.u32(list + 16), machine.u32(list + 20)], [0x10_3000, 0x10_3006]);
    assert_eq!(machine.string(machine.u32(list + 24)), "words");
    assert_eq!(machine.bytes(0x10_3000, 6), b"module");

    let (length, map) = (machine.u32(info + 44), machine.u32(info + 48));
    assert_eq!((length, machine.u32(map)), (3 * 24, 20));
    assert_eq!([machine.u64(map + 4), machine.u64(map + 12), machine.u32(map + 20)], [0, 0x9_fc00, 1]);
}

#[test]
fn a_boot_sector_starts_in_real_mode() {
    let machine = Machine::new(1);
    let kernel = Kernel::parse(&b"\xeb\xfe"[..], Some(KernelKind::BootSector)).unwrap();
    let parameters = BootParameters { command_line: "", ..machine.parameters() };
    let state = load(&kernel, &parameters, &machine.memory).unwrap();
    assert_eq!((cs(&state).selector, cs(&state).base, state.rip), (0, 0, 0x7c00));
    assert_eq!((state.gpr[2], state.cr0), (0x80, Cr0::ET));
    assert_eq!(machine.bytes(0x7c00, 3), b"\xeb\xfe\xaa");

    let with_initrd = BootParameters { initrd: Some(b"initrd"), ..parameters };
    assert!(matches!(load(&kernel, &with_initrd, &machine.memory), Err(PlaceError::NotTaken { .. })));
    assert!(matches!(
        load(&kernel, &machine.parameters(), &machine.memory),
        Err(PlaceError::NotTaken { .. })
    ));
}

#[test]
fn too_little_memory_says_how_much_is_enough() {
    let initrd = vec![1; 40 << 20];
    let mut sizes = vec![8];
    loop {
        let mib = sizes[sizes.len() - 1];
        let machine = Machine::new(mib);
        let parameters = BootParameters { initrd: Some(&initrd), ..machine.parameters() };
        match machine.load(&pvh_kernel(), &parameters) {
            Err(PlaceError::TooLittleMemory { needed_mib, .. }) => sizes.push(needed_mib as usize),
            other => break assert!(other.is_ok(), "{other:?}"),
        }
        assert_eq!(sizes.len(), 2, "the advice was not enough");
    }
    // Kernel at 16 MiB, less than 1 MiB long.
    assert_eq!(sizes, [8, 57]);
}

#[test]
fn an_initramfs_respects_the_kernels_highest_address() {
    let machine = Machine::new(32);
    let mut file = bzimage(&pvh_kernel());
    file[0x22c..0x230].copy_from_slice(&0x17f_ffff_u32.to_le_bytes());
    let parameters = BootParameters { initrd: Some(b"initrd"), ..machine.parameters() };
    let state = machine.load(&file, &parameters).unwrap();
    let zero_page = state.gpr[6];
    assert_eq!(machine.u32(zero_page + 0x218), 0x17f_f000);
    // The header came along.
    assert_eq!(machine.u32(zero_page + 0x22c), 0x17f_ffff);
}

#[test]
fn kernels_that_lie_on_boot_structures_are_refused() {
    let machine = Machine::new(32);
    let kernel = elf(&[segment(0x1_0000, b"code", 0x1000), pvh_note(0x1_0000)]);
    let error = machine.load(&kernel, &machine.parameters()).unwrap_err();
    assert!(matches!(error, PlaceError::Overlap { second: "kernel", .. }), "{error}");
}

#[test]
fn command_lines_are_bounded_and_whole() {
    let machine = Machine::new(32);
    let try_line = |line: &str| {
        let parameters = BootParameters { command_line: line, ..machine.parameters() };
        machine.load(&pvh_kernel(), &parameters).err()
    };
    assert!(try_line(&"x".repeat(2047)).is_none());
    assert!(matches!(
        try_line(&"x".repeat(2048)),
        Some(PlaceError::CommandLineTooLong { length: 2048, limit: 2047 })
    ));
    assert!(matches!(try_line("a\0b"), Some(PlaceError::CommandLineZero)));
}

#[test]
fn empty_modules_are_refused() {
    let machine = Machine::new(32);
    let parameters = BootParameters { initrd: Some(b""), ..machine.parameters() };
    assert!(matches!(machine.load(&pvh_kernel(), &parameters), Err(PlaceError::EmptyModule)));
}

/// Run it with `TERN_TEST_KERNEL=/boot/vmlinuz-... cargo test -p tern-vmm -- --ignored distribution`.
#[test]
#[ignore = "needs a distribution's kernel, named by TERN_TEST_KERNEL"]
fn a_distribution_kernel_is_entered_through_pvh() {
    let path = std::env::var_os("TERN_TEST_KERNEL").expect("TERN_TEST_KERNEL names a bzImage");
    let file = std::fs::read(path).unwrap();
    let kernel = Kernel::parse(&file, None).unwrap();
    assert_eq!(kernel.protocol(), "PVH");
    let machine = Machine::new(256);
    let parameters = BootParameters { initrd: Some(b"initrd"), ..machine.parameters() };
    let state = load(&kernel, &parameters, &machine.memory).unwrap();
    // Its first instruction is CLD.
    assert_eq!(machine.bytes(state.rip, 1), [0xfc]);
}
