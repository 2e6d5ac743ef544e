//! The image cache: directories that are complete or not there.
//!
//! An entry is built in a temporary directory beside its place, gets a manifest with size and SHA-256
//! of each file, and is renamed into place: a start that is interrupted leaves nothing half done. A
//! lock file per entry keeps two starts from building the same thing. What a killed build leaves, the
//! next one sweeps away, whichever entry it builds. Every use compares the sizes, which is cheap and
//! finds what a full disk or a crash leaves; [`Cache::check`] compares the digests.
//!
//! ```text
//! <root>/<key>/...files...         complete, described by
//! <root>/<key>/manifest.json
//! <root>/.<key>.lock               held while the entry is built or removed
//! <root>/.<key>.new                being built, only under the lock
//! ```

use std::fs::{self, DirEntry, File, TryLockError};
use std::io::{self, Read as _, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::Error;

const MANIFEST: &str = "manifest.json";

/// After how many bytes it is told how far a file is.
const PIECE: u64 = 4 << 20;

/// A directory of entries, each known by its key.
#[derive(Debug, Clone)]
pub struct Cache {
    root: PathBuf,
}

/// What an entry consists of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The name under which it was built.
    pub key: String,
    /// The names of its files.
    pub files: Vec<String>,
    /// The size of its files, in bytes.
    pub size: u64,
}

#[derive(Debug, Serialize, Deserialize)]
struct Manifest {
    files: Vec<Record>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Record {
    name: String,
    size: u64,
    sha256: String,
}

impl Cache {
    /// The user's cache: `$TERN_CACHE_DIR`, or `tern` in `$XDG_CACHE_HOME`, or in `$HOME/.cache`.
    ///
    /// # Errors
    /// [`Error::NoCacheDir`] if none of these variables is set.
    pub fn of_user() -> Result<Self, Error> {
        let set = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        let root = set("TERN_CACHE_DIR")
            .map(PathBuf::from)
            .or_else(|| set("XDG_CACHE_HOME").map(|home| Path::new(&home).join("tern")))
            .or_else(|| set("HOME").map(|home| Path::new(&home).join(".cache/tern")));
        root.map(Self::at).ok_or(Error::NoCacheDir)
    }

    /// A cache in `root`, which is created when the first entry is built.
    #[must_use]
    pub fn at(root: PathBuf) -> Self {
        Self { root }
    }

    /// Where the cache is.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The directory of the entry `key`; if it is missing or damaged, `build` fills a new one first.
    ///
    /// `build` gets an empty directory and leaves plain files in it. If it fails, nothing stays.
    ///
    /// # Errors
    /// What `build` reports, [`Error::BadKey`], or [`Error::Io`] if the cache cannot be written.
    pub fn get_or_build<E: From<Error>>(
        &self,
        key: &str,
        build: impl FnOnce(&Path) -> Result<(), E>,
    ) -> Result<PathBuf, E> {
        let entry = self.place(key)?;
        if sizes_match(key, &entry).is_ok() {
            return Ok(entry);
        }
        let _lock = self.lock(key)?;
        // Whoever held the lock before us may have built it.
        if sizes_match(key, &entry).is_ok() {
            return Ok(entry);
        }
        self.build(key, build)
    }

    /// As [`Cache::get_or_build`], also if the entry is there. What was there stays until the new one is whole, and after that for
    /// those who have it open.
    ///
    /// # Errors
    /// As [`Cache::get_or_build`].
    pub fn rebuild<E: From<Error>>(
        &self,
        key: &str,
        build: impl FnOnce(&Path) -> Result<(), E>,
    ) -> Result<PathBuf, E> {
        self.place(key)?;
        let _lock = self.lock(key)?;
        self.build(key, build)
    }

    /// The directory of the entry `key`, if it is there and whole.
    #[must_use]
    pub fn whole(&self, key: &str) -> Option<PathBuf> {
        let entry = self.place(key).ok()?;
        sizes_match(key, &entry).ok().map(|()| entry)
    }

    /// Whether somebody builds or removes the entry `key` just now.
    #[must_use]
    pub fn is_busy(&self, key: &str) -> bool {
        let lock = File::open(self.root.join(format!(".{key}.lock")));
        lock.is_ok_and(|lock| matches!(lock.try_lock_shared(), Err(TryLockError::WouldBlock)))
    }

