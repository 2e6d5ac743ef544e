//! Delivery in real mode, through the interrupt vector table (APM volume 2, section 8.6).

use super::Event;
use crate::environment::{Environment, Processor};
use crate::exception::{Exception, Stop};
use crate::exec::transfer::stack::Stack;
use crate::state::{Rflags, SegmentRegister};

pub(super) fn deliver<E: Environment>(p: &mut Processor<E>, event: Event) -> Result<(), Stop> {
    let offset = u16::from(event.vector) * 4;
    if offset + 3 > p.cpu.idtr.limit {
        return Err(p.cpu.raise(Exception::general_protection(event.gate_code())));
    }
    let address = p.cpu.idtr.base.wrapping_add(u64::from(offset)) & 0xffff_ffff;
    let target = p.env.load_system::<u32>(&mut p.cpu, address)?;
    let mut stack = Stack::current(&p.cpu);
    // RF has no place in the 16 bits that are pushed.
    for value in [p.cpu.rflags().bits(), u64::from(p.cpu.segment(SegmentRegister::Cs).selector), p.cpu.rip] {
        stack.push(p, 2, value)?;
    }
    stack.commit(&mut p.cpu);
    p.cpu.system_flags -= Rflags::IF | Rflags::TF | Rflags::RF | Rflags::AC;
    let selector = (target >> 16) as u16;
    let segment = p.cpu.real_mode_segment(SegmentRegister::Cs, selector);
    p.cpu.segments[SegmentRegister::Cs as usize] = segment;
    p.cpu.rip = u64::from(target & 0xffff);
    p.cpu.derive_mode();
    Ok(())
}
