//! What a machine starts from: an image, a kept machine, or a kernel alone.
//!
//! ```text
//! nothing, tiny            the tiny guest, in memory
//! debian, debian:12        a system from the cache; it is made first if it is not there
//! --keep NAME              the same with a disk of its own, which stays
//! a disk image's path      that disk, and a kernel that the command line names
//! --kernel FILE            the kernel, and no more than the command line says
//! ```
//!
//! Whatever a disk image is, the machine writes to a layer over it that is gone at the end; only a kept machine's disk is its own.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::thread;

use anyhow::anyhow;
use tern_disk::{Cache as DiskCache, DiskOptions, Format};
use tern_image::system::{InUse, Kept, KeptSystem, Release, System};
use tern_image::{Cache, Error, OnStderr, Progress, Silent};
use tern_vmm::config::HostPages;

use crate::cli::RunArguments;
use crate::exit::Failure;
use crate::login::Login;
use crate::size::Memory;
use crate::terminal;

/// The tiny guest's name.
const TINY: &str = "tiny";

/// Memory of a machine with nothing but a kernel and an initramfs, in bytes.
const LITTLE: u64 = 512 << 20;
/// Memory of a machine with a whole system, in bytes.
const MORE: u64 = 1 << 30;
/// Processors of a machine with a whole system, if the host has as many.
const CPUS: u32 = 4;

/// What a machine starts from.
#[derive(Debug)]
pub(crate) struct Source {
    /// What it is called in lists, and machines of it that have no name: `debian:13`.
    pub label: String,
    /// Its kernel.
    pub kernel: Option<PathBuf>,
    /// Its initramfs.
    pub initrd: Option<PathBuf>,
    /// What is put behind that initramfs, if it is the one that is used.
    pub segment: Vec<u8>,
    /// What its kernel is told.
    pub cmdline: Option<String>,
    /// The disk that it is on.
    pub disk: Option<DiskOptions>,
    /// The name under which it is kept.
    pub kept: Option<String>,
    /// Keeps others from running the same kept machine.
    _in_use: Option<InUse>,
}

impl Source {
    /// What the command line asks for. What is not there is fetched or made.
    ///
    /// # Errors
    /// There is no such thing, or it cannot be had.
    pub(crate) fn find(arguments: &RunArguments) -> Result<Self, Failure> {
        let shown = OnStderr::new();
        let progress: &dyn Progress = if arguments.quiet { &Silent } else { &shown };
        let image = arguments.image.as_deref();
        if let Some(name) = &arguments.keep {
            return kept(name, arguments, progress);
        }
        match image {
            None if arguments.kernel.is_some() => Ok(Self::bare("kernel")),
            None | Some(TINY) => tiny(progress),
            Some(image) => match Release::named(image) {
                Some(release) => {
                    let system = System::get(&Cache::of_user()?, release, progress).map_err(cannot_get)?;
                    let disk = thrown_away(&system.disk, Some(Format::Qcow2));
                    Ok(Self::system(system, disk, arguments))
                }
                None => disk(image, arguments.kernel.is_some()),
            },
        }
    }

    /// The machine's memory and processors: as the command line says, or as suits what is started.
    pub(crate) fn sizes(&self, arguments: &RunArguments) -> (Memory, u32) {
        let is_whole = self.disk.is_some();
        let usual = Memory { size: if is_whole { MORE } else { LITTLE }, pages: HostPages::Usual };
        let host =
            thread::available_parallelism().map_or(1, |count| u32::try_from(count.get()).unwrap_or(CPUS));
        let cpus = if is_whole { host.min(CPUS) } else { 1 };
        (arguments.memory.unwrap_or(usual), arguments.cpus.unwrap_or(cpus))
    }

    /// Whether it is the tiny guest.
    pub(crate) fn is_tiny(&self) -> bool {
        self.label == TINY && self.disk.is_none()
    }

    fn bare(label: &str) -> Self {
        Self {
            label: label.to_owned(),
            kernel: None,
            initrd: None,
            segment: Vec::new(),
            cmdline: None,
            disk: None,
            kept: None,
            _in_use: None,
        }
    }

