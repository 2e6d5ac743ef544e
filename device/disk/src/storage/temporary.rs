//! Files without a name: they are gone when they are closed, whatever happens to the process.

use std::env;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Makes one, and tells in which folder: `TMPDIR`, else `/var/tmp`, which is on a disk where `/tmp` may be memory.
///
/// # Errors
/// The folder cannot be written to.
pub(crate) fn unnamed() -> (PathBuf, io::Result<File>) {
    let folder = env::var_os("TMPDIR").map_or_else(|| PathBuf::from("/var/tmp"), PathBuf::from);
    let file = unnamed_in(&folder);
    (folder, file)
}

fn unnamed_in(folder: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(0o600);
    match options.clone().custom_flags(libc::O_TMPFILE).open(folder) {
        // A file system that has no such files: one with a name that goes at once.
        Err(error) if matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EISDIR)) => {
            let name = format!(".tern-{}-{}", std::process::id(), rustix::thread::gettid().as_raw_nonzero());
            let path = folder.join(name);
            let file = options.create_new(true).open(&path)?;
            std::fs::remove_file(&path)?;
            Ok(file)
        }
        opened => opened,
    }
}
