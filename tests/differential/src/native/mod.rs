//! The host's side: a child process that executes the code under the control of ptrace.
//!
//! The child maps [`AREAS`], which it shares with this process, and two pieces of its own (`HARNESS`); everything else is
//! unmapped, so that no address reaches anything. It cannot do harm: system calls are intercepted, and it dies with
//! this process.
//!
//! After a fault the child is let into a signal handler, not to execute it, but for the frame that the kernel writes:
//! it holds the exception's vector, error code and CR2, which ptrace does not tell.
//!
//! [`AREAS`]: crate::layout::AREAS

mod child;
mod ptrace;

use std::fs::File;
use std::os::fd::FromRawFd;

use anyhow::{Context, Result, bail};
use libc::{c_int, pid_t};
use tern_x86::state::Rflags;

use crate::case::{Case, Extent};
use crate::layout::{BASE, MEMORY_SIZE, Memory, PAGE};
use crate::registers::{End, Event, Outcome, R10, RAX, RDI, RDX, RSI, RSP};

/// Linear address of the harness: a page of code, and behind it the signal stack.
const HARNESS: u64 = 0x6000_0000_0000;
/// Pages of the signal stack. A frame holds the whole extended state.
const SIGNAL_STACK_PAGES: u64 = 8;
const HARNESS_SIZE: u64 = (1 + SIGNAL_STACK_PAGES) * PAGE;
/// Bytes of the file that both processes map: [`Memory`], then the harness.
const FILE_SIZE: usize = MEMORY_SIZE + HARNESS_SIZE as usize;

/// The signals that exceptions become.
const SIGNALS: [c_int; 4] = [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE];

/// A child in which code is executed.
#[derive(Debug)]
pub struct Native {
    child: pid_t,
    /// Where this process maps the shared file.
    shared: *mut u8,
}

impl Native {
    /// Starts the child.
    ///
    /// # Errors
    /// The host refuses memory, a process or ptrace.
    pub fn new() -> Result<Self> {
        let file = shared_file().context("cannot make memory to share with the child")?;
        let shared =
            child::map(&file, 0, std::ptr::null_mut(), FILE_SIZE, libc::PROT_READ | libc::PROT_WRITE)
                .context("cannot map the memory shared with the child")?;
        // SAFETY: the page was just mapped, and no child runs yet.
        unsafe { shared.add(MEMORY_SIZE).copy_from_nonoverlapping(CODE.as_ptr(), CODE.len()) };
        let native = Self { child: child::start(&file)?, shared };
        native.forget_restartable_sequences().context("cannot take restartable sequences from the child")?;
        native.unmap_the_rest().context("cannot clear the child's address space")?;
        Ok(native)
    }

    /// Executes a case.
    ///
    /// # Errors
    /// The child died or ptrace failed.
    pub fn run(&mut self, case: &Case) -> Result<Outcome> {
        self.memory_mut().copy_from_slice(&case.memory[..]);
        ptrace::set_registers(self.child, &case.before)?;
        let request = match case.extent {
            Extent::Step => libc::PTRACE_SYSEMU_SINGLESTEP,
            Extent::Run => libc::PTRACE_SYSEMU,
        };
        ptrace::resume(self.child, request, 0)?;
        let signal = self.wait()?;
        let registers = ptrace::registers(self.child)?;
        let end = match signal {
            libc::SIGTRAP => self.trap()?,
            _ if SIGNALS.contains(&signal) => self.exception(signal)?,
            _ => End::Unexpected(format!("signal {signal}")),
        };
        if registers.rflags & STICKY != 0 {
            self.clear_flags()?;
        }
        Ok(Outcome { end, registers })
    }

    /// The memory as the child sees it.
    #[must_use]
    pub fn memory(&self) -> &Memory {
        // SAFETY: the mapping starts with a `Memory` and lives as long as `self`; the child is stopped outside `run`.
        unsafe { &*self.shared.cast() }
    }

    fn memory_mut(&mut self) -> &mut Memory {
        // SAFETY: as for `memory`, and the borrow is unique.
        unsafe { &mut *self.shared.cast() }
    }

    /// Waits until the child stops and returns the signal that stopped it.
    fn wait(&self) -> Result<c_int> {
        let mut status = 0;
        // SAFETY: `status` is a local.
        let waited = unsafe { libc::waitpid(self.child, &raw mut status, libc::__WALL) };
        if waited != self.child {
            return Err(std::io::Error::last_os_error()).context("cannot wait for the child");
        }
        if !libc::WIFSTOPPED(status) {
            bail!("the child ended with wait status {status:#x}");
        }
        Ok(libc::WSTOPSIG(status))
    }

    /// A SIGTRAP: the end of a step, or INT3.
    fn trap(&self) -> Result<End> {
        let vector = match ptrace::signal_code(self.child)? {
            libc::SI_KERNEL => 3,
            libc::TRAP_TRACE | libc::TRAP_BRKPT => 1,
            code => return Ok(End::Unexpected(format!("SIGTRAP with code {code}: a system call"))),
        };
        Ok(End::Event(Event { vector, error_code: 0, address: 0 }))
    }

