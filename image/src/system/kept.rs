//! Machines that are kept: what they wrote lies over the system that they were started with, for the next run.
//!
//! ```text
//! <root>/<name>/base.qcow2, vmlinuz, initrd.img, system.json   the system, the same files as the cache's (hard links)
//! <root>/<name>/disk.qcow2                                     what the machine wrote, over base.qcow2
//! <root>/<name>/lock                                           held while it runs
//! <root>/.<name>.new                                           being made
//! <root>/.<name>.old                                           being removed
//! ```
//!
//! The system's files are the machine's own names for them: the cache may make the system anew, or be emptied, and the machine
//! stays what it was.

use std::env;
use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

use tern_disk::Format;
use tern_disk::tool::{self, NewBacking, NewImage};

use super::{DISK, INITRD, KERNEL, System};
use crate::cache::{carry, clear, listing};
use crate::{Error, Progress};

/// What lies below a kept machine's disk.
const BASE: &str = "base.qcow2";
/// What is locked while it runs.
const LOCK: &str = "lock";
/// The longest name.
const LONGEST: usize = 64;

/// A directory of kept machines.
#[derive(Debug, Clone)]
pub struct Kept {
    root: PathBuf,
}

/// A kept machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptSystem {
    /// Its name.
    pub name: String,
    /// The system that it is of, with the machine's own disk, which is to be written.
    pub system: System,
}

