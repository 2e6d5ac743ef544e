//! The 64-bit Linux protocol (Linux, `Documentation/arch/x86/boot.rst`).

use iced_x86::code_asm::*;
use tern_test_kernels::engines;
use tern_test_kernels::guest::Emit;
use tern_test_kernels::image::{BZIMAGE_ENTRY, bzimage};
use tern_test_kernels::run::{Setup, run_on};
use tern_vmm::boot::KernelKind;

use super::{FOUND, transmit};

fn write(a: &mut CodeAssembler) -> Emit {
    let store =
        |a: &mut CodeAssembler, n: u32, register: AsmRegister32| a.mov(dword_ptr(FOUND + 4 * n), register);
    a.mov(eax, cs)?;
    store(a, 0, eax)?;
    a.mov(eax, ds)?;
    store(a, 1, eax)?;
    a.mov(rax, cr0)?;
    store(a, 2, eax)?;
    a.mov(ecx, 0xc000_0080_u32)?;
    a.rdmsr()?;
    store(a, 3, eax)?;
    // boot_params: boot flag and header magic, loader type, RSDP, entries of the map.
    for (n, offset) in [(4, 0x1fe), (5, 0x202), (6, 0x210), (7, 0x1e8)] {
        a.mov(eax, dword_ptr(rsi + offset))?;
        store(a, n, eax)?;
    }
    a.mov(ecx, dword_ptr(rsi + 0x228))?;
    a.mov(eax, dword_ptr(rcx))?;
    store(a, 8, eax)?;
    a.mov(ecx, dword_ptr(rsi + 0x218))?;
    a.mov(eax, dword_ptr(rcx))?;
    store(a, 9, eax)?;
    a.mov(eax, dword_ptr(rsi + 0x21c))?;
    store(a, 10, eax)?;
    a.mov(rcx, qword_ptr(rsi + 0x70))?;
    a.mov(eax, dword_ptr(rcx))?;
    store(a, 11, eax)?;
    // Everything below 4 GiB is mapped, and the segments can be loaded again.
    a.mov(eax, 0xfee0_0030_u32)?;
    a.mov(eax, dword_ptr(rax))?;
    store(a, 12, eax)?;
    a.mov(eax, ds)?;
    a.mov(es, eax)?;
    a.mov(eax, es)?;
    store(a, 13, eax)?;
    transmit(a, 14)
}

#[test]
fn a_kernel_is_entered_in_64_bit_mode_with_boot_parameters() {
    let mut a = CodeAssembler::new(64).unwrap();
    write(&mut a).unwrap();
    let code = a.assemble(BZIMAGE_ENTRY).unwrap();
    let mut setup = Setup::new(bzimage(&code), KernelKind::BzImage);
    setup.equip = |guest| {
        "words".clone_into(&mut guest.command_line);
        guest.initrd = Some(b"initramfs".to_vec());
    };
    for engine in engines() {
        let ended = run_on(&*engine, &setup);
        let words = ended.words();
        assert_eq!(words.len(), 14, "{:?}", ended.end);
        let ascii = |text: &[u8; 4]| u64::from(u32::from_le_bytes(*text));
        assert_eq!((words[0] & 0xffff, words[1] & 0xffff), (0x10, 0x18), "__BOOT_CS and __BOOT_DS");
        assert_eq!(words[2] & 0x8000_0001, 0x8000_0001, "CR0 has PG and PE");
        assert_eq!(words[3] & 0x500, 0x500, "EFER has LMA and LME");
        assert_eq!((words[4] & 0xffff, words[5]), (0xaa55, ascii(b"HdrS")));
        assert_eq!(words[6] & 0xff, 0xff, "type_of_loader");
        assert!((2..128).contains(&(words[7] & 0xff)), "e820_entries");
        assert_eq!((words[8], words[9], words[10]), (ascii(b"word"), ascii(b"init"), 9));
        assert_eq!(words[11], ascii(b"RSD "));
        assert_eq!(words[12] & 0xff, 0x14, "the local APIC's version");
        assert_eq!(words[13] & 0xffff, 0x18);
    }
}
