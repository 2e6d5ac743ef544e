//! Whole, unmodified systems on a disk: from nothing to a login, and what becomes of the disk whatever ends the machine.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tempfile::TempDir;
use tern_guests::{Guest, Terminal, Tern, debian, host};

/// What root's shell shows there.
const PROMPT: &str = "root@debian:~# ";

/// Where Debian has its checker of file systems.
const CHECKER: &str = "/usr/sbin/e2fsck";

/// How long a boot may take on a busy host.
const LIMIT: Duration = Duration::from_secs(240);

/// `tern run` of a system, which is made before the clock runs.
fn run(name: &'static str) -> Tern {
    let _ = debian::system(name);
    Tern::run().arg(name).within(LIMIT)
}

fn up(run: Tern) -> Guest {
    let mut guest = run.start();
    guest.wait_for(PROMPT);
    guest
}

#[track_caller]
fn ask(guest: &mut Guest, command: &str) -> String {
    guest.send(format!("{command}\n"));
    guest.wait_for(&format!("{command}\r\n"));
    let output = guest.wait_for(PROMPT);
    output.trim_end_matches(PROMPT).replace("\r\n", "\n").trim_end().to_owned()
}

/// Everything that was to be started is, and neither systemd nor the kernel complain.
#[track_caller]
fn expect_sound(guest: &mut Guest) {
    let state = ask(guest, "systemctl is-system-running --wait");
    let failed = ask(guest, "systemctl --failed --no-legend --plain | cat");
    if state != "running" || !failed.is_empty() {
        guest.fail(&format!("the system is '{state}'; failed: {failed}"));
    }
    let complaints =
        ask(guest, "journalctl -b -k -p err --no-pager -o cat | grep -v -e 'mce: Unable to init'");
    if complaints.lines().any(|line| !line.starts_with("-- ") && !host::explains(line)) {
        guest.fail("the kernel complains");
    }
}

#[track_caller]
fn power_off(guest: Guest) {
    guest.send("poweroff\n");
    let end = guest.end().expect_code(0);
    if !end.console.contains("reboot: Power down") {
        end.fail("it was not the guest that ended it");
    }
}

/// Places for what is kept and for sockets, which are this test's own.
struct Own(TempDir);

impl Own {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn with(&self, tern: Tern) -> Tern {
        let place = |name: &str| self.0.path().join(name).into_os_string();
        tern.environment("TERN_STATE_DIR", place("state")).environment("TERN_RUNTIME_DIR", place("run"))
    }

    /// The file system on a kept machine's disk, as a file of its own.
    fn file_system(&self, name: &str) -> PathBuf {
        let (disk, raw) =
            (self.0.path().join("state/kept").join(name).join("disk.qcow2"), self.0.path().join("raw"));
        let _ = Tern::new(["image", "check"]).arg(&disk).finish().expect_code(0);
        let convert = Tern::new(["image", "convert", "--force", "--format", "raw"]);
        let _ = convert.arg(&disk).arg(&raw).finish().expect_code(0);
        raw
    }
}

/// What e2fsck says, and its exit code.
fn check(file: &Path, how: &str) -> (i32, String) {
    let output = Command::new(CHECKER).args(["-f", how]).arg(file).output().unwrap();
    (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&output.stdout).into_owned())
}

#[test]
fn debian_13_comes_up_whole_and_keeps_nothing() {
    let own = Own::new();
    let overlays = own.0.path().join("overlays");
    fs::create_dir(&overlays).unwrap();
    let run = own.with(run("debian")).environment("TMPDIR", &overlays).cpus(1);
    let mut guest = up(run);
    assert!(ask(&mut guest, "cat /etc/debian_version").starts_with("13"));
    assert_eq!(ask(&mut guest, "nproc; findmnt -no SOURCE,FSTYPE /"), "1\n/dev/vda ext4");
    expect_sound(&mut guest);
    let disk = debian::system("debian").disk;
    let before = fs::metadata(&disk).unwrap().modified().unwrap();
    assert_eq!(ask(&mut guest, "touch /was-here; sync; ls /was-here"), "/was-here");
    power_off(guest);
    assert_eq!(
        fs::metadata(&disk).unwrap().modified().unwrap(),
        before,
        "the system's own disk was written to"
    );
    assert_eq!(fs::read_dir(&overlays).unwrap().count(), 0, "a layer stays");
}

#[test]
fn debian_13_comes_up_whole_on_two_processors_and_with_a_kernel_that_the_user_names() {
    let system = debian::system("debian");
    let run =
        Tern::run().arg(&system.disk).arg("--kernel").arg(&system.kernel).arg("--initrd").arg(&system.initrd);
    let cmdline =
        "console=ttyS0 quiet root=/dev/vda systemd.tty.columns.ttyS0=500 systemd.tty.term.ttyS0=dumb";
    let mut guest = up(run.arg("--cmdline").arg(cmdline).cpus(2).within(LIMIT));
    assert_eq!(ask(&mut guest, "nproc; ls /was-here 2>/dev/null"), "2");
    expect_sound(&mut guest);
    power_off(guest);
}

