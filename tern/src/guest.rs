//! From names of files to a kernel and what belongs to it.

use std::fmt::Write as _;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context, anyhow};
use clap::ValueEnum;
use tern_image::{Cache, Image, OnStderr, Progress, Silent};
use tern_vmm::boot::{Kernel, KernelKind};

use crate::cli::RunArguments;
use crate::exit::Failure;
use crate::terminal;

/// No kernel is as large as this, in bytes; whoever names a disk or an endless device hears it soon.
const LARGEST_KERNEL: u64 = 1 << 30;

/// What kind of file a kernel is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Whatever the file turns out to be
    Auto,
    /// A Linux bzImage: unpacked and entered through PVH, or through its 64-bit entry without that
    #[value(name = "bzimage")]
    BzImage,
    /// An ELF file with a PVH entry, or an unpacked Linux kernel
    Elf,
    /// A multiboot 1 kernel
    Multiboot,
    /// 512 bytes or more at 0x7c00, in real mode
    BootSector,
}

impl Format {
    fn kind(self) -> Option<KernelKind> {
        match self {
            Self::Auto => None,
            Self::BzImage => Some(KernelKind::BzImage),
            Self::Elf => Some(KernelKind::Elf),
            Self::Multiboot => Some(KernelKind::Multiboot),
            Self::BootSector => Some(KernelKind::BootSector),
        }
    }
}

/// A file that a kernel gets beside its initramfs, as the command line names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Module {
    pub file: PathBuf,
    /// What the kernel is told about it: the file's name as given, and its arguments.
    pub cmdline: String,
}

impl FromStr for Module {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let file =
            text.split_whitespace().next().ok_or("a module is a file, and after a space its arguments")?;
        Ok(Self { file: file.into(), cmdline: text.to_owned() })
    }
}

/// A kernel and what belongs to it, read.
#[derive(Debug)]
pub(crate) struct Guest {
    pub kernel: Kernel<'static>,
    pub initrd: Option<Vec<u8>>,
    pub cmdline: String,
    pub modules: Vec<tern_vmm::config::Module>,
}

/// Finds the guest that the command line describes, and reads its files.
pub(crate) fn load(arguments: &RunArguments) -> Result<Guest, Failure> {
    let (path, initrd, cmdline) = match &arguments.kernel {
        Some(kernel) => (kernel.clone(), None, None),
        None => {
            let image = image(&arguments.image, arguments.quiet)?;
            (image.kernel, image.initrd, Some(image.cmdline))
        }
    };
    let bytes = read("kernel", &path, LARGEST_KERNEL)?;
    // What does not fit into the machine's memory need not be read.
    let read_into_memory = |role, path: &Path| read(role, path, arguments.memory);
    let initrd = arguments.initrd.clone().or(initrd);
    let initrd = initrd.map(|path| read_into_memory("initramfs", &path)).transpose()?;
    let mut modules = Vec::new();
    for module in &arguments.modules {
        let bytes = read_into_memory("module", &module.file)?;
        modules.push(tern_vmm::config::Module { bytes, command_line: module.cmdline.clone() });
    }
    let kernel = Kernel::parse(bytes, arguments.format.kind())
        .with_context(|| format!("cannot boot the kernel '{}'", path.display()))
        .map_err(Failure::input)?;
    let cmdline = arguments.cmdline.clone().or(cmdline).unwrap_or_else(|| default_cmdline(&kernel));
    Ok(Guest { kernel, initrd, cmdline, modules })
}

/// What a kernel is told if nobody says: Linux is to use the console that there is.
fn default_cmdline(kernel: &Kernel<'_>) -> String {
    let is_linux = matches!(kernel.protocol(), "PVH" | "64-bit Linux");
    if is_linux { "console=ttyS0".to_owned() } else { String::new() }
}

fn image(name: &str, quiet: bool) -> Result<Image, Failure> {
    if name != "tiny" {
        let hint = if Path::new(name).is_file() {
            format!("to start the file as a kernel: `tern run --kernel {name}`")
        } else {
            "the only image is 'tiny'; a kernel of your own is started with --kernel FILE".to_owned()
        };
        return Err(Failure::input(anyhow!("there is no image '{name}'; {hint}")));
    }
    let shown = OnStderr::new();
    let progress: &dyn Progress = if quiet { &Silent } else { &shown };
    let mut image = tern_image::tiny(&Cache::of_user()?, progress)
        .map_err(|error| Failure::from(error).context("cannot get the image 'tiny'"))?;
    if let Some((columns, lines)) = terminal::size() {
        write!(image.cmdline, " COLUMNS={columns} LINES={lines}").expect("a string takes everything");
    }
    Ok(image)
}

/// Reads a file of at most `limit` bytes.
fn read(role: &str, path: &Path, limit: u64) -> Result<Vec<u8>, Failure> {
    let cannot = || format!("cannot open the {role} '{}'", path.display());
    let file = File::open(path).with_context(cannot).map_err(Failure::input)?;
    let about = file.metadata().with_context(cannot).map_err(Failure::input)?;
    if about.is_dir() {
        return Err(Failure::input(anyhow!("the {role} '{}' is a directory", path.display())));
    }
    let mut bytes = Vec::new();
    file.take(limit + 1)
        .read_to_end(&mut bytes)
        .with_context(|| format!("cannot read the {role} '{}'", path.display()))
        .map_err(Failure::input)?;
    if bytes.len() as u64 > limit {
        let mebibytes = limit >> 20;
        let hint = if role == "kernel" { "no kernel has" } else { "the machine's memory has; see --memory" };
        return Err(Failure::input(anyhow!(
            "the {role} '{}' is larger than the {mebibytes} MiB that {hint}",
            path.display()
        )));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_is_a_file_and_its_whole_command_line() {
        let module: Module = "root.img first  second".parse().unwrap();
        assert_eq!(module.file, Path::new("root.img"));
        assert_eq!(module.cmdline, "root.img first  second");
        assert!("  ".parse::<Module>().is_err());
    }

    #[test]
    fn files_are_read_up_to_their_limit() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        std::fs::write(&path, [7; 4096]).unwrap();
        assert_eq!(read("initramfs", &path, 4096).unwrap(), [7; 4096]);
        let failure = read("initramfs", &path, 4095).unwrap_err();
        assert_eq!(failure.code, crate::exit::Code::INPUT);
        assert!(read("kernel", Path::new("/dev/zero"), 4096).is_err());
        assert!(read("kernel", directory.path(), 4096).is_err());
    }

    #[test]
    fn only_linux_is_told_about_the_console() {
        let flat = Kernel::parse(vec![0xf4], Some(KernelKind::BootSector)).unwrap();
        assert_eq!(default_cmdline(&flat), "");
    }
}
