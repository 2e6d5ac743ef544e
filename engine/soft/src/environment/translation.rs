//! Where translated code is, and what becomes hot.

use std::sync::Arc;

use tern_x86::cpu::word::BLOCK;
use tern_x86::cpu::{Cpu, Mode, canonical};
use tern_x86::decode::{MAX_INSTRUCTION_LENGTH, OpFlags};
use tern_x86::paging::{self, Access, AccessKind};
use tern_x86::state::{Activity, Rflags};

use super::SoftEnvironment;
use super::fetch::{Source, next_page};
use super::unit_cache::UnitKey;
use crate::blocks::{Block, UnitState};
use crate::code_page::{CodePage, code_changes};
use crate::profile::gauge::Work;
use crate::ram::PAGE;
use crate::tlb::View;
use crate::translator::{
    Accessor, Checks, Entry, Exit, HotUnit, MAX_TRACE_INSTRUCTIONS, Route, Scanner, Translated, Translator,
    is_translatable, scan,
};

/// How much hotter a block becomes when translated code leads to it.
pub const HOT_PREDECESSOR: u32 = 4;

/// In lockstep, so many first runs of a unit are checked.
const FIRST_RUNS: u32 = 16;
/// One of so many later runs is checked, up to [`OFTEN_RUN`].
const SAMPLED_RUNS: u32 = 61;
/// What has run so often has agreed in some thirty runs.
const OFTEN_RUN: u32 = 16 * SAMPLED_RUNS;
/// One of so many runs is checked from then on.
const SELDOM_SAMPLED_RUNS: u32 = 1021;

/// Where units are made, one after the other. It keeps its memory.
pub struct Desk {
    /// The page of code, and the beginning of the next one.
    code: [u8; PAGE as usize + MAX_INSTRUCTION_LENGTH],
    scanner: Scanner,
}

impl Default for Desk {
    fn default() -> Self {
        Self { code: [0; PAGE as usize + MAX_INSTRUCTION_LENGTH], scanner: Scanner::default() }
    }
}

impl SoftEnvironment {
    /// How translated code goes on from `block`, which is at the present instruction pointer, if it does. Each call makes the
    /// block hotter by `heat`. Hot ones are translated.
    #[inline(always)]
    pub fn translated(&mut self, cpu: &Cpu, block: *mut Block, heat: u32) -> Option<Translated> {
        let view = self.view as usize;
        // SAFETY: `self.blocks` owns it.
        let Block { units, heat: so_far, .. } = unsafe { &mut *block };
        match units.get(view)? {
            UnitState::Translated(unit) => Some(*unit),
            UnitState::Untranslatable => None,
            UnitState::Cold => {
                *so_far = so_far.saturating_add(heat);
                if *so_far < self.hot_after { None } else { self.translate(cpu, block) }
            }
        }
    }

    #[cold]
    #[inline(never)]
    fn translate(&mut self, cpu: &Cpu, block: *mut Block) -> Option<Translated> {
        if !self.translator.has_room() {
            self.must_drop_code();
            return None;
        }
        let unit = self.make_unit(cpu, block, Checks::Grouped);
        // SAFETY: `self.blocks` owns it, and nothing was dropped meanwhile.
        let block = unsafe { &mut *block };
        block.units[self.view as usize] = unit;
        if unit == UnitState::Cold {
            block.heat = 0;
        }
        unit.translated()
    }

    /// There is no room: all code is dropped as soon as none runs, and what is hot by then is translated.
    fn must_drop_code(&mut self) {
        self.must_drop_code = true;
        self.unchained = true;
    }

    /// What becomes of a block's translation. It stays cold where somebody is writing.
    fn make_unit(&mut self, cpu: &Cpu, block: *mut Block, checks: Checks) -> UnitState {
        let before = self.gauge.begin(Work::Translating);
        let made = self.make_unit_of(cpu, block, checks);
        self.gauge.set(before);
        made.unwrap_or(UnitState::Untranslatable)
    }

    fn make_unit_of(&mut self, cpu: &Cpu, block: *mut Block, checks: Checks) -> Option<UnitState> {
        let mut desk = self.desk.take().unwrap_or_default();
        let made = self.make_unit_on(&mut desk, cpu, block, checks);
        self.desk = Some(desk);
        made
    }

