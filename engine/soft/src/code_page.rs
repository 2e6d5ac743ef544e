//! Which of the guest's memory holds decoded code.
//!
//! Blocks of decoded code are private to each processor, but a write by any of them must invalidate the blocks of all.
//! Therefore every page has a [`CodePage`]: which of its 64-byte lines have been decoded from, and a version. Blocks remember
//! the version and are stale when it has moved on.
//!
//! ```text
//! writer                                       decoder ([`CodePage::decode_begins`])
//! store the bytes                              lock
//! page without lines? then nothing to do         set the lines, also as current; read the version
//! fence                                        unlock
//! are written lines current? then              the page's first since it was without lines: barrier on all threads
//!   lock                                       read the bytes
//!     move the version on, then the count of all changes; nothing is current
//!   unlock
//! ```
//!
//! One of the two always sees the other. A writer that finds no lines in the page does so without a fence: it would have
//! to read them before its store becomes visible, and the decoder's barrier waits that out. While a page has lines, writers
//! fence by themselves, so one barrier is enough until it has none again.
//!
//! A line that was written stays one, though nothing that is current was decoded from it: a processor may still run what has become
//! stale, and must see its own writes to that at once. When every processor has looked at the count since, the next write to the page
//! has the lines go from which nothing was decoded anew.
//!
//! Bytes are seen a moment before the version moves on. Who wants others to serialise and run them tells so by a later write.

use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering, fence};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::ram::PAGE;

/// What is known of code in one page of RAM: half a line of the host's cache, as stores look at it for every page. All but `fenced` is
/// written under a lock.
#[derive(Debug, Default)]
#[repr(C, align(32))]
pub struct CodePage {
    /// Bit `n`: somebody may run what was decoded from bytes `64n..64n+64`. Translated code asks whether there are any.
    lines: AtomicU64,
    /// Those of them from which something was decoded under the present version.
    current: AtomicU64,
    /// The number of the last change.
    changed: AtomicU64,
    /// Moves on whenever a line is written that something current was decoded from.
    version: AtomicU32,
    /// How often the page has come to have no lines.
    cleared: AtomicU16,
    /// One more than `cleared` when the barrier was made; see the head of this file.
    fenced: AtomicU16,
}

const _: () = assert!(size_of::<CodePage>() == 32);

impl CodePage {
    /// A page without decoded code.
    pub const fn new() -> Self {
        Self {
            lines: AtomicU64::new(0),
            current: AtomicU64::new(0),
            changed: AtomicU64::new(0),
            version: AtomicU32::new(0),
            cleared: AtomicU16::new(0),
            fenced: AtomicU16::new(0),
        }
    }

    /// The present version.
    #[inline(always)]
    pub fn version(&self) -> u32 {
        self.version.load(Ordering::Acquire)
    }

    /// Whether writers must look whether they hit code.
    #[inline(always)]
    pub fn has_code(&self) -> bool {
        self.lines.load(Ordering::Relaxed) != 0
    }

    fn lock(&self) -> MutexGuard<'static, ()> {
        let number = std::ptr::from_ref(self).addr() / size_of::<Self>() % LOCKS.len();
        LOCKS[number].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Announces that `size` bytes of code at `offset` are about to be decoded by one of the readers, and returns the version that is
    /// decoded.
    pub fn decode_begins(&self, offset: u64, size: u64, readers: &Readers) -> u32 {
        let lines = lines(offset, size);
        let lock = self.lock();
        self.current.fetch_or(lines, Ordering::Relaxed);
        self.lines.fetch_or(lines, Ordering::SeqCst);
        let (version, mark) = (self.version(), self.cleared.load(Ordering::Relaxed).wrapping_add(1));
        drop(lock);
        if !readers.is_one() && self.fenced.load(Ordering::SeqCst) != mark {
            // Registered with the readers, the command cannot fail.
            let _ = membarrier(libc::MEMBARRIER_CMD_PRIVATE_EXPEDITED);
            self.fenced.store(mark, Ordering::SeqCst);
        }
        fence(Ordering::SeqCst);
        version
    }