    /// Builds an entry whose lock is held.
    fn build<E: From<Error>>(
        &self,
        key: &str,
        build: impl FnOnce(&Path) -> Result<(), E>,
    ) -> Result<PathBuf, E> {
        let entry = self.place(key)?;
        let new = self.root.join(format!(".{key}.new"));
        clear(&new)?;
        // What cannot be removed of others is no obstacle.
        let _ = self.sweep();
        fs::create_dir(&new).map_err(Error::io("create directory", &new))?;
        if let Err(error) = build(&new) {
            clear(&new)?;
            return Err(error);
        }
        write_manifest(&new)?;
        clear(&entry)?;
        fs::rename(&new, &entry).map_err(Error::io("put in place", &entry))?;
        Ok(entry)
    }

    /// All entries, by key.
    ///
    /// # Errors
    /// [`Error::Io`] if the cache cannot be read. A cache that does not exist yet is empty.
    pub fn entries(&self) -> Result<Vec<Entry>, Error> {
        let mut entries = Vec::new();
        for item in listing(&self.root)? {
            let Ok(key) = item.file_name().into_string() else {
                continue;
            };
            if key.starts_with('.') || !item.path().is_dir() {
                continue;
            }
            let records = read_manifest(&key, &item.path()).map_or_else(|_| Vec::new(), |m| m.files);
            entries.push(Entry {
                key,
                size: records.iter().map(|record| record.size).sum(),
                files: records.into_iter().map(|record| record.name).collect(),
            });
        }
        entries.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(entries)
    }

    /// Compares every file of an entry with the digest it had when it was built. `told` hears how many bytes of how many are done.
    ///
    /// # Errors
    /// [`Error::Damaged`] at the first difference, [`Error::NoEntry`], [`Error::BadKey`].
    pub fn check(&self, key: &str, told: &mut dyn FnMut(u64, u64)) -> Result<(), Error> {
        let entry = self.existing(key)?;
        sizes_match(key, &entry)?;
        let records = read_manifest(key, &entry)?.files;
        let total = records.iter().map(|record| record.size).sum();
        let mut before = 0;
        for record in records {
            let path = entry.join(&record.name);
            let mut digest = Sha256::new();
            let length = carry(&path, &mut digest, &mut |done| told(before + done, total))?;
            before += length;
            let found = hex(digest);
            if found != record.sha256 {
                let why = format!("its SHA-256 is {found}, not {}", record.sha256);
                return Err(damaged(key, &record.name, why));
            }
        }
        Ok(())
    }

    /// Removes an entry.
    ///
    /// # Errors
    /// [`Error::NoEntry`], [`Error::BadKey`], or [`Error::Io`] if the files cannot be removed.
    pub fn remove(&self, key: &str) -> Result<(), Error> {
        let entry = self.existing(key)?;
        let _lock = self.lock(key)?;
        clear(&entry)
    }

    /// Removes what builds have left that were killed. What is being built stays.
    ///
    /// # Errors
    /// [`Error::Io`] if the cache cannot be read, or something of it cannot be removed.
    pub fn sweep(&self) -> Result<(), Error> {
        for item in listing(&self.root)? {
            let name = item.file_name();
            let Some(key) = name.to_str().and_then(|name| name.strip_prefix('.')?.strip_suffix(".new"))
            else {
                continue;
            };
            let (lock, path) = self.lock_file(key)?;
            match lock.try_lock() {
                Ok(()) => clear(&item.path())?,
                // Somebody builds it.
                Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(error)) => return Err(Error::io("lock", &path)(error)),
            }
        }
        Ok(())
    }

    fn place(&self, key: &str) -> Result<PathBuf, Error> {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-+._".contains(c);
        if key.is_empty() || key.starts_with('.') || !key.chars().all(plain) {
            return Err(Error::BadKey(key.to_owned()));
        }
        Ok(self.root.join(key))
    }

    fn existing(&self, key: &str) -> Result<PathBuf, Error> {
        let entry = self.place(key)?;
        if entry.is_dir() {
            return Ok(entry);
        }
        Err(Error::NoEntry { key: key.to_owned(), root: self.root.clone() })
    }

    /// Waits until nobody else builds or removes `key`. The lock ends with the returned file.
    fn lock(&self, key: &str) -> Result<File, Error> {
        fs::create_dir_all(&self.root).map_err(Error::io("create directory", &self.root))?;
        let (file, path) = self.lock_file(key)?;
        file.lock().map_err(Error::io("lock", &path))?;
        Ok(file)
    }

