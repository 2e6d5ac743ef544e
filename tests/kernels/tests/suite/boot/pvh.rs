//! PVH (Xen, `docs/misc/pvh.pandoc`).

use iced_x86::code_asm::*;
use tern_test_kernels::engines;
use tern_test_kernels::guest::Emit;
use tern_test_kernels::image::{Piece, pvh};
use tern_test_kernels::run::{MEMORY, Setup, run_on};
use tern_vmm::boot::KernelKind;
use tern_vmm::guest::Module;

use super::{FOUND, transmit};

const ENTRY: u32 = 0x10_0010;

fn write(a: &mut CodeAssembler) -> Emit {
    let store =
        |a: &mut CodeAssembler, n: u32, register: AsmRegister32| a.mov(dword_ptr(FOUND + 4 * n), register);
    store(a, 0, ebx)?;
    a.mov(eax, cr0)?;
    store(a, 1, eax)?;
    a.mov(eax, cr4)?;
    store(a, 2, eax)?;
    a.mov(esp, FOUND - 0x1000)?;
    a.pushfd()?;
    a.pop(eax)?;
    store(a, 3, eax)?;
    // start_info: magic, version, number of modules, address of the command line, its first word, of the RSDP.
    for (n, offset) in [(4, 0), (5, 4), (6, 12)] {
        a.mov(eax, dword_ptr(ebx + offset))?;
        store(a, n, eax)?;
    }
    a.mov(ecx, dword_ptr(ebx + 24))?;
    a.mov(eax, dword_ptr(ecx))?;
    store(a, 7, eax)?;
    a.mov(ecx, dword_ptr(ebx + 32))?;
    a.mov(eax, dword_ptr(ecx))?;
    store(a, 8, eax)?;
    // The first module: its first word, its size, its command line.
    a.mov(ecx, dword_ptr(ebx + 16))?;
    a.mov(edx, dword_ptr(ecx))?;
    a.mov(eax, dword_ptr(edx))?;
    store(a, 9, eax)?;
    a.mov(eax, dword_ptr(ecx + 8))?;
    store(a, 10, eax)?;
    a.mov(edx, dword_ptr(ecx + 32 + 16))?;
    a.mov(eax, dword_ptr(edx))?;
    store(a, 11, eax)?;
    // The memory map: number of entries; the end of the last RAM below 4 GiB.
    a.mov(eax, dword_ptr(ebx + 48))?;
    store(a, 12, eax)?;
    let (mut next, mut skip) = (a.create_label(), a.create_label());
    a.mov(ecx, dword_ptr(ebx + 40))?;
    a.xor(edi, edi)?;
    a.set_label(&mut next)?;
    a.cmp(dword_ptr(ecx + 16), 1)?;
    a.jne(skip)?;
    a.mov(edi, dword_ptr(ecx))?;
    a.add(edi, dword_ptr(ecx + 8))?;
    a.set_label(&mut skip)?;
    a.add(ecx, 24)?;
    a.dec(eax)?;
    a.jnz(next)?;
    store(a, 13, edi)?;
    transmit(a, 14)
}

#[test]
fn a_kernel_is_entered_in_flat_protected_mode_with_start_info() {
    let mut a = CodeAssembler::new(32).unwrap();
    write(&mut a).unwrap();
    let bytes = a.assemble(ENTRY.into()).unwrap();
    let image = pvh(ENTRY, &[Piece { address: ENTRY.into(), bytes }]);
    let mut setup = Setup::new(image, KernelKind::Elf);
    setup.equip = |guest| {
        "words".clone_into(&mut guest.command_line);
        guest.initrd = Some(b"initramfs".to_vec());
        guest.modules = vec![Module { bytes: b"module".to_vec(), command_line: "more".to_owned() }];
    };
    for engine in engines() {
        let ended = run_on(&*engine, &setup);
        let words = ended.words();
        assert_eq!(words.len(), 14, "{:?}", ended.end);
        let ascii = |text: &[u8; 4]| u64::from(u32::from_le_bytes(*text));
        assert_eq!(words[1] & 0x8000_0001, 1, "CR0 has PE and not PG");
        assert_eq!(words[2], 0, "CR4");
        assert_eq!(words[3] & 0x2_0300, 0, "EFLAGS has no VM, IF and TF");
        assert_eq!((words[4], words[5], words[6]), (0x336e_c578, 1, 2));
        assert_eq!((words[7], words[8]), (ascii(b"word"), ascii(b"RSD ")));
        assert_eq!((words[9], words[10], words[11]), (ascii(b"init"), 9, ascii(b"more")));
        assert!((2..128).contains(&words[12]), "{} regions", words[12]);
        assert!((MEMORY - 0x10_0000..=MEMORY).contains(&words[13]), "RAM ends at {:#x}", words[13]);
    }
}