/// Nobody else runs the machine, or removes it, until this is dropped.
#[derive(Debug)]
pub struct InUse(#[expect(dead_code, reason = "it is held, not read")] File);

/// Where what is to stay is: `$TERN_STATE_DIR`, or `tern` in `$XDG_STATE_HOME` or in `$HOME/.local/state`.
#[must_use]
pub fn state_directory() -> Option<PathBuf> {
    let set = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set("TERN_STATE_DIR")
        .or_else(|| set("XDG_STATE_HOME").map(|home| home.join("tern")))
        .or_else(|| set("HOME").map(|home| home.join(".local/state/tern")))
}

impl Kept {
    /// The user's: `kept` in the [`state_directory`].
    ///
    /// # Errors
    /// [`Error::NoStateDir`] if none of these variables is set.
    pub fn of_user() -> Result<Self, Error> {
        state_directory().map(|state| Self::at(state.join("kept"))).ok_or(Error::NoStateDir)
    }

    /// Those in `root`, which is created when the first one is kept.
    #[must_use]
    pub fn at(root: PathBuf) -> Self {
        Self { root }
    }

    /// The machine of this name.
    ///
    /// # Errors
    /// [`Error::NotKept`], [`Error::BadName`].
    pub fn get(&self, name: &str) -> Result<KeptSystem, Error> {
        let place = self.place(name)?;
        let system = System::in_directory(&place).ok_or_else(|| Error::NotKept(name.to_owned()))?;
        Ok(KeptSystem { name: name.to_owned(), system })
    }

    /// Begins to keep a machine of this system. That it is copied, since it is on another file system, is shown.
    ///
    /// # Errors
    /// There is one of this name, or the host has no room for it.
    pub fn create(&self, name: &str, system: &System, progress: &dyn Progress) -> Result<KeptSystem, Error> {
        let place = self.place(name)?;
        let new = self.root.join(format!(".{name}.new"));
        clear(&new)?;
        fs::create_dir_all(&new).map_err(Error::io("create directory", &new))?;
        let mut elsewhere = Vec::new();
        for (from, to) in [(&system.disk, BASE), (&system.kernel, KERNEL), (&system.initrd, INITRD)] {
            let to = new.join(to);
            if fs::hard_link(from, &to).is_err() {
                elsewhere.push((from.as_path(), to));
            }
        }
        copy(&elsewhere, &format!("copying {}", system.about.name), progress)?;
        let mut disk = NewImage::new(new.join(DISK), Format::Qcow2, None);
        let base = from_here(&new.join(BASE))?;
        disk.backing = Some(NewBacking { path: base, format: Some(Format::Qcow2) });
        tool::create(&disk)?;
        let lock = new.join(LOCK);
        File::create(&lock).map_err(Error::io("create", &lock))?;
        system.about.write(&new)?;
        // Only over nothing: a directory with files is not replaced.
        fs::rename(&new, &place).map_err(Error::io("put in place", &place))?;
        self.get(name)
    }

    /// All of them, by name.
    ///
    /// # Errors
    /// The directory cannot be read. One that does not exist holds none.
    pub fn all(&self) -> Result<Vec<KeptSystem>, Error> {
        let mut all = Vec::new();
        for item in listing(&self.root)? {
            all.extend(item.file_name().to_str().and_then(|name| self.get(name).ok()));
        }
        all.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(all)
    }

    /// Removes a machine and all that it wrote.
    ///
    /// # Errors
    /// There is none, or it runs.
    pub fn remove(&self, name: &str) -> Result<(), Error> {
        let _in_use = self.get(name)?.claim()?;
        let (place, old) = (self.place(name)?, self.root.join(format!(".{name}.old")));
        // What a removal left that was killed.
        clear(&old)?;
        fs::rename(&place, &old).map_err(Error::io("remove", &place))?;
        clear(&old)
    }

    fn place(&self, name: &str) -> Result<PathBuf, Error> {
        let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "-._".contains(letter);
        let is_good = name.starts_with(|letter: char| letter.is_ascii_alphanumeric())
            && name.len() <= LONGEST
            && name.chars().all(is_plain);
        if is_good { Ok(self.root.join(name)) } else { Err(Error::BadName(name.to_owned())) }
    }
}

impl KeptSystem {
    /// Takes the machine into use.
    ///
    /// # Errors
    /// Somebody else has it in use.
    pub fn claim(&self) -> Result<InUse, Error> {
        let path = self.directory().join(LOCK);
        let lock = File::create(&path).map_err(Error::io("open", &path))?;
        match lock.try_lock() {
            Ok(()) => Ok(InUse(lock)),
            Err(TryLockError::WouldBlock) => Err(Error::Running(self.name.clone())),
            Err(TryLockError::Error(error)) => Err(Error::io("lock", &path)(error)),
        }
    }

    /// Bytes on the host's disk that are this machine's own.
    #[must_use]
    pub fn size(&self) -> u64 {
        use std::os::unix::fs::MetadataExt as _;
        fs::metadata(&self.system.disk).map_or(0, |metadata| metadata.blocks() * 512)
    }

    fn directory(&self) -> &Path {
        self.system.disk.parent().unwrap_or(Path::new("."))
    }
}

/// A path as it is from the working directory. A backing file that is given so is named from its image's folder, which may then
/// get another name.
fn from_here(path: &Path) -> Result<PathBuf, Error> {
    let here = env::current_dir().map_err(Error::io("find", Path::new(".")))?;
    let path = path.canonicalize().map_err(Error::io("find", path))?;
    let up = here.components().skip(1).map(|_| "..");
    Ok(up.collect::<PathBuf>().join(path.strip_prefix("/").unwrap_or(&path)))
}

/// Copies files, if there are any, and shows how far that is.
fn copy(files: &[(&Path, PathBuf)], what: &str, progress: &dyn Progress) -> Result<(), Error> {
    if files.is_empty() {
        return Ok(());
    }
    let length = |path: &Path| fs::metadata(path).map(|about| about.len()).map_err(Error::io("copy", path));
    let total = files.iter().map(|(from, _)| length(from)).sum::<Result<u64, Error>>()?;
    progress.begin(what, Some(total));
    let mut before = 0;
    let copied = files.iter().try_for_each(|(from, to)| {
        let mut new = File::create(to).map_err(Error::io("create", to))?;
        before += carry(from, &mut new, &mut |done| progress.advance(before + done))?;
        Ok(())
    });
    progress.end();
    copied
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::super::{About, Release};
    use super::*;
    use crate::Silent;

    /// Keeps what is shown.
    #[derive(Default)]
    struct Shown(RefCell<Vec<String>>);

    impl Progress for Shown {
        fn begin(&self, what: &str, total: Option<u64>) {
            self.0.borrow_mut().push(format!("{what} {}", total.unwrap_or(0)));
        }

        fn advance(&self, done: u64) {
            self.0.borrow_mut().push(done.to_string());
        }

        fn end(&self) {
            self.0.borrow_mut().push("end".to_owned());
        }
    }

    fn system(directory: &Path) -> System {
        let release = Release::named("debian").unwrap();
        for name in [KERNEL, INITRD] {
            fs::write(directory.join(name), name).unwrap();
        }
        tool::create(&NewImage::new(directory.join(DISK), Format::Qcow2, Some(1 << 20))).unwrap();
        let root = "UUID=0".to_owned();
        About::new(release, "13.1".into(), "6.12".into(), "a test".into(), root).write(directory).unwrap();
        System::in_directory(directory).unwrap()
    }

    #[test]
    fn a_kept_machine_outlives_the_system_in_the_cache() {
        let directory = tempfile::tempdir().unwrap();
        let cache = directory.path().join("entry");
        fs::create_dir(&cache).unwrap();
        let kept = Kept::at(directory.path().join("kept"));
        assert!(kept.all().unwrap().is_empty());
        let machine = kept.create("web", &system(&cache), &Silent).unwrap();
        fs::remove_dir_all(&cache).unwrap();
        assert_eq!(fs::read_to_string(&machine.system.kernel).unwrap(), KERNEL);
        let disk = tern_disk::open(&tern_disk::DiskOptions::new(&machine.system.disk)).unwrap();
        assert_eq!(disk.size(), 1 << 20);
        assert_eq!(kept.all().unwrap(), [machine]);
    }

    #[test]
    fn a_machine_in_use_is_neither_run_again_nor_removed() {
        let directory = tempfile::tempdir().unwrap();
        let cache = directory.path().join("entry");
        fs::create_dir(&cache).unwrap();
        let kept = Kept::at(directory.path().join("kept"));
        let machine = kept.create("web", &system(&cache), &Silent).unwrap();
        let in_use = machine.claim().unwrap();
        assert!(matches!(machine.claim(), Err(Error::Running(_))));
        assert!(matches!(kept.remove("web"), Err(Error::Running(_))));
        drop(in_use);
        kept.remove("web").unwrap();
        assert!(matches!(kept.get("web"), Err(Error::NotKept(_))));
    }

    #[test]
    fn a_machine_is_made_and_removed_also_where_one_of_its_name_was_only_half() {
        let directory = tempfile::tempdir().unwrap();
        let cache = directory.path().join("entry");
        fs::create_dir(&cache).unwrap();
        let root = directory.path().join("kept");
        for half in [".web.new", ".web.old"] {
            fs::create_dir_all(root.join(half)).unwrap();
            fs::write(root.join(half).join(DISK), "half").unwrap();
        }
        let kept = Kept::at(root.clone());
        kept.create("web", &system(&cache), &Silent).unwrap();
        kept.remove("web").unwrap();
        assert_eq!(fs::read_dir(&root).unwrap().count(), 0);
    }

    #[test]
    fn what_is_copied_is_whole_and_shown_and_what_need_not_be_is_not_shown() {
        let directory = tempfile::tempdir().unwrap();
        let place = |name: &str| directory.path().join(name);
        let bytes: Vec<u8> = (0..5 << 20).map(|index| (index >> 10) as u8).collect();
        fs::write(place("disk"), &bytes).unwrap();
        fs::write(place("kernel"), "kernel").unwrap();
        let (disk, kernel) = (place("disk"), place("kernel"));
        let shown = Shown::default();
        copy(&[(disk.as_path(), place("copy")), (kernel.as_path(), place("k"))], "copying web", &shown)
            .unwrap();
        assert!(fs::read(place("copy")).unwrap() == bytes);
        assert_eq!(fs::read_to_string(place("k")).unwrap(), "kernel");
        assert_eq!(*shown.0.borrow(), ["copying web 5242886", "4194304", "5242880", "5242886", "end"]);

        let shown = Shown::default();
        assert!(copy(&[(&place("gone"), place("x"))], "copying", &shown).is_err());
        copy(&[], "copying", &shown).unwrap();
        Kept::at(place("kept")).create("web", &system(directory.path()), &shown).unwrap();
        assert!(shown.0.borrow().is_empty(), "it is on the same file system");
    }

    #[test]
    fn names_are_plain() {
        let kept = Kept::at("/nowhere".into());
        for name in ["", ".", "..", ".x", "a/b", "a b", "-x", &"x".repeat(65)] {
            assert!(matches!(kept.get(name), Err(Error::BadName(_))), "{name}");
        }
        assert!(matches!(kept.get("a-1.B_2"), Err(Error::NotKept(_))));
    }
}
