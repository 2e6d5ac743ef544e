//! A system made here, from the distribution's packages as the host's apt gets them: mmdebstrap(1) installs them into a directory
//! without the host taking part, and its last step (`customize.sh`) writes that into a disk with mke2fs(8).
//!
//! Root makes it in a plain directory. Anybody else is root of a user namespace, for which the host must have given him numbers
//! (subuid(5)); files of the namespace's users are not his, so all that comes out goes through files that were opened before.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::thread;
use std::time::Duration;

use rustix::io::{FdFlags, fcntl_dupfd_cloexec, fcntl_setfd};
use tern_disk::Format;
use tern_disk::tool::{self, Existing, NewImage};

use super::tools::{MKE2FS, MMDEBSTRAP, NEWUIDMAP, SETPRIV, UNSHARE};
use super::{About, DISK, INITRD, KERNEL, Release};
use crate::apt::Apt;
use crate::debian::KEYRING;
use crate::{Error, Progress};

/// What mmdebstrap runs last.
const CUSTOMIZE: &str = include_str!("customize.sh");

/// What there is beside what every Debian has: an init, device nodes, sessions, a kernel for virtual machines, and what people
/// reach for first.
const PACKAGES: &str = "systemd-sysv,udev,dbus,libpam-systemd,linux-image-cloud-amd64,initramfs-tools,e2fsprogs,iproute2,\
    iputils-ping,procps,less,nano";

/// The disk's size in bytes. Nothing of it takes room before it is used.
const SIZE: u64 = 16 << 30;

/// The number of the first file that mmdebstrap inherits. It passes files of its own on to a shell that knows only one digit.
const FIRST_SHARED: RawFd = 100;

/// How often it is looked how far mmdebstrap is.
const LOOK: Duration = Duration::from_millis(100);

/// How many of its last lines are told when it fails.
const LAST_LINES: usize = 12;

/// What keeps this host from making systems, if anything.
pub(super) fn obstacle() -> Option<Error> {
    let is_root = rustix::process::geteuid().is_root();
    let needed = [MMDEBSTRAP, MKE2FS, UNSHARE, SETPRIV];
    let for_others = [NEWUIDMAP].into_iter().filter(|_| !is_root);
    let missing = needed.into_iter().chain(for_others).find(|tool| !tool.exists());
    missing
        .map(super::tools::Tool::missing)
        .or_else(|| (!is_root && !has_subordinates()).then_some(Error::NoSubordinates))
}

/// Whether this user has numbers for a user namespace, subuid(5).
fn has_subordinates() -> bool {
    let number = rustix::process::geteuid().as_raw().to_string();
    let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let name = users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)? == number).then(|| name.to_owned())
    });
    ["/etc/subuid", "/etc/subgid"].iter().all(|file| {
        let ranges = fs::read_to_string(file).unwrap_or_default();
        ranges.lines().any(|line| {
            let owner = line.split(':').next();
            owner == Some(number.as_str()) || owner.is_some() && owner == name.as_deref()
        })
    })
}

/// Makes the system's files in `directory`.
pub(super) fn build(release: Release, directory: &Path, progress: &dyn Progress) -> Result<(), Error> {
    let work = directory.join("work");
    fs::create_dir(&work).map_err(Error::io("create directory", &work))?;
    let sources = sources(release, &work, progress)?;
    let raw = work.join("disk.raw");
    let about = work.join("about");
    let outputs = [
        ("TERN_DISK", Output::create(&raw)?),
        ("TERN_KERNEL", Output::create(&directory.join(KERNEL))?),
        ("TERN_INITRD", Output::create(&directory.join(INITRD))?),
        ("TERN_ABOUT", Output::create(&about)?),
    ];
    let uuid = uuid()?;
    install(release, &sources, &outputs, &uuid, &work, progress)?;
    drop(outputs);
    let text = fs::read_to_string(&about).map_err(Error::io("read", &about))?;
    let mut lines = text.lines();
    let version = lines.next().unwrap_or_default().to_owned();
    let kernel = lines.next().unwrap_or_default().trim_start_matches("vmlinuz-").to_owned();
    for name in [KERNEL, INITRD] {
        let path = directory.join(name);
        let mode = fs::Permissions::from_mode(0o644);
        fs::set_permissions(&path, mode).map_err(Error::io("change", &path))?;
    }
    pack(&raw, &directory.join(DISK), progress)?;
    let root = format!("UUID={uuid}");
    About::new(release, version, kernel, MMDEBSTRAP.name.to_owned(), root).write(directory)?;
    fs::remove_dir_all(&work).map_err(Error::io("remove", &work))
}

