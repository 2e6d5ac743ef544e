//! Memory for translated code: appended to until it is full; then all of it but the stubs at its start is dropped.
//!
//! ```text
//!  stubs │ what often runs ──▶      free      ◀── what seldom runs
//! ```
//!
//! What often runs is kept together: the host's caches of instructions are small beside what a large program becomes. So is its TLB,
//! so whenever it begins to fill what can be another large page of the host, the host is asked for one there, which costs less than to
//! move what lies there later. If it gives none, nothing is lost. The first page is moved once it is full: small guests fill none.

use std::io;

use super::assembler::{Code, Fixup, Value};
use crate::executable::{ExecutableMemory, LARGE_PAGE};

/// Code starts at multiples of this.
const ALIGNMENT: usize = 16;

/// Where code was put: offsets in the code memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Placed {
    /// Of what often runs.
    pub hot: u32,
    /// Of what seldom does.
    pub cold: u32,
}

/// An area that holds code.
#[derive(Debug)]
pub struct CodeCache {
    memory: ExecutableMemory,
    /// Where the free memory begins.
    used: usize,
    /// Where it ends.
    cold: usize,
    /// What is kept when the rest is dropped.
    kept: usize,
}

impl CodeCache {
    /// Reserves `size` bytes, a multiple of the page size. They take host memory only once they are used, and then, but for the first
    /// two mebibytes, as many at a time.
    ///
    /// # Errors
    /// The host gives no memory that may be executed.
    pub fn new(size: usize) -> io::Result<Self> {
        Ok(Self { memory: ExecutableMemory::new(size)?, used: 0, cold: size, kept: 0 })
    }

    /// Bytes that can still be appended.
    pub const fn free(&self) -> usize {
        self.cold - self.used
    }

    /// Bytes that hold code.
    pub const fn used(&self) -> usize {
        self.memory.size() - self.free()
    }

    /// Keeps what there is now when the rest is dropped.
    pub const fn keep(&mut self) {
        self.kept = self.used;
    }

    /// Drops all code but what is kept. It stays executable until it is overwritten, but nobody may enter it any more.
    pub const fn clear(&mut self) {
        self.used = self.kept;
        self.cold = self.memory.size();
    }

    /// Adds code and returns where its two parts begin; `None` if it does not fit.
    pub fn append(&mut self, code: Code<'_>) -> Option<Placed> {
        let (hot, cold) = code.bytes.split_at_checked(code.split)?;
        let start = self.used;
        let end = start.checked_add(hot.len())?.next_multiple_of(ALIGNMENT);
        let cold_start = self.cold.checked_sub(cold.len())?;
        if end > cold_start {
            return None;
        }
        self.memory.write(start, hot);
        self.memory.write(cold_start, cold);
        // The host wants something to be there.
        let begun = self.used.div_ceil(LARGE_PAGE)..end.div_ceil(LARGE_PAGE);
        (self.used, self.cold) = (end, cold_start);
        let place = |offset: usize| match offset.checked_sub(code.split) {
            Some(offset) => cold_start + offset,
            None => start + offset,
        };
        for &Fixup { at, value } in code.fixups {
            let at = place(at);
            let value = match value {
                Value::DistanceOut(target) => (target as usize).wrapping_sub(at + 4),
                Value::DistanceAcross(target) => place(target).wrapping_sub(at + 4),
                Value::Place(offset) => place(offset),
            };
            self.write(at, value as u32);
        }
        for page in begun.filter(|&page| page > 0) {
            if page == 1 {
                self.memory.collapse(0);
            }
            self.memory.collapse(page);
        }
        Some(Placed { hot: u32::try_from(start).ok()?, cold: u32::try_from(cold_start).ok()? })
    }

    fn write(&mut self, at: usize, value: u32) {
        self.memory.write(at, &value.to_le_bytes());
    }

    /// Makes the four-byte distance at offset `at` lead to offset `target`. The processor's own thread does this, between two runs of
    /// translated code or while it is called by such code, which is not in the middle of these bytes.
    pub fn redirect(&mut self, at: u32, target: u32) {
        let at = at as usize;
        self.write(at, (target as usize).wrapping_sub(at + 4) as u32);
    }

    /// Replaces the first instructions of code at offset `at` by a jump to offset `target`. As [`CodeCache::redirect`]; and the
    /// code that is replaced is not being executed.
    pub fn replace_by_jump(&mut self, at: u32, target: u32) {
        self.redirect(at + 1, target);
        self.memory.write(at as usize, &[0xe9]);
    }

