//! Limits, types, and what loading a segment register checks.

use iced_x86::code_asm::*;
use tern_test_kernels::expect::fault;
use tern_test_kernels::expect::vector::{GP, NP, SS};
use tern_test_kernels::protected::{DATA, DATA_SELECTOR, Protected, descriptor, protected};

use super::paging::{P, PS, PSE, RW, enable};
use super::{BIG, CODE, DATA_RO, DATA_RW, EXECUTE_ONLY, EXPAND_DOWN, PRESENT, flat, free};

type Emit = tern_test_kernels::guest::Emit;

fn load_fs(g: &mut Protected, selector: u16) -> Emit {
    g.mov(eax, u32::from(selector))?;
    g.mov(fs, eax)
}

#[test]
fn a_byte_granular_limit_is_the_last_offset() {
    protected(|g| {
        g.put_descriptor(free(0), descriptor(DATA, 0x1f, DATA_RW, BIG));
        load_fs(g, free(0))?;
        g.mov(dword_ptr(0x1c).fs(), 7)?;
        g.expect_memory(DATA + 0x1c, 7)?;
        g.expect_fault(fault(GP), |g| g.mov(dword_ptr(0x1d).fs(), 7))?;
        g.expect_fault(fault(GP), |g| g.mov(byte_ptr(0x20).fs(), 7))?;
        g.expect_fault(fault(GP), |g| g.mov(eax, dword_ptr(0xffff_fffe_u32).fs()))
    });
}

#[test]
fn a_page_granular_limit_includes_its_last_page() {
    protected(|g| {
        g.put_descriptor(free(0), descriptor(DATA, 1, DATA_RW, BIG | 8));
        load_fs(g, free(0))?;
        g.mov(dword_ptr(0x1ffc).fs(), 7)?;
        g.expect_memory(DATA + 0x1ffc, 7)?;
        g.mov(ebx, 0x2000)?;
        g.expect_fault(fault(GP), |g| g.mov(byte_ptr(ebx).fs(), 7))
    });
}

#[test]
fn an_expand_down_segment_begins_behind_its_limit() {
    protected(|g| {
        g.put_descriptor(free(0), descriptor(DATA, 0xfff, EXPAND_DOWN, BIG));
        g.put_descriptor(free(1), descriptor(DATA, 0xfff, EXPAND_DOWN, 0));
        load_fs(g, free(0))?;
        g.mov(ebx, 0x1000)?;
        g.mov(dword_ptr(ebx).fs(), 7)?;
        g.expect_memory(DATA + 0x1000, 7)?;
        g.expect_fault(fault(GP), |g| g.mov(byte_ptr(ebx - 1).fs(), 7))?;
        g.expect_fault(fault(GP), |g| g.mov(dword_ptr(ebx - 2).fs(), 7))?;
        // A small one ends at 64 KiB.
        load_fs(g, free(1))?;
        g.mov(ebx, 0xfffc)?;
        g.mov(eax, dword_ptr(ebx).fs())?;
        g.expect_fault(fault(GP), |g| g.mov(eax, dword_ptr(ebx + 1).fs()))
    });
}

#[test]
fn what_a_segment_that_is_loaded_permits_holds_from_the_next_instruction_on() {
    const ROUNDS: u32 = 200;
    const LOOPS: u32 = 40;
    protected(|g| {
        g.put_descriptor(free(0), descriptor(DATA, 0xfff, DATA_RW, BIG));
        g.mov(dword_ptr(DATA), 1)?;
        g.mov(dword_ptr(DATA + 0x100), 1000)?;
        let sum = g.out_of_line(|g| {
            let again = g.mark();
            g.mov(ds, eax)?;
            g.mov(ecx, LOOPS)?;
            g.place(again)?;
            g.add(edi, dword_ptr(ebx))?;
            g.dec(ecx)?;
            g.jnz(again.label)?;
            g.ret()
        })?;
        let again = g.mark();
        g.xor(edi, edi)?;
        g.mov(esi, ROUNDS)?;
        g.place(again)?;
        // The loop becomes hot by a segment that is all of memory; the other one begins at the data.
        for (selector, offset) in [(DATA_SELECTOR, DATA), (free(0), 0x100)] {
            g.mov(ebx, offset)?;
            g.mov(eax, u32::from(selector))?;
            g.call(sum.label)?;
        }
        g.mov(eax, u32::from(DATA_SELECTOR))?;
        g.mov(ds, eax)?;
        g.dec(esi)?;
        g.jnz(again.label)?;
        g.expect(edi, ROUNDS * LOOPS * 1001)
    });
}

