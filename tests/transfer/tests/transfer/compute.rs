//! A computation in which every register counts: at whatever instruction the machine leaves, the result is the same.

use iced_x86::code_asm::{
    cr4, eax, ecx, edx, ptr, qword_ptr, r8, r9, r10, r11, r12, r13, r14, r15, rax, rbp, rbx, rcx, rdi, rdx,
    rsi, st0, st1, xmm0, xmm1, xmm2, xmm15, ymm0, ymm1, ymm2, ymm15, ymmword_ptr,
};
use tern_engine::Engine;
use tern_test_kernels::long::{build, frame};
use tern_test_kernels::run::Setup;
use tern_test_transfer::{Arrival, Journey, seeds};
use tern_vmm::boot::KernelKind;
use tern_vmm::config::{CpuModel, MachineConfig};
use tern_vmm::machine::End;

use super::{PATIENCE, journeys, name, on_this_host};

/// How often the computation goes round.
const ROUNDS: u32 = 1_200_000;
/// Departures of one journey.
const DEPARTURES: usize = 12;

/// A generator whose numbers go through every general register, the flags, SSE and x87 registers, the stack and string
/// instructions; all of them are reported at the end.
fn guest() -> Vec<u8> {
    let (image, _) = build(|g| {
        let buffer = frame(2);
        g.mov(rax, 0x1234_5678_9abc_def1_u64)?;
        for register in [rbx, rdx, rbp, rsi, rdi, r8, r9, r10, r11, r12, r14, r15] {
            g.xor(register, register)?;
        }
        g.fninit()?;
        g.fldz()?;
        g.mov(r13, u64::from(ROUNDS))?;
        let mut round = g.create_label();
        g.set_label(&mut round)?;
        g.mov(rcx, 6_364_136_223_846_793_005_u64)?;
        g.imul_2(rax, rcx)?;
        g.stc()?;
        g.adc(rax, 0x1337)?;
        // The flags.
        g.pushfq()?;
        g.pop(rcx)?;
        g.add(rbx, rcx)?;
        g.rol(rbx, 7)?;
        // General registers, each made of its neighbour.
        g.xor(rdx, rax)?;
        g.lea(rbp, ptr(rbp + rdx * 2 + 5))?;
        g.add(r8, rbp)?;
        g.xor(r9, r8)?;
        g.sub(r10, r9)?;
        g.ror(r10, 3)?;
        g.bswap(r10)?;
        g.add(r11, r10)?;
        g.adc(r12, r11)?;
        g.xor(r14, r12)?;
        g.add(r15, r14)?;
        // SSE.
        g.movq(xmm0, r15)?;
        g.paddq(xmm1, xmm0)?;
        g.pshufd(xmm2, xmm1, 0x4e)?;
        g.pxor(xmm15, xmm2)?;
        // x87: counts by ones, which is exact.
        g.fld1()?;
        g.faddp(st1, st0)?;
        // String instructions over 128 bytes.
        g.mov(rdi, buffer)?;
        g.mov(ecx, 16)?;
        g.rep().stosq()?;
        g.mov(rsi, buffer)?;
        g.mov(rdi, buffer + 256)?;
        g.mov(ecx, 128)?;
        g.rep().movsb()?;
        g.mov(rsi, buffer + 256)?;
        g.add(rdx, qword_ptr(rsi + 64))?;
        g.dec(r13)?;
        g.jnz(round)?;
        for register in [rax, rbx, rdx, rbp, rsi, rdi, r8, r9, r10, r11, r12, r14, r15] {
            g.expect(register, 0)?;
        }
        g.movq(rax, xmm1)?;
        g.expect(rax, 0)?;
        g.movq(rax, xmm15)?;
        g.expect(rax, 0)?;
        g.mov(rsi, buffer)?;
        g.fistp(qword_ptr(rsi))?;
        g.mov(rax, qword_ptr(rsi))?;
        g.expect(rax, u64::from(ROUNDS))?;
        g.xor(eax, eax)
    });
    image
}

/// The same of [`wide_guest`], whose rounds are shorter.
const WIDE_ROUNDS: u32 = 12_000_000;

