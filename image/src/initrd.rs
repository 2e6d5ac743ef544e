//! The initramfs of the tiny guest: busybox, a name for each of its applets, the kernel's modules for
//! Tern's devices, and an `/init` that brings up a shell.
//!
//! It is not compressed: a guest would have to unpack it, and in an interpreter that takes longer
//! than reading two megabytes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cache::sha256_of_text;
use crate::cpio::Archive;
use crate::debian::GuestKernel;
use crate::modules::{self, Module};
use crate::{Cache, Error, Progress, debian};

/// The first process of the tiny guest.
const INIT: &str = include_str!("init/init.sh");

/// What it mounts.
const FSTAB: &str = include_str!("init/fstab");

/// The initramfs, from the cache or built now.
pub(crate) fn tiny(cache: &Cache, kernel: &GuestKernel, progress: &dyn Progress) -> Result<PathBuf, Error> {
    // Another Tern may bring other scripts, and another kernel needs other modules; its initramfs then is another entry.
    let recipe = sha256_of_text(&[INIT, FSTAB, &kernel.release].concat());
    let key = format!("tiny-initrd-{}", &recipe[..12]);
    let entry = cache.get_or_build(&key, |directory| {
        let busybox = debian::busybox(cache, progress)?;
        let applets = applets(&busybox)?;
        let program = fs::read(&busybox).map_err(Error::io("read", &busybox))?;
        let modules = modules::read(&kernel.modules)?;
        let path = directory.join(NAME);
        let archive = pack(&program, &applets, &kernel.release, &modules);
        fs::write(&path, archive).map_err(Error::io("write", &path))
    })?;
    Ok(entry.join(NAME))
}

const NAME: &str = "initrd.cpio";

/// The paths of busybox's applets, such as `sbin/poweroff`, as it reports them itself.
fn applets(busybox: &Path) -> Result<Vec<String>, Error> {
    // The permission did not come with the content.
    let failed = |source| Error::Busybox { path: busybox.to_owned(), source };
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(busybox, executable).map_err(failed)?;
    let output = Command::new(busybox).arg("--list-full").output().map_err(failed)?;
    let list = String::from_utf8_lossy(&output.stdout);
    Ok(list.lines().map(str::to_owned).collect())
}

fn pack(busybox: &[u8], applets: &[String], release: &str, modules: &[Module]) -> Vec<u8> {
    let mut archive = Archive::default();
    for directory in
        ["bin", "dev", "etc", "proc", "root", "run", "sbin", "sys", "tmp", "usr", "usr/bin", "usr/sbin"]
    {
        archive.directory(directory);
    }
    modules::pack(&mut archive, release, modules);
    // Linux opens it for /init before anything could mount devtmpfs.
    archive.character_device("dev/console", 5, 1);
    archive.file("init", 0o755, INIT.as_bytes());
    archive.file("etc/fstab", 0o644, FSTAB.as_bytes());
    archive.file("etc/passwd", 0o644, b"root::0:0:root:/root:/bin/sh\n");
    archive.file("etc/group", 0o644, b"root:x:0:\n");
    archive.file("bin/busybox", 0o755, busybox);
    for applet in applets.iter().filter(|path| in_path(path)) {
        archive.symlink(applet, "/bin/busybox");
    }
    archive.finish()
}

/// Whether an applet belongs into one of the directories that `pack` made (`linuxrc` does not).
fn in_path(applet: &str) -> bool {
    let directory = applet.rsplit_once('/').map(|(directory, _)| directory);
    matches!(directory, Some("bin" | "sbin" | "usr/bin" | "usr/sbin")) && applet != "bin/busybox"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_busybox_gives_the_same_bytes() {
        let applets = ["bin/sh".to_owned()];
        let pack = || pack(b"program", &applets, "6.1", &[]);
        assert_eq!(pack(), pack());
    }

    #[test]
    fn applets_get_names_in_the_path_and_nowhere_else() {
        let applets = ["bin/busybox", "linuxrc", "sbin/poweroff", "opt/x"].map(str::to_owned);
        let text = String::from_utf8(pack(b"program", &applets, "6.1", &[])).unwrap();
        assert!(text.contains("sbin/poweroff\0"));
        assert!(!text.contains("linuxrc\0") && !text.contains("opt/x\0"));
        assert_eq!(text.matches("bin/busybox\0").count(), 1);
    }

    #[test]
    fn init_is_a_script_for_the_busybox_that_is_there() {
        assert!(INIT.starts_with("#!/bin/busybox sh\n"));
    }
}
