//! Making a processor leave the guest: a byte that KVM looks at before it enters, and a signal that gets it out.
//!
//! ```text
//!   whoever kicks                     the processor's thread
//!   immediate_exit = 1                thread = own ID
//!   thread != 0? send the signal      KVM_RUN: immediate_exit? EINTR : guest ── signal ──▶ EINTR
//!                                     thread = 0;  on EINTR: immediate_exit was 1? kicked
//! ```
//!
//! Whichever comes first, the other side sees it: no kick is lost before KVM_RUN, and one that comes while the processor
//! is out of the guest is taken at the next entry.

use std::cell::OnceCell;
use std::io;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, OnceLock};

use tern_engine::Kick;

use crate::run_page::Mapping;

/// What is shared between a processor's thread and whoever kicks it.
#[derive(Debug)]
pub struct Kicker {
    page: Arc<Mapping>,
    /// The thread that is in KVM_RUN, or about to be; 0 if there is none.
    thread: AtomicI32,
}

impl Kicker {
    /// For the processor with this page.
    ///
    /// # Errors
    /// The host does not let the signal be handled.
    pub fn new(page: Arc<Mapping>) -> io::Result<Self> {
        install_handler()?;
        Ok(Self { page, thread: AtomicI32::new(0) })
    }

    /// Says that this thread enters KVM_RUN, for as long as the returned value lives.
    pub fn entering(&self) -> Inside<'_> {
        self.thread.store(own_thread(), Ordering::SeqCst);
        Inside(self)
    }

    /// Whether the processor was kicked since the last call.
    pub fn take(&self) -> bool {
        self.page.immediate_exit().swap(0, Ordering::SeqCst) != 0
    }

    /// Sets or withdraws the kick without a signal; returns whether there was one. For the processor's own thread.
    pub fn replace(&self, kicked: bool) -> bool {
        self.page.immediate_exit().swap(u8::from(kicked), Ordering::SeqCst) != 0
    }
}

impl Kick for Kicker {
    fn kick(&self) {
        self.page.immediate_exit().store(1, Ordering::SeqCst);
        let thread = self.thread.load(Ordering::SeqCst);
        if thread != 0 {
            // SAFETY: a system call without pointers. If the thread is gone it fails; if its number was given to another
            // thread of ours, that one is interrupted and goes on.
            unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), thread, libc::SIGRTMIN()) };
        }
    }
}

/// A thread that is in KVM_RUN.
pub struct Inside<'a>(&'a Kicker);

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        self.0.thread.store(0, Ordering::SeqCst);
    }
}

/// This thread's number; the first call also lets the signal through, whatever the process inherited.
fn own_thread() -> i32 {
    thread_local! {
        static THREAD: OnceCell<i32> = const { OnceCell::new() };
    }
    let prepare = || {
        // SAFETY: the set is initialised by sigemptyset before it is used, and changes this thread's mask only.
        unsafe {
            let mut set = std::mem::zeroed();
            libc::sigemptyset(&raw mut set);
            libc::sigaddset(&raw mut set, libc::SIGRTMIN());
            libc::pthread_sigmask(libc::SIG_UNBLOCK, &raw const set, std::ptr::null_mut());
        }
        rustix::thread::gettid().as_raw_nonzero().get()
    };
    THREAD.with(|thread| *thread.get_or_init(prepare))
}

/// Handles the signal by doing nothing, once for the process.
fn install_handler() -> io::Result<()> {
    extern "C" fn nothing(_signal: libc::c_int) {}
    static INSTALLED: OnceLock<i32> = OnceLock::new();
    let errno = *INSTALLED.get_or_init(|| {
        let handler: extern "C" fn(libc::c_int) = nothing;
        // SAFETY: all zeros is a valid sigaction (an empty mask, no flags); the handler does nothing, which is safe at any
        // time. SA_RESTART spares other system calls; KVM_RUN returns nevertheless.
        let installed = unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = handler as usize;
            action.sa_flags = libc::SA_RESTART;
            libc::sigaction(libc::SIGRTMIN(), &raw const action, std::ptr::null_mut())
        };
        if installed == 0 { 0 } else { io::Error::last_os_error().raw_os_error().unwrap_or(libc::EINVAL) }
    });
    if errno == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(errno)) }
}
