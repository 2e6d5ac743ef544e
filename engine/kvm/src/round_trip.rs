//! Tests against the kernel itself: what is set is read back. They need a `/dev/kvm` that answers, not one that runs
//! guests, and so are run where there is one: `cargo test -p tern-kvm -- --ignored`.

use std::sync::Arc;
use std::time::Duration;

use kvm_bindings::KVM_CAP_BINARY_STATS_FD;
use tern_chipset::lapic::LocalApic;
use tern_chipset::pic::Pic;
use tern_engine::{Clock, EngineError, GuestMemory, Standstill as _, Vcpu, VmConfig, VmEntry};
use tern_x86::cpuid::CpuModel;
use tern_x86::state::{
    Activity, Cr0, Cr4, DescriptorTable, Efer, Extended, FpuState, Rflags, Segment, VcpuState, Xcr0,
};
use vm_memory::{Bytes, GuestAddress};

use crate::chipset::{self, power_on};
use crate::host::Host;
use crate::kick::Kicker;
use crate::run_page::Mapping;
use crate::vcpu::{KvmVcpu, lock};
use crate::vm::KvmVm;

/// A machine whose clock stands still.
fn machine() -> (KvmVm, Arc<Clock>) {
    let clock = Arc::new(Clock::new());
    clock.pause();
    let config = VmConfig { cpu_model: CpuModel::default(), cpus: 1, clock: Arc::clone(&clock) };
    let memory = GuestMemory::from_ranges(&[(GuestAddress(0), 0x1_0000)]).unwrap();
    (KvmVm::new(Host::open().unwrap(), &config, memory).unwrap(), clock)
}

/// A kernel in 64-bit mode, waiting in HLT.
fn kernel_state() -> VcpuState {
    let mut state = VcpuState::reset();
    for (value, register) in (0x1234_5678_9abc_0000_u64..).zip(&mut state.gpr) {
        *register = value;
    }
    state.rip = 0xffff_ffff_8100_0000;
    state.rflags = Rflags::FIXED | Rflags::IF;
    for segment in &mut state.segments {
        segment.attributes = tern_x86::state::Attributes::from_bits_retain(0xc93);
        segment.limit = u32::MAX;
    }
    state.segments[1].attributes = tern_x86::state::Attributes::from_bits_retain(0xa9b);
    state.gdtr = DescriptorTable { base: 0xffff_fe00_0000_1000, limit: 0x7f };
    state.idtr = DescriptorTable { base: 0xffff_fe00_0000_0000, limit: 0xfff };
    state.cr0 = Cr0::PE | Cr0::MP | Cr0::ET | Cr0::NE | Cr0::WP | Cr0::AM | Cr0::PG;
    (state.cr2, state.cr3) = (0x7fff_dead_b000, 0x8000);
    state.cr4 = Cr4::PAE | Cr4::OSFXSR | Cr4::PGE;
    state.efer = Efer::LME | Efer::LMA | Efer::SCE | Efer::NXE;
    state.dr = [0x1000, 0x2000, 0x3000, 0x4000];
    state.msrs.lstar = 0xffff_ffff_8180_0000;
    state.msrs.star = 0x0023_0010_0000_0000;
    state.msrs.kernel_gs_base = 0xffff_8880_0000_0000;
    state.msrs.mtrr_def_type = 0xc06;
    let mut fpu = FpuState::new();
    fpu.set_xmm(7, 0x0011_2233_4455_6677_8899_aabb_ccdd_eeff);
    state.fpu = fpu;
    state.pending.nmi_blocked = true;
    state.activity = Activity::Halted;
    state
}

#[test]
#[ignore = "needs a /dev/kvm"]
fn a_processors_state_comes_back_from_the_kernel() {
    let (vm, _) = machine();
    let (mut vcpu, _) = vm.make_vcpu(0).unwrap();
    for mut state in [VcpuState::reset(), kernel_state()] {
        vcpu.set_state(&state);
        let mut back = vcpu.state();
        // The counter goes on while it is read, and the host need not keep the first of these registers, nor give up the
        // second.
        back.msrs.tsc_offset = 0;
        state.msrs.misc_enable = back.msrs.misc_enable;
        state.msrs.arch_capabilities = back.msrs.arch_capabilities;
        assert_eq!(back, state);
    }
}

