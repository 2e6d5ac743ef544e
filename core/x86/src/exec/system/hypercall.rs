//! VMCALL and VMMCALL: hypercalls of KVM's interface ([`paravirtual`](crate::paravirtual)). Guests choose the instruction by
//! the processor's vendor, or by habit; both are the same here.

use crate::cpu::word::{RAX, RBX, RCX, RDX, RSI};
use crate::cpu::{Mode, Word};
use crate::decode::Op;
use crate::environment::{Environment, Processor};
use crate::exception::Stop;
use crate::paravirtual::hypercall::{ENOSYS, EPERM, KICK_CPU, SCHED_YIELD, SEND_IPI};

/// VMCALL and VMMCALL.
pub(crate) fn hypercall<E: Environment>(p: &mut Processor<E>, _: &Op<E>) -> Result<(), Stop> {
    let long = p.cpu.mode.contains(Mode::LONG);
    let argument = |n: usize| if long { p.cpu.gpr[n] } else { p.cpu.gpr[n] & 0xffff_ffff };
    let [number, first, second, third, fourth] = [RAX, RBX, RCX, RDX, RSI].map(argument);
    let result = if p.cpu.cpl == 0 {
        match number {
            KICK_CPU => {
                p.env.wake(u32::truncate(second));
                0
            }
            SEND_IPI => {
                let bits = if long { 64 } else { 32 };
                let receivers = u128::from(first) | u128::from(second) << bits;
                send(&mut p.env, receivers, u32::truncate(third), u32::truncate(fourth))
            }
            // The host's scheduler knows better.
            SCHED_YIELD => 0,
            _ => ENOSYS,
        }
    } else {
        EPERM
    };
    p.cpu.gpr[RAX] = if long { result } else { result & 0xffff_ffff };
    Ok(())
}

/// How many of `receivers`, whose bits begin at the APIC ID `first`, got the interrupt.
fn send<E: Environment>(env: &mut E, receivers: u128, first: u32, icr: u32) -> u64 {
    let all = (0..u128::BITS).filter(|bit| receivers >> bit & 1 != 0);
    all.filter(|bit| env.send_interrupt(first.wrapping_add(*bit), icr)).map(|_| 1).sum()
}
