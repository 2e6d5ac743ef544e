//! Linear to physical addresses by walking page tables (APM volume 2, chapter 5; PSE-36: SDM volume 3, section 4.3).
//!
//! [`translate`] is a pure walk: it reads table entries through [`PhysicalMemory`], decides, and sets Accessed and Dirty
//! bits with atomic exchanges, as other processors may change the same entries. It caches nothing. Its answer,
//! [`Translation`], says everything that may be cached: which kinds of access need no further walk ([`Rights`]).
//!
//! ```text
//! linear ──► entry at each level ──► reserved bits? ──► rights of the path ──► set A (and D) ──► Translation
//!                │ not present            │                   │                    │ lost a race: walk again
//!                ▼                        ▼                   ▼
//!               #PF                      #PF RSVD            #PF P
//! ```

mod entry;
mod rights;
mod walk;

pub use rights::{Access, AccessKind, Rights};
pub use walk::{Translation, translate};

/// The width of physical addresses. CPUID shows it, and table entries with higher address bits set are reserved.
pub const PHYSICAL_ADDRESS_BITS: u32 = 46;

/// The width of linear addresses in 64-bit mode.
pub const LINEAR_ADDRESS_BITS: u32 = 48;

/// Guest-physical memory as the page walk sees it. Addresses are multiples of the entry's size.
pub trait PhysicalMemory {
    /// Reads an 8-byte entry atomically; `None` where there is no RAM.
    fn read_u64(&mut self, physical: u64) -> Option<u64>;

    /// Reads a 4-byte entry atomically; `None` where there is no RAM.
    fn read_u32(&mut self, physical: u64) -> Option<u32>;

    /// Replaces an 8-byte entry by `new` if it still is `old`, atomically. Returns whether it was.
    fn exchange_u64(&mut self, physical: u64, old: u64, new: u64) -> bool;

    /// Replaces a 4-byte entry by `new` if it still is `old`, atomically. Returns whether it was.
    fn exchange_u32(&mut self, physical: u64, old: u32, new: u32) -> bool;
}
