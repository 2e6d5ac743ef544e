//! Starting the child: it maps the shared file at the fixed addresses, installs the signal handlers' addresses and stops.

use std::fs::File;
use std::os::fd::{AsRawFd, RawFd};

use anyhow::{Context, Result, bail};
use libc::{c_int, pid_t};

use super::{HARNESS, HARNESS_SIZE, SIGNALS};
use crate::layout::{AREAS, MEMORY_SIZE, PAGE};

/// Exit codes of a child that does not get to its stop.
const NO_PTRACE: c_int = 100;
const NO_MEMORY: c_int = 101;
const NO_SIGNALS: c_int = 102;

/// Maps `size` bytes from `offset` of the file: at `address`, or anywhere if it is null. Every page is present at once, so
/// that a fault never is the first touch of a page.
pub fn map(
    file: &File,
    offset: usize,
    address: *mut u8,
    size: usize,
    rights: c_int,
) -> std::io::Result<*mut u8> {
    map_descriptor(file.as_raw_fd(), offset, address, size, rights).ok_or_else(std::io::Error::last_os_error)
}

fn map_descriptor(
    file: RawFd,
    offset: usize,
    address: *mut u8,
    size: usize,
    rights: c_int,
) -> Option<*mut u8> {
    let fixed = if address.is_null() { 0 } else { libc::MAP_FIXED_NOREPLACE };
    let flags = libc::MAP_SHARED | libc::MAP_POPULATE | fixed;
    // SAFETY: a new mapping replaces nothing.
    let mapped = unsafe { libc::mmap(address.cast(), size, rights, flags, file, offset as libc::off_t) };
    (mapped != libc::MAP_FAILED).then_some(mapped.cast())
}

/// Forks and waits until the child is ready.
///
/// # Errors
/// No process, or the child could not be prepared; most often because ptrace is not permitted.
pub fn start(file: &File) -> Result<pid_t> {
    let file = file.as_raw_fd();
    // SAFETY: the child calls only functions that are safe after a fork of a process with threads.
    let child = unsafe { libc::fork() };
    match child {
        -1 => return Err(std::io::Error::last_os_error()).context("cannot fork"),
        0 => {
            let failed = prepare(file);
            // SAFETY: leaves without running anything of the parent's.
            unsafe { libc::_exit(failed) }
        }
        _ => {}
    }
    let mut status = 0;
    // SAFETY: `status` is a local.
    unsafe { libc::waitpid(child, &raw mut status, libc::__WALL) };
    if libc::WIFSTOPPED(status) {
        // SAFETY: sets an option of a stopped child.
        let set = unsafe { libc::ptrace(libc::PTRACE_SETOPTIONS, child, 0, libc::PTRACE_O_EXITKILL) };
        if set == 0 {
            return Ok(child);
        }
    }
    match libc::WEXITSTATUS(status) {
        NO_MEMORY => bail!("the child cannot map memory at its fixed addresses"),
        NO_SIGNALS => bail!("the child cannot install signal handlers"),
        _ => bail!(
            "ptrace is not permitted here, and without it the host's processor cannot be compared. Allow it: in a \
             container with --cap-add=SYS_PTRACE, elsewhere with sysctl kernel.yama.ptrace_scope=1 or less"
        ),
    }
}

/// In the child. Returns only if it fails, the exit code.
fn prepare(file: RawFd) -> c_int {
    // SAFETY: plain system calls; nothing of the parent's memory is changed.
    unsafe {
        if libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0) != 0 {
            return NO_PTRACE;
        }
        for area in AREAS {
            let mut rights = libc::PROT_READ;
            rights |= if area.writable { libc::PROT_WRITE } else { 0 };
            rights |= if area.executable { libc::PROT_EXEC } else { 0 };
            if map_descriptor(file, area.offset, area.linear as *mut u8, area.size(), rights).is_none() {
                return NO_MEMORY;
            }
        }
        let page = PAGE as usize;
        let code =
            map_descriptor(file, MEMORY_SIZE, HARNESS as *mut u8, page, libc::PROT_READ | libc::PROT_EXEC);
        let stack = map_descriptor(
            file,
            MEMORY_SIZE + page,
            (HARNESS + PAGE) as *mut u8,
            HARNESS_SIZE as usize - page,
            libc::PROT_READ | libc::PROT_WRITE,
        );
        let (Some(_), Some(stack)) = (code, stack) else { return NO_MEMORY };
        let signal_stack =
            libc::stack_t { ss_sp: stack.cast(), ss_flags: 0, ss_size: HARNESS_SIZE as usize - page };
        if libc::sigaltstack(&raw const signal_stack, std::ptr::null_mut()) != 0 {
            return NO_SIGNALS;
        }
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = HARNESS as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_NODEFER;
        for signal in SIGNALS {
            if libc::sigaction(signal, &raw const action, std::ptr::null_mut()) != 0 {
                return NO_SIGNALS;
            }
        }
        libc::kill(libc::getpid(), libc::SIGSTOP);
    }
    NO_PTRACE
}
