//! Every exception that an instruction can raise in 64-bit mode, with its error code.

use iced_x86::code_asm::*;
use tern_test_kernels::expect::fault;
use tern_test_kernels::expect::vector::*;
use tern_test_kernels::long::*;

#[test]
fn a_quotient_that_does_not_fit_is_a_divide_error() {
    long(|g| {
        g.xor(ecx, ecx)?;
        g.mov(eax, 5)?;
        g.xor(edx, edx)?;
        g.expect_fault(fault(DE), |g| g.div(ecx))?;
        g.mov(edx, 5)?;
        g.mov(ecx, 5)?;
        g.expect_fault(fault(DE), |g| g.div(ecx))?;
        g.mov(rax, 1_u64 << 63)?;
        g.cqo()?;
        g.mov(rcx, u64::MAX)?;
        g.expect_user_fault(fault(DE), |g| g.idiv(rcx))?;
        // The operands are as they were.
        g.expect(rax, 1 << 63)?;
        g.expect(rdx, u64::MAX)
    });
}

#[test]
fn instructions_that_do_not_exist_are_invalid_opcodes() {
    long(|g| {
        g.expect_fault(fault(UD), |g| g.ud2())?;
        // PUSH ES is none in 64-bit mode; LOCK NOP; MOV CR1; LFENCE with a memory operand's encoding is XRSTOR.
        g.expect_fault(fault(UD), |g| g.db(&[0x06]))?;
        g.expect_fault(fault(UD), |g| g.db(&[0xf0, 0x90]))?;
        g.expect_fault(fault(UD), |g| g.db(&[0x0f, 0x20, 0xc8]))?;
        // LEA with a register, SYSENTER in long mode, MOV to CS.
        g.expect_fault(fault(UD), |g| g.db(&[0x8d, 0xc0]))?;
        g.expect_fault(fault(UD), |g| g.sysenter())?;
        g.expect_fault(fault(UD), |g| g.db(&[0x8e, 0xc8]))?;
        g.expect_user_fault(fault(UD), |g| g.ud2())?;
        g.expect_user_fault(fault(UD), |g| g.stac())
    });
}

#[test]
fn traps_are_reported_behind_their_instruction() {
    long(|g| {
        g.expect_fault(fault(BP).at(1), |g| g.int3())?;
        g.expect_user_fault(fault(BP).at(1), |g| g.int3())?;
        g.expect_fault(fault(0x33).at(2), |g| g.int(0x33))?;
        g.expect_fault(fault(DB).at(1), |g| g.int1())?;
        g.expect_user_fault(fault(DB).at(1), |g| g.int1())
    });
}

#[test]
fn a_gate_that_is_not_for_user_mode_names_itself_in_the_error_code() {
    long(|g| {
        g.expect_user_fault(fault(GP).code(0x33 << 3 | 2), |g| g.int(0x33))?;
        g.expect_user_fault(fault(GP).code(14 << 3 | 2), |g| g.int(14))
    });
}

#[test]
fn privileged_instructions_are_general_protection_faults_in_user_mode() {
    long(|g| {
        g.expect_user_fault(fault(GP), |g| g.hlt())?;
        g.expect_user_fault(fault(GP), |g| g.cli())?;
        g.expect_user_fault(fault(GP), |g| g.sti())?;
        g.expect_user_fault(fault(GP), |g| g.mov(rax, cr0))?;
        g.expect_user_fault(fault(GP), |g| g.mov(rax, dr7))?;
        g.expect_user_fault(fault(GP), |g| g.rdmsr())?;
        g.expect_user_fault(fault(GP), |g| g.invlpg(ptr(rax)))?;
        g.expect_user_fault(fault(GP), |g| g.lgdt(ptr(rsp)))?;
        g.expect_user_fault(fault(GP), |g| g.wbinvd())?;
        g.expect_user_fault(fault(GP), |g| g.swapgs())?;
        // The TSS has no I/O permission map.
        g.expect_user_fault(fault(GP), |g| g.out(0x80, al))?;
        g.expect_user_fault(fault(GP), |g| g.in_(al, dx))
    });
}