#[test]
fn types_say_what_may_be_done() {
    protected(|g| {
        g.put_descriptor(free(0), flat(DATA_RO));
        g.put_descriptor(free(1), flat(EXECUTE_ONLY));
        g.put_descriptor(free(2), flat(CODE));
        load_fs(g, free(0))?;
        g.mov(eax, dword_ptr(DATA).fs())?;
        g.expect_fault(fault(GP), |g| g.mov(dword_ptr(DATA).fs(), eax))?;
        g.expect_fault(fault(GP), |g| g.inc(dword_ptr(DATA).fs()))?;
        g.mov(eax, u32::from(free(1)))?;
        g.expect_fault(fault(GP).code(free(1).into()), |g| g.mov(fs, eax))?;
        load_fs(g, free(2))?;
        g.mov(eax, dword_ptr(DATA).fs())?;
        g.expect_fault(fault(GP), |g| g.mov(dword_ptr(DATA).fs(), eax))?;
        g.expect_fault(fault(GP), |g| g.mov(dword_ptr(DATA).cs(), eax))?;
        // A stack is writable.
        for selector in [free(0), free(2)] {
            g.mov(eax, u32::from(selector))?;
            g.expect_fault(fault(GP).code(selector.into()), |g| g.mov(ss, eax))?;
        }
        Ok(())
    });
}

#[test]
fn a_null_selector_can_be_loaded_and_not_used() {
    protected(|g| {
        load_fs(g, 0)?;
        g.expect_fault(fault(GP), |g| g.mov(eax, dword_ptr(DATA).fs()))?;
        load_fs(g, 3)?;
        g.expect_fault(fault(GP), |g| g.mov(eax, dword_ptr(DATA).fs()))?;
        g.xor(eax, eax)?;
        g.expect_fault(fault(GP), |g| g.mov(ss, eax))
    });
}

#[test]
fn segments_that_are_not_present_fault_by_kind() {
    protected(|g| {
        g.put_descriptor(free(0), flat(DATA_RW & !PRESENT));
        g.mov(eax, u32::from(free(0)))?;
        g.expect_fault(fault(NP).code(free(0).into()), |g| g.mov(fs, eax))?;
        g.expect_fault(fault(SS).code(free(0).into()), |g| g.mov(ss, eax))?;
        g.push(eax)?;
        g.expect_fault(fault(NP).code(free(0).into()), |g| g.pop(es))?;
        g.pop(eax)?;
        g.expect(eax, free(0).into())
    });
}

#[test]
fn a_stack_outside_of_its_limit_is_a_stack_fault() {
    protected(|g| {
        // What handlers push, and look at, lies inside.
        let limit = tern_test_kernels::protected::STACK + 0xfff;
        g.put_descriptor(free(0), descriptor(0, limit >> 12, DATA_RW, BIG | 8));
        g.mov(eax, u32::from(free(0)))?;
        g.mov(ss, eax)?;
        g.mov(ebp, limit + 1)?;
        g.expect_fault(fault(SS), |g| g.mov(eax, dword_ptr(ebp)))?;
        g.mov(eax, u32::from(free(0)))?;
        g.mov(ss, eax)?;
        g.expect_fault(fault(SS), |g| g.mov(dword_ptr(ebp - 3), eax))?;
        g.mov(eax, dword_ptr(ebp).ds())
    });
}

#[test]
fn loading_a_segment_sets_the_accessed_bit() {
    protected(|g| {
        g.put_descriptor(free(0), flat(DATA_RW & !1));
        load_fs(g, free(0))?;
        let address = tern_test_kernels::protected::GDT + u32::from(free(0)) + 4;
        g.mov(eax, dword_ptr(address))?;
        g.shr(eax, 8)?;
        g.and(eax, 0xff)?;
        g.expect(eax, DATA_RW.into())
    });
}

#[test]
fn selectors_beyond_the_table_are_faults() {
    protected(|g| {
        g.mov(eax, 0x100)?;
        g.expect_fault(fault(GP).code(0x100), |g| g.mov(fs, eax))?;
        // There is no local table.
        g.mov(eax, 0xc)?;
        g.expect_fault(fault(GP).code(0xc), |g| g.mov(fs, eax))
    });
}

