//! From words to the files of a guest.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::anyhow;
use clap::ValueEnum;
use tern_vmm::boot::KernelKind;

use crate::cli::RunArguments;
use crate::exit::Failure;
use crate::files::{Files, FromFiles, Input};
use crate::source::Source;

/// No kernel is as large as this, in bytes; whoever names a disk or an endless device hears it soon.
const LARGEST_KERNEL: u64 = 1 << 30;

/// What kind of file a kernel is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Whatever the file turns out to be
    Auto,
    /// A Linux bzImage: unpacked here, and entered as its own unpacker would
    #[value(name = "bzimage")]
    BzImage,
    /// An unpacked Linux kernel, or another ELF file with a PVH entry
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

/// Reads the files of the guest for the first time: those of `source`, and those that the command line puts in their places.
/// What does not fit into `memory`, in bytes, need not be read. The archive `appended` is put behind the initramfs, if there is one.
pub(crate) fn load(
    arguments: &RunArguments,
    source: &Source,
    memory: u64,
    appended: Vec<u8>,
) -> Result<FromFiles, Failure> {
    let kernel = arguments.kernel.as_ref().or(source.kernel.as_ref());
    let kernel = kernel
        .ok_or_else(|| Failure::input(anyhow!("there is no kernel to start: name one with --kernel FILE")))?;
    let kernel = Input::open("kernel", kernel, LARGEST_KERNEL, "no kernel has")?;
    let fitting =
        |role, path: &Path| Input::open(role, path, memory, "the machine's memory has; see --memory");
    let initrd = arguments.initrd.as_ref().or(source.initrd.as_ref());
    let initrd = initrd.map(|path| fitting("initramfs", path)).transpose()?;
    let mut modules = Vec::new();
    for module in &arguments.modules {
        modules.push((fitting("module", &module.file)?, module.cmdline.clone()));
    }
    let cmdline = arguments.cmdline.clone().or_else(|| source.cmdline.clone());
    FromFiles::new(Files { kernel, kind: arguments.format.kind(), initrd, appended, cmdline, modules })
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
}
