//! Multiboot 1 (Multiboot Specification 0.6.96, sections 3.2 and 3.3).

use iced_x86::code_asm::*;
use tern_test_kernels::engines;
use tern_test_kernels::guest::Emit;
use tern_test_kernels::image::{multiboot, multiboot_entry};
use tern_test_kernels::run::{MEMORY, Setup, run_on};
use tern_vmm::boot::KernelKind;
use tern_vmm::guest::Module;

use super::{FOUND, transmit};

const ADDRESS: u32 = 0x10_0000;

fn write(a: &mut CodeAssembler) -> Emit {
    let store =
        |a: &mut CodeAssembler, n: u32, register: AsmRegister32| a.mov(dword_ptr(FOUND + 4 * n), register);
    store(a, 0, eax)?;
    a.mov(eax, cr0)?;
    store(a, 1, eax)?;
    // Flags, mem_lower, mem_upper, mods_count.
    for (n, offset) in [(2, 0), (3, 4), (4, 8), (5, 20)] {
        a.mov(eax, dword_ptr(ebx + offset))?;
        store(a, n, eax)?;
    }
    a.mov(ecx, dword_ptr(ebx + 16))?;
    a.mov(eax, dword_ptr(ecx))?;
    store(a, 6, eax)?;
    // Both modules: first word, length, string.
    a.mov(ecx, dword_ptr(ebx + 24))?;
    for (n, module) in [(7, 0), (10, 16)] {
        a.mov(edx, dword_ptr(ecx + module))?;
        a.mov(eax, dword_ptr(edx))?;
        store(a, n, eax)?;
        a.mov(eax, dword_ptr(ecx + module + 4))?;
        a.sub(eax, edx)?;
        store(a, n + 1, eax)?;
        a.mov(edx, dword_ptr(ecx + module + 8))?;
        a.mov(eax, dword_ptr(edx))?;
        store(a, n + 2, eax)?;
    }
    // The memory map: the sum of its RAM. Each entry says how long it is.
    let (mut next, mut skip) = (a.create_label(), a.create_label());
    a.mov(ecx, dword_ptr(ebx + 48))?;
    a.mov(esi, dword_ptr(ebx + 44))?;
    a.add(esi, ecx)?;
    a.xor(edi, edi)?;
    a.set_label(&mut next)?;
    a.cmp(dword_ptr(ecx + 20), 1)?;
    a.jne(skip)?;
    a.add(edi, dword_ptr(ecx + 12))?;
    a.set_label(&mut skip)?;
    a.add(ecx, dword_ptr(ecx))?;
    a.add(ecx, 4)?;
    a.cmp(ecx, esi)?;
    a.jb(next)?;
    store(a, 13, edi)?;
    transmit(a, 14)
}

#[test]
fn a_kernel_finds_its_modules_command_line_and_memory_map() {
    let mut a = CodeAssembler::new(32).unwrap();
    write(&mut a).unwrap();
    let code = a.assemble(multiboot_entry(ADDRESS).into()).unwrap();
    let mut setup = Setup::new(multiboot(ADDRESS, &code), KernelKind::Multiboot);
    setup.equip = |guest| {
        "words".clone_into(&mut guest.command_line);
        guest.modules = [("first module", "one."), ("second", "two.")]
            .map(|(bytes, line)| Module { bytes: bytes.into(), command_line: line.to_owned() })
            .into();
    };
    for engine in engines() {
        let ended = run_on(&*engine, &setup);
        let words = ended.words();
        assert_eq!(words.len(), 14, "{:?}", ended.end);
        let ascii = |text: &[u8; 4]| u64::from(u32::from_le_bytes(*text));
        assert_eq!(words[0], 0x2bad_b002);
        assert_eq!(words[1] & 0x8000_0001, 1, "CR0 has PE and not PG");
        assert_eq!(words[2] & 0b100_1101, 0b100_1101, "memory, command line, modules, memory map");
        assert_eq!(words[3], 639);
        assert!(words[4] <= (MEMORY - 0x10_0000) / 1024 && words[4] > MEMORY / 1024 - 2048);
        assert_eq!(words[5], 2);
        assert_eq!(words[6], ascii(b"word"));
        assert_eq!(words[7..10], [ascii(b"firs"), 12, ascii(b"one.")]);
        assert_eq!(words[10..13], [ascii(b"seco"), 6, ascii(b"two.")]);
        assert!((MEMORY - 0x10_0000..=MEMORY).contains(&words[13]), "{:#x} bytes of RAM", words[13]);
    }
}
