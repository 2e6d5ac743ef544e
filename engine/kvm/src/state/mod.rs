//! A processor's state, between KVM's structures and [`VcpuState`].
//!
//! `registers` holds what is pure translation, `beyond` what only hosts' own processors have; here are the calls in the order that KVM needs: CPUID before all (it decides
//! which bits exist), control registers before what they enable, pending events last.

mod beyond;
mod msrs;
mod registers;

use kvm_bindings::{
    KVM_MP_STATE_HALTED, KVM_MP_STATE_INIT_RECEIVED, KVM_MP_STATE_RUNNABLE, KVM_MP_STATE_SIPI_RECEIVED,
    KVM_MP_STATE_UNINITIALIZED, KVM_VCPUEVENT_VALID_NMI_PENDING, KVM_VCPUEVENT_VALID_SHADOW,
    KVM_X86_SHADOW_INT_MOV_SS, KVM_X86_SHADOW_INT_STI, kvm_mp_state, kvm_vcpu_events, kvm_xcrs,
};
use kvm_ioctls::VcpuFd;
use tern_engine::EngineError;
use tern_x86::paravirtual::msr::ENABLE;
use tern_x86::state::{Activity, Component, Delivery, Extended, PendingEvent, Rflags, VcpuState, Xcr0};

use crate::host::refused;

/// What the state's translation depends on.
#[derive(Debug, Clone, Copy)]
pub struct Abilities<'a> {
    /// The guest has XSAVE, and so XCR0.
    pub xsave: bool,
    /// Which model-specific registers there are.
    pub msrs: msrs::Optional,
    /// What the guest's TSC would show if nobody had ever changed it, now: the machine's clock in its ticks.
    pub base_tsc: u64,
    /// What the processor has beyond the named models, if it is a host's own.
    pub beyond: Option<&'a Beyond>,
}

pub use beyond::{Beyond, has_xsave};
pub use msrs::Optional;

/// Reads the whole state. `activity` is told by KVM, except for a shutdown.
///
/// # Errors
/// The kernel refuses.
pub fn get(fd: &VcpuFd, abilities: &Abilities<'_>) -> Result<VcpuState, EngineError> {
    let mut state = VcpuState::reset();
    registers::from_regs(&fd.get_regs().map_err(refused("read a processor's registers"))?, &mut state);
    registers::from_sregs(&fd.get_sregs().map_err(refused("read a processor's segments"))?, &mut state);
    let debug = fd.get_debug_regs().map_err(refused("read a processor's debug registers"))?;
    registers::from_debug(&debug, &mut state);
    let xsave = fd.get_xsave().map_err(refused("read a processor's vector registers"))?;
    state.fpu = registers::from_xsave(&xsave);
    if let Some(beyond) = abilities.beyond {
        state.extended = beyond.get(fd, &xsave);
        state.extended.give_avx_to(&mut state.fpu);
    }
    if abilities.xsave {
        let xcrs = fd.get_xcrs().map_err(refused("read XCR0"))?;
        state.xcr0 = Xcr0::from_bits_retain(xcrs.xcrs.first().map_or(1, |xcr| xcr.value));
    }
    msrs::get(fd, abilities, &mut state.msrs)?;
    let events = fd.get_vcpu_events().map_err(refused("read a processor's pending events"))?;
    state.pending = PendingEvent {
        nmi: events.nmi.pending != 0,
        interrupt_shadow: events.interrupt.shadow != 0,
        debug_shadow: debug_shadow(events.interrupt.shadow),
        nmi_blocked: events.nmi.masked != 0,
        delivery: delivery(&events),
        woken: false,
    };
    let activity = fd.get_mp_state().map_err(refused("read a processor's activity"))?;
    state.activity = activity_of(activity.mp_state);
    // KVM does not tell. A guest with kvm-clock may also use the hypercall that wakes, and stands one wake too many; it does
    // not stand one that is lost while it is on its way to HLT.
    state.pending.woken = state.activity == Activity::Running && state.msrs.kvm_system_time & ENABLE != 0;
    Ok(state)
}

/// What was on its way to its handler when the processor left the guest.
fn delivery(events: &kvm_vcpu_events) -> Option<Delivery> {
    let exception = &events.exception;
    if exception.injected != 0 || exception.pending != 0 {
        let error_code = (exception.has_error_code != 0).then_some(exception.error_code);
        return Some(Delivery::Exception { vector: exception.nr, error_code });
    }
    if events.nmi.injected != 0 {
        return Some(Delivery::Nmi);
    }
    (events.interrupt.injected != 0).then_some(Delivery::Interrupt { vector: events.interrupt.nr })
}

