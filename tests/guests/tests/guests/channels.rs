//! Terminals and channels of the console device.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tern_guests::debian::CMDLINE;
use tern_guests::{Guest, PROMPT, Terminal, Tern};

fn with_ports(directory: &TempDir) -> Tern {
    let port = |name: &str| directory.path().join(name).into_os_string();
    let mut channel = port("channel");
    channel.push(",name=org.tern.test");
    let run = Tern::run().arg("--cmdline").arg(CMDLINE);
    run.arg("--console").arg(port("terminal")).arg("--console").arg(channel)
}

fn connect(directory: &TempDir, name: &str) -> UnixStream {
    let socket = UnixStream::connect(directory.path().join(name)).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(120))).unwrap();
    socket
}

/// Reads until `text` has come; gives all that came.
fn read_until(socket: &mut UnixStream, text: &str) -> String {
    let (started, mut seen) = (Instant::now(), Vec::new());
    while !String::from_utf8_lossy(&seen).contains(text) {
        assert!(started.elapsed() < Duration::from_secs(120), "waited in vain for {text:?}");
        let mut byte = [0];
        socket.read_exact(&mut byte).unwrap();
        seen.extend(byte);
    }
    String::from_utf8_lossy(&seen).into_owned()
}

fn up(mut guest: Guest) -> Guest {
    guest.wait_for(PROMPT);
    guest
}

#[test]
fn a_shell_runs_at_a_terminal_of_its_own() {
    let directory = tempfile::tempdir().unwrap();
    let mut guest = up(with_ports(&directory).start());
    let mut terminal = connect(&directory, "terminal");
    guest.ask("setsid sh -c 'exec sh -i </dev/hvc0 >/dev/hvc0 2>&1' &");
    terminal.write_all(b"echo $((6*7)); tty\n").unwrap();
    let seen = read_until(&mut terminal, "/dev/hvc0");
    assert!(seen.contains("\n42\r\n"), "{seen}");
    // One program after the other.
    drop(terminal);
    let mut terminal = connect(&directory, "terminal");
    terminal.write_all(b"seq 1 2000; echo do''ne\n").unwrap();
    assert!(read_until(&mut terminal, "done\r\n").contains("\n1234\r\n"));
    let _ = guest.power_off();
    assert!(!Path::new(&directory.path().join("terminal")).exists(), "nothing is left behind");
}

#[test]
fn a_channel_carries_data_both_ways_and_is_found_by_its_name() {
    let directory = tempfile::tempdir().unwrap();
    let mut guest = up(with_ports(&directory).start());
    assert_eq!(guest.ask("cat /sys/class/virtio-ports/vport0p1/name"), "org.tern.test");
    let mut channel = connect(&directory, "channel");
    guest.ask("head -c 300000 /dev/zero | tr '\\0' x >/data; (head -c 200000 </dev/vport0p1 >/heard) &");
    let said: Vec<u8> = (0..200_000_u32).map(|index| b'a' + (index % 23) as u8).collect();
    channel.write_all(&said).unwrap();
    guest.ask("wait; cat /data >/dev/vport0p1 &");
    let mut heard = vec![0; 300_000];
    channel.read_exact(&mut heard).unwrap();
    assert!(heard.iter().all(|byte| *byte == b'x'));
    guest.ask("wait; cat /heard >/dev/vport0p1 &");
    let mut heard = vec![0; said.len()];
    channel.read_exact(&mut heard).unwrap();
    assert!(heard == said);
    let _ = guest.power_off();
}

#[test]
fn a_terminal_is_as_large_as_the_users_and_follows_it() {
    let directory = tempfile::tempdir().unwrap();
    let terminal = Terminal::open();
    terminal.resize(132, 43);
    let mut guest = up(with_ports(&directory).start_on(&terminal));
    // Linux tells the size to who has opened the terminal, and not at once; busybox looks at the environment first.
    guest.ask("exec 3</dev/hvc0; until [ \"$(env -u COLUMNS -u LINES stty size <&3)\" = '43 132' ]; do sleep 0.1; done");
    terminal.resize(99, 33);
    guest.ask("until [ \"$(env -u COLUMNS -u LINES stty size <&3)\" = '33 99' ]; do sleep 0.1; done");
    let _ = guest.power_off();
}
