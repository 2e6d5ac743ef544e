//! What translated code asks: where the page of its access is.

use tern_x86::cpu::Cpu;
use tern_x86::exception::Stop;
use tern_x86::paging::{Access, AccessKind};

use super::SoftEnvironment;
use super::place::Place;
use crate::ram::PAGE;
use crate::tlb::Hit;
use crate::translator::Accessor;

/// What a question of translated code for a page came to.
#[derive(Debug, Clone, Copy)]
pub enum Answer {
    /// RAM, and the table knows it now.
    Hit(Hit),
    /// A device.
    Device,
    /// Two pages, or RAM that must be asked about every time: the interpreter's.
    Interpret,
    /// It is not permitted.
    Stop(Stop),
}

impl SoftEnvironment {
    /// What becomes of a translated instruction's access at `linear` whose page its site does not know. The table does not either, unless
    /// it is one of the misses that are looked at to learn which sites have many.
    pub fn find_page(&mut self, cpu: &mut Cpu, linear: u64, accessor: Accessor, write: bool) -> Answer {
        // What reaches into a second page is not to be asked about there: it may be more than is accessed.
        if linear % PAGE + accessor.size() > PAGE {
            return Answer::Interpret;
        }
        let kind = if write { AccessKind::Write } else { AccessKind::Read };
        let access = Access::explicit(cpu, kind);
        match self.places(cpu, accessor.segment(), linear, accessor.size(), access) {
            // The code that runs may just have become stale.
            Ok((Place::Ram(_), None)) if !self.code_was_written() => {
                match self.tlb.find(self.view, linear, accessor.size(), write) {
                    Some(hit) => Answer::Hit(hit),
                    None => Answer::Interpret,
                }
            }
            Ok((Place::Device(_), None)) => Answer::Device,
            Ok(_) => Answer::Interpret,
            Err(stop) => Answer::Stop(stop),
        }
    }
}