    fn make_unit_on(
        &mut self,
        Desk { code, scanner }: &mut Desk,
        cpu: &Cpu,
        block: *mut Block,
        checks: Checks,
    ) -> Option<UnitState> {
        // SAFETY: `self.blocks` owns it.
        let Block { origin, physical, second, route, .. } = *unsafe { &*block };
        if !is_translatable(cpu.mode) || self.native.room() < MAX_TRACE_INSTRUCTIONS {
            return None;
        }
        let ram = Arc::clone(&self.ram);
        let page = ram.page(physical)?;
        let (first, behind) = code.split_at_mut(PAGE as usize);
        Source { page, offset: 0 }.read(first);
        let second = match second {
            None => None,
            Some((next, origin)) => {
                let source = Source { page: ram.page(next)?, offset: 0 };
                source.read(behind);
                Some((source, origin))
            }
        };
        let bytes = if second.is_some() { &code[..] } else { &code[..PAGE as usize] };
        let route = if checks == Checks::Sited { route } else { Route::default() };
        let (start, version) = (physical & !(PAGE - 1), origin.version());
        let accesses_devices =
            |env: &Self, offset: usize| env.translator.accesses_devices((start + offset as u64, version));
        let offset = (physical % PAGE) as usize;
        let unit = scan(scanner, self, cpu.mode, bytes, offset, route, accesses_devices)?;
        for &(start, end) in unit.watched {
            let source = Source { page, offset: start as u64 };
            if self.watch(source, &bytes[start..end.min(PAGE as usize)]) != origin {
                return Some(UnitState::Cold);
            }
            if let (Some(rest), Some((source, origin))) = (bytes.get(PAGE as usize..end), second)
                && self.watch(source, rest) != origin
            {
                return Some(UnitState::Cold);
            }
        }
        if checks == Checks::Sited {
            // What cannot be followed is not tried again.
            // SAFETY: as above.
            unsafe { (*block).route = unit.route };
        }
        self.translator.translate(&unit, block, physical, self.view, checks).map(UnitState::Translated)
    }

    /// A miss of a translated instruction's site is looked at: if they are too many, its unit is translated anew.
    #[cold]
    pub fn sample_miss(&mut self, cpu: &Cpu, accessor: Accessor, from: u64) {
        let instructions = self.statistics.instructions + self.translated.instructions();
        if let Some((block, old)) = self.translator.sample_miss(accessor, from, instructions) {
            self.translate_anew(cpu, block, old);
        }
    }

    /// A translated instruction's access, by cold code that called from `from`, is a device's: if it often is, its unit is translated
    /// anew.
    #[cold]
    pub fn note_device(&mut self, cpu: &Cpu, accessor: Accessor, from: u64) {
        let instructions = self.statistics.instructions + self.translated.instructions();
        if let Some((block, old)) = self.translator.note_device(accessor, from, instructions) {
            self.translate_anew(cpu, block, old);
        }
    }

    /// Time was up in translated code: if that happens often in this unit, it is translated anew, with sites, and along the way
    /// that it mostly goes.
    pub fn sample_time(&mut self, cpu: &Cpu) {
        let from = std::mem::take(&mut self.translated.timed);
        if from == 0 {
            return;
        }
        let same_page = cpu.rip & !(PAGE - 1) == cpu.gpr[BLOCK];
        let led_to = (self.translated.exit == Exit::Jump && same_page).then_some((cpu.rip % PAGE) as u16);
        if let Some(found) = self.translator.sample_time(from, led_to) {
            self.improve(cpu, found);
        }
    }

    /// Translates a unit anew that most of the time is spent in, if that can make it better.
    #[cold]
    fn improve(&mut self, cpu: &Cpu, HotUnit { block, unit, leads_to, has_sites }: HotUnit) {
        // SAFETY: blocks live as long as their units do.
        let (known, now) = unsafe { ((*block).route, (*block).units[self.view as usize]) };
        if now != UnitState::Translated(unit) {
            return;
        }
        let wanted = leads_to.map_or(known, |part| self.longer_route(block, part));
        let mut last = unit;
        if !has_sites || wanted.is_longer_than(known) {
            // SAFETY: as above.
            unsafe { (*block).route = wanted };
            last = self.translate_anew(cpu, block, unit).unwrap_or(unit);
        }
        // SAFETY: as above.
        if has_sites && !unsafe { (*block).route }.is_longer_than(known) {
            self.translator.settle(last);
        }
    }

    /// The route of a block that mostly leads, behind what is known of it, to `part` of its page, and on from there as is known of that.
    fn longer_route(&self, block: *mut Block, part: u16) -> Route {
        // SAFETY: blocks live as long as their units do.
        let Block { physical, mode, mut route, .. } = *unsafe { &*block };
        let start = (physical % PAGE) as u16;
        let behind = self.blocks.find(physical & !(PAGE - 1) | u64::from(part), mode);
        // SAFETY: as above.
        let behind = behind.map(|block| unsafe { (*block).route }).unwrap_or_default();
        for &part in std::iter::once(&part).chain(behind.parts()) {
            // Where control comes back a unit leads on to what it has already.
            if part == start || !route.push(part) {
                break;
            }
        }
        route
    }

