//! A machine's end loses nothing that its guest handed to its disks, even without asking for it to be made safe: whatever ends
//! the machine, but a signal that nobody can handle.

use std::fs;
use std::path::Path;

use rustix::process::Signal;
use tern_guests::{End, Guest, PROMPT, Terminal, Tern, debian::CMDLINE};

/// The exit codes of leaving with Ctrl-], and of a crash.
const LEFT: i32 = 130;

/// A way to end a machine, by a name for it.
type Way = (&'static str, fn(Guest) -> End);

/// A guest with a qcow2 disk, which has written to it and not flushed.
fn with_writes(image: &Path, terminal: Option<&Terminal>) -> Guest {
    let _ = Tern::new(["image", "create"]).arg(image).arg("64M").finish().expect_code(0);
    let run = Tern::run().arg("--disk").arg(image).arg("--cmdline").arg(CMDLINE);
    let mut guest = match terminal {
        Some(terminal) => run.start_on(terminal),
        None => run.start(),
    };
    guest.wait_for(PROMPT);
    // Closing a device writes what is in memory, and makes nothing safe.
    guest.ask("yes tern | head -c 1000000 >/dev/vda; grep -c . /sys/block/vda/stat");
    guest
}

/// The disk has what was written, and the image is sound.
#[track_caller]
fn expect_written(image: &Path) {
    let _ = Tern::new(["image", "check"]).arg(image).finish().expect_code(0);
    let raw = image.with_extension("raw");
    let _ = Tern::new(["image", "convert", "--force"]).arg(image).arg(&raw).finish().expect_code(0);
    let bytes = fs::read(&raw).unwrap();
    let written = bytes.chunks(5).take(200_000).all(|line| line == b"tern\n");
    assert!(written, "{}: what the guest wrote is not there", image.display());
}

#[test]
fn whatever_ends_a_machine_its_disks_have_all_that_was_written() {
    let directory = tempfile::tempdir().unwrap();
    let ends: [Way; 2] = [
        ("terminated", |guest| {
            guest.signal(Signal::TERM);
            guest.end().expect_signal(Signal::TERM)
        }),
        ("powered-off", |guest| {
            // Not by way of init, which would make everything safe.
            guest.send("poweroff -n -f\n");
            guest.end().expect_code(0)
        }),
    ];
    for (name, end) in ends {
        let image = directory.path().join(format!("{name}.qcow2"));
        let _ = end(with_writes(&image, None));
        expect_written(&image);
    }
    let image = directory.path().join("left.qcow2");
    let terminal = Terminal::open();
    let guest = with_writes(&image, Some(&terminal));
    guest.send("\x1d");
    let _ = guest.end().expect_code(LEFT);
    expect_written(&image);
}