    fn system(system: System, disk: DiskOptions, arguments: &RunArguments) -> Self {
        let login = Login::here(arguments.detach);
        let cmdline = format!("{}{}", system.cmdline(), login.words());
        Self {
            segment: login.segment(Release::named(&system.about.name)),
            label: system.about.name,
            kernel: Some(system.kernel),
            initrd: Some(system.initrd),
            cmdline: Some(cmdline),
            disk: Some(disk),
            kept: None,
            _in_use: None,
        }
    }
}

fn cannot_get(error: Error) -> Failure {
    Failure::from(error).context("cannot get the image")
}

fn tiny(progress: &dyn Progress) -> Result<Source, Failure> {
    let image = tern_image::tiny(&Cache::of_user()?, progress).map_err(cannot_get)?;
    let mut cmdline = image.cmdline;
    if let Some((columns, lines)) = terminal::size() {
        write!(cmdline, " COLUMNS={columns} LINES={lines}").expect("a string takes everything");
    }
    Ok(Source {
        kernel: Some(image.kernel),
        initrd: image.initrd,
        cmdline: Some(cmdline),
        ..Source::bare(TINY)
    })
}

/// A disk image of the user's.
fn disk(name: &str, has_kernel: bool) -> Result<Source, Failure> {
    let path = Path::new(name);
    if !path.exists() {
        let names = Release::ALL.map(Release::name).join(", ");
        let hint = format!("there are tiny, debian, {names}, and disk images by their paths");
        return Err(Failure::input(anyhow!(
            "there is no image '{name}': {hint}; a command goes after `--`: `tern run -- {name}`"
        )));
    }
    if !has_kernel {
        return Err(Failure::input(anyhow!(
            "'{name}' is a file. If it is a kernel: `tern run --kernel {name}`. If it is a disk: booting by a disk's own boot loader \
             comes later; until then name the kernel that is to start from it, `tern run {name} --kernel FILE --initrd FILE --cmdline \
             'console=ttyS0 root=/dev/vda1'`"
        )));
    }
    let label = path.file_name().map_or_else(|| name.to_owned(), |name| name.to_string_lossy().into_owned());
    Ok(Source { disk: Some(thrown_away(path, None)), ..Source::bare(&label) })
}

/// A disk under a layer that is gone with the machine: nothing of it needs to survive the host.
fn thrown_away(path: &Path, format: Option<Format>) -> DiskOptions {
    let mut disk = DiskOptions::new(path);
    disk.format = format;
    disk.has_overlay = true;
    disk.cache = DiskCache::Unsafe;
    disk
}

/// A machine that is kept, or is to be kept from now on.
fn kept(name: &str, arguments: &RunArguments, progress: &dyn Progress) -> Result<Source, Failure> {
    let kept = Kept::of_user()?;
    let release = arguments.image.as_deref().map(|image| {
        Release::named(image).ok_or_else(|| {
            Failure::input(anyhow!(
                "--keep is for systems such as 'debian', not for '{image}': what a machine writes to a disk of your own is kept if you \
                 give it with --disk, or over another by `tern image create --backing`"
            ))
        })
    });
    let release = release.transpose()?;
    let machine = match (kept.get(name), release) {
        (Ok(machine), Some(release)) if machine.system.about.name != release.name() => {
            let (kept, asked) = (machine.system.about.name, release.name());
            return Err(Error::OtherSystem { name: name.to_owned(), kept, asked }.into());
        }
        (Ok(machine), _) => machine,
        (Err(Error::NotKept(_)), Some(release)) => {
            let system = System::get(&Cache::of_user()?, release, progress).map_err(cannot_get)?;
            kept.create(name, &system, progress)?
        }
        (Err(Error::NotKept(_)), None) => {
            return Err(Failure::input(anyhow!(
                "there is no kept machine '{name}' yet: name the image that it is to be of, as in `tern run debian --keep {name}`"
            )));
        }
        (Err(error), _) => return Err(error.into()),
    };
    let in_use = machine.claim()?;
    let KeptSystem { name, system } = machine;
    let mut disk = DiskOptions::new(&system.disk);
    disk.format = Some(Format::Qcow2);
    Ok(Source { kept: Some(name), _in_use: Some(in_use), ..Source::system(system, disk, arguments) })
}
