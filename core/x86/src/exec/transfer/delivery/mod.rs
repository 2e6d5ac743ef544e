//! Delivery of exceptions and interrupts to their handlers (APM volume 2, sections 8.2, 8.6 to 8.9).

mod long;
mod protected;
mod real;

pub(super) use long::{inner_stack as inner_stack_pointer, null_stack};
pub(super) use protected::inner_stack;

use crate::environment::{Environment, Processor};
use crate::exception::{Combined, Exception, Stop, Vector};
use crate::state::{Activity, Dr7, Msrs, Rflags};

/// Where an interrupt comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interrupt {
    /// An interrupt controller.
    External,
    /// The NMI line: further ones are held back until IRET.
    Nmi,
    /// INT n, INT3 or INTO: the gate's privilege level counts.
    Software,
    /// INT1: as an exception, whatever the gate's privilege level.
    Debug,
}

/// What is delivered.
#[derive(Debug, Clone, Copy)]
struct Event {
    vector: u8,
    error_code: Option<u32>,
    /// The gate must be open to the current privilege level.
    checks_privilege: bool,
    /// The EXT bit of error codes of exceptions during the delivery.
    ext: u32,
    /// RF is set in the pushed flags, so that the instruction can be repeated past its own breakpoint.
    sets_rf: bool,
}

impl Event {
    const fn exception(exception: Exception) -> Self {
        use Vector::{Bp, Db, Df, Nmi, Of};
        Self {
            vector: exception.vector as u8,
            error_code: exception.error_code,
            checks_privilege: false,
            ext: 1,
            sets_rf: !matches!(exception.vector, Db | Bp | Of | Nmi | Df),
        }
    }

    /// The error code that names this event's gate.
    const fn gate_code(&self) -> u32 {
        (self.vector as u32) << 3 | 2 | self.ext
    }

    /// The flags to push.
    fn flags<E>(&self, p: &Processor<E>) -> u64 {
        let mut flags = p.cpu.rflags();
        if self.sets_rf {
            flags |= Rflags::RF;
        }
        flags.bits()
    }
}

/// How many exceptions one delivery may lead to before the processor's owner gets control back. A handler's stack that
/// faults with the exception it handles would keep a processor here for ever.
const ROUNDS: usize = 4;

/// Delivers an exception, with whatever other exceptions that leads to; after some of them, or once a task was entered, the next is
/// left in `cpu.deferred`. `cpu.rip` is the pointer to push: for faults the instruction's own. If even a double fault cannot be
/// delivered, the processor shuts down.
///
/// # Errors
/// Only [`Stop::Exit`]: a table or the stack lies in a device that must answer first. The same delivery is to be asked
/// for again.
pub fn deliver_exception<E: Environment>(p: &mut Processor<E>, exception: Exception) -> Result<(), Stop> {
    let mut exception = exception;
    for _ in 0..ROUNDS {
        record(p, exception);
        match deliver(p, Event::exception(exception)) {
            Ok(()) => {
                // A fault of a task that was entered is still one of the delivery, but for the trap that the task asks for. The task
                // stays entered, so what comes of the fault is another delivery.
                if let Some(second) = p.cpu.deferred.take_if(|second| second.vector != Vector::Db) {
                    p.cpu.deferred = combine(p, exception, second);
                }
                return Ok(());
            }
            Err(Stop::Exception) => match combine(p, exception, p.cpu.exception) {
                Some(combined) => exception = combined,
                None => return Ok(()),
            },
            Err(stop) => return Err(stop),
        }
    }
    p.cpu.deferred = Some(exception);
    Ok(())
}

/// What is to be delivered after the delivery of `first` has raised `second`; nothing if the processor shuts down.
fn combine<E>(p: &mut Processor<E>, first: Exception, second: Exception) -> Option<Exception> {
    match second.during(first) {
        Combined::Serial => Some(second),
        Combined::DoubleFault => {
            record(p, second);
            Some(Exception::with_code(Vector::Df, 0))
        }
        Combined::Shutdown => {
            p.cpu.activity = Activity::Shutdown;
            None
        }
    }
}

/// Delivers an interrupt. `cpu.rip` points to the next instruction. An external interrupt whose delivery faults is lost to
/// the exception, as in the hardware.
///
/// # Errors
/// [`Stop::Exit`] as for [`deliver_exception`]. For software interrupts also [`Stop::Exception`]: the instruction faults.
pub fn deliver_interrupt<E: Environment>(
    p: &mut Processor<E>,
    vector: u8,
    source: Interrupt,
) -> Result<(), Stop> {
    let software = source == Interrupt::Software;
    let event = Event {
        vector,
        error_code: None,
        checks_privilege: software,
        ext: u32::from(!software),
        sets_rf: false,
    };
    match deliver(p, event) {
        Err(Stop::Exception) if matches!(source, Interrupt::External | Interrupt::Nmi) => {
            let exception = p.cpu.exception;
            deliver_exception(p, exception)?;
        }
        other => other?,
    }
    match source {
        Interrupt::Nmi => p.cpu.pending.nmi_blocked = true,
        Interrupt::Debug => enter_debugger(p),
        _ => {}
    }
    Ok(())
}

/// Writes the registers that tell an exception's handler more: CR2, DR6.
fn record<E>(p: &mut Processor<E>, exception: Exception) {
    match exception.vector {
        Vector::Pf => p.cpu.cr2 = exception.payload,
        Vector::Db => {
            p.cpu.dr6.note(exception.payload);
            enter_debugger(p);
        }
        _ => {}
    }
}

/// The handler of #DB may use the debug registers, and asks anew for steps by branches.
fn enter_debugger<E>(p: &mut Processor<E>) {
    p.cpu.dr7 -= Dr7::GD;
    p.cpu.msrs.debug_ctl &= !Msrs::BTF;
}

/// One attempt at a delivery.
fn deliver<E: Environment>(p: &mut Processor<E>, event: Event) -> Result<(), Stop> {
    if p.cpu.long_mode() {
        long::deliver(p, event)?;
    } else if p.cpu.protected() || p.cpu.virtual_8086() {
        protected::deliver(p, event)?;
    } else {
        real::deliver(p, event)?;
    }
    p.cpu.pending.interrupt_shadow = false;
    p.cpu.pending.debug_shadow = None;
    p.cpu.activity = Activity::Running;
    Ok(())
}

/// The flags after entry through a gate; an interrupt gate also clears IF.
fn enter_flags<E>(p: &mut Processor<E>, interrupt_gate: bool) {
    p.cpu.system_flags -= Rflags::TF | Rflags::NT | Rflags::RF | Rflags::VM;
    if interrupt_gate {
        p.cpu.system_flags -= Rflags::IF;
    }
}
