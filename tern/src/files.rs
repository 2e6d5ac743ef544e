//! The files of a guest: opened once, read when the machine needs them.
//!
//! They stay open, so that a reboot finds the same files even if others have taken their names; what is not a file (a pipe,
//! as in `--initrd <(command)`) can be read only once and is kept.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, anyhow};
use tern_vmm::boot::{Kernel, KernelKind};
use tern_vmm::guest::{Guest, GuestSource, Module, SourceError};

use crate::exit::Failure;

/// One file, and what it is for.
#[derive(Debug)]
pub(crate) struct Input {
    role: &'static str,
    path: PathBuf,
    contents: Contents,
}

#[derive(Debug)]
enum Contents {
    File(File),
    Kept(Vec<u8>),
}

impl Input {
    /// Opens a file that may have up to `limit` bytes; `bound` says for messages what the limit is.
    pub(crate) fn open(role: &'static str, path: &Path, limit: u64, bound: &str) -> Result<Self, Failure> {
        let cannot = || format!("cannot open the {role} '{}'", path.display());
        let file = File::open(path).map_err(|error| {
            let way_out = if error.kind() == io::ErrorKind::NotFound { way_out(role) } else { "" };
            Failure::input(anyhow::Error::new(error).context(format!("{}{way_out}", cannot())))
        })?;
        let about = file.metadata().with_context(cannot).map_err(Failure::input)?;
        if about.is_dir() {
            return Err(Failure::input(anyhow!("the {role} '{}' is a directory", path.display())));
        }
        let (contents, length) = if about.is_file() {
            (Contents::File(file), about.len())
        } else {
            let mut bytes = Vec::new();
            let read = file.take(limit.saturating_add(1)).read_to_end(&mut bytes);
            read.with_context(|| format!("cannot read the {role} '{}'", path.display()))
                .map_err(Failure::input)?;
            let length = bytes.len() as u64;
            (Contents::Kept(bytes), length)
        };
        if length > limit {
            return Err(Failure::input(anyhow!(
                "the {role} '{}' is larger than the {} MiB that {bound}",
                path.display(),
                limit >> 20
            )));
        }
        Ok(Self { role, path: path.into(), contents })
    }

    fn read(&self) -> anyhow::Result<Vec<u8>> {
        let read = |mut file: &File| -> io::Result<Vec<u8>> {
            file.rewind()?;
            let length = file.metadata()?.len();
            let mut bytes = Vec::with_capacity(usize::try_from(length).unwrap_or(0));
            // One that grows meanwhile is not followed.
            file.take(length).read_to_end(&mut bytes)?;
            Ok(bytes)
        };
        match &self.contents {
            Contents::File(file) => {
                read(file).with_context(|| format!("cannot read the {} '{}'", self.role, self.path.display()))
            }
            Contents::Kept(bytes) => Ok(bytes.clone()),
        }
    }
}

/// Where else a file could be had that is not there.
fn way_out(role: &str) -> &'static str {
    match role {
        "kernel" => {
            ". Linux distributions keep theirs in /boot; without --kernel an image starts with its own"
        }
        "initramfs" => {
            ". Linux distributions keep theirs in /boot; without --initrd an image starts with its own"
        }
        _ => "",
    }
}

/// All files of a guest.
#[derive(Debug)]
pub(crate) struct Files {
    pub kernel: Input,
    /// What the kernel is; without it, its bytes tell.
    pub kind: Option<KernelKind>,
    pub initrd: Option<Input>,
    /// An archive that is put behind it.
    pub appended: Vec<u8>,
    /// If nobody gives one, the kernel decides.
    pub cmdline: Option<String>,
    /// Each with its command line.
    pub modules: Vec<(Input, String)>,
}

impl Files {
    fn read(&self) -> anyhow::Result<Guest> {
        let kernel = Kernel::parse(self.kernel.read()?, self.kind)
            .with_context(|| format!("cannot boot the kernel '{}'", self.kernel.path.display()))?;
        let mut initrd = self.initrd.as_ref().map(Input::read).transpose()?;
        if let Some(initrd) = initrd.as_mut().filter(|_| !self.appended.is_empty()) {
            // Linux passes over zeros, and finds an archive at a multiple of four.
            initrd.resize(initrd.len().next_multiple_of(4), 0);
            initrd.extend_from_slice(&self.appended);
        }
        let command_line = self.cmdline.clone().unwrap_or_else(|| default_cmdline(&kernel));
        let mut modules = Vec::new();
        for (input, command_line) in &self.modules {
            modules.push(Module { bytes: input.read()?, command_line: command_line.clone() });
        }
        Ok(Guest { kernel, initrd, command_line, modules })
    }
}

/// What a kernel is told if nobody says: Linux is to use the console that there is.
fn default_cmdline(kernel: &Kernel<'_>) -> String {
    let is_linux = matches!(kernel.protocol(), "PVH" | "64-bit Linux");
    if is_linux { "console=ttyS0".to_owned() } else { String::new() }
}

/// A guest from files.
#[derive(Debug)]
pub(crate) struct FromFiles {
    files: Files,
    /// Read in advance, for the machine's start.
    first: Mutex<Option<Arc<Guest>>>,
}

impl FromFiles {
    /// Reads the files for the first time.
    ///
    /// # Errors
    /// One cannot be read, or the kernel is none.
    pub(crate) fn new(files: Files) -> Result<Self, Failure> {
        let first = Arc::new(files.read().map_err(Failure::input)?);
        Ok(Self { files, first: Mutex::new(Some(first)) })
    }
}

impl GuestSource for FromFiles {
    fn guest(&self) -> Result<Arc<Guest>, SourceError> {
        let first = self.first.lock().unwrap_or_else(PoisonError::into_inner).take();
        Ok(match first {
            Some(guest) => guest,
            None => Arc::new(self.files.read()?),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::exit::Code;

    fn open(path: &Path, limit: u64) -> Result<Input, Failure> {
        Input::open("initramfs", path, limit, "the machine has")
    }

    #[test]
    fn files_are_read_up_to_their_limit() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        fs::write(&path, [7; 4096]).unwrap();
        assert_eq!(open(&path, 4096).unwrap().read().unwrap(), [7; 4096]);
        assert_eq!(open(&path, 4095).unwrap_err().code, Code::INPUT);
        assert!(open(Path::new("/dev/zero"), 4096).is_err());
        assert!(open(directory.path(), 4096).is_err());
    }

    #[test]
    fn a_reboot_finds_the_same_files_whatever_happened_to_their_names() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("kernel");
        fs::write(&path, [0xf4]).unwrap();
        let kernel = Input::open("kernel", &path, 1, "no kernel has").unwrap();
        let kind = Some(KernelKind::BootSector);
        let files =
            Files { kernel, kind, initrd: None, appended: Vec::new(), cmdline: None, modules: Vec::new() };
        let source = FromFiles::new(files).unwrap();
        let first = Arc::downgrade(&source.guest().unwrap());
        assert!(first.upgrade().is_none(), "nothing is kept after the start");
        fs::remove_file(&path).unwrap();
        fs::write(&path, [0x90; 600]).unwrap();
        assert_eq!(source.guest().unwrap().command_line, "");
    }

    #[test]
    fn what_can_be_read_only_once_is_kept() {
        let (reader, mut writer) = io::pipe().unwrap();
        io::Write::write_all(&mut writer, b"once").unwrap();
        drop(writer);
        let path = format!("/dev/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&reader));
        let input = open(Path::new(&path), 4096).unwrap();
        assert_eq!(input.read().unwrap(), b"once");
        assert_eq!(input.read().unwrap(), b"once");
    }
}