    fn lock_file(&self, key: &str) -> Result<(File, PathBuf), Error> {
        let path = self.root.join(format!(".{key}.lock"));
        let file = File::create(&path).map_err(Error::io("create", &path))?;
        Ok((file, path))
    }
}

/// The SHA-256 of a file, in hexadecimal.
pub(crate) fn sha256_of_file(path: &Path) -> Result<String, Error> {
    let mut digest = Sha256::new();
    carry(path, &mut digest, &mut |_| ())?;
    Ok(hex(digest))
}

/// Reads a file into `to`, piece by piece; `told` hears how many bytes are done. Returns how many there were.
///
/// # Errors
/// [`Error::Io`]: it cannot be read, or its contents are not taken.
pub(crate) fn carry(path: &Path, to: &mut impl Write, told: &mut dyn FnMut(u64)) -> Result<u64, Error> {
    let mut file = File::open(path).map_err(Error::io("open", path))?;
    let mut done = 0;
    loop {
        let copied = io::copy(&mut (&mut file).take(PIECE), to).map_err(Error::io("read", path))?;
        if copied == 0 {
            return Ok(done);
        }
        done += copied;
        told(done);
    }
}

/// The SHA-256 of some text, in hexadecimal.
pub(crate) fn sha256_of_text(text: &str) -> String {
    hex(Sha256::new().chain_update(text))
}

fn hex(digest: Sha256) -> String {
    let bytes = digest.finalize();
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Removes a directory that may not exist.
pub(crate) fn clear(directory: &Path) -> Result<(), Error> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::io("remove", directory)(error)),
        _ => Ok(()),
    }
}

fn damaged(key: &str, file: &str, why: impl Into<String>) -> Error {
    Error::Damaged { key: key.to_owned(), file: file.to_owned(), why: why.into() }
}

fn read_manifest(key: &str, entry: &Path) -> Result<Manifest, Error> {
    let text = fs::read(entry.join(MANIFEST)).map_err(|error| damaged(key, MANIFEST, error.to_string()))?;
    serde_json::from_slice(&text).map_err(|error| damaged(key, MANIFEST, error.to_string()))
}

/// Whether every file of the manifest is there with its size.
fn sizes_match(key: &str, entry: &Path) -> Result<(), Error> {
    for record in read_manifest(key, entry)?.files {
        let found = fs::metadata(entry.join(&record.name))
            .map_err(|error| damaged(key, &record.name, error.to_string()))?
            .len();
        if found != record.size {
            let why = format!("it has {found} bytes, not {}", record.size);
            return Err(damaged(key, &record.name, why));
        }
    }
    Ok(())
}

fn write_manifest(directory: &Path) -> Result<(), Error> {
    let mut files = Vec::new();
    for item in fs::read_dir(directory).map_err(Error::io("read directory", directory))? {
        let path = item.map_err(Error::io("read directory", directory))?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
            continue;
        };
        files.push(Record {
            name: name.to_owned(),
            size: fs::metadata(&path).map_err(Error::io("look at", &path))?.len(),
            sha256: sha256_of_file(&path)?,
        });
    }
    files.sort_by(|a, b| a.name.cmp(&b.name));
    let text = serde_json::to_vec_pretty(&Manifest { files }).expect("names and numbers serialize");
    let path = directory.join(MANIFEST);
    fs::write(&path, text).map_err(Error::io("write", &path))
}