#[test]
fn a_local_table_has_its_own_descriptors() {
    protected(|g| {
        g.put_descriptor(free(0), descriptor(DATA, 0xf, 0x82, 0));
        g.put(DATA, [0, descriptor(DATA + 0x100, 0xff, DATA_RW, BIG)].map(u64::to_le_bytes).concat());
        g.mov(eax, u32::from(free(0)))?;
        g.lldt(ax)?;
        load_fs(g, 0xc)?;
        g.mov(dword_ptr(4).fs(), 9)?;
        g.expect_memory(DATA + 0x104, 9)?;
        g.mov(eax, 0x14)?;
        g.expect_fault(fault(GP).code(0x14), |g| g.mov(fs, eax))?;
        g.mov(eax, u32::from(DATA_SELECTOR))?;
        g.expect_fault(fault(GP).code(DATA_SELECTOR.into()), |g| g.lldt(ax))
    });
}

#[test]
fn a_small_stack_segment_uses_the_low_half_of_the_pointer() {
    protected(|g| {
        g.put_descriptor(free(0), descriptor(DATA, 0xffff, DATA_RW, 0));
        g.mov(ebx, esp)?;
        g.mov(eax, u32::from(free(0)))?;
        g.mov(ss, eax)?;
        g.mov(esp, 0x5555_0000)?;
        g.push(0x1122_3344)?;
        g.mov(ecx, esp)?;
        g.mov(eax, u32::from(DATA_SELECTOR))?;
        g.mov(ss, eax)?;
        g.mov(esp, ebx)?;
        g.expect(ecx, 0x5555_fffc)?;
        g.expect_memory(DATA + 0xfffc, 0x1122_3344)
    });
}

#[test]
fn an_instruction_across_the_end_of_its_code_segment_is_a_fault() {
    protected(|g| {
        // Three INC EBX; MOV EAX, 0 behind the second of which, or of whose bytes, the segment ends.
        g.put(DATA + 0x10, [0x43, 0x43, 0x43, 0xb8, 0, 0, 0, 0, 0x43]);
        for (n, limit, fault_at, incremented) in [(0, 0x16, 0x13, 3), (1, 0x12, 0x13, 3), (2, 0x11, 0x12, 2)]
        {
            let selector = free(n);
            g.put_descriptor(selector, descriptor(DATA, limit, CODE, BIG));
            for _ in 0..3 {
                g.xor(ebx, ebx)?;
                let start = g.mark();
                g.place(start)?;
                g.expect_fault_elsewhere(fault(GP).elsewhere(), start, |g| g.jmp_far(selector, 0x10))?;
                g.expect(ebx, incremented)?;
                g.expect_frame(0, fault_at)?;
                g.expect_frame(1, selector.into())?;
            }
        }
        Ok(())
    });
}

#[test]
fn the_end_of_a_code_segment_comes_before_the_page_behind_it() {
    const ROOT: u32 = DATA + 0x6000;
    const LARGE: u32 = P | RW | PS;
    const END: u32 = 4 << 20;
    /// Where the segment begins, and its last page ends at `END`.
    const WINDOW: u32 = 0x4000_0000;
    // Two INC EBX, and the beginning of MOV EAX.
    for (code, from, fault_at) in [([0x43, 0x43], END - 2, END), ([0x00, 0xb8], END - 1, END - 1)] {
        for stepped in [false, true] {
            protected(|g| {
                for entry in [0, WINDOW >> 22] {
                    g.put(ROOT + 4 * entry, LARGE.to_le_bytes());
                }
                g.put_descriptor(free(0), descriptor(WINDOW, (END >> 12) - 1, CODE, BIG | 8));
                g.mov(word_ptr(END - 2), i32::from(u16::from_le_bytes(code)))?;
                enable(g, ROOT, PSE)?;
                if stepped {
                    // A breakpoint that nothing meets: each instruction is looked at.
                    g.xor(eax, eax)?;
                    g.mov(dr0, eax)?;
                    g.mov(eax, 2)?;
                    g.mov(dr7, eax)?;
                }
                let start = g.mark();
                g.place(start)?;
                g.expect_fault_elsewhere(fault(GP).elsewhere(), start, |g| g.jmp_far(free(0), from))?;
                g.expect_frame(0, fault_at)
            });
        }
    }
}