/// The lines of sources.list(5): what the host has of Debian's archive, of another release.
fn sources(release: Release, work: &Path, progress: &dyn Progress) -> Result<Vec<String>, Error> {
    let mut apt = Apt::of_host();
    if apt.mirror("Debian/Debian")?.is_none() {
        apt = Apt::private(&work.join("apt"), None, progress)?;
    }
    let mirror = apt.mirror("Debian/Debian")?.ok_or(Error::NoMirror)?;
    let codename = release.codename();
    let line = |mirror: &str, suite: &str| format!("deb [signed-by={KEYRING}] {mirror} {suite} main");
    let mut lines = vec![line(&mirror, codename), line(&mirror, &format!("{codename}-updates"))];
    if let Some(security) = apt.mirror("Debian/Debian-Security")? {
        lines.push(line(&security, &format!("{codename}-security")));
    }
    Ok(lines)
}

/// A file that mmdebstrap's children write to, whoever they are in their namespace.
struct Output(OwnedFd);

impl Output {
    fn create(path: &Path) -> Result<Self, Error> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path);
        let file = file.map_err(Error::io("create", path))?;
        // They open it again, as others. The directory lets nobody else through.
        file.set_permissions(fs::Permissions::from_mode(0o666)).map_err(Error::io("change", path))?;
        let shared = fcntl_dupfd_cloexec(&file, FIRST_SHARED)
            .and_then(|shared| fcntl_setfd(&shared, FdFlags::empty()).map(|()| shared));
        Ok(Self(shared.map_err(|error| Error::io("share", path)(error.into()))?))
    }

    /// Its name in a process that has inherited it.
    fn name(&self) -> String {
        format!("/proc/self/fd/{}", self.0.as_raw_fd())
    }
}

fn install(
    release: Release,
    sources: &[String],
    outputs: &[(&str, Output)],
    uuid: &str,
    work: &Path,
    progress: &dyn Progress,
) -> Result<(), Error> {
    let log = work.join("mmdebstrap.log");
    let report = File::create(&log).map_err(Error::io("create", &log))?;
    let options = work.join("apt.conf");
    fs::write(&options, Apt::of_host().acquisition()?).map_err(Error::io("write", &options))?;
    let is_root = rustix::process::geteuid().is_root();
    let mut command = MMDEBSTRAP.command_alone();
    command.args(["--mode", if is_root { "root" } else { "unshare" }, "--variant", "minbase"]);
    command.args(["--architectures", "amd64", "--format", "null", "--include", PACKAGES]);
    let mut aptopt = OsString::from("--aptopt=");
    aptopt.push(&options);
    command.arg(aptopt).arg(format!("--customize-hook={CUSTOMIZE}"));
    command.args([release.codename(), "/dev/null"]).args(sources);
    for (name, output) in outputs {
        command.env(name, output.name());
    }
    command.env("TERN_UUID", uuid).env("TERN_SIZE", SIZE.to_string()).env("TMPDIR", room(is_root, work));
    let report_too = report.try_clone().map_err(Error::io("share", &log))?;
    command.stdin(Stdio::null()).stdout(report).stderr(report_too);
    progress.begin(&format!("making {release}, which takes about half a minute"), None);
    let status = command.spawn().map_err(|error| MMDEBSTRAP.cannot_start(error)).and_then(|mut child| {
        let mut shown = Steps::default();
        loop {
            if let Some(status) = child.try_wait().map_err(Error::io("wait for", &log))? {
                return Ok(status);
            }
            if let Some(step) = shown.next(&log) {
                progress.end();
                progress.begin(&format!("making {release}: {step}"), None);
            }
            thread::sleep(LOOK);
        }
    });
    progress.end();
    judge(status?, &log)
}