/// What is in a directory; nothing if it does not exist.
pub(crate) fn listing(directory: &Path) -> Result<Vec<DirEntry>, Error> {
    let items = match fs::read_dir(directory) {
        Ok(items) => items.collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    };
    items.map_err(Error::io("read directory", directory))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    fn cache() -> (tempfile::TempDir, Cache) {
        let directory = tempfile::tempdir().unwrap();
        let cache = Cache::at(directory.path().join("tern"));
        (directory, cache)
    }

    fn put(cache: &Cache, key: &str, content: &str) -> PathBuf {
        cache
            .get_or_build(key, |new| fs::write(new.join("file"), content).map_err(Error::io("write", new)))
            .unwrap()
    }

    fn content(entry: &Path) -> String {
        fs::read_to_string(entry.join("file")).unwrap()
    }

    #[test]
    fn a_complete_entry_is_not_built_again() {
        let (_directory, cache) = cache();
        put(&cache, "a", "first");
        assert_eq!(content(&put(&cache, "a", "second")), "first");
    }

    #[test]
    fn a_file_of_another_size_is_built_again() {
        let (_directory, cache) = cache();
        let entry = put(&cache, "a", "first");
        fs::write(entry.join("file"), "fir").unwrap();
        assert_eq!(content(&put(&cache, "a", "second")), "second");
    }

    #[test]
    fn a_missing_file_or_manifest_is_built_again() {
        let (_directory, cache) = cache();
        for victim in ["file", MANIFEST] {
            let entry = put(&cache, victim, "first");
            fs::remove_file(entry.join(victim)).unwrap();
            assert_eq!(content(&put(&cache, victim, "second")), "second");
        }
    }

    #[test]
    fn check_finds_a_changed_file_of_the_same_size() {
        let (_directory, cache) = cache();
        let entry = put(&cache, "a", "first");
        cache.check("a", &mut |_, _| ()).unwrap();
        fs::write(entry.join("file"), "worst").unwrap();
        assert!(
            matches!(cache.check("a", &mut |_, _| ()), Err(Error::Damaged { file, .. }) if file == "file")
        );
    }

    #[test]
    fn check_tells_how_far_it_is() {
        let (_directory, cache) = cache();
        let make = |new: &Path| -> Result<(), Error> {
            for name in ["a", "b"] {
                fs::write(new.join(name), vec![7; PIECE as usize + 5]).map_err(Error::io("write", new))?;
            }
            Ok(())
        };
        cache.get_or_build("two", make).unwrap();
        let mut told = Vec::new();
        cache.check("two", &mut |done, total| told.push((done, total))).unwrap();
        let total = 2 * (PIECE + 5);
        assert_eq!(told, [PIECE, PIECE + 5, 2 * PIECE + 5, total].map(|done| (done, total)));
    }

    #[test]
    fn a_failed_build_leaves_nothing() {
        let (_directory, cache) = cache();
        let failed = cache.get_or_build("a", |new| {
            fs::write(new.join("file"), "half").map_err(Error::io("write", new))?;
            Err(Error::NoCacheDir)
        });
        assert!(matches!(failed, Err(Error::NoCacheDir)));
        assert_eq!(cache.entries().unwrap(), []);
        assert!(!cache.root().join(".a.new").exists());
    }

    #[test]
    fn what_an_interrupted_build_left_does_not_get_into_the_entry() {
        let (_directory, cache) = cache();
        let half = cache.root().join(".a.new");
        fs::create_dir_all(&half).unwrap();
        fs::write(half.join("left"), "over").unwrap();
        assert!(!put(&cache, "a", "whole").join("left").exists());
    }

    #[test]
    fn what_a_killed_build_left_is_swept_away_and_what_is_being_built_is_not() {
        let (_directory, cache) = cache();
        cache.sweep().unwrap();
        put(&cache, "a", "whole");
        let half = |key: &str| {
            let half = cache.root().join(format!(".{key}.new"));
            fs::create_dir_all(half.join("work")).unwrap();
            half
        };
        let (left, built) = (half("left"), half("built"));
        let lock = cache.lock("built").unwrap();
        cache.sweep().unwrap();
        assert!(!left.exists() && built.exists());
        half("left");
        put(&cache, "b", "whole");
        assert!(!left.exists() && built.exists(), "any build sweeps");
        drop(lock);
        cache.sweep().unwrap();
        assert!(!built.exists());
        assert_eq!(cache.entries().unwrap().len(), 2);
    }

    #[test]
    fn two_starts_at_once_build_once() {
        let (_directory, cache) = cache();
        let builds = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    cache.get_or_build("a", |new| {
                        builds.fetch_add(1, Ordering::SeqCst);
                        fs::write(new.join("file"), "x").map_err(Error::io("write", new))
                    })
                });
            }
        });
        assert_eq!(builds.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn entries_are_listed_and_removed() {
        let (_directory, cache) = cache();
        assert_eq!(cache.entries().unwrap(), []);
        put(&cache, "b", "four");
        put(&cache, "a", "x");
        let keys: Vec<_> = cache.entries().unwrap().into_iter().map(|e| e.key).collect();
        assert_eq!(keys, ["a", "b"]);
        cache.remove("a").unwrap();
        assert!(matches!(cache.remove("a"), Err(Error::NoEntry { .. })));
        assert_eq!(cache.entries().unwrap()[0].size, 4);
    }

    #[test]
    fn keys_cannot_leave_the_cache() {
        let (_directory, cache) = cache();
        for key in ["", ".", "..", "../a", "a/b", ".a.lock", "a\0"] {
            assert!(matches!(cache.remove(key), Err(Error::BadKey(_))), "{key}");
        }
    }
}
