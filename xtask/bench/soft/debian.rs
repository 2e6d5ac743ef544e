//! A whole Debian 13, from its kernel to its login: hundreds of programs, udev and systemd among them. Its root file system
//! is the initramfs itself, so that no disk is measured.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use tern_image::debian::{self, Flavour, Suite};
use tern_image::{Cache, Image, OnStderr};

use super::contender::Ready;
use super::workload::{Group, Source, Workload};

/// Guest memory in MiB: it holds the file system twice while that is unpacked.
pub(crate) const MEMORY: u32 = 1536;

/// Its entry in the cache.
const KEY: &str = "bench-debian-13";

const INITRD: &str = "initrd.cpio";

/// What goes in beside the essential packages.
const PACKAGES: &str = "systemd-sysv,udev";

/// Files that nobody reads here.
const UNREAD: [&str; 3] = ["/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*"];

/// Packs the root file system, `$1`, into a file of its own, which starts the first process where Linux looks for it.
const PACK: &str = "rm -rf \"$1\"/var/cache/apt/* \"$1\"/var/lib/apt/lists/*; ln -s sbin/init \"$1/init\"; \
    cd \"$1\" && find . -xdev -not -path ./initrd.cpio -print0 | sort -z \
    | cpio --null --create --format=newc --reproducible --quiet >initrd.cpio";

/// The name of the only row of this guest.
pub(crate) const LOGIN: &str = "Debian 13 to login";

/// That row.
pub(crate) fn workload() -> Workload {
    let [login] = Ready::Login.marks() else { unreachable!("one line tells of a login") };
    Workload { name: LOGIN.into(), unit: "s".into(), group: Group::Boot, source: Source::Boot(login) }
}

/// The guest, from the cache or built now, which takes the network and most of a minute.
///
/// # Errors
/// If it cannot be built, or its kernel cannot be had.
pub(crate) fn image(cache: &Cache) -> Result<Image> {
    let kernel = debian::kernel(cache, Suite::Trixie, Flavour::Cloud, &OnStderr::new())?;
    let entry = cache.get_or_build(KEY, |directory| {
        eprintln!("bench: making a Debian 13 with mmdebstrap, once (most of a minute)");
        build(&directory.join(INITRD))
    })?;
    Ok(Image { kernel, initrd: Some(entry.join(INITRD)), cmdline: tern_image::TINY_CMDLINE.to_owned() })
}

fn build(initrd: &Path) -> Result<()> {
    let mut command = Command::new("mmdebstrap");
    command.args(["--quiet", "--variant=minbase", "--format=null", "--include", PACKAGES]);
    for path in UNREAD {
        command.arg(format!("--dpkgopt=path-exclude={path}"));
    }
    command.arg(format!("--customize-hook={PACK}"));
    command.arg(format!("--customize-hook=download /{INITRD} {}", initrd.display()));
    let output = command.arg("trixie").output().context("cannot start mmdebstrap")?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "mmdebstrap cannot make a Debian 13: {}", errors.trim());
    Ok(())
}
