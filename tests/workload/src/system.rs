//! The processor and a kernel: what programs ask it for all the time.

use std::env;
use std::ffi::CString;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStringExt;
use std::ptr;

use rustix::mm::{Advice, MapFlags, ProtFlags};
use rustix::process::{Pid, WaitOptions};
use rustix::thread::CpuSet;

use crate::measure::Repetition;

/// What this program is told if it is to end at once.
pub(crate) const NOTHING: &str = "--nothing";

/// A system call that does next to nothing.
pub(crate) fn syscall() -> io::Result<Repetition> {
    const TIMES: u32 = 1000;
    let parent =
        || rustix::process::getppid().map_or(0, |parent| parent.as_raw_nonzero().get().cast_unsigned());
    let work = move || {
        // The parent may end meanwhile; what matters is that all calls are made.
        Ok((0..TIMES).map(|_| u64::from(parent() < u32::MAX)).sum())
    };
    Ok(Repetition { units: TIMES, answer: TIMES.into(), work: Box::new(work) })
}

/// The first write to a page of anonymous memory, and the page's share of mapping and unmapping it.
pub(crate) fn fault() -> io::Result<Repetition> {
    const PAGES: u32 = 1024;
    Ok(Repetition { units: PAGES, answer: PAGES.into(), work: Box::new(|| touch(PAGES as usize)) })
}

fn touch(pages: usize) -> io::Result<u64> {
    const PAGE: usize = 4096;
    let length = pages * PAGE;
    let access = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: it asks for memory that nobody has yet.
    let memory = unsafe { rustix::mm::mmap_anonymous(ptr::null_mut(), length, access, MapFlags::PRIVATE)? };
    // SAFETY: advice does not change what private memory holds.
    unsafe { rustix::mm::madvise(memory, length, Advice::LinuxNoHugepage) }
        // A kernel without huge pages does not know the advice and does not need it.
        .or_else(|error| if error == rustix::io::Errno::INVAL { Ok(()) } else { Err(error) })?;
    let mut sum = 0;
    for page in 0..pages {
        // SAFETY: it lies in the mapping, which only this function knows. Volatile, because nobody else reads it.
        unsafe {
            let place = memory.cast::<u8>().add(page * PAGE);
            place.write_volatile(1);
            sum += u64::from(place.read_volatile());
        }
    }
    // SAFETY: this is the mapping made above, and no reference to it exists.
    unsafe { rustix::mm::munmap(memory, length)? };
    Ok(sum)
}

/// A process that ends at once, and waiting for it.
pub(crate) fn fork() -> io::Result<Repetition> {
    let work = || wait(fork_to(|| 0)?);
    Ok(Repetition { units: 1, answer: 0, work: Box::new(work) })
}

/// A process that becomes another program, which ends at once, and waiting for it.
pub(crate) fn exec() -> io::Result<Repetition> {
    let program = CString::new(env::current_exe()?.into_os_string().into_vec())?;
    let nothing = CString::new(NOTHING)?;
    let work = move || {
        let arguments = [program.as_ptr(), nothing.as_ptr(), ptr::null()];
        let child = fork_to(|| {
            // SAFETY: the strings end with a NUL and their list with a null pointer, and they outlive the call.
            unsafe { libc::execv(program.as_ptr(), arguments.as_ptr()) };
            127
        })?;
        wait(child)
    };
    Ok(Repetition { units: 1, answer: 0, work: Box::new(work) })
}

/// A byte to another process and back. Both share one processor, as they must in a guest that has no more.
pub(crate) fn pipe() -> io::Result<Repetition> {
    const TIMES: u32 = 100;
    let mut here = CpuSet::new();
    here.set(rustix::thread::sched_getcpu());
    rustix::thread::sched_setaffinity(None, &here)?;
    let (mut there_reads, mut here_writes) = io::pipe()?;
    let (mut here_reads, mut there_writes) = io::pipe()?;
    fork_to(|| {
        // SAFETY: the copy of this end that the other process got is used nowhere else in it. Open, it would keep the
        // loop below from ever seeing the end.
        unsafe { libc::close(std::os::fd::AsRawFd::as_raw_fd(&here_writes)) };
        let mut byte = [0];
        while there_reads.read_exact(&mut byte).and_then(|()| there_writes.write_all(&byte)).is_ok() {}
        0
    })?;
    let work = move || {
        let mut sum = 0;
        for _ in 0..TIMES {
            let mut byte = [1];
            here_writes.write_all(&byte)?;
            here_reads.read_exact(&mut byte)?;
            sum += u64::from(byte[0]);
        }
        Ok(sum)
    };
    Ok(Repetition { units: TIMES, answer: TIMES.into(), work: Box::new(work) })
}

/// Starts a process that runs `body` and ends with the status that it returns. `body` must not allocate, nor use anything
/// else that a thread of this process may hold a lock of.
fn fork_to(body: impl FnOnce() -> i32) -> io::Result<Pid> {
    // SAFETY: the new process runs `body`, which does as said above, and ends without running this process's destructors.
    match unsafe { libc::fork() } {
        0 => {
            let status = body();
            // SAFETY: it takes no pointers.
            unsafe { libc::_exit(status) }
        }
        child => Pid::from_raw(child).filter(|_| child > 0).ok_or_else(io::Error::last_os_error),
    }
}

/// Waits until the process has ended, and returns its status.
fn wait(child: Pid) -> io::Result<u64> {
    let status = rustix::process::waitpid(Some(child), WaitOptions::empty())?;
    let code = status.and_then(|(_, status)| status.exit_status());
    let code = code.ok_or_else(|| io::Error::other("the process was ended by a signal"))?;
    Ok(u64::from(code.cast_unsigned()))
}