/// A processor in real mode that executes this at 0x7c00.
fn real_mode(code: &[u8]) -> (KvmVm, KvmVcpu) {
    let config = VmConfig { cpu_model: CpuModel::default(), cpus: 1, clock: Arc::new(Clock::new()) };
    let memory = GuestMemory::from_ranges(&[(GuestAddress(0), 0xa_0000)]).unwrap();
    memory.write_slice(code, GuestAddress(0x7c00)).unwrap();
    let vm = KvmVm::new(Host::open().unwrap(), &config, memory).unwrap();
    let (mut vcpu, _) = vm.make_vcpu(0).unwrap();
    let mut state = VcpuState { rip: 0x7c00, ..VcpuState::reset() };
    state.segments[1] = Segment { attributes: state.segments[1].attributes, ..Segment::real_mode(0) };
    vcpu.set_state(&state);
    (vm, vcpu)
}

#[test]
#[ignore = "needs a /dev/kvm"]
fn a_guest_that_runs_where_there_is_no_memory_ends_with_its_registers_and_what_kvm_says() {
    // mov bx, 0x1234; jmp 0xb000:0
    let (_vm, mut vcpu) = real_mode(&[0xbb, 0x34, 0x12, 0xea, 0, 0, 0, 0xb0]);
    match vcpu.run(VmEntry::Resume) {
        Err(EngineError::GaveUp { reason, state }) => {
            assert!(reason.contains("KVM cannot run processor 0") && reason.contains("emulate"), "{reason}");
            assert_eq!((state.segments[1].selector, state.rip, state.gpr[3]), (0xb000, 0, 0x1234));
        }
        other => panic!("{other:?}"),
    }
}

/// The signal that kicks, sent to this thread again and again by a timer of the kernel, whatever the thread is doing.
struct Signals(libc::timer_t);

impl Signals {
    fn every(period: Duration) -> Self {
        let period = libc::timespec { tv_sec: 0, tv_nsec: period.subsec_nanos().into() };
        let times = libc::itimerspec { it_interval: period, it_value: period };
        let mut timer = std::ptr::null_mut();
        // SAFETY: all zeros is a valid sigevent; what is pointed to lives until each call returns.
        let started = unsafe {
            let mut event: libc::sigevent = std::mem::zeroed();
            event.sigev_notify = libc::SIGEV_THREAD_ID;
            event.sigev_signo = libc::SIGRTMIN();
            event.sigev_notify_thread_id = libc::gettid();
            libc::timer_create(libc::CLOCK_MONOTONIC, &raw mut event, &raw mut timer) == 0
                && libc::timer_settime(timer, 0, &raw const times, std::ptr::null_mut()) == 0
        };
        assert!(started, "{}", std::io::Error::last_os_error());
        Self(timer)
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        // SAFETY: the timer exists, and nothing else knows of it.
        unsafe { libc::timer_delete(self.0) };
    }
}

#[test]
#[ignore = "needs a /dev/kvm"]
fn a_machine_is_made_whatever_signals_come_meanwhile() {
    let (vm, _) = machine();
    let (_, fd) = vm.make_vcpu(0).unwrap();
    let host = Host::open().unwrap();
    let page = || Mapping::new(&*lock(&fd), host.kvm().get_vcpu_mmap_size().unwrap()).unwrap();
    let kicker = Kicker::new(Arc::new(page())).unwrap();
    let _inside = kicker.entering();
    // The kernel minds signals while it locks each of the process's mappings: a moment that these make longer.
    let _mappings: Vec<_> = (0..1000).map(|_| page()).collect();
    let _signals = Signals::every(Duration::from_millis(1));
    for _ in 0..200 {
        host.create_vm().unwrap();
    }
}

#[test]
#[ignore = "needs a /dev/kvm"]
fn the_kernel_counts_what_it_did_for_the_guest() {
    // out 0xf4, al; out 0xf4, al
    let (_vm, mut vcpu) = real_mode(&[0xe6, 0xf4, 0xe6, 0xf4]);
    for _ in 0..2 {
        vcpu.run(VmEntry::Resume).unwrap();
    }
    let statistics = vcpu.statistics();
    if Host::open().unwrap().kvm().check_extension_raw(KVM_CAP_BINARY_STATS_FD.into()) == 0 {
        return;
    }
    let counted = |name| statistics.engine.iter().find(|(known, _)| *known == name).unwrap().1;
    assert!(counted("kvm-exits") >= 2, "{statistics:?}");
}

