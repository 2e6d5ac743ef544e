//! The ptrace requests, with registers in this crate's form.

use std::sync::OnceLock;

use anyhow::{Context, Result};
use libc::{c_int, c_uint, c_void, pid_t, user_fpregs_struct, user_regs_struct};
use tern_x86::state::{FPU_IMAGE_SIZE, FpuState, YMM_SIZE};
use tern_x86::vector::AVX_OFFSET;

use crate::registers::Registers;

/// The selectors of Linux's 64-bit user code; data segments have none.
const USER_CS: u64 = 0x33;
const USER_SS: u64 = 0x2b;

const _: () = assert!(size_of::<user_fpregs_struct>() == FPU_IMAGE_SIZE);

/// The largest XSAVE area that there may be.
const MOST: usize = 16 << 10;
/// The register set that is an XSAVE area in the standard form.
const NT_X86_XSTATE: usize = 0x202;
/// Where an XSAVE area says which components it holds: x87, SSE, AVX.
const XSTATE_BV: usize = FPU_IMAGE_SIZE;
const X87_SSE_AVX: u64 = 7;

/// The child's vector registers as an XSAVE area, in the first bytes of `area`; returns how many.
fn get_area(child: pid_t, area: &mut [u8; MOST]) -> Result<usize> {
    let mut vector = libc::iovec { iov_base: area.as_mut_ptr().cast(), iov_len: MOST };
    request(libc::PTRACE_GETREGSET as c_uint, child, NT_X86_XSTATE, (&raw mut vector).cast())?;
    Ok(vector.iov_len)
}

/// The child's x87, SSE and AVX registers.
fn vectors(child: pid_t) -> Result<FpuState> {
    let mut area = [0; MOST];
    let size = get_area(child, &mut area)?;
    let mut fpu = FpuState::new();
    fpu.image_mut().copy_from_slice(&area[..FPU_IMAGE_SIZE]);
    let present = u64::from_le_bytes(std::array::from_fn(|n| area[XSTATE_BV + n]));
    if size >= AVX_OFFSET + YMM_SIZE && present & 4 != 0 {
        fpu.ymm_mut().copy_from_slice(&area[AVX_OFFSET..AVX_OFFSET + YMM_SIZE]);
    }
    Ok(fpu)
}

/// Sets them; what else there is becomes initial.
fn set_vectors(child: pid_t, fpu: &FpuState) -> Result<()> {
    static SIZE: OnceLock<usize> = OnceLock::new();
    let mut area = [0; MOST];
    let size = match SIZE.get() {
        Some(&size) => size,
        None => {
            let size = get_area(child, &mut area)?;
            area = [0; MOST];
            *SIZE.get_or_init(|| size)
        }
    };
    area[..FPU_IMAGE_SIZE].copy_from_slice(fpu.image());
    let mut present = X87_SSE_AVX;
    if size >= AVX_OFFSET + YMM_SIZE {
        area[AVX_OFFSET..AVX_OFFSET + YMM_SIZE].copy_from_slice(fpu.ymm());
    } else {
        present &= 3;
    }
    area[XSTATE_BV..XSTATE_BV + 8].copy_from_slice(&present.to_le_bytes());
    let mut vector = libc::iovec { iov_base: area.as_mut_ptr().cast(), iov_len: size };
    request(libc::PTRACE_SETREGSET as c_uint, child, NT_X86_XSTATE, (&raw mut vector).cast())
}

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
    request(libc::PTRACE_GETREGS, child, 0, (&raw mut user).cast())?;
    let fpu = vectors(child)?;
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
    request(libc::PTRACE_SETREGS, child, 0, (&raw mut user).cast())?;
    set_vectors(child, &registers.fpu)
}