#[test]
fn iopl_opens_ports_and_the_interrupt_flag_to_user_mode() {
    long(|g| {
        g.user_flags = 0x3002;
        g.user(|g| {
            g.cli()?;
            g.sti()?;
            g.out(0x80, al)
        })
    });
}

#[test]
fn the_permission_map_opens_single_ports_to_user_mode() {
    long(|g| {
        // The map begins behind the TSS proper; the limit leaves room for ports up to 0x107 and the byte behind them.
        let limit = u64::from(TSS_LIMIT) + 0x22;
        g.put(GDT + u64::from(TSS_SELECTOR), &[limit | (TSS & 0xff_ffff) << 16 | 0x89 << 40]);
        let all_closed = [u64::MAX; 5];
        g.put(TSS + 0x68, &all_closed);
        // Ports 0x80 and 0x81 are open.
        g.put(TSS + 0x68 + 0x10, &[u64::MAX << 2]);
        g.user(|g| {
            g.out(0x80, al)?;
            g.out(0x80, ax)
        })?;
        g.expect_user_fault(fault(GP), |g| g.out(0x82, al))?;
        g.expect_user_fault(fault(GP), |g| g.out(0x81, ax))?;
        g.mov(edx, 0x200)?;
        g.expect_user_fault(fault(GP), |g| g.out(dx, al))
    });
}

#[test]
fn selectors_that_cannot_be_loaded_are_named_in_the_error_code() {
    long(|g| {
        let not_present = FREE_SELECTOR;
        let stack_not_present = FREE_SELECTOR + 8;
        g.put(GDT + u64::from(not_present), &[0x00cf_1300_0000_ffff, 0x00cf_1300_0000_ffff]);
        for (selector, vector, code) in [
            (not_present, NP, not_present),
            (0x100, GP, 0x100),
            (0x1003, GP, 0x1000),
            (0x0c, GP, 0x0c),
            (TSS_SELECTOR, GP, TSS_SELECTOR),
        ] {
            g.mov(eax, u32::from(selector))?;
            g.expect_fault(fault(vector).code(code.into()), |g| g.mov(ds, eax))?;
        }
        g.mov(eax, u32::from(stack_not_present))?;
        g.expect_fault(fault(SS).code(stack_not_present.into()), |g| g.mov(ss, eax))?;
        g.mov(eax, u32::from(USER_DATA_SELECTOR))?;
        g.expect_fault(fault(GP).code(u32::from(USER_DATA_SELECTOR) & !3), |g| g.mov(ss, eax))?;
        // Null selectors can be loaded, into SS at level 0 only.
        g.xor(eax, eax)?;
        g.mov(ds, eax)?;
        g.mov(ss, eax)?;
        g.mov(eax, u32::from(DATA_SELECTOR))?;
        g.mov(ss, eax)?;
        g.xor(eax, eax)?;
        g.expect_user_fault(fault(GP), |g| g.mov(ss, eax))
    });
}

#[test]
fn a_task_register_takes_an_available_tss_only() {
    long(|g| {
        g.mov(eax, u32::from(TSS_SELECTOR))?;
        // It is busy.
        g.expect_fault(fault(GP).code(TSS_SELECTOR.into()), |g| g.ltr(ax))?;
        g.mov(eax, u32::from(DATA_SELECTOR))?;
        g.expect_fault(fault(GP).code(DATA_SELECTOR.into()), |g| g.ltr(ax))?;
        g.xor(eax, eax)?;
        g.expect_fault(fault(GP), |g| g.ltr(ax))
    });
}