    /// After a write of `size` (at most a page) bytes at `offset` by a processor that has taken over the first `known` changes: whether
    /// it may run what has become stale, by this write or by one of another processor before. `all_have_seen` says whether all processors
    /// know a change.
    #[cold]
    pub fn written(&self, offset: u64, size: u64, known: u64, all_have_seen: impl Fn(u64) -> bool) -> bool {
        fence(Ordering::SeqCst);
        let written = lines(offset, size);
        let is_line = self.lines.load(Ordering::SeqCst) & written != 0;
        let current = self.current.load(Ordering::SeqCst);
        if current & written == 0 {
            let changed = self.changed.load(Ordering::SeqCst);
            if self.lines.load(Ordering::Relaxed) == current || !all_have_seen(changed) {
                return is_line && known < changed;
            }
        }
        let _lock = self.lock();
        let hit = self.current.load(Ordering::Relaxed) & written != 0;
        if hit {
            self.version.fetch_add(1, Ordering::SeqCst);
            self.changed.store(CODE_CHANGES.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            // Whoever finds nothing current knows this change.
            self.current.store(0, Ordering::SeqCst);
        }
        let changed = self.changed.load(Ordering::Relaxed);
        let current = self.current.load(Ordering::Relaxed);
        if all_have_seen(changed) && self.lines.swap(current, Ordering::SeqCst) != 0 && current == 0 {
            self.cleared.fetch_add(1, Ordering::Relaxed);
        }
        hit || is_line && known < changed
    }

    /// As [`CodePage::written`], by who runs no code.
    pub fn written_by_machine(&self, offset: u64, size: u64) {
        self.written(offset, size, u64::MAX, |_| false);
    }
}

/// What changes a page is done under the lock of its number.
static LOCKS: [Mutex<()>; 64] = [const { Mutex::new(()) }; 64];

/// How often any page's version has moved on, in any machine of this process.
static CODE_CHANGES: AtomicU64 = AtomicU64::new(0);

/// A number that moves on whenever a page's version has done so: code that became stale before it moved is found so by whoever has read
/// this number first.
#[inline(always)]
pub fn code_changes() -> u64 {
    CODE_CHANGES.load(Ordering::Acquire)
}

/// Up to which change each of a machine's processors runs nothing that is stale.
#[derive(Debug)]
pub struct Readers(Box<[AtomicU64]>);

impl Readers {
    /// The processors of a machine, none of which runs code.
    ///
    /// # Errors
    /// The host lacks the barrier that several processors need.
    pub fn new(cpus: u32) -> std::io::Result<Self> {
        if cpus > 1 {
            membarrier(libc::MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED)?;
        }
        Ok(Self((0..cpus).map(|_| AtomicU64::new(u64::MAX)).collect()))
    }

    /// Whether there is one processor only, so that no other one writes what it decodes.
    pub const fn is_one(&self) -> bool {
        self.0.len() == 1
    }

    /// Processor `index`, which has taken over the first `changes`, runs nothing now, but will, and looks up before whether that is
    /// current.
    #[inline(always)]
    pub fn look(&self, index: usize, changes: u64) {
        // Others' changes seldom come.
        if self.0[index].load(Ordering::Relaxed) != changes {
            self.0[index].store(changes, Ordering::SeqCst);
        }
    }

    /// Processor `index` runs nothing until it looks.
    pub fn rest(&self, index: usize) {
        self.0[index].store(u64::MAX, Ordering::SeqCst);
    }

    /// A processor wrote `size` (at most a page) bytes at `offset` of a page. It has taken over the first `known` changes. Whether it
    /// may run what has become stale, and must look up what runs next.
    pub fn written(&self, page: &CodePage, offset: u64, size: u64, known: u64) -> bool {
        page.written(offset, size, known, |change| {
            // The only one looks if it must.
            self.is_one() || self.0.iter().all(|seen| seen.load(Ordering::SeqCst) >= change)
        })
    }
}

/// The lines that `size` bytes at `offset` of a page touch.
fn lines(offset: u64, size: u64) -> u64 {
    let first = offset % PAGE / 64;
    let last = ((offset % PAGE + size.max(1) - 1) / 64).min(63);
    u64::MAX << first & u64::MAX >> (63 - last)
}

/// A memory barrier on all threads of this process that are running.
fn membarrier(command: libc::c_int) -> std::io::Result<()> {
    // SAFETY: the system call has no memory operands.
    match unsafe { libc::syscall(libc::SYS_membarrier, command, 0, 0) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_cover_what_a_write_touches() {
        assert_eq!(lines(0, 1), 1);
        assert_eq!(lines(63, 2), 0b11);
        assert_eq!(lines(4095, 1), 1 << 63);
        assert_eq!(lines(0, 4096), u64::MAX);
        assert_eq!(lines(4090, 100), 1 << 63);
    }

    #[test]
    fn only_writes_to_decoded_lines_move_the_version() {
        let (page, readers) = (CodePage::new(), Readers::new(1).unwrap());
        assert_eq!(page.decode_begins(64, 10, &readers), 0);
        assert!(!readers.written(&page, 0, 64, code_changes()));
        assert!(readers.written(&page, 60, 8, code_changes()));
        assert_eq!(page.version(), 1);
        assert!(!page.has_code());
    }

    #[test]
    fn a_line_stays_one_until_all_processors_have_seen_that_it_was_written() {
        let (page, readers) = (CodePage::new(), Readers::new(2).unwrap());
        readers.look(0, code_changes());
        readers.look(1, code_changes());
        let known = code_changes();
        page.decode_begins(0, 128, &readers);
        assert!(readers.written(&page, 0, 8, known));
        // Nothing current is hit, but who writes may run what is stale by now.
        assert!(readers.written(&page, 64, 8, known));
        assert_eq!(page.version(), 1);
        readers.look(0, code_changes());
        assert!(!readers.written(&page, 64, 8, code_changes()));
        assert!(page.has_code(), "processor 1 may run it");
        // What is decoded anew stays.
        page.decode_begins(0, 8, &readers);
        readers.rest(1);
        assert!(!readers.written(&page, 64, 8, code_changes()));
        assert!(page.has_code());
        assert!(readers.written(&page, 0, 8, known));
        assert!(page.has_code());
        readers.look(0, code_changes());
        // A write anywhere in the page will do.
        assert!(!readers.written(&page, 3000, 8, known));
        assert!(!page.has_code());
    }
}
