//! Switching tasks in hardware (APM volume 2, chapter 12).

use iced_x86::code_asm::*;
use tern_test_kernels::expect::fault;
use tern_test_kernels::expect::vector::{DF, GP, NP, PF, TS, UD};
use tern_test_kernels::protected::{
    CODE_SELECTOR, DATA, DATA_SELECTOR, GDT, Protected, TSS, TSS_SELECTOR, descriptor, gate, protected,
};

use super::free;
use super::paging::{P, PS, PSE, RW, enable};

/// The other task's TSS and stack.
const OTHER: u32 = DATA + 0x1000;
const OTHER_STACK: u32 = DATA + 0x4000;
const AVAILABLE_TSS: u8 = 0x89;
const TASK_GATE: u8 = 0x85;
/// EFLAGS: nested task.
const NT: u32 = 1 << 14;
/// EFLAGS: breakpoints on the next instruction are not met.
const RF: u32 = 1 << 16;
/// CR0: task switched.
const TS_BIT: u32 = 1 << 3;
/// Offsets in a TSS.
const LINK: u32 = 0;
const EIP: u32 = 0x20;
const EFLAGS: u32 = 0x24;
const ESP: u32 = 0x38;
const DS: u32 = 0x54;

/// Describes another task behind [`free`]`(0)` that starts at `entry` with EBX = 0x77.
fn put_task(g: &mut Protected, entry: u32) {
    let mut tss = [0_u32; 26];
    tss[8] = entry;
    tss[9] = 2;
    tss[13] = 0x77;
    tss[14] = OTHER_STACK;
    tss[18] = DATA_SELECTOR.into();
    tss[19] = CODE_SELECTOR.into();
    for segment in &mut tss[20..24] {
        *segment = DATA_SELECTOR.into();
    }
    // The I/O permission map lies outside.
    tss[25] = 0x68 << 16;
    g.put(OTHER, tss.map(u32::to_le_bytes).concat());
    g.put_descriptor(free(0), descriptor(OTHER, 0x67, AVAILABLE_TSS, 0));
}

/// The access byte of a descriptor into EAX.
fn access(g: &mut Protected, selector: u16) -> tern_test_kernels::guest::Emit {
    g.movzx(eax, byte_ptr(GDT + u32::from(selector) + 5))
}

#[test]
fn a_call_to_a_task_runs_it_and_its_iret_comes_back() {
    protected(|g| {
        let entry = g.out_of_line(|g| {
            g.mov(dword_ptr(DATA), ebx)?;
            g.mov(dword_ptr(DATA + 4), esp)?;
            g.pushfd()?;
            g.pop(dword_ptr(DATA + 8))?;
            g.str(word_ptr(DATA + 12))?;
            g.mov(ebx, 0x99)?;
            g.iretd()
        })?;
        let address = g.address(entry);
        put_task(g, address);
        g.mov(ebx, 0x55)?;
        g.mov(ebp, esp)?;
        g.call_far(free(0), 0)?;
        g.sub(ebp, esp)?;
        // Our registers are as they were.
        g.expect(ebx, 0x55)?;
        g.expect(ebp, 0)?;
        g.expect_memory(DATA, 0x77)?;
        g.expect_memory(DATA + 4, OTHER_STACK)?;
        g.expect_memory(DATA + 8, NT | 2)?;
        g.expect_memory(DATA + 12, free(0).into())?;
        g.expect_memory(OTHER + LINK, TSS_SELECTOR.into())?;
        // The other's registers were saved where it left off, and it is available again.
        g.expect_memory(OTHER + 0x34, 0x99)?;
        access(g, free(0))?;
        g.expect(eax, AVAILABLE_TSS.into())?;
        access(g, TSS_SELECTOR)?;
        g.expect(eax, u32::from(AVAILABLE_TSS) | 2)?;
        g.mov(eax, cr0)?;
        g.and(eax, TS_BIT)?;
        g.expect(eax, TS_BIT)
    });
}

#[test]
fn a_jump_to_a_task_leaves_no_way_back_but_another_jump() {
    protected(|g| {
        let entry = g.out_of_line(|g| {
            g.pushfd()?;
            g.pop(dword_ptr(DATA))?;
            g.jmp_far(TSS_SELECTOR, 0)
        })?;
        let address = g.address(entry);
        put_task(g, address);
        g.jmp_far(free(0), 0)?;
        g.expect_memory(DATA, 2)?;
        g.expect_memory(OTHER + LINK, 0)?;
        access(g, free(0))?;
        g.expect(eax, AVAILABLE_TSS.into())
    });
}

#[test]
fn a_task_gate_takes_an_exception_with_its_error_code_to_another_task() {
    protected(|g| {
        let entry = g.out_of_line(|g| {
            g.pop(dword_ptr(DATA))?;
            // The faulting instruction is skipped.
            g.add(dword_ptr(TSS + EIP), 2)?;
            g.iretd()
        })?;
        let address = g.address(entry);
        put_task(g, address);
        g.put_gate(GP, gate(free(0), 0, TASK_GATE, 0));
        g.mov(eax, 0x100)?;
        g.mov(fs, eax)?;
        g.expect_memory(DATA, 0x100)?;
        g.expect_memory(OTHER + ESP, OTHER_STACK)
    });
}

