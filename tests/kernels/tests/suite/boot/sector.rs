//! A boot sector, as PC firmware starts it.

use iced_x86::code_asm::*;
use tern_test_kernels::real::real;

#[test]
fn a_boot_sector_starts_at_7c00_with_the_disks_number_in_dl() {
    real(|g| {
        g.movzx(edx, dl)?;
        g.expect(edx, 0x80)?;
        g.mov(ax, cs)?;
        g.movzx(eax, ax)?;
        g.expect(eax, 0)?;
        let (next, here) = (g.mark(), g.mark());
        g.call(next.label)?;
        g.place(here)?;
        g.place(next)?;
        g.pop(bx)?;
        g.movzx(ebx, bx)?;
        let address = g.address(here);
        g.expect(ebx, address)?;
        g.smsw(eax)?;
        g.and(eax, 1)?;
        g.expect(eax, 0)?;
        g.pushf()?;
        g.pop(ax)?;
        g.and(eax, 0x200)?;
        g.expect(eax, 0)
    });
}

#[test]
fn an_image_longer_than_a_sector_is_there_as_a_whole() {
    real(|g| {
        let (far, over) = (g.mark(), g.mark());
        g.jmp(over.label)?;
        for _ in 0..3000 {
            g.dw(&[0x1234])?;
        }
        g.place(far)?;
        g.dw(&[0x5678])?;
        g.place(over)?;
        let address = g.address(far);
        g.mov(bx, address as i32)?;
        g.movzx(eax, word_ptr(bx))?;
        g.expect(eax, 0x5678)
    });
}
