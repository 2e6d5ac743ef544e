//! Who has a file locked: proc(5), `/proc/PID/fdinfo/FD`, which lists the locks of each open file.

use std::fmt;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;

/// A process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Holder {
    /// Its number.
    pub process: u32,
    /// What it is called.
    pub name: String,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (process {})", self.name, self.process)
    }
}

/// A process that has a lock on `file` through another opening of it; `None` if there is none that we may look at.
pub(super) fn of(file: &File) -> Option<Holder> {
    let metadata = file.metadata().ok()?;
    let (major, minor) = (rustix::fs::major(metadata.dev()), rustix::fs::minor(metadata.dev()));
    let place = format!("{major:02x}:{minor:02x}:{}", metadata.ino());
    for entry in fs::read_dir("/proc").ok()?.flatten() {
        let Some(process) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        // Other users' processes do not let us look, and any may end meanwhile.
        let Ok(files) = fs::read_dir(entry.path().join("fdinfo")) else { continue };
        let has_lock = |info: fs::DirEntry| {
            fs::read_to_string(info.path()).is_ok_and(|text| text.lines().any(|line| is_lock(line, &place)))
        };
        if files.flatten().any(has_lock) {
            let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
            return Some(Holder { process, name: name.trim().to_owned() });
        }
    }
    None
}

/// Whether a line of fdinfo is a lock on the file at `place`: `lock: 1: OFDLCK ADVISORY READ -1 fe:00:1234 100 100`.
fn is_lock(line: &str, place: &str) -> bool {
    line.starts_with("lock:") && line.split_whitespace().any(|word| word == place)
}