    #[cold]
    fn translate_anew(&mut self, cpu: &Cpu, block: *mut Block, old: Translated) -> Option<Translated> {
        // SAFETY: blocks live as long as their units do.
        let (current, known) = unsafe { ((*block).origin.is_current(), (*block).units[self.view as usize]) };
        if !current || known != UnitState::Translated(old) || !self.translator.has_room() {
            return None;
        }
        let new = self.make_unit(cpu, block, Checks::Sited).translated()?;
        // SAFETY: as above.
        unsafe {
            (*block).units[self.view as usize] = UnitState::Translated(new);
            // In lockstep it is looked at as closely as if it were the first.
            (*block).runs = 0;
        }
        self.translator.supersede(old, new);
        Some(new)
    }

    /// Counts a run of translated code from `block` that begins now, and tells whether it is checked against the interpreter: in lockstep,
    /// the first ones of a unit and samples of the later ones.
    pub fn begins_checked_run(&self, block: *mut Block) -> bool {
        if !self.translator.is_verified() {
            return false;
        }
        // SAFETY: `self.blocks` owns it.
        let runs = unsafe { &mut (*block).runs };
        *runs = runs.wrapping_add(1);
        let sampled = if *runs <= OFTEN_RUN { SAMPLED_RUNS } else { SELDOM_SAMPLED_RUNS };
        *runs <= FIRST_RUNS || runs.is_multiple_of(sampled)
    }

    /// The bytes of the page of RAM that holds the code at the present instruction pointer; and of the next page, if there is one, as many
    /// as an instruction may have there.
    pub fn code_bytes(&mut self, cpu: &mut Cpu) -> Option<Vec<u8>> {
        let rip = cpu.linear_rip();
        let physical = self.fetch_address(cpu, rip).ok()?;
        let next = self.possible_fetch_address(cpu, next_page(cpu, rip));
        let ram = Arc::clone(&self.ram);
        let mut bytes = vec![0; PAGE as usize];
        Source { page: ram.page(physical)?, offset: 0 }.read(&mut bytes);
        if let Some(page) = next.and_then(|next| ram.page(next)) {
            bytes.resize(PAGE as usize + MAX_INSTRUCTION_LENGTH, 0);
            Source { page, offset: 0 }.read(&mut bytes[PAGE as usize..]);
        }
        Some(bytes)
    }

    /// This processor, which is number `index`, runs no code now, but will.
    #[inline(always)]
    pub fn look_for_changes(&mut self, index: usize) {
        let changes = code_changes();
        if changes != self.code_changes {
            self.code_changes = changes;
            self.forget_jump_tables();
        }
        self.ram.readers().look(index, changes);
    }

    /// This processor, which is number `index`, runs no code until it has looked for changes.
    pub fn rest(&self, index: usize) {
        self.ram.readers().rest(index);
    }

    /// Takes note that this processor wrote `size` bytes at `offset` of a page with code, and tells whether it may run what has become
    /// stale.
    pub fn note_code_write(&self, page: &CodePage, offset: u64, size: u64) -> bool {
        self.ram.readers().written(page, offset, size, self.code_changes)
    }

    /// Whether code was written since the jump tables were looked at last: what runs may be stale.
    #[inline(always)]
    pub fn code_was_written(&self) -> bool {
        code_changes() != self.code_changes
    }

    /// Where translated code goes on at the present instruction pointer, after an operation with these flags. `None` if
    /// something must be looked at before.
    pub fn next_code(&mut self, cpu: &mut Cpu, flags: OpFlags) -> Option<*const u8> {
        let interruptible = flags.contains(OpFlags::CHECK_INTERRUPTS) && self.translated.window;
        let careful = interruptible
            || self.translated.budget <= 0
            || self.mailbox.attention()
            || !is_translatable(cpu.mode)
            || cpu.activity != Activity::Running
            || cpu.deferred.is_some()
            || cpu.pending.interrupt_shadow
            || cpu.pending.nmi
            || cpu.system_flags.contains(Rflags::TF)
            || cpu.breakpoints_enabled()
            || self.code_was_written();
        if careful {
            return None;
        }
        cpu.system_flags.remove(Rflags::RF);
        self.update_registers(cpu);
        if self.view == View::AlignedUser {
            return None;
        }
        self.settle_width(cpu);
        let code = match self.translated.jumps(self.view).find(cpu.rip) {
            Some(code) => code,
            None => self.resolve(cpu, cpu.rip)?,
        };
        self.unchained = false;
        cpu.gpr[BLOCK] = cpu.rip & !(PAGE - 1);
        Some(Translator::link_entry(code))
    }