#[test]
fn a_task_that_a_fault_leaves_has_the_resume_flag_and_one_that_an_interrupt_leaves_has_not() {
    const VECTOR: u8 = 0x40;
    protected(|g| {
        let mut start = g.create_label();
        let entry = g.out_of_line(|g| {
            g.set_label(&mut start)?;
            // The faulting instruction is skipped.
            g.add(dword_ptr(TSS + EIP), 2)?;
            g.iretd()?;
            g.jmp(start)
        })?;
        let address = g.address(entry);
        put_task(g, address);
        for vector in [UD, VECTOR] {
            g.put_gate(vector, gate(free(0), 0, TASK_GATE, 0));
        }
        g.ud2()?;
        g.mov(eax, dword_ptr(TSS + EFLAGS))?;
        g.and(eax, RF)?;
        g.expect(eax, RF)?;
        g.int(i32::from(VECTOR))?;
        // It is skipped.
        g.ud2()?;
        g.mov(eax, dword_ptr(TSS + EFLAGS))?;
        g.and(eax, RF)?;
        g.expect(eax, 0)
    });
}

#[test]
fn a_fault_of_a_task_that_a_fault_enters_is_a_double_fault() {
    protected(|g| {
        put_task(g, DATA);
        g.put(OTHER + DS, u32::from(CODE_SELECTOR | 3).to_le_bytes());
        g.put_gate(GP, gate(free(0), 0, TASK_GATE, 0));
        g.mov(eax, 0x100)?;
        g.expect_fault(fault(DF).elsewhere(), |g| g.mov(fs, eax))?;
        // In that task.
        g.str(ax)?;
        g.movzx(eax, ax)?;
        g.expect(eax, free(0).into())
    });
}

#[test]
fn page_faults_of_hot_code_go_to_another_task_with_all_registers_as_they_were() {
    const ROOT: u32 = DATA + 0x6000;
    /// Page table entries of 4 MiB.
    const LARGE: u32 = P | RW | PS;
    const WINDOW: u32 = 0x4000_0000;
    /// Offsets in a TSS.
    const CR3: u32 = 0x1c;
    const ECX: u32 = 0x2c;
    const EBX: u32 = 0x34;
    const ROUNDS: u32 = 300;
    protected(|g| {
        let mut start = g.create_label();
        let entry = g.out_of_line(|g| {
            g.set_label(&mut start)?;
            g.pop(dword_ptr(DATA))?;
            // The faulting instruction is skipped.
            g.add(dword_ptr(TSS + EIP), 2)?;
            g.mov(eax, dword_ptr(TSS + EBX))?;
            g.sub(eax, dword_ptr(TSS + ECX))?;
            g.sub(eax, 0x100)?;
            g.or(dword_ptr(DATA + 4), eax)?;
            g.inc(dword_ptr(DATA + 8))?;
            g.mov(ebx, 0x99)?;
            g.mov(ebp, 0x98)?;
            g.cmp(ebx, ebx)?;
            g.iretd()?;
            // Where it is entered again.
            g.jmp(start)
        })?;
        let address = g.address(entry);
        put_task(g, address);
        g.put(OTHER + CR3, ROOT.to_le_bytes());
        g.put(ROOT, LARGE.to_le_bytes());
        g.put(ROOT + 4, (0x40_0000 | LARGE).to_le_bytes());
        g.put_gate(PF, gate(free(0), 0, TASK_GATE, 0));
        g.mov(dword_ptr(TSS + CR3), ROOT)?;
        enable(g, ROOT, PSE)?;
        g.mov(edx, WINDOW)?;
        g.xor(edi, edi)?;
        g.mov(ecx, ROUNDS)?;
        let mut again = g.create_label();
        g.set_label(&mut again)?;
        // Other values in each round.
        g.lea(ebx, dword_ptr(ecx + 0x100))?;
        g.lea(ebp, dword_ptr(ecx + 0x200))?;
        g.stc()?;
        g.mov(eax, dword_ptr(edx))?;
        g.sbb(eax, eax)?;
        g.inc(eax)?;
        g.or(edi, eax)?;
        g.mov(eax, ebx)?;
        g.sub(eax, ecx)?;
        g.sub(eax, 0x100)?;
        g.or(edi, eax)?;
        g.mov(eax, ebp)?;
        g.sub(eax, ecx)?;
        g.sub(eax, 0x200)?;
        g.or(edi, eax)?;
        g.dec(ecx)?;
        g.jnz(again)?;
        g.expect(edi, 0)?;
        g.expect_memory(DATA + 4, 0)?;
        g.expect_memory(DATA + 8, ROUNDS)
    });
}

#[test]
fn tasks_that_cannot_be_entered_are_named() {
    protected(|g| {
        put_task(g, DATA);
        g.put_descriptor(free(1), descriptor(OTHER, 0x67, AVAILABLE_TSS & 0x7f, 0));
        g.put_descriptor(free(2), descriptor(OTHER, 0x66, AVAILABLE_TSS, 0));
        // Our own is busy.
        g.expect_fault(fault(GP).code(TSS_SELECTOR.into()), |g| g.call_far(TSS_SELECTOR, 0))?;
        g.expect_fault(fault(NP).code(free(1).into()), |g| g.call_far(free(1), 0))?;
        g.expect_fault(fault(TS).code(free(2).into()), |g| g.call_far(free(2), 0))
    });
}

#[test]
fn a_return_without_a_task_to_return_to_is_an_invalid_tss() {
    protected(|g| {
        // The link is null.
        g.pushfd()?;
        g.or(dword_ptr(esp), NT)?;
        g.popfd()?;
        g.expect_fault(fault(TS), |g| g.iretd())
    });
}
