//! Machines in the background, found by their names: `tern run --detach`, `tern ps`, `tern console`, `tern stop`.

use std::io::{self, Read as _};
use std::path::PathBuf;
use std::time::{Duration, Instant};
use std::{fs, thread};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;
use tern_guests::{End, PROMPT, Tern, debian};

/// Machines that nobody else sees. Those that a failed test leaves are ended.
struct Own {
    folder: TempDir,
}

impl Own {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    fn with(&self, tern: Tern) -> Tern {
        tern.environment("TERN_RUNTIME_DIR", self.sockets()).environment("TERN_STATE_DIR", self.folder.path())
    }

    fn tern<const N: usize>(&self, words: [&str; N]) -> Tern {
        self.with(Tern::new(words))
    }

    fn sockets(&self) -> PathBuf {
        self.folder.path().join("run")
    }

    /// Starts the tiny guest in the background; returns what is printed.
    fn detach(&self, name: Option<&str>) -> End {
        let mut run = self.with(Tern::run()).arg("--detach").arg("--quiet");
        if let Some(name) = name {
            run = run.arg("--name").arg(name);
        }
        run.finish()
    }

    fn list(&self) -> Vec<Value> {
        let text = self.tern(["ps", "-o", "json"]).finish().expect_code(0).console;
        serde_json::from_str(&text).unwrap()
    }

    fn names(&self) -> Vec<String> {
        self.list().iter().map(|machine| machine["name"].as_str().unwrap().to_owned()).collect()
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        for machine in self.list() {
            let process =
                machine["process"].as_i64().and_then(|process| Pid::from_raw(i32::try_from(process).ok()?));
            // It may have ended by itself.
            let _ = process.map(|process| kill_process(process, Signal::KILL));
        }
    }
}

#[test]
fn a_machine_in_the_background_is_listed_shown_and_stopped_by_name() {
    let own = Own::new();
    assert_eq!(own.names(), [""; 0]);
    let end = own.detach(Some("web")).expect_code(0);
    assert_eq!((end.console.as_str(), end.errors.as_str()), ("web\n", ""));
    let list = own.list();
    assert_eq!((list.len(), &list[0]["name"], &list[0]["image"]), (1, &"web".into(), &"tiny".into()));
    assert_eq!(list[0]["state"], "running");
    let text = own.tern(["ps"]).finish().expect_code(0).console;
    assert!(text.starts_with("NAME") && text.contains("web") && text.contains("512 MiB"), "{text}");

    let end = own.detach(Some("web")).expect_code(66);
    end.expect_errors(&["'web' is running", "tern stop web"]);

    // One console after the other, and two at once: all see the same machine.
    let mut first = own.tern(["console", "web"]).start();
    first.wait_for(PROMPT);
    first.ask("touch /seen");
    let mut second = own.tern(["console", "web"]).start();
    second.wait_for("touch /seen");
    second.send("echo $((6 * 7))\n");
    second.wait_for("\r\n42\r\n");
    first.wait_for("\r\n42\r\n");
    first.signal(Signal::TERM);
    let _ = first.end().expect_signal(Signal::TERM);
    second.send("ls /se*\n");
    second.wait_for("\r\n/seen\r\n");

    // Its guest does not listen to the button.
    let end = own.tern(["stop", "web", "--timeout", "1"]).finish().expect_code(0);
    end.expect_errors(&["by force"]);
    second.end().expect_code(0).expect_errors(&["'web' has ended"]);
    assert_eq!(own.names(), [""; 0]);
    assert_eq!(fs::read_dir(own.sockets()).unwrap().count(), 0);
    let end = own.tern(["stop", "web"]).finish().expect_code(66);
    end.expect_errors(&["no running machine 'web'", "no machine is running"]);
}

#[test]
fn a_system_in_the_background_is_logged_into_by_whoever_comes_to_its_console() {
    const PROMPT: &str = "root@debian:~# ";
    const LIMIT: Duration = Duration::from_secs(240);
    let own = Own::new();
    let _ = debian::system("debian");
    let run = own.with(Tern::run()).arg("debian").arg("--detach").arg("--quiet").arg("--name").arg("web");
    let end = run.environment("TERM", "xterm-256color").cpus(1).finish().expect_code(0);
    assert_eq!((end.console.as_str(), end.errors.as_str()), ("web\n", ""));

    // There is no terminal yet: its size is an ordinary one's, its kind that of where the machine was started.
    let mut first = own.tern(["console", "web"]).within(LIMIT).start();
    first.wait_for(PROMPT);
    first.send("stty size; echo kind=$TERM; cat /etc/debian_version; touch /seen\n");
    first.wait_for("24 80\r\nkind=xterm-256color\r\n13");
    first.wait_for(PROMPT);
    first.signal(Signal::TERM);
    let _ = first.end().expect_signal(Signal::TERM);

    // The login is still there for the next one, and the power button ends the machine as it should.
    let mut second = own.tern(["console", "web"]).within(LIMIT).start();
    second.send("ls /se*n\n");
    second.wait_for("ls /se*n\r\n");
    second.wait_for("/seen\r\n");
    let end = own.tern(["stop", "web", "--timeout", "200"]).within(LIMIT).finish().expect_code(0);
    assert!(!end.errors.contains("by force"), "{}", end.errors);
    let end = second.end().expect_code(0);
    end.expect_errors(&["'web' has ended"]);
    assert!(end.console.contains("reboot: Power down"), "{}", end.console);
    assert_eq!(own.names(), [""; 0]);
}

