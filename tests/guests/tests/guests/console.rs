//! The console as a pipe: nothing is lost, whoever is slow, on either side.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read};
use std::thread;
use std::time::Duration;

use tern_guests::{PROMPT, Tern};

/// The exit code if the reader of the output went away.
const LEFT: i32 = 130;
/// The exit code if the host fails.
const HOST: i32 = 74;

#[test]
fn the_end_of_the_input_is_not_the_end_of_the_guest() {
    let mut guest = Tern::run().start();
    guest.send("sleep 2; echo still $((40 + 2)) here; poweroff\n");
    guest.end_input();
    guest.wait_for("still 42 here");
    let _ = guest.end().expect_code(0);
}

#[test]
fn a_script_that_is_piped_in_at_once_is_executed_completely_and_in_order() {
    const COMMANDS: usize = 500;
    let mut script = String::new();
    for number in 0..COMMANDS {
        // Some commands are programs, and keep the shell from reading.
        let slow = if number % 50 == 7 { "/bin/usleep 100000; " } else { "" };
        // On the console, what is printed mingles with the echo of what is yet to be read.
        writeln!(script, "{slow}echo $(({number}+100000)) >>/done").unwrap();
    }
    script.push_str("cat /done; poweroff\n");
    let mut guest = Tern::run().start();
    guest.send(script);
    guest.end_input();
    let end = guest.end().expect_code(0);
    let printed: Vec<usize> = end.console.lines().filter_map(|line| line.trim().parse().ok()).collect();
    let expected: Vec<usize> = (0..COMMANDS).map(|number| number + 100_000).collect();
    if printed != expected {
        let lost: Vec<_> = expected.iter().filter(|number| !printed.contains(number)).collect();
        end.fail(&format!("{} of {COMMANDS} commands came through; lost: {lost:?}", printed.len()));
    }
}

/// Sends `count` bytes to a program in the guest that reads them as they are, and compares what arrived.
fn data_arrives_intact(count: usize) {
    // No byte is special to a serial line in raw mode; these are all of them, in a changing order.
    let data: Vec<u8> = (0..count).map(|at| (at * 31 + at / 251).to_le_bytes()[0]).collect();
    let mut guest = Tern::run().arg("--cmdline").arg(tern_guests::debian::CMDLINE).start();
    guest.wait_for(PROMPT);
    guest.send(format!("stty raw -echo; echo ready; head -c {count} >/data; stty sane; echo over\n"));
    guest.wait_for("\nready");
    guest.send(data.clone());
    guest.wait_for("over\r\n");
    guest.wait_for(PROMPT);
    assert_eq!(guest.ask("wc -c </data"), count.to_string());
    // A checksum that is easily computed on both sides: POSIX cksum needs a table, a sum does not.
    let hash = guest.ask("md5sum </data");
    drop(guest.power_off());
    assert_eq!(hash.split(' ').next(), Some(md5(&data).as_str()));
}

/// The MD5 of `data`, by the host's program: what the guest's is to agree with.
fn md5(data: &[u8]) -> String {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    io::Write::write_all(&mut file, data).unwrap();
    let output = std::process::Command::new("md5sum").arg(file.path()).output().unwrap();
    String::from_utf8(output.stdout).unwrap().split(' ').next().unwrap().to_owned()
}

#[test]
fn a_little_data_that_is_piped_in_arrives_intact() {
    data_arrives_intact(5_000);
}

#[test]
fn data_that_is_piped_in_arrives_intact() {
    data_arrives_intact(100_000);
}

#[test]
#[ignore = "takes minutes: a serial line carries 11,520 bytes a second"]
fn a_million_bytes_that_are_piped_in_arrive_intact() {
    data_arrives_intact(1_000_000);
}

#[test]
fn a_slow_reader_gets_everything_that_a_guest_floods_the_console_with() {
    let (mut reader, writer) = io::pipe().unwrap();
    let guest = Tern::run().output(writer).start();
    guest.send("seq 100001 130000; poweroff\n");
    // Until nothing fits anywhere any more: the pipe, our own buffer, the guest's.
    let reading = thread::spawn(move || {
        thread::sleep(Duration::from_secs(8));
        let mut console = String::new();
        reader.read_to_string(&mut console).unwrap();
        console
    });
    let end = guest.end().expect_code(0);
    let console = reading.join().unwrap();
    let numbers = console.lines().filter_map(|line| line.trim().parse::<u32>().ok());
    let numbers: Vec<_> = numbers.filter(|number| *number > 100_000).collect();
    if numbers != (100_001..=130_000).collect::<Vec<_>>() {
        end.fail(&format!("{} of 30,000 lines arrived", numbers.len()));
    }
}

#[test]
fn a_reader_that_goes_away_ends_a_guest_that_floods_the_console() {
    let (mut reader, writer) = io::pipe().unwrap();
    let guest = Tern::run().output(writer).start();
    guest.send("yes\n");
    let mut seen = vec![0; 10_000];
    reader.read_exact(&mut seen).unwrap();
    drop(reader);
    let end = guest.end().expect_code(LEFT);
    assert!(!end.errors.contains("error"), "whoever reads has seen enough: {}", end.errors);
}

#[test]
fn a_full_disk_under_the_output_is_an_error_of_the_host() {
    let full = File::options().write(true).open("/dev/full").unwrap();
    let end = Tern::run().output(full).finish().expect_code(HOST);
    end.expect_errors(&["console output", "No space left"]);
}