#[test]
#[ignore = "needs a /dev/kvm"]
fn kvm_clock_and_the_local_apics_timer_stand_still_with_the_machines_clock() {
    let (vm, clock) = machine();
    let (_, fd) = vm.make_vcpu(0).unwrap();
    clock.resume();
    let now = clock.now();
    let mut apic = power_on::lapic(0);
    apic.svr = 0x1ff;
    apic.lvt[0] = 0xec;
    // 100 s at most, of which nothing may pass during the pause.
    apic.timer.divide_configuration = 0b1010;
    apic.timer.initial_count = 1_000_000_000;
    apic.timer.expiry = Some(now + tern_chipset::Time::from_nanos(100_000_000_000));
    chipset::set_lapic(&lock(&fd), &apic, now).unwrap();
    let kvm_clock = || vm.fd().get_clock().unwrap().clock;
    let left = || chipset::lapic(&lock(&fd), clock.now()).unwrap().timer.expiry.unwrap() - clock.now();
    let (began, clock_before, left_before) = (std::time::Instant::now(), kvm_clock(), left());
    vm.pause_time().unwrap();
    clock.pause();
    let pause = std::time::Instant::now();
    std::thread::sleep(std::time::Duration::from_millis(300));
    let paused = pause.elapsed();
    clock.resume();
    vm.resume_time().unwrap();
    let (clock_after, left_after) = (kvm_clock(), left());
    let most = u64::try_from((began.elapsed() - paused).as_nanos()).unwrap();
    assert!(clock_after >= clock_before && clock_after - clock_before <= most, "kvm-clock");
    assert!((left_before - left_after).as_nanos() <= most, "the timer");
}

#[test]
#[ignore = "needs a /dev/kvm"]
fn the_controllers_states_come_back_from_the_kernel() {
    let (vm, clock) = machine();
    let (_, fd) = vm.make_vcpu(0).unwrap();
    let mut pic = Pic::new();
    for (port, value) in [(0x20, 0x11), (0x21, 0x30), (0x21, 0x04), (0x21, 0x01), (0x21, 0xfe), (0x4d1, 0x0c)]
    {
        pic.write(port, value);
    }
    let mut ioapic = power_on::ioapic();
    ioapic.redirection[9] = 0x0100_0000_0001_8031;
    chipset::set_lines(vm.fd(), &pic.save(), &ioapic).unwrap();
    assert_eq!(chipset::lines(vm.fd()).unwrap(), (pic.save(), ioapic));

    chipset::set_pit(vm.fd(), &power_on::pit(), clock.now()).unwrap();
    assert_eq!(chipset::pit(vm.fd(), clock.now()).unwrap(), power_on::pit());

    let mut apic = power_on::lapic(0);
    apic.svr = 0x1ff;
    apic.lvt[0] = 0x0001_00ec;
    apic.tpr = 0x20;
    apic.isr.insert(0x31);
    chipset::set_lapic(&lock(&fd), &apic, clock.now()).unwrap();
    let back = chipset::lapic(&lock(&fd), clock.now()).unwrap();
    assert_eq!(back, apic);
    LocalApic::new(0, true).restore(&back).unwrap();
}

#[test]
#[ignore = "needs a /dev/kvm"]
fn what_a_hosts_own_processor_has_beyond_the_models_comes_back_and_a_reset_clears_it() {
    /// MISC_FEATURES_ENABLES: CPUID faults outside of the kernel.
    const CPUID_FAULTING: (u32, u64) = (0x140, 1);
    let cpu_model = CpuModel::by_name("host").unwrap();
    let config = VmConfig { cpu_model, cpus: 1, clock: Arc::new(Clock::paused_at(tern_chipset::Time::ZERO)) };
    let memory = GuestMemory::from_ranges(&[(GuestAddress(0), 0x1_0000)]).unwrap();
    let host = Host::open().unwrap();
    let leaf = |function, index| {
        host.supported_cpuid().iter().find(|leaf| (leaf.function, leaf.index) == (function, index))
    };
    // XSAVE, and AVX's component.
    let has_avx = leaf(1, 0).is_some_and(|leaf| leaf.ecx & 1 << 26 != 0)
        && leaf(0xd, 0).is_some_and(|leaf| leaf.eax & 1 << 2 != 0);
    let vm = KvmVm::new(host, &config, memory).unwrap();
    let (mut vcpu, _) = vm.make_vcpu(0).unwrap();
    let new = vcpu.state();
    assert_eq!(new.extended, Extended::default());
    let mut state = new.clone();
    state.extended.msrs.push(CPUID_FAULTING);
    if has_avx {
        state.xcr0 = Xcr0::from_bits_retain(7);
        state.fpu.set_xmm(3, 0x1234);
        state.fpu.ymm_mut().copy_from_slice(&std::array::from_fn::<u8, 256, _>(|at| at as u8 | 1));
    }
    for state in [state, new] {
        vcpu.set_state(&state);
        let mut back = vcpu.state();
        back.msrs.tsc_offset = state.msrs.tsc_offset;
        assert_eq!(back, state);
    }
}