#[test]
#[ignore = "one boot after the other takes minutes"]
fn debian_13_comes_up_whole_on_four_and_on_eight_processors() {
    for cpus in [4, 8] {
        let mut guest = up(run("debian").cpus(cpus));
        println!("{cpus} processors: at the prompt after {:.1} s", guest.age().as_secs_f64());
        assert_eq!(ask(&mut guest, "nproc"), cpus.to_string());
        expect_sound(&mut guest);
        power_off(guest);
    }
}

#[test]
fn debian_12_comes_up_whole() {
    let mut guest = up(run("debian:12"));
    assert!(ask(&mut guest, "cat /etc/debian_version").starts_with("12"));
    assert_eq!(ask(&mut guest, "stty size; echo $TERM"), "24 500\ndumb", "there is no terminal");
    expect_sound(&mut guest);
    power_off(guest);
}

#[test]
fn a_systems_login_knows_kind_and_size_of_the_users_terminal() {
    let own = Own::new();
    // One knows words of the kernel's command line, the other is told by a drop-in; that is not kept with the machine.
    for run in [run("debian"), own.with(run("debian:12")).arg("--keep").arg("twelve")] {
        let terminal = Terminal::open();
        terminal.resize(132, 43);
        let mut guest = run.environment("TERM", "xterm-256color").cpus(1).start_on(&terminal);
        guest.wait_for(PROMPT);
        guest.send("stty size; echo kind=$TERM\r");
        guest.wait_for("43 132\r\nkind=xterm-256color\r\n");
        guest.wait_for(PROMPT);
        guest.send("poweroff\r");
        let _ = guest.end().expect_code(0);
    }
}

#[test]
fn a_kept_machine_goes_on_after_kills_with_all_that_was_synced_and_a_sound_file_system() {
    let own = Own::new();
    let again = || own.with(run("debian")).arg("--keep").arg("web").cpus(2);
    for round in 0..2 {
        let mut guest = up(again());
        if round > 0 {
            assert_eq!(ask(&mut guest, "cd /srv && md5sum --quiet -c sums && echo whole; cd"), "whole");
        }
        ask(
            &mut guest,
            &format!(
                "head -c 4000000 /dev/urandom > /srv/data.{round}; cd /srv; md5sum data.* > sums; sync; cd"
            ),
        );
        // Amid changes of every kind.
        guest.send("while :; do for n in 1 2 3 4; do cp /srv/data.0 /root/copy.$n; mv /root/copy.$n /root/new.$n; done; rm /root/new.*; done\n");
        thread::sleep(Duration::from_millis(700 + 600 * round));
        guest.signal(Signal::KILL);
        let _ = guest.end().expect_signal(Signal::KILL);
        let raw = own.file_system("web");
        // The journal is replayed, and then there is nothing to mend.
        let (code, text) = check(&raw, "-p");
        assert!(matches!(code, 0 | 1), "after the kill of round {round}: {code}\n{text}");
        let (code, text) = check(&raw, "-n");
        assert_eq!(code, 0, "after the kill of round {round}:\n{text}");
    }
    // `tern stop` presses the power button, and everything is put away.
    let guest = up(again());
    let _ = own.with(Tern::new(["stop", "web"])).finish().expect_code(0);
    let end = guest.end().expect_code(0);
    assert!(end.console.contains("reboot: Power down"), "{}", end.console);
    let (code, text) = check(&own.file_system("web"), "-n");
    assert!(code == 0 && !text.contains("recover"), "{text}");

    let listed = own.with(Tern::new(["image", "list"])).finish().expect_code(0).console;
    assert!(listed.lines().any(|line| line.starts_with("web ") && line.contains("of debian:13")), "{listed}");
    let end = own.with(Tern::new(["run", "debian:12", "--keep", "web"])).finish().expect_code(66);
    end.expect_errors(&["'web' is of debian:13"]);
    let _ = own.with(Tern::new(["image", "rm", "web"])).finish().expect_code(0);
    let end = own.with(Tern::new(["run", "--keep", "web"])).finish().expect_code(66);
    end.expect_errors(&["no kept machine 'web'", "tern run debian --keep web"]);
}

/// Processes that have `word` in their command line.
fn processes(word: &str) -> usize {
    let all = fs::read_dir("/proc").unwrap().flatten();
    let lines = all.filter_map(|entry| fs::read(entry.path().join("cmdline")).ok());
    lines.filter(|line| String::from_utf8_lossy(line).contains(word)).count()
}

#[test]
fn a_system_whose_making_is_killed_is_not_there_and_nothing_goes_on_making_it() {
    let own = Own::new();
    let cache = own.0.path().join("cache");
    let tern = |words: [&str; 2]| own.with(Tern::new(words)).environment("TERN_CACHE_DIR", &cache);
    let mut making = tern(["image", "build"]).arg("debian").start();
    making.wait_for_error("unpacking");
    making.signal(Signal::KILL);
    let _ = making.end().expect_signal(Signal::KILL);
    let mark = cache.to_str().unwrap();
    let since = Instant::now();
    while processes(mark) > 0 {
        assert!(since.elapsed() < Duration::from_secs(60), "what made the system goes on");
        thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(tern(["image", "list"]).finish().expect_code(0).console, "");
    assert!(!cache.join("debian-13").exists());
    let _ = tern(["image", "rm"]).arg("--all").finish().expect_code(0);
    assert!(!cache.join(".debian-13.new").exists());
}
