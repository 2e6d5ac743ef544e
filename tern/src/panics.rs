//! A mistake of ours ends the process at once (a panic aborts), but not before the machine's disks have what their guest wrote:
//! image formats keep metadata in memory until it is flushed.
//!
//! The flush is done by a thread of its own, which is waited for a while only: if what panicked was busy with an image, that is locked
//! for ever, and rightly, because nobody knows what state it is in. The other disks are flushed all the same.

use std::panic;
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use tern_disk::Disk;
use tern_engine::start_thread;

/// How long disks may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// The machine's disks; they are closed when the machine drops them, and not kept by this.
static DISKS: Mutex<Vec<Weak<dyn Disk>>> = Mutex::new(Vec::new());

/// From now on, a panic of any thread flushes this disk before it ends the process.
pub(crate) fn protect(disk: &Arc<dyn Disk>) {
    let mut disks = DISKS.lock().unwrap_or_else(PoisonError::into_inner);
    if disks.is_empty() {
        let tell = panic::take_hook();
        panic::set_hook(Box::new(move |what| {
            tell(what);
            flush_all();
        }));
    }
    disks.push(Arc::downgrade(disk));
}

/// Flushes all disks, each by a thread of its own, and tells of those that could not be.
fn flush_all() {
    let disks = std::mem::take(&mut *DISKS.lock().unwrap_or_else(PoisonError::into_inner));
    if disks.is_empty() {
        // It is not the first panic, and may be a flush's own; the first one ends the process.
        thread::sleep(PATIENCE);
        return;
    }
    let disks: Vec<_> = disks.iter().filter_map(Weak::upgrade).collect();
    if disks.is_empty() {
        return;
    }
    let (done, results) = channel();
    let started = disks.iter().filter(|disk| {
        let (disk, done) = (Arc::clone(disk), done.clone());
        // Nobody waits any more if this fails.
        start_thread("last-flush", move || drop(done.send(disk.flush()))).is_ok()
    });
    let started = started.count();
    let deadline = Instant::now() + PATIENCE;
    let is_flushed = |_: &usize| {
        results
            .recv_timeout(deadline.saturating_duration_since(Instant::now()))
            .is_ok_and(|result| result.is_ok())
    };
    let flushed = (0..started).filter(is_flushed).count();
    if flushed == disks.len() {
        eprintln!("tern: that is a bug of tern's; the machine's disks have what the guest wrote");
    } else {
        eprintln!(
            "tern: that is a bug of tern's; {} of the machine's disks may lack what the guest did not flush: `tern image check` looks at \
             them",
            disks.len() - flushed
        );
    }
    // Dropping the last reference would close the image, and wait for a lock that may never be free.
    disks.into_iter().for_each(std::mem::forget);
}

#[cfg(test)]
mod tests {
    use std::env;
    use std::fs;
    use std::os::unix::process::ExitStatusExt;
    use std::path::Path;
    use std::process::{Command, abort};

    use tern_disk::tool::{Contents, Existing, NewImage, create};
    use tern_disk::{Buffer, DiskOptions, Format, Operation};

    use super::*;

    /// Where the process that panics finds its disk.
    const IMAGE: &str = "TERN_TEST_PANIC_IMAGE";

    /// What it writes to that.
    static WRITTEN: [u8; 4096] = [0xa5; 4096];

    /// This process is another one's child: with a disk, to which it writes and that it does not close, it panics in one thread while
    /// another one still has the disk. Panics abort, as they do in a release.
    #[test]
    #[ignore = "is started by the test below"]
    fn a_process_that_panics() {
        let Some(path) = env::var_os(IMAGE) else { return };
        let disk = tern_disk::open(&DiskOptions::new(path)).unwrap();
        protect(&disk);
        let hook = panic::take_hook();
        panic::set_hook(Box::new(move |what| {
            hook(what);
            abort();
        }));
        let (written, wait) = channel::<()>();
        let _ = thread::spawn(move || {
            let mut lane = disk.open_lane().unwrap();
            let buffers = [Buffer::new(WRITTEN.as_ptr().cast_mut(), WRITTEN.len())];
            #[allow(unsafe_code, reason = "it is how a lane is used")]
            // SAFETY: the buffer is a static's, and is only read.
            unsafe {
                lane.submit(0, Operation::Write { offset: 1 << 20, buffers: &buffers });
            }
            let mut done = Vec::new();
            lane.drain(&mut done);
            assert!(done.iter().all(|completion| completion.result.is_ok()));
            written.send(()).unwrap();
            loop {
                thread::park();
            }
        });
        wait.recv().unwrap();
        panic!("on purpose");
    }

    fn written(path: &Path) -> bool {
        let mut bytes = [0; WRITTEN.len()];
        Contents::open(&Existing::new(path)).unwrap().read_at(1 << 20, &mut bytes).unwrap();
        bytes == WRITTEN
    }

    #[test]
    fn a_panic_leaves_a_disk_with_what_was_written() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("disk.qcow2");
        create(&NewImage::new(&path, Format::Qcow2, Some(8 << 20))).unwrap();
        assert!(!written(&path));
        let mut child = Command::new(env::current_exe().unwrap());
        child.args(["--exact", "panics::tests::a_process_that_panics", "--ignored", "--nocapture"]);
        let output = child.env(IMAGE, &path).output().unwrap();
        assert_eq!(output.status.signal(), Some(libc::SIGABRT), "{output:?}");
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(told.contains("on purpose") && told.contains("have what the guest wrote"), "{told}");
        assert!(written(&path), "{told}");
        assert!(fs::metadata(&path).unwrap().len() > 0);
    }
}
