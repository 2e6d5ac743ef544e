//! 64-bit code and compatibility-mode code side by side.

use iced_x86::code_asm::*;
use tern_test_kernels::long::*;

#[test]
fn the_same_bytes_at_the_same_place_are_what_the_codes_width_makes_of_them() {
    const ROUNDS: i32 = 500;
    const NARROW: u64 = DATA;
    long(|g| {
        // INC RAX; or DEC EAX, INC EAX. Then a far RET.
        g.narrow_code(NARROW, [0x48, 0xff, 0xc0, 0xcb])?;
        let (mut again, mut back) = (g.create_label(), g.create_label());
        g.xor(eax, eax)?;
        g.mov(ecx, ROUNDS)?;
        g.mov(rdi, frame(0))?;
        g.place(&mut again)?;
        g.lea(rdx, ptr(back))?;
        g.sub(rsp, 8)?;
        g.mov(dword_ptr(rsp), edx)?;
        g.mov(dword_ptr(rsp + 4), i32::from(CODE_SELECTOR))?;
        g.jmp(rdi)?;
        g.place(&mut back)?;
        g.call(fword_ptr(NARROW))?;
        g.dec(ecx)?;
        g.jnz(again)?;
        g.expect(rax, ROUNDS as u64)
    });
}

#[test]
fn code_of_32_bits_computes_with_addresses_and_stacks_of_32_bits() {
    const ROUNDS: u64 = 100;
    const POINTER: u64 = DATA;
    const CELL: u64 = DATA + 0x40;
    long(|g| {
        // A loop of 32-bit code, at level 0, that addresses memory by sums that wrap, pushes, calls, and reads its own EIP.
        let mut a = CodeAssembler::new(32)?;
        let (mut again, mut inner) = (a.create_label(), a.create_label());
        a.set_label(&mut again)?;
        a.mov(ebx, 0xffff_ffc0_u32)?;
        a.mov(edx, (CELL + 0x40) as u32)?;
        a.add(dword_ptr(ebx + edx), 3)?;
        a.push(dword_ptr(ebx + edx))?;
        a.push(-5)?;
        a.call(inner)?;
        a.add(esp, 4)?;
        a.pop(edi)?;
        a.dec(ecx)?;
        a.jnz(again)?;
        a.retf()?;
        a.set_label(&mut inner)?;
        a.push(ebp)?;
        a.mov(ebp, esp)?;
        a.mov(eax, dword_ptr(ebp + 8))?;
        a.add(esi, eax)?;
        a.leave()?;
        a.ret()?;
        g.narrow_code(POINTER, a.assemble(frame(0))?)?;
        g.mov(dword_ptr(CELL), 0)?;
        g.xor(esi, esi)?;
        g.mov(rbp, 0x1234_5678_9abc_i64)?;
        g.mov(ecx, ROUNDS as i32)?;
        g.mov(r12, rsp)?;
        g.call(fword_ptr(POINTER))?;
        g.sub(r12, rsp)?;
        g.expect(r12, 0)?;
        g.expect(rdi, 3 * ROUNDS)?;
        g.expect(rsi, u64::from((-5_i32 * ROUNDS as i32).cast_unsigned()))?;
        // What the 32-bit code wrote has no upper half.
        g.expect(rbp, 0x5678_9abc)
    });
}