    /// The address at which the code at `offset` is executed.
    #[inline]
    pub fn at(&self, offset: u32) -> *const u8 {
        self.memory.at(offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `mov eax, value; ret`.
    fn returns(value: u32) -> Vec<u8> {
        let mut code = vec![0xb8];
        code.extend_from_slice(&value.to_le_bytes());
        code.push(0xc3);
        code
    }

    fn call(cache: &CodeCache, offset: u32) -> u32 {
        // SAFETY: the bytes are a function without arguments that keeps to the ABI.
        let function: extern "sysv64" fn() -> u32 = unsafe { std::mem::transmute(cache.at(offset)) };
        function()
    }

    fn append(cache: &mut CodeCache, bytes: &[u8], fixups: &[Fixup]) -> Option<u32> {
        cache.append(Code { bytes, split: bytes.len(), fixups }).map(|placed| placed.hot)
    }

    fn jump_to(value: Value) -> ([u8; 5], [Fixup; 1]) {
        ([0xe9, 0, 0, 0, 0], [Fixup { at: 1, value }])
    }

    #[test]
    fn appended_code_runs_and_can_be_led_elsewhere() {
        let mut cache = CodeCache::new(1 << 16).expect("executable memory");
        let first = append(&mut cache, &returns(1), &[]).expect("fits");
        let second = append(&mut cache, &returns(2), &[]).expect("fits");
        let (bytes, fixups) = jump_to(Value::DistanceOut(first));
        let jump = append(&mut cache, &bytes, &fixups).expect("fits");
        assert_eq!(call(&cache, jump), 1);
        cache.redirect(jump + 1, second);
        assert_eq!(call(&cache, jump), 2);
    }

    #[test]
    fn code_stays_what_it_is_when_the_host_moves_it_into_large_pages() {
        let mut cache = CodeCache::new(4 * LARGE_PAGE).expect("executable memory");
        assert!((cache.at(0) as usize).is_multiple_of(LARGE_PAGE));
        let mut placed = Vec::new();
        for value in 0.. {
            let mut bytes = returns(value);
            bytes.resize(60_000, 0xcc);
            let Some(code) = append(&mut cache, &bytes, &[]) else { break };
            placed.push(code);
        }
        assert!(cache.free() < 60_000);
        for (value, &code) in (0..).zip(&placed) {
            assert_eq!(call(&cache, code), value);
        }
        let (last, first) = (*placed.last().expect("some"), placed[0]);
        cache.replace_by_jump(first, last);
        assert_eq!(call(&cache, first) as usize, placed.len() - 1);
    }

    /// Has this thread refused whatever changes what memory is for.
    fn refuse_to_change_memory() {
        use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch};
        let calls = [
            libc::SYS_mmap,
            libc::SYS_mremap,
            libc::SYS_mprotect,
            libc::SYS_pkey_mprotect,
            libc::SYS_madvise,
            libc::SYS_memfd_create,
        ];
        let rules = calls.into_iter().map(|call| (call, Vec::new())).collect();
        let refusal = SeccompAction::Errno(libc::EPERM.cast_unsigned());
        let filter = SeccompFilter::new(rules, SeccompAction::Allow, refusal, TargetArch::x86_64);
        let program = BpfProgram::try_from(filter.expect("it is one")).expect("it can be one");
        seccompiler::apply_filter(&program).expect("filters may be set");
        // SAFETY: nothing is mapped.
        let refused =
            unsafe { libc::mmap(std::ptr::null_mut(), 1, 0, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0) };
        assert_eq!(refused, libc::MAP_FAILED);
    }

    #[test]
    fn code_grows_and_is_patched_under_a_system_call_filter() {
        let test = || {
            let mut cache = CodeCache::new(2 * LARGE_PAGE).expect("executable memory");
            let mut bytes = returns(1);
            bytes.resize(60_000, 0xcc);
            refuse_to_change_memory();
            let first = append(&mut cache, &bytes, &[]).expect("fits");
            let mut last = first;
            for value in 2..60 {
                bytes[..6].copy_from_slice(&returns(value));
                last = append(&mut cache, &bytes, &[]).expect("fits");
            }
            assert!(cache.used() > LARGE_PAGE);
            cache.replace_by_jump(first, last);
            assert_eq!(call(&cache, first), 59);
        };
        // The filter is this thread's alone.
        std::thread::spawn(test).join().expect("it goes well");
    }

    #[test]
    fn what_seldom_runs_lies_apart_and_is_reached_there() {
        let mut cache = CodeCache::new(1 << 16).expect("executable memory");
        let (jump, [fixup]) = jump_to(Value::DistanceAcross(5));
        let mut bytes = jump.to_vec();
        bytes.extend(returns(3));
        bytes.extend([0; 4]);
        let told = Fixup { at: 11, value: Value::Place(1) };
        let placed = cache.append(Code { bytes: &bytes, split: 5, fixups: &[fixup, told] }).expect("fits");
        assert_eq!(call(&cache, placed.hot), 3);
        assert_eq!(placed.cold as usize, (1 << 16) - 10);
        assert_eq!(cache.used(), 16 + 10);
        // SAFETY: the four bytes lie in the mapping.
        let place = unsafe { cache.at(placed.cold + 6).cast::<u32>().read_unaligned() };
        assert_eq!(place, placed.hot + 1);
    }

    #[test]
    fn what_is_kept_survives_clearing_and_what_does_not_fit_is_refused() {
        let mut cache = CodeCache::new(4096).expect("executable memory");
        let kept = append(&mut cache, &returns(7), &[]).expect("fits");
        cache.keep();
        let large = [0xcc; 4080];
        assert!(cache.append(Code { bytes: &large, split: 2000, fixups: &[] }).is_some());
        assert!(append(&mut cache, &returns(8), &[]).is_none());
        cache.clear();
        assert!(append(&mut cache, &returns(8), &[]).is_some());
        assert_eq!(call(&cache, kept), 7);
    }
}
