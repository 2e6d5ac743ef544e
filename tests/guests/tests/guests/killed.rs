//! A `tern` that is killed leaves nothing behind, whatever it was doing.

use std::fs;
use std::thread;
use std::time::Duration;

use rustix::process::Signal;
use tern_guests::Tern;

/// How long after its start the process is killed: while it reads files, makes the machine, boots, runs a shell.
const MOMENTS: [u64; 10] = [0, 2, 5, 10, 20, 50, 100, 300, 800, 2000];

/// What is in a folder that may not be there.
fn names(folder: &str) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

#[test]
fn a_kill_at_any_moment_leaves_no_process_and_no_file() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().to_str().unwrap();
    for moment in MOMENTS {
        let guest = Tern::run().environment("TMPDIR", folder).cpus(2).start();
        thread::sleep(Duration::from_millis(moment));
        let process = guest.process();
        let threads = names(&format!("/proc/{process}/task"));
        let children = threads.iter().map(|thread| format!("/proc/{process}/task/{thread}/children"));
        for children in children.filter_map(|file| fs::read_to_string(file).ok()) {
            assert_eq!(children, "", "after {moment} ms it has processes of its own, which would stay");
        }
        guest.signal(Signal::KILL);
        let _ = guest.end().expect_signal(Signal::KILL);
        assert_eq!(names(folder), [""; 0], "after {moment} ms");
        let shared = names("/dev/shm").into_iter().find(|name| name.contains("tern"));
        assert_eq!(shared, None, "after {moment} ms");
    }
}