#[test]
fn a_killed_machine_is_not_listed_and_its_name_is_free_again() {
    let own = Own::new();
    let mut names: Vec<String> =
        (0..2).map(|_| own.detach(None).expect_code(0).console.trim_end().to_owned()).collect();
    names.sort();
    assert_eq!(own.names(), names);
    assert!(names.iter().all(|name| name.starts_with("tiny-")), "{names:?}");
    let process = own.list()[0]["process"].as_i64().unwrap();
    let process = i32::try_from(process).unwrap();
    kill_process(Pid::from_raw(process).unwrap(), Signal::KILL).unwrap();
    let socket = own.sockets().join(format!("{}.sock", names[0]));
    assert!(socket.exists(), "nobody was there to remove it");
    // Until the system has closed all that the process had, it looks as if somebody might still answer.
    let since = Instant::now();
    while socket.exists() {
        assert_eq!(own.names(), names[1..]);
        assert!(since.elapsed() < Duration::from_secs(20), "a dead socket is not swept away");
    }
    assert_eq!(own.detach(Some(&names[0])).expect_code(0).console.trim_end(), names[0]);
    let _ = own.tern(["stop", "--force", &names[0], &names[1]]).finish().expect_code(0);
    assert_eq!(own.names(), [""; 0]);
}

#[test]
fn a_machine_that_hangs_is_named_with_its_process_and_no_other_waits_for_it() {
    let own = Own::new();
    for name in ["hangs", "hears"] {
        let _ = own.detach(Some(name)).expect_code(0);
    }
    let process = own.list()[0]["process"].as_i64().unwrap();
    let signal = |signal| {
        kill_process(Pid::from_raw(i32::try_from(process).unwrap()).unwrap(), signal).unwrap();
    };
    signal(Signal::STOP);
    let end = own.tern(["stop", "--force", "hangs", "hears"]).finish().expect_code(74);
    end.expect_errors(&["'hangs' has not answered", &format!("kill -CONT {process}")]);
    signal(Signal::CONT);
    assert_eq!(own.names(), ["hangs"]);
    let end = own.tern(["stop", "--force", "nobody", "hangs"]).finish().expect_code(66);
    end.expect_errors(&["no running machine 'nobody'", "running are hangs"]);
    assert_eq!(own.names(), [""; 0]);
}

#[test]
fn what_goes_wrong_before_the_machine_runs_is_told_by_the_command() {
    let own = Own::new();
    let end =
        own.with(Tern::run()).arg("--detach").arg("--disk").arg("/nowhere/disk").finish().expect_code(66);
    end.expect_errors(&["/nowhere/disk"]);
    assert_eq!(end.console, "");
    assert_eq!(own.names(), [""; 0]);
}

#[test]
fn a_machine_in_the_foreground_is_found_too() {
    let own = Own::new();
    let mut guest = own.with(Tern::run()).start();
    guest.wait_for(PROMPT);
    let names = own.names();
    assert_eq!(names.len(), 1);
    let _ = own.tern(["stop", "--force", &names[0]]).finish().expect_code(0);
    let _ = guest.end().expect_code(130);
}

#[test]
fn a_machine_whose_output_nobody_reads_any_more_is_stopped_by_force() {
    let own = Own::new();
    let (mut reader, writer) = io::pipe().unwrap();
    let guest = own.with(Tern::run()).arg("--name").arg("stuck").output(writer).start();
    guest.send("yes\n");
    let mut seen = vec![0; 10_000];
    reader.read_exact(&mut seen).unwrap();
    // Until nothing fits anywhere any more: the pipe, and our own buffer.
    thread::sleep(Duration::from_secs(8));
    let _ = own.tern(["stop", "--force", "stuck"]).finish().expect_code(0);
    let _ = guest.end().expect_code(130);
}