/// Where the directory is made: it takes half a gigabyte, which `/tmp` may not have; and a namespace's root must get there.
fn room(is_root: bool, work: &Path) -> PathBuf {
    if is_root {
        return work.to_owned();
    }
    let set = std::env::var_os("TMPDIR").filter(|folder| !folder.is_empty());
    set.map_or_else(|| PathBuf::from("/var/tmp"), PathBuf::from)
}

fn judge(status: ExitStatus, log: &Path) -> Result<(), Error> {
    if status.success() {
        return Ok(());
    }
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<_> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    let last = lines[lines.len().saturating_sub(LAST_LINES)..].join("\n    ");
    Err(Error::Build { tool: MMDEBSTRAP.name, last })
}

/// Where mmdebstrap is, by what it says.
#[derive(Debug, Default)]
struct Steps {
    told: usize,
}

/// What it says as it begins something, and what that is to whoever waits.
const STEPS: [(&str, &str); 6] = [
    ("I: running apt-get update", "looking for packages"),
    ("I: downloading packages", "fetching packages"),
    ("I: extracting archives", "unpacking"),
    ("I: installing essential packages", "installing the base"),
    ("I: installing remaining packages", "installing the rest"),
    ("I: running --customize-hook", "writing the disk"),
];

impl Steps {
    /// The step that has begun since the last call.
    fn next(&mut self, log: &Path) -> Option<&'static str> {
        let text = fs::read_to_string(log).ok()?;
        let reached = STEPS.iter().rposition(|(line, _)| text.contains(line))?;
        (reached >= self.told).then(|| {
            self.told = reached + 1;
            STEPS[reached].1
        })
    }
}

/// A qcow2 image takes no more room than it holds wherever it is copied to, which a file with holes does not promise.
fn pack(raw: &Path, disk: &Path, progress: &dyn Progress) -> Result<(), Error> {
    let mut from = Existing::new(raw);
    from.format = Some(Format::Raw);
    progress.begin("packing the disk", Some(SIZE));
    let last = std::sync::Mutex::new(0);
    let converted = thread::scope(|scope| {
        let worker = scope.spawn(|| {
            let mut told = |done, _| *last.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = done;
            tool::convert(&from, &NewImage::new(disk, Format::Qcow2, None), &mut told)
        });
        while !worker.is_finished() {
            progress.advance(*last.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
            thread::sleep(LOOK);
        }
        worker.join()
    });
    progress.end();
    match converted {
        Ok(converted) => converted.map(drop).map_err(Error::from),
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

/// A name for the file system that no other has.
fn uuid() -> Result<String, Error> {
    let path = Path::new("/proc/sys/kernel/random/uuid");
    let text: io::Result<String> = fs::read_to_string(path);
    Ok(text.map_err(Error::io("read", path))?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_told_once_and_in_order() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("log");
        let mut steps = Steps::default();
        assert_eq!(steps.next(&log), None);
        fs::write(&log, "I: chroot\nI: running apt-get update...\n").unwrap();
        assert_eq!(steps.next(&log), Some("looking for packages"));
        assert_eq!(steps.next(&log), None);
        fs::write(
            &log,
            "I: running apt-get update...\nI: extracting archives...\nI: installing essential packages...\n",
        )
        .unwrap();
        assert_eq!(steps.next(&log), Some("installing the base"));
        assert_eq!(steps.next(&log), None);
    }

    #[test]
    fn a_failure_is_told_with_the_last_words() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("log");
        fs::write(&log, "I: begin\n\nE: apt-get update failed\n").unwrap();
        let status = std::process::Command::new("false").status().unwrap();
        let text = judge(status, &log).unwrap_err().to_string();
        assert!(text.contains("mmdebstrap") && text.contains("E: apt-get update failed"), "{text}");
    }
}