/// Numbers that go through YMM registers, with SSE between. They are reported at the end.
fn wide_guest() -> Vec<u8> {
    let (image, _) = build(|g| {
        g.mov(rax, cr4)?;
        g.or(eax, 1 << 18)?;
        g.mov(cr4, rax)?;
        g.xor(ecx, ecx)?;
        g.xor(edx, edx)?;
        g.mov(eax, 7)?;
        g.xsetbv()?;
        g.mov(rax, 6_364_136_223_846_793_005_u64)?;
        g.mov(qword_ptr(frame(2)), rax)?;
        g.vpbroadcastq(ymm0, qword_ptr(frame(2)))?;
        g.vpxor(ymm1, ymm1, ymm1)?;
        g.vpxor(ymm15, ymm15, ymm15)?;
        g.mov(r13, u64::from(WIDE_ROUNDS))?;
        let mut round = g.create_label();
        g.set_label(&mut round)?;
        g.vpaddq(ymm1, ymm1, ymm0)?;
        g.vpermq(ymm2, ymm1, 0x39)?;
        g.vpaddd(ymm15, ymm15, ymm2)?;
        g.paddq(xmm1, xmm2)?;
        g.vmovdqu(ymmword_ptr(frame(2) + 40), ymm15)?;
        g.vpxor(ymm1, ymm1, ymmword_ptr(frame(2) + 40))?;
        g.dec(r13)?;
        g.jnz(round)?;
        g.vmovdqu(ymmword_ptr(frame(3)), ymm1)?;
        g.vmovdqu(ymmword_ptr(frame(3) + 32), ymm15)?;
        for n in 0..8 {
            g.expect_memory(frame(3) + 8 * n, 0)?;
        }
        g.xor(eax, eax)
    });
    image
}

fn config(image: &[u8], journey: &Journey) -> MachineConfig {
    let machine = || Setup::new(image.to_vec(), KernelKind::Elf).config();
    MachineConfig { cpu_model: journey.processor(machine), ..machine() }
}

/// What it computes when nobody disturbs it.
fn result(image: &[u8]) -> String {
    let undisturbed =
        Journey { engines: vec![&*tern_test_transfer::SOFT], departures: 0, stay: 0..1, patience: PATIENCE };
    let arrival = undisturbed.travel(config(image, &undisturbed), "", 0);
    assert!(matches!(arrival.end, End::DebugExit(_)), "{:?}", arrival.end);
    assert!(!arrival.output.is_empty());
    arrival.output
}

#[test]
fn a_computation_has_the_same_result_wherever_it_is_interrupted() {
    let image = guest();
    let expected = result(&image);
    for journey in journeys(DEPARTURES, 100..15_000) {
        for seed in seeds(6) {
            check(&journey, &journey.travel(config(&image, &journey), "", seed), &expected);
        }
    }
}

#[test]
fn a_hosts_own_processor_goes_along_to_where_it_exists() {
    let image = guest();
    let Some(journey) = on_this_host(DEPARTURES, 100..15_000) else { return };
    let cpu_model = CpuModel::by_name("host").unwrap();
    let config = || Setup::new(image.clone(), KernelKind::Elf).config();
    for seed in seeds(3) {
        let config = MachineConfig { cpu_model: cpu_model.clone(), ..config() };
        check(&journey, &journey.travel(config, "", seed), &result(&image));
    }
}

#[test]
fn ymm_registers_go_along() {
    let sets = tern_soft::instruction_sets();
    if !sets.contains(tern_soft::InstructionSets::AVX2) {
        eprintln!("not tested: this host has no AVX2");
        return;
    }
    let image = wide_guest();
    let engines: Vec<&dyn Engine> = vec![&*tern_test_transfer::SOFT];
    let journey =
        |departures| Journey { engines: engines.clone(), departures, stay: 100..15_000, patience: PATIENCE };
    let cpu_model = CpuModel::by_name("host").unwrap();
    let config = || MachineConfig {
        cpu_model: cpu_model.clone(),
        ..Setup::new(image.clone(), KernelKind::Elf).config()
    };
    let undisturbed = journey(0).travel(config(), "", 0);
    assert!(!undisturbed.output.is_empty());
    for seed in seeds(4) {
        check(&journey(DEPARTURES), &journey(DEPARTURES).travel(config(), "", seed), &undisturbed.output);
    }
}

fn check(journey: &Journey, arrival: &Arrival, expected: &str) {
    let Arrival { output, end, departures, seed } = arrival;
    let what = format!("{}, seed {seed}, {departures} departures", name(journey));
    assert!(matches!(end, End::DebugExit(_)), "{what}: {end:?}");
    assert_eq!(output, expected, "{what}");
    assert!(*departures > 2, "{what}: it ended before it could leave");
}