/// Replaces the whole state, but for the local APIC's.
///
/// # Errors
/// The kernel refuses, or the processor lacks what the state has.
pub fn set(fd: &VcpuFd, abilities: &Abilities<'_>, state: &VcpuState) -> Result<(), EngineError> {
    let mut sregs = fd.get_sregs().map_err(refused("read a processor's segments"))?;
    registers::to_sregs(state, &mut sregs);
    fd.set_sregs(&sregs).map_err(refused("set a processor's segments"))?;
    if abilities.xsave {
        let mut xcrs = kvm_xcrs { nr_xcrs: 1, ..Default::default() };
        xcrs.xcrs[0].value = state.xcr0.bits();
        fd.set_xcrs(&xcrs).map_err(refused("set XCR0"))?;
    }
    let mut xsave = registers::to_xsave(&state.fpu);
    match abilities.beyond {
        Some(beyond) => {
            beyond.put(Component::of_avx(&state.fpu).as_slice(), &mut xsave)?;
            beyond.put(&state.extended.components, &mut xsave)?;
            beyond.set(fd, &state.extended)?;
        }
        None if state.extended != Extended::default() || Component::of_avx(&state.fpu).is_some() => {
            return Err(EngineError::Unsupported(
                "the processor's state has registers beyond its model".into(),
            ));
        }
        None => {}
    }
    // SAFETY: the kernel reads more than these 4096 bytes only if a larger area was enabled for guests (`arch_prctl`),
    // which nothing in this process does.
    unsafe { fd.set_xsave(&xsave) }.map_err(refused("set a processor's vector registers"))?;
    msrs::set(fd, abilities, &state.msrs)?;
    fd.set_regs(&registers::to_regs(state)).map_err(refused("set a processor's registers"))?;
    let debug = registers::to_debug(state);
    fd.set_debug_regs(&debug).map_err(refused("set a processor's debug registers"))?;
    let events = events(&state.pending, state.rflags);
    fd.set_vcpu_events(&events).map_err(refused("set a processor's pending events"))?;
    let activity = kvm_mp_state { mp_state: mp_state(state.activity) };
    fd.set_mp_state(activity).map_err(refused("set a processor's activity"))
}

/// Whether a shadow is that of MOV SS. AMD's processors do not tell it from that of STI, and KVM then says that it is both.
fn debug_shadow(shadow: u8) -> Option<u64> {
    // KVM does not tell which breakpoints were met.
    (u32::from(shadow) == KVM_X86_SHADOW_INT_MOV_SS).then_some(0)
}

fn events(pending: &PendingEvent, rflags: Rflags) -> kvm_vcpu_events {
    let mut events = kvm_vcpu_events {
        flags: KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SHADOW,
        ..Default::default()
    };
    events.nmi.pending = pending.nmi.into();
    events.nmi.masked = pending.nmi_blocked.into();
    match pending.delivery {
        Some(Delivery::Exception { vector, error_code }) => {
            events.exception.injected = 1;
            events.exception.nr = vector;
            events.exception.has_error_code = error_code.is_some().into();
            events.exception.error_code = error_code.unwrap_or(0);
        }
        Some(Delivery::Interrupt { vector }) => {
            events.interrupt.injected = 1;
            events.interrupt.nr = vector;
        }
        Some(Delivery::Nmi) => {
            events.nmi.injected = 1;
            events.nmi.masked = 1;
        }
        None => {}
    }
    events.interrupt.shadow = match pending.debug_shadow {
        _ if !pending.interrupt_shadow => 0,
        None if rflags.contains(Rflags::IF) => KVM_X86_SHADOW_INT_STI as u8,
        // The shadow of STI may stand with RFLAGS.IF only; that of MOV SS always, and it holds off interrupts as well.
        _ => KVM_X86_SHADOW_INT_MOV_SS as u8,
    };
    events
}

/// A shutdown is none of KVM's states: the engine remembers it by itself.
const fn mp_state(activity: Activity) -> u32 {
    match activity {
        Activity::Running | Activity::Shutdown => KVM_MP_STATE_RUNNABLE,
        Activity::Halted => KVM_MP_STATE_HALTED,
        Activity::WaitForSipi => KVM_MP_STATE_INIT_RECEIVED,
    }
}

const fn activity_of(mp_state: u32) -> Activity {
    match mp_state {
        KVM_MP_STATE_HALTED => Activity::Halted,
        KVM_MP_STATE_UNINITIALIZED | KVM_MP_STATE_INIT_RECEIVED | KVM_MP_STATE_SIPI_RECEIVED => {
            Activity::WaitForSipi
        }
        _ => Activity::Running,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn activities_that_kvm_knows_come_back() {
        for activity in [Activity::Running, Activity::Halted, Activity::WaitForSipi] {
            assert_eq!(activity_of(mp_state(activity)), activity);
        }
    }

    #[test]
    fn what_is_on_its_way_comes_back() {
        for on_its_way in [
            Delivery::Exception { vector: 14, error_code: Some(7) },
            Delivery::Exception { vector: 6, error_code: None },
            Delivery::Interrupt { vector: 0xec },
            Delivery::Nmi,
        ] {
            let pending = PendingEvent { delivery: Some(on_its_way), ..PendingEvent::default() };
            assert_eq!(delivery(&events(&pending, Rflags::FIXED)), Some(on_its_way));
        }
        assert_eq!(delivery(&events(&PendingEvent::default(), Rflags::FIXED)), None);
    }

    #[test]
    fn the_shadows_of_sti_and_of_mov_ss_come_back() {
        let sti = PendingEvent { interrupt_shadow: true, ..PendingEvent::default() };
        let mov_ss = PendingEvent { debug_shadow: Some(0), ..sti };
        let shadow = |pending, rflags| events(&pending, rflags).interrupt.shadow;
        assert_eq!(debug_shadow(shadow(sti, Rflags::FIXED | Rflags::IF)), None);
        assert_eq!(debug_shadow(shadow(mov_ss, Rflags::FIXED | Rflags::IF)), Some(0));
        assert_eq!(debug_shadow(shadow(mov_ss, Rflags::FIXED)), Some(0));
        assert_ne!(shadow(sti, Rflags::FIXED), KVM_X86_SHADOW_INT_STI as u8);
    }

    #[test]
    fn events_are_replaced_also_when_nothing_waits() {
        let none = events(&PendingEvent::default(), Rflags::FIXED);
        assert_eq!(none.flags, KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SHADOW);
        assert_eq!((none.nmi.pending, none.nmi.masked, none.interrupt.shadow), (0, 0, 0));
    }
}
