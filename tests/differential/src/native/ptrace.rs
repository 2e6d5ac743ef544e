//! The ptrace requests, with registers in this crate's form.

use anyhow::{Context, Result};
use libc::{c_int, c_uint, c_void, pid_t, user_fpregs_struct, user_regs_struct};
use tern_x86::state::FpuState;

use crate::registers::Registers;

/// The selectors of Linux's 64-bit user code; data segments have none.
const USER_CS: u64 = 0x33;
const USER_SS: u64 = 0x2b;

const _: () = assert!(size_of::<user_fpregs_struct>() == size_of::<FpuState>());

fn request(request: c_uint, child: pid_t, address: usize, data: *mut c_void) -> Result<()> {
    // SAFETY: every caller passes data of the request's type.
    match unsafe { libc::ptrace(request, child, address, data) } {
        -1 => {
            let error = std::io::Error::last_os_error();
            Err(error).with_context(|| format!("ptrace request {request} failed"))
        }
        _ => Ok(()),
    }
}

/// Lets the child go on by `how` with `signal`, or none if it is 0.
pub fn resume(child: pid_t, how: c_uint, signal: c_int) -> Result<()> {
    request(how, child, 0, signal as usize as *mut c_void)
}

/// The `si_code` of the signal at which the child stopped.
pub fn signal_code(child: pid_t) -> Result<c_int> {
    // SAFETY: all zeros are a valid siginfo.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    request(libc::PTRACE_GETSIGINFO, child, 0, (&raw mut info).cast())?;
    Ok(info.si_code)
}

/// What the child registered with the system call `rseq`; kernels before 5.13 do not say.
pub fn restartable_sequences(child: pid_t) -> Option<libc::ptrace_rseq_configuration> {
    let size = size_of::<libc::ptrace_rseq_configuration>();
    // SAFETY: all zeros are a valid value of plain integers.
    let mut found: libc::ptrace_rseq_configuration = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes at most `size` bytes and returns how many it has.
    let written = unsafe { libc::ptrace(libc::PTRACE_GET_RSEQ_CONFIGURATION, child, size, &raw mut found) };
    usize::try_from(written).is_ok_and(|written| written == size).then_some(found)
}

/// The child's registers.
pub fn registers(child: pid_t) -> Result<Registers> {
    // SAFETY: all zeros are a valid value of plain integers.
    let mut user: user_regs_struct = unsafe { std::mem::zeroed() };
    let mut fpu = FpuState::new();
    request(libc::PTRACE_GETREGS, child, 0, (&raw mut user).cast())?;
    request(libc::PTRACE_GETFPREGS, child, 0, fpu.image_mut().as_mut_ptr().cast())?;
    let gpr = [
        user.rax, user.rcx, user.rdx, user.rbx, user.rsp, user.rbp, user.rsi, user.rdi, user.r8, user.r9,
        user.r10, user.r11, user.r12, user.r13, user.r14, user.r15,
    ];
    let (fs_base, gs_base) = (user.fs_base, user.gs_base);
    Ok(Registers { gpr, rip: user.rip, rflags: user.eflags, fs_base, gs_base, fpu })
}

/// Sets the child's registers.
pub fn set_registers(child: pid_t, registers: &Registers) -> Result<()> {
    let [rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15] = registers.gpr;
    let mut user = user_regs_struct {
        rax,
        rcx,
        rdx,
        rbx,
        rsp,
        rbp,
        rsi,
        rdi,
        r8,
        r9,
        r10,
        r11,
        r12,
        r13,
        r14,
        r15,
        // Not in a system call that could be restarted.
        orig_rax: u64::MAX,
        rip: registers.rip,
        eflags: registers.rflags,
        cs: USER_CS,
        ss: USER_SS,
        ds: 0,
        es: 0,
        fs: 0,
        gs: 0,
        fs_base: registers.fs_base,
        gs_base: registers.gs_base,
    };
    let mut fpu = registers.fpu;
    request(libc::PTRACE_SETREGS, child, 0, (&raw mut user).cast())?;
    request(libc::PTRACE_SETFPREGS, child, 0, fpu.image_mut().as_mut_ptr().cast())
}