#[test]
fn system_descriptors_whose_second_half_has_a_type_are_none() {
    const LDT: u64 = 0x82;
    const AVAILABLE_TSS: u64 = 0x89;
    const CALL_GATE: u64 = 0x8c;
    long(|g| {
        let kinds = [LDT, AVAILABLE_TSS, CALL_GATE];
        let selectors = [FREE_SELECTOR, FREE_SELECTOR + 16, FREE_SELECTOR + 32];
        for (selector, kind) in selectors.into_iter().zip(kinds) {
            g.put(GDT + u64::from(selector), &[kind << 40 | u64::from(CODE_SELECTOR) << 16 | 0x67]);
        }
        let [ldt, tss, gate] = selectors;
        for bit in 40..45 {
            g.case(&format!("bit {bit}"));
            g.mov(rax, 1_u64 << bit)?;
            for selector in selectors {
                g.mov(qword_ptr(GDT + u64::from(selector) + 8), rax)?;
            }
            g.mov(eax, u32::from(ldt))?;
            g.expect_fault(fault(GP).code(ldt.into()), |g| g.lldt(ax))?;
            g.mov(eax, u32::from(tss))?;
            g.expect_fault(fault(GP).code(tss.into()), |g| g.ltr(ax))?;
            g.mov(word_ptr(DATA + 4), i32::from(gate))?;
            g.expect_fault(fault(GP).code(gate.into()), |g| g.call(fword_ptr(DATA)))?;
            g.mov(ebx, u32::from(tss))?;
            g.lar(ecx, ebx)?;
            g.setz(al)?;
            g.movzx(eax, al)?;
            g.expect(rax, 0)?;
        }
        g.xor(eax, eax)?;
        g.mov(qword_ptr(GDT + u64::from(tss) + 8), rax)?;
        g.lar(ecx, ebx)?;
        g.setz(al)?;
        g.movzx(eax, al)?;
        g.expect(rax, 1)
    });
}

#[test]
fn misaligned_accesses_of_user_code_fault_with_am_and_ac() {
    const AM: u32 = 1 << 18;
    long(|g| {
        g.map(0, frame(0) | P | RW | US);
        g.mov(rbx, WINDOW)?;
        g.user_flags = 0x4_0002;
        g.user(|g| g.mov(eax, dword_ptr(rbx + 1)))?;
        g.mov(rax, cr0)?;
        g.or(eax, AM)?;
        g.mov(cr0, rax)?;
        g.expect_user_fault(fault(AC), |g| g.mov(eax, dword_ptr(rbx + 1)))?;
        g.expect_user_fault(fault(AC), |g| g.mov(word_ptr(rbx + 3), ax))?;
        g.expect_user_fault(fault(AC), |g| g.inc(qword_ptr(rbx + 4)))?;
        g.user(|g| {
            g.mov(al, byte_ptr(rbx + 1))?;
            g.mov(eax, dword_ptr(rbx + 4))?;
            g.mov(rax, qword_ptr(rbx + 8))
        })?;
        // The supervisor is free.
        g.pushfq()?;
        g.or(qword_ptr(rsp), 0x4_0000)?;
        g.popfq()?;
        g.mov(eax, dword_ptr(rbx + 1))?;
        g.user_flags = 2;
        g.user(|g| g.mov(eax, dword_ptr(rbx + 1)))?;
        // User code can set the flag itself.
        g.expect_user_fault(fault(AC).at(10), |g| {
            g.pushfq()?;
            g.or(qword_ptr(rsp), 0x4_0000)?;
            g.popfq()?;
            g.mov(eax, dword_ptr(rbx + 1))
        })
    });
}

#[test]
fn aligned_vector_operands_must_be_aligned() {
    long(|g| {
        g.mov(rbx, frame(0) + 8)?;
        g.movups(xmm0, xmmword_ptr(rbx))?;
        g.expect_fault(fault(GP), |g| g.movaps(xmm0, xmmword_ptr(rbx)))?;
        g.expect_fault(fault(GP), |g| g.cmpxchg16b(xmmword_ptr(rbx)))?;
        g.expect_fault(fault(GP), |g| g.fxsave(ptr(rbx)))
    });
}
