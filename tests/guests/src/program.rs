//! Programs for guests that busybox has no applet for: a few system calls of Linux each, assembled here, so that no guest needs
//! a C library or another compiler.

use iced_x86::IcedError;
use iced_x86::code_asm::{AsmRegister32, CodeAssembler, eax, edi, edx, r8d, r10d, rax, rdx, rsi, rsp};

/// Where programs lie.
const BASE: u64 = 0x40_0000;
/// Bytes of the file's headers: ELF header and one program header.
const HEADERS: u64 = 0x78;
/// Bytes that are copied at once.
const CHUNK: i32 = 0x1000;

/// Numbers of system calls.
mod call {
    pub const READ: u32 = 0;
    pub const WRITE: u32 = 1;
    pub const SOCKET: u32 = 41;
    pub const CONNECT: u32 = 42;
    pub const ACCEPT: u32 = 43;
    pub const SHUTDOWN: u32 = 48;
    pub const BIND: u32 = 49;
    pub const LISTEN: u32 = 50;
    pub const EXIT: u32 = 60;
}

const AF_VSOCK: u32 = 40;
const SOCK_STREAM: u32 = 1;
const SHUT_WR: u32 = 1;
/// Any address of one's own.
const ANY: u32 = u32::MAX;

/// Accepts one connection at this port, and sends back what comes until the other end has no more to say.
///
/// # Panics
/// It cannot be assembled.
#[must_use]
pub fn vsock_echo(port: u32) -> Vec<u8> {
    file(|a| {
        open(a, port, ANY, call::BIND)?;
        a.mov(edi, r8d)?;
        a.mov(rsi, 1u64)?;
        system_call(a, call::LISTEN)?;
        a.mov(edi, r8d)?;
        a.xor(rsi, rsi)?;
        a.xor(rdx, rdx)?;
        system_call(a, call::ACCEPT)?;
        a.mov(r8d, eax)?;
        copy(a, r8d, r8d)?;
        exit(a)
    })
}

/// Connects to this port of the host's, sends standard input, and writes what comes back to standard output.
///
/// # Panics
/// It cannot be assembled.
#[must_use]
pub fn vsock_ask(port: u32) -> Vec<u8> {
    file(|a| {
        open(a, port, 2, call::CONNECT)?;
        a.xor(r10d, r10d)?;
        copy(a, r10d, r8d)?;
        a.mov(edi, r8d)?;
        a.mov(rsi, u64::from(SHUT_WR))?;
        system_call(a, call::SHUTDOWN)?;
        a.mov(r10d, 1)?;
        copy(a, r8d, r10d)?;
        exit(a)
    })
}

/// Makes a call whose arguments are in place; if it fails, the program ends with the call's number.
fn system_call(a: &mut CodeAssembler, number: u32) -> Result<(), IcedError> {
    let mut good = a.create_label();
    a.mov(eax, number)?;
    a.syscall()?;
    a.test(rax, rax)?;
    a.jns(good)?;
    a.mov(edi, number)?;
    a.mov(eax, call::EXIT)?;
    a.syscall()?;
    a.set_label(&mut good)?;
    a.nop()
}

fn exit(a: &mut CodeAssembler) -> Result<(), IcedError> {
    a.xor(edi, edi)?;
    a.mov(eax, call::EXIT)?;
    a.syscall()
}

/// Makes a socket, in R8, and has it connect or bind to an address.
fn open(a: &mut CodeAssembler, port: u32, cid: u32, call: u32) -> Result<(), IcedError> {
    a.mov(edi, AF_VSOCK)?;
    a.mov(rsi, u64::from(SOCK_STREAM))?;
    a.xor(rdx, rdx)?;
    system_call(a, call::SOCKET)?;
    a.mov(r8d, eax)?;
    // sockaddr_vm: family, zeros, port, cid, zeros.
    a.mov(rax, u64::from(cid))?;
    a.push(rax)?;
    a.mov(rax, u64::from(port) << 32 | u64::from(AF_VSOCK))?;
    a.push(rax)?;
    a.mov(edi, r8d)?;
    a.mov(rsi, rsp)?;
    a.mov(rdx, 16u64)?;
    system_call(a, call)
}

/// Copies from one descriptor to the other until the first has no more.
fn copy(a: &mut CodeAssembler, from: AsmRegister32, to: AsmRegister32) -> Result<(), IcedError> {
    let mut again = a.create_label();
    let mut done = a.create_label();
    a.sub(rsp, CHUNK)?;
    a.set_label(&mut again)?;
    a.mov(edi, from)?;
    a.mov(rsi, rsp)?;
    a.mov(edx, CHUNK)?;
    system_call(a, call::READ)?;
    a.test(rax, rax)?;
    a.je(done)?;
    a.mov(edi, to)?;
    a.mov(rsi, rsp)?;
    a.mov(rdx, rax)?;
    system_call(a, call::WRITE)?;
    a.jmp(again)?;
    a.set_label(&mut done)?;
    a.add(rsp, CHUNK)
}

/// A program file with this code: an ELF file of one segment.
fn file(write: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>) -> Vec<u8> {
    let mut assembler = CodeAssembler::new(64).expect("64 is a bitness");
    write(&mut assembler).expect("the instructions exist");
    let code = assembler.assemble(BASE + HEADERS).expect("the instructions can be encoded");
    let size = HEADERS + code.len() as u64;
    let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    // An executable for x86-64; the entry, one program header behind this one.
    for half in [2_u16, 62] {
        file.extend(half.to_le_bytes());
    }
    file.extend(1_u32.to_le_bytes());
    for long in [BASE + HEADERS, 0x40, 0] {
        file.extend(long.to_le_bytes());
    }
    file.extend(0_u32.to_le_bytes());
    for half in [0x40_u16, 0x38, 1, 0, 0, 0] {
        file.extend(half.to_le_bytes());
    }
    // A segment to be loaded, readable and executable.
    for word in [1_u32, 5] {
        file.extend(word.to_le_bytes());
    }
    for long in [0, BASE, BASE, size, size, 0x1000] {
        file.extend(long.to_le_bytes());
    }
    file.extend(code);
    file
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::os::unix::fs::PermissionsExt as _;
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn what_is_assembled_is_a_program() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("copy");
        let program = file(|a| {
            a.xor(r8d, r8d)?;
            a.mov(r10d, 1)?;
            copy(a, r8d, r10d)?;
            exit(a)
        });
        std::fs::write(&path, program).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        let mut command = Command::new(&path);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(&[b'x'; 10_000]).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success());
        assert_eq!(output.stdout, [b'x'; 10_000]);
    }
}