    /// A jump table is for code of one width at a time: what an instruction pointer leads to depends on it.
    fn settle_width(&mut self, cpu: &Cpu) {
        let wide = cpu.mode.contains(Mode::LONG);
        if let Some(known) = self.translated.jumps_are_wide.get_mut(self.view as usize)
            && *known != wide
        {
            *known = wide;
            self.translated.jumps(self.view).forget();
        }
    }

    /// The code for an instruction pointer in the present mode and view, which the jump table knows then.
    pub fn resolve(&mut self, cpu: &mut Cpu, rip: u64) -> Option<*const u8> {
        self.translator.counters.resolved += 1;
        if self.code_was_written() {
            return None;
        }
        let physical = self.possible_fetch_address(cpu, rip)?;
        let key = UnitKey::new(physical, cpu.mode, self.view);
        let code = match self.units.find(key) {
            Some(code) => code,
            None => self.find_unit(cpu, rip, physical, key)?,
        };
        self.translated.jumps(self.view).insert(rip, code);
        Some(code)
    }

    /// The code for an instruction pointer that lies at `physical`, if it is decoded and hot.
    fn find_unit(&mut self, cpu: &mut Cpu, rip: u64, physical: u64, key: UnitKey) -> Option<*const u8> {
        let block = self.blocks.find(physical, cpu.mode)?;
        // SAFETY: `self.blocks` owns it.
        let (origin, second) = unsafe { ((*block).origin, (*block).second) };
        if let Some((page, origin)) = second {
            let is_there = self.possible_fetch_address(cpu, next_page(cpu, rip)) == Some(page);
            if !is_there || !origin.is_current() {
                return None;
            }
        }
        let unit = self.translated(cpu, block, HOT_PREDECESSOR)?;
        let code = self.translator.table_entry(unit);
        // Whatever lies in a second page must be looked at every time.
        if second.is_none() {
            self.units.insert(key, code, origin);
        }
        Some(code)
    }

    /// The physical address of code at a linear address, if it may be fetched from there.
    fn possible_fetch_address(&mut self, cpu: &mut Cpu, linear: u64) -> Option<u64> {
        if !canonical(linear) {
            return None;
        }
        self.known_fetch_address(cpu, linear).or_else(|| {
            let access = Access::explicit(cpu, AccessKind::Execute);
            let translation = paging::translate(cpu, &mut &*self.ram, linear, access).ok()?;
            Some(self.note_fetch_address(cpu, linear, translation))
        })
    }

    /// Prepares for running translated code from `block`'s `unit` on, at the present instruction pointer.
    pub fn entry(&mut self, cpu: &Cpu, block: *mut Block, unit: Translated, remember: bool) -> Entry {
        let changes = code_changes();
        let mut is_current = true;
        if changes != self.code_changes {
            self.forget_jump_tables();
            // The block may have been looked up before the change. Then its unit still runs, or there might be no end of changes, but
            // nothing leads to it or on from it, and what serialises leaves it.
            // SAFETY: `self.blocks` owns it.
            is_current = unsafe { (*block).origins() }.are_current();
            if is_current {
                self.code_changes = changes;
            }
        }
        self.settle_width(cpu);
        if remember && is_current {
            let code = self.translator.table_entry(unit);
            self.translated.jumps(self.view).insert(cpu.rip, code);
        }
        self.translator.entry(unit)
    }

    /// The code for `block`, which is at the present instruction pointer, whose accesses are checked one by one.
    #[cold]
    pub fn plain(&mut self, cpu: &Cpu, block: *mut Block) -> Option<Translated> {
        let view = self.view as usize;
        // SAFETY: `self.blocks` owns it.
        match *unsafe { (*block).plain_units.get(view) }? {
            UnitState::Translated(unit) => return Some(unit),
            UnitState::Untranslatable => return None,
            UnitState::Cold if !self.translator.has_room() => {
                self.must_drop_code();
                return None;
            }
            UnitState::Cold => {}
        }
        let unit = self.make_unit(cpu, block, Checks::Single);
        // SAFETY: as above, and nothing was dropped meanwhile.
        unsafe { (*block).plain_units[view] = unit };
        unit.translated()
    }

    /// Leads the jump that translated code asked about to `unit`, which is `block`'s.
    pub fn link(&mut self, block: *mut Block, unit: Translated) {
        self.translator.link(self.translated.payload, block, unit);
    }
}