    /// What is behind `signal`, from the frame that the kernel makes for its handler.
    fn exception(&self, signal: c_int) -> Result<End> {
        ptrace::resume(self.child, libc::PTRACE_SINGLESTEP, signal)?;
        let stopped = self.wait()?;
        let entered = ptrace::registers(self.child)?;
        if stopped != libc::SIGTRAP || entered.rip != HARNESS {
            return Ok(End::Unexpected(format!("signal {signal}, whose handler was not entered")));
        }
        // The frame starts with the return address.
        let context = entered.gpr[RSP] + 8;
        let offset = usize::try_from(context.wrapping_sub(HARNESS))?;
        if offset + size_of::<libc::ucontext_t>() > HARNESS_SIZE as usize {
            bail!("the signal frame at {context:#x} is not on the signal stack");
        }
        // SAFETY: the frame lies in the shared file, as was checked, and the child is stopped.
        let context =
            unsafe { self.shared.add(MEMORY_SIZE + offset).cast::<libc::ucontext_t>().read_unaligned() };
        let saved = |register: c_int| context.uc_mcontext.gregs[register as usize] as u64;
        let vector = saved(libc::REG_TRAPNO) as u8;
        let address = if vector == 14 { saved(libc::REG_CR2) } else { 0 };
        Ok(End::Event(Event { vector, error_code: saved(libc::REG_ERR), address }))
    }

    /// Unregisters what the C library registered: the kernel would write there whenever the child is scheduled.
    fn forget_restartable_sequences(&self) -> Result<()> {
        const RSEQ_FLAG_UNREGISTER: u64 = 1;
        let registered = ptrace::restartable_sequences(self.child);
        let Some(registered) = registered.filter(|registered| registered.rseq_abi_pointer != 0) else {
            return Ok(());
        };
        let (size, signature) = (registered.rseq_abi_size, registered.signature);
        let arguments = [registered.rseq_abi_pointer, size.into(), RSEQ_FLAG_UNREGISTER, signature.into()];
        let result = self.system_call(libc::SYS_rseq, arguments)?;
        anyhow::ensure!(result == 0, "the kernel answered {}", result as i64);
        Ok(())
    }

    /// Makes the child unmap everything that is not part of the test.
    fn unmap_the_rest(&self) -> Result<()> {
        let maps = std::fs::read_to_string(format!("/proc/{}/maps", self.child))?;
        for line in maps.lines() {
            let range = line.split_whitespace().next().and_then(|range| range.split_once('-'));
            let (start, end) = range.context("a line of /proc/.../maps has no range")?;
            let (start, end) = (u64::from_str_radix(start, 16)?, u64::from_str_radix(end, 16)?);
            let ours = (BASE..BASE + 16 * PAGE).contains(&start)
                || (HARNESS..HARNESS + HARNESS_SIZE).contains(&start);
            if !ours && start < 1 << 47 {
                // The kernel keeps its own mappings (vDSO) if it seals them; chance does not find those.
                self.system_call(libc::SYS_munmap, [start, end - start, 0, 0])?;
            }
        }
        Ok(())
    }

    /// Makes the child clear all its flags, with a stack at the end of the harness.
    fn clear_flags(&self) -> Result<()> {
        const FLAGS: usize = FILE_SIZE - 8;
        // SAFETY: the last word of the shared file; the child is stopped.
        unsafe { self.shared.add(FLAGS).cast::<u64>().write_unaligned(Rflags::FIXED.bits()) };
        let mut registers = ptrace::registers(self.child)?;
        registers.rip = POP_FLAGS;
        // WRFSBASE takes addresses that ptrace refuses.
        (registers.fs_base, registers.gs_base) = (0, 0);
        registers.gpr[RSP] = HARNESS + HARNESS_SIZE - 8;
        ptrace::set_registers(self.child, &registers)?;
        ptrace::resume(self.child, libc::PTRACE_SINGLESTEP, 0)?;
        let signal = self.wait()?;
        anyhow::ensure!(signal == libc::SIGTRAP, "the child got signal {signal} where it clears its flags");
        Ok(())
    }

    /// Makes the child execute a system call.
    fn system_call(&self, number: i64, arguments: [u64; 4]) -> Result<u64> {
        let mut registers = ptrace::registers(self.child)?;
        registers.rip = HARNESS;
        registers.gpr[RAX] = number as u64;
        for (register, argument) in [RDI, RSI, RDX, R10].into_iter().zip(arguments) {
            registers.gpr[register] = argument;
        }
        ptrace::set_registers(self.child, &registers)?;
        ptrace::resume(self.child, libc::PTRACE_SINGLESTEP, 0)?;
        let signal = self.wait()?;
        if signal != libc::SIGTRAP {
            bail!("the child got signal {signal} in a system call");
        }
        Ok(ptrace::registers(self.child)?.gpr[RAX])
    }
}

impl Drop for Native {
    fn drop(&mut self) {
        // SAFETY: the child is ours and not reaped yet; the mapping is not used any more.
        unsafe {
            libc::kill(self.child, libc::SIGKILL);
            libc::waitpid(self.child, std::ptr::null_mut(), 0);
            libc::munmap(self.shared.cast(), FILE_SIZE);
        }
    }
}

/// The harness's code: SYSCALL, POPFQ.
const CODE: [u8; 3] = [0x0f, 0x05, 0x9d];
/// The address of POPFQ.
const POP_FLAGS: u64 = HARNESS + 2;
/// The flags that POPF sets and ptrace does not.
const STICKY: u64 = Rflags::ID.union(Rflags::NT).bits();

fn shared_file() -> std::io::Result<File> {
    // SAFETY: the name is a C string; a descriptor that is returned is ours.
    let file = unsafe {
        let descriptor = libc::memfd_create(c"tern-differential".as_ptr(), libc::MFD_CLOEXEC);
        if descriptor < 0 {
            return Err(std::io::Error::last_os_error());
        }
        File::from_raw_fd(descriptor)
    };
    file.set_len(FILE_SIZE as u64)?;
    Ok(file)
}
