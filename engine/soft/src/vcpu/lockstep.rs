//! Lockstep: translated code and the interpreter do the same on trial, and both must agree before the interpreter does it for
//! good.

use std::thread;
use std::time::Duration;

use tern_x86::environment::Processor;
use tern_x86::exception::Stop;
use tern_x86::state::{Activity, Rflags};

use super::SoftVcpu;
use crate::blocks::{Block, Origins};
use crate::environment::SoftEnvironment;
use crate::ram::PAGE;
use crate::translator::{
    self, Defined, End, Exit, MAX_TRACE_INSTRUCTIONS, Scanner, Translated, compare, scan,
};

impl SoftVcpu {
    /// Runs a block's unit on trial, has the interpreter do the same, and then do it for good. If the
    /// trials differ, that is noted and the machine is made to end.
    pub(super) fn run_verified(&mut self, block: *mut Block, unit: Translated) -> Result<Exit, Stop> {
        // SAFETY: the environment gave the block, and nothing was asked of it since.
        let origins = unsafe { (*block).origins() };
        let end = |p: &Processor<SoftEnvironment>, stopped: bool| End {
            cpu: Box::new(p.cpu.clone()),
            exception: stopped.then_some(p.cpu.exception),
        };
        let ran_to =
            |p: &Processor<SoftEnvironment>, end: &End| end.exception.is_none() && p.cpu.rip == end.cpu.rip;
        let p = &mut *self.p;
        let before = p.cpu.clone();
        let entry = p.env.entry(&p.cpu, block, unit, false);
        let route = p.env.translator.route(unit);
        let code_bytes = p.env.code_bytes(&mut p.cpu).unwrap_or_default();
        p.env.begin_trial();
        // SAFETY: the processor is on its stage, and nothing refers to it; the unit was current when its block was looked
        // up, and nothing was dropped since.
        let (exit, instructions) = unsafe { translator::run(self.p.top(), entry, i32::MAX) };
        let p = &mut *self.p;
        p.env.rewind_trial();
        let translated = end(p, exit == Exit::Exception);
        p.cpu.clone_from(&before);
        let (mut defined, mut predictable) = (Defined::all(), true);
        let (mut done, mut ran) = (0, Ok(()));
        // Where a unit breaks off in its middle, it has counted nothing, or what it left to the interpreter as well.
        let broken_off = instructions == 0 || exit == Exit::Interpret;
        let limit = if instructions == 0 { MAX_TRACE_INSTRUCTIONS as u64 } else { instructions };
        let (mut path, mut code) = (Vec::new(), (before.rip & !(PAGE - 1), code_bytes.clone()));
        while done < limit && ran.is_ok() && !(broken_off && ran_to(p, &translated)) {
            if p.cpu.rip & !(PAGE - 1) != code.0 {
                code = (p.cpu.rip & !(PAGE - 1), p.env.code_bytes(&mut p.cpu).unwrap_or_default());
            }
            let bytes = code.1.get((p.cpu.rip % PAGE) as usize..).unwrap_or_default();
            path.push(bytes.first_chunk::<8>().copied().unwrap_or_default());
            let Some(next) = defined.after(bytes, &p.cpu) else {
                predictable = false;
                break;
            };
            ran = Self::interpret_one(p).map(drop);
            if ran.is_ok() {
                (defined, done) = (next, done + 1);
            }
        }
        let pages = p.env.end_trial();
        let interpreted = end(p, ran == Err(Stop::Exception));
        // What is dead where control leaves its page is not known.
        let same_page = (p.cpu.rip ^ before.rip) < PAGE;
        let page = code_bytes.get(..PAGE as usize).unwrap_or_default();
        let flags = if exit != Exit::Exception && same_page {
            let mut scanner = Scanner::default();
            let unit = match exit {
                Exit::Interpret => {
                    let offset = (before.rip % PAGE) as usize;
                    scan(&mut scanner, &mut p.env, before.mode, page, offset, route, |_, _| false)
                }
                _ => None,
            };
            defined.live(unit.as_ref(), page, p.cpu.mode, (p.cpu.rip % PAGE) as usize)
        } else {
            Rflags::empty()
        };
        let differs = compare(&translated, &interpreted, flags);
        let same_code = || !p.env.has_several_processors() || stay_current(origins);
        let counts = |_: &String| predictable && same_code();
        if let Some(what) = differs.or_else(|| pages.difference()).filter(counts) {
            self.disagreement = Some(format!(
                "the translator and the interpreter disagree about the code at {:#x} after {done} instructions \
                 (exit {exit:?}):\n{what}\n  instructions: {path:02x?}\n  before: {:x?}",
                before.rip,
                &before.gpr[..16]
            ));
            p.cpu.activity = Activity::Shutdown;
            p.env.unchained = true;
            return Ok(exit);
        }
        // What others wrote meanwhile may lead elsewhere now.
        p.cpu.clone_from(&before);
        p.env.statistics.instructions += done.max(1);
        for _ in 0..done + u64::from(ran.is_err()) {
            Self::interpret_one(p)?;
        }
        Ok(exit)
    }
}

/// Whether nobody has changed the code. Another processor's change is seen before it is known as one: it is waited for.
fn stay_current(origins: Origins) -> bool {
    const STEP: Duration = Duration::from_millis(1);
    const STEPS: usize = 5000;
    (0..STEPS).all(|_| {
        thread::sleep(STEP);
        origins.are_current()
    })
}
