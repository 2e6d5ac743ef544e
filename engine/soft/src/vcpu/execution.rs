//! Executing code: block after block, interpreted or translated.
//!
//! ```text
//!            ┌── hot? ── translated code ── Exit ──┐ the next instruction pointer
//!  block ────┤                                     ├──▶ its block, or back to the run loop
//!            └── cold ── its operations ───────────┘
//! ```

use tern_x86::cpu::Mode;
use tern_x86::cpu::word::BLOCK;
use tern_x86::decode::OpFlags;
use tern_x86::environment::Processor;
use tern_x86::exception::Stop;

use super::{POLL_INTERVAL, SoftVcpu};
use crate::blocks::{Block, SoftOp};
use crate::environment::{HOT_PREDECESSOR, SoftEnvironment, execute, finish};
use crate::ram::PAGE;
use crate::translator::{self, Exit, Translated};

impl SoftVcpu {
    /// Executes block after block.
    ///
    /// Translated code works on the processor by its address. So nothing here keeps a reference to it while such code may run:
    /// each use borrows it anew from its stage.
    pub(super) fn run_blocks(&mut self) -> Result<(), Stop> {
        self.p.env.drop_code_if_asked();
        self.p.env.unchained = false;
        self.p.env.translated.window = self.window;
        let mut block = self.block()?;
        let (mut heat, mut plain) = (1, None);
        loop {
            while let Some(unit) = plain.or_else(|| self.translated(block, heat)) {
                let exit = if self.p.env.begins_checked_run(block) {
                    self.run_verified(block, unit)?
                } else {
                    self.run_translated(block, unit, plain.is_none())?
                };
                plain = None;
                if self.must_look() {
                    return Ok(());
                }
                block = self.block()?;
                let p = &mut *self.p;
                match exit {
                    Exit::Interpret => break,
                    Exit::Link => {
                        if let Some(unit) = p.env.translated(&p.cpu, block, HOT_PREDECESSOR) {
                            p.env.link(block, unit);
                        }
                    }
                    Exit::Plain => {
                        plain = p.env.plain(&p.cpu, block);
                        match plain {
                            Some(unit) => p.env.link(block, unit),
                            None => break,
                        }
                    }
                    _ => heat = HOT_PREDECESSOR,
                }
            }
            heat = 1;
            // SAFETY: the environment gave the block, and nothing was asked of it since.
            if !self.p.cpu.code_is_within_limit(unsafe { (*block).bytes() }) {
                // Which of its instructions is not, each is asked.
                Self::interpret_one(&mut self.p)?;
                self.p.env.statistics.instructions += 1;
                return Ok(());
            }
            let start = self.p.cpu.rip;
            // SAFETY: the environment gave the block and drops blocks only when asked for another one or
            // for a single operation, which is not while this one runs.
            let last = unsafe { execute(&mut self.p, block)? };
            if last.contains(OpFlags::CHECK_INTERRUPTS) || self.must_look() {
                return Ok(());
            }
            block = Self::successor(&mut self.p, block, start)?;
        }
    }

    /// The block at the present instruction pointer.
    #[inline(always)]
    fn block(&mut self) -> Result<*mut Block, Stop> {
        let Processor { cpu, env } = &mut *self.p;
        env.block(cpu)
    }

    /// How translated code goes on from `block`, which becomes hotter by `heat`.
    #[inline(always)]
    fn translated(&mut self, block: *mut Block, heat: u32) -> Option<Translated> {
        let Processor { cpu, env } = &mut *self.p;
        env.translated(cpu, block, heat)
    }

    /// Whether the run loop must look at something before execution goes on.
    #[inline(always)]
    fn must_look(&self) -> bool {
        let Processor { cpu, env } = &*self.p;
        env.unchained
            || env.mailbox.attention()
            || env.statistics.instructions >= self.next_poll
            // Translated code was left behind STI.
            || cpu.pending.interrupt_shadow
    }

    /// Runs translated code from `block`'s `unit`, which is at the present instruction pointer and may be remembered for it.
    fn run_translated(&mut self, block: *mut Block, unit: Translated, remember: bool) -> Result<Exit, Stop> {
        let Processor { cpu, env } = &mut *self.p;
        let entry = env.entry(cpu, block, unit, remember);
        let left = self.next_poll.saturating_sub(env.statistics.instructions);
        let budget = left.clamp(1, POLL_INTERVAL) as i32;
        // SAFETY: the processor is on its stage, and nothing refers to it; the unit was current when its block was
        // looked up, and nothing was dropped since.
        let (exit, instructions) = unsafe { translator::run(self.p.top(), entry, budget) };
        let p = &mut *self.p;
        p.env.statistics.instructions += instructions.max(1);
        let exceptions = u64::from(budget.abs_diff(p.env.translated.granted));
        self.next_poll = self.next_poll.saturating_sub(exceptions);
        p.env.translator.counters.exit(exit);
        p.env.sample_time(&p.cpu);
        match exit {
            Exit::Exception => Err(Stop::Exception),
            Exit::Question => Err(Stop::Exit),
            Exit::Restart => Err(Stop::Restart),
            exit => Ok(exit),
        }
    }

    /// Interprets the instruction at the instruction pointer.
    pub(super) fn interpret_one(p: &mut Processor<SoftEnvironment>) -> Result<SoftOp, Stop> {
        let op = p.env.single_op(&mut p.cpu)?;
        p.env.block_end = std::ptr::null();
        p.cpu.gpr[BLOCK] = p.cpu.rip;
        (op.run)(p, &op).map(|()| finish(&mut p.cpu, &op))?;
        Ok(op)
    }

    /// The block to execute after `block`, which began at `start`.
    #[inline(always)]
    fn successor(
        p: &mut Processor<SoftEnvironment>,
        block: *mut Block,
        start: u64,
    ) -> Result<*mut Block, Stop> {
        let delta = p.cpu.rip.wrapping_sub(start);
        // SAFETY: links lead to blocks of the same environment, which keeps also stale ones; `block` itself is one.
        unsafe {
            for link in &(*block).links {
                if link.delta == delta && !link.block.is_null() {
                    let Block { origin, mode, .. } = &*link.block;
                    // A segment that was loaded may have changed the mode.
                    if origin.is_current() && *mode == p.cpu.mode {
                        return Ok(link.block);
                    }
                }
            }
            let next = p.env.block(&mut p.cpu)?;
            // A new lookup may have dropped all blocks, and says so.
            // Only flat code's instruction pointers tell its linear pages.
            let flat = p.cpu.mode.intersects(Mode::LONG | Mode::FLAT);
            let same_page = flat && (start ^ p.cpu.rip) >> 12 == 0;
            // The linear page may lead to another page of RAM by now, while the old one's code is still used.
            if same_page
                && !p.env.unchained
                && (*next).second.is_none()
                && ((*block).physical ^ (*next).physical) < PAGE
            {
                let links = &mut (*block).links;
                links[1] = links[0];
                links[0] = crate::blocks::Link { delta, block: next };
            }
            Ok(next)
        }
    }
}
