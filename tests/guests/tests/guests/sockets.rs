//! Sockets between guest and host.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use tempfile::TempDir;
use tern_guests::debian::{self, Flavour, Suite};
use tern_guests::{Guest, PROMPT, Tern, program};

/// The guest's port that echoes, and the host's.
const GUEST_PORT: u32 = 5000;
const HOST_PORT: u32 = 52;

fn guest(directory: &TempDir) -> (Guest, PathBuf) {
    let initramfs = directory.path().join("initramfs");
    let programs =
        [("vsock-echo", program::vsock_echo(GUEST_PORT)), ("vsock-ask", program::vsock_ask(HOST_PORT))];
    fs::write(&initramfs, debian::initramfs_with(&programs)).unwrap();
    let socket = directory.path().join("vsock");
    let run = Tern::kernel(&debian::kernel(Suite::Host, Flavour::Cloud)).arg("--initrd").arg(&initramfs);
    let run = run.arg("--cmdline").arg(debian::CMDLINE).arg("--vsock").arg(&socket);
    let mut guest = run.start();
    guest.wait_for(PROMPT);
    (guest, socket)
}

#[test]
fn a_program_of_the_host_talks_to_one_of_the_guest() {
    let directory = tempfile::tempdir().unwrap();
    let (mut guest, socket) = guest(&directory);
    guest.ask("(vsock-echo; echo echoed: $?) &");
    let mut stream = connect(&socket);
    let sent: Vec<u8> = (0..200_000_u32).map(|index| (index >> 5) as u8).collect();
    let (mut writer, bytes) = (stream.get_ref().try_clone().unwrap(), sent.clone());
    let writing = thread::spawn(move || {
        writer.write_all(&bytes).unwrap();
        writer.shutdown(Shutdown::Write).unwrap();
    });
    let mut received = Vec::new();
    stream.read_to_end(&mut received).unwrap();
    writing.join().unwrap();
    assert!(received == sent, "{} bytes of {} came back", received.len(), sent.len());
    guest.wait_for("echoed: 0");
    let _ = guest.power_off();
    assert!(!socket.exists(), "nothing is left behind");
}

/// Asks for the guest's port until somebody listens there.
fn connect(socket: &PathBuf) -> BufReader<UnixStream> {
    for _ in 0..100 {
        let mut stream = UnixStream::connect(socket).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(120))).unwrap();
        writeln!(stream, "CONNECT {GUEST_PORT}").unwrap();
        let mut reader = BufReader::new(stream);
        let mut line = String::new();
        if reader.read_line(&mut line).is_ok() && line.starts_with("OK ") {
            return reader;
        }
        thread::sleep(Duration::from_millis(100));
    }
    panic!("nobody in the guest accepts");
}

#[test]
fn a_program_of_the_guest_talks_to_one_of_the_host() {
    let directory = tempfile::tempdir().unwrap();
    let service = UnixListener::bind(directory.path().join(format!("vsock_{HOST_PORT}"))).unwrap();
    let echo = thread::spawn(move || {
        let (mut stream, _) = service.accept().unwrap();
        let mut said = Vec::new();
        stream.read_to_end(&mut said).unwrap();
        stream.write_all(&said).unwrap();
    });
    let (mut guest, _) = guest(&directory);
    guest.ask("dd if=/dev/urandom of=/said bs=1k count=150 2>/dev/null; vsock-ask </said >/heard; echo $?");
    assert_eq!(guest.ask("cmp /said /heard && wc -c </heard"), "153600");
    echo.join().unwrap();
    let refused = guest.ask("rm /dev/vsock; vsock-ask </dev/null; echo status $?");
    assert_eq!(refused, "status 42", "connect: nobody listens any more");
    let _ = guest.power_off();
}

#[test]
fn a_place_that_is_taken_is_refused_with_its_name() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    fs::write(&file, "precious").unwrap();
    let end = Tern::run().arg("--vsock").arg(&file).finish().expect_code(66);
    end.expect_errors(&["/file'", "no socket"]);
    assert_eq!(fs::read(&file).unwrap(), b"precious");
}
