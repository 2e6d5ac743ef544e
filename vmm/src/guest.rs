//! What a machine starts: a kernel and what belongs to it, and where they come from.
//!
//! They are needed at the machine's start and again at every reboot, and would lie in the host's memory for nothing in
//! between. So a machine holds a [`GuestSource`], and the contents only while it puts them into the guest's memory.

use std::error::Error;
use std::fmt;
use std::sync::Arc;

use crate::boot::Kernel;

/// A file that a multiboot or PVH kernel gets besides its initramfs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Module {
    /// The contents.
    pub bytes: Vec<u8>,
    /// What the kernel is told about it.
    pub command_line: String,
}

/// A kernel and what belongs to it, ready to be put into a machine.
#[derive(Debug)]
pub struct Guest {
    /// The kernel.
    pub kernel: Kernel<'static>,
    /// The initramfs.
    pub initrd: Option<Vec<u8>>,
    /// The kernel's command line.
    pub command_line: String,
    /// Further files for the kernel.
    pub modules: Vec<Module>,
}

impl Guest {
    /// A kernel alone.
    #[must_use]
    pub const fn new(kernel: Kernel<'static>) -> Self {
        Self { kernel, initrd: None, command_line: String::new(), modules: Vec::new() }
    }
}

/// Why a guest's files cannot be had; the text names the file.
pub type SourceError = Box<dyn Error + Send + Sync>;

/// Where a machine gets its guest from.
pub trait GuestSource: Send + fmt::Debug {
    /// The guest, for the machine's start or a reboot.
    ///
    /// # Errors
    /// A file cannot be read, or is no longer what it was.
    fn guest(&self) -> Result<Arc<Guest>, SourceError>;
}

/// A guest that stays in memory: for small ones.
impl GuestSource for Arc<Guest> {
    fn guest(&self) -> Result<Arc<Guest>, SourceError> {
        Ok(Self::clone(self))
    }
}
