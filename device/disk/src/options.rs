//! What a user says about a disk: `PATH[,ro][,format=FORMAT][,cache=CACHE][,overlay][,backing=PATH][,lock=off]`.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use crate::error::DiskError;

/// The image formats.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Format {
    /// The disk's bytes and nothing else.
    Raw,
    /// QEMU's.
    Qcow2,
    /// VMware's.
    Vmdk,
    /// Microsoft's Virtual PC and Azure.
    Vhd,
    /// Microsoft's Hyper-V.
    Vhdx,
}

impl Format {
    /// Every format.
    pub const ALL: [Self; 5] = [Self::Raw, Self::Qcow2, Self::Vmdk, Self::Vhd, Self::Vhdx];

    /// Its name, which is also what its files' names usually end in.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
            Self::Vmdk => "vmdk",
            Self::Vhd => "vhd",
            Self::Vhdx => "vhdx",
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Format {
    type Err = DiskError;

    /// Reads a name; QEMU's name for VHD, `vpc`, will do as well.
    fn from_str(text: &str) -> Result<Self, DiskError> {
        match text {
            "vpc" => Ok(Self::Vhd),
            _ => Self::ALL.into_iter().find(|format| format.name() == text).ok_or_else(|| {
                let names = Self::ALL.map(Self::name).join(", ");
                DiskError::Options(format!("'{text}' is no disk format: use one of {names}"))
            }),
        }
    }
}

/// What happens between a write and the host's device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Cache {
    /// Writes go to the host's page cache; a flush of the guest writes them to the device.
    #[default]
    WriteBack,
    /// Reads and writes go around the host's page cache (`O_DIRECT`); a flush is still a flush.
    None,
    /// As `WriteBack`, but the guest's flushes are not passed on: a crash of the host may destroy the disk.
    Unsafe,
}

impl FromStr for Cache {
    type Err = DiskError;

    fn from_str(text: &str) -> Result<Self, DiskError> {
        match text {
            "writeback" => Ok(Self::WriteBack),
            "none" => Ok(Self::None),
            "unsafe" => Ok(Self::Unsafe),
            _ => Err(DiskError::Options(format!(
                "'{text}' is no cache: use 'writeback' (the host's page cache, flushed when the guest flushes), 'none' (around the page \
                 cache) or 'unsafe' (the guest's flushes do nothing: a crash of the host may destroy the disk)"
            ))),
        }
    }
}

/// How requests reach the host's files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Transport {
    /// At once what needs no waiting, the rest through io_uring, or through threads where that is refused.
    #[default]
    Automatic,
    /// All through threads.
    Threads,
}

/// A disk, as a user asks for it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct DiskOptions {
    /// The image.
    pub path: PathBuf,
    /// Whether the guest may only read.
    pub is_read_only: bool,
    /// What the file is, if it is not to be recognised by its contents.
    pub format: Option<Format>,
    /// What happens between a write and the host's device.
    pub cache: Cache,
    /// Whether writes go to a temporary file that is gone with the disk, and leave the image as it is.
    pub has_overlay: bool,
    /// Where the image's backing file is, if not where the image says. A path given here is trusted.
    pub backing: Option<PathBuf>,
    /// Whether others are kept from opening the image at the same time.
    pub is_locked: bool,
    /// How requests reach the host's files; not a user's business.
    pub transport: Transport,
}

impl DiskOptions {
    /// The image at `path`, to be read and written, with everything else as usual.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            is_read_only: false,
            format: None,
            cache: Cache::default(),
            has_overlay: false,
            backing: None,
            is_locked: true,
            transport: Transport::default(),
        }
    }
}

impl FromStr for DiskOptions {
    type Err = DiskError;

    /// Reads `PATH[,OPTION]...`. A comma that belongs to a path is written twice.
    fn from_str(text: &str) -> Result<Self, DiskError> {
        let mut words = words(text).into_iter();
        let path = words.next().filter(|path| !path.is_empty()).ok_or_else(|| {
            DiskError::Options("a disk needs the path of its image: PATH[,ro][,format=FORMAT]...".to_owned())
        })?;
        let mut options = Self::new(path);
        let mut seen: Vec<String> = Vec::new();
        for word in words {
            let (key, value) =
                word.split_once('=').map_or((word.as_str(), None), |(key, value)| (key, Some(value)));
            if seen.iter().any(|other| other == key) {
                return Err(DiskError::Options(format!("'{key}' is there twice: give it once")));
            }
            seen.push(key.to_owned());
            match (key, value) {
                ("ro", None) => options.is_read_only = true,
                ("overlay", None) => options.has_overlay = true,
                ("format", Some(format)) => options.format = Some(format.parse()?),
                ("cache", Some(cache)) => options.cache = cache.parse()?,
                ("backing", Some(path)) if !path.is_empty() => options.backing = Some(path.into()),
                ("lock", Some("on")) => options.is_locked = true,
                ("lock", Some("off")) => options.is_locked = false,
                _ => {
                    return Err(DiskError::Options(format!(
                        "'{word}' is no option of a disk: use ro, format=raw|qcow2|vmdk|vhd|vhdx, cache=writeback|none|unsafe, overlay, \
                         backing=PATH or lock=off; a comma that belongs to a path is written twice"
                    )));
                }
            }
        }
        if options.is_read_only && options.has_overlay {
            let text = "'ro' and 'overlay' exclude each other: a disk that is not written needs no layer for what is written";
            return Err(DiskError::Options(text.to_owned()));
        }
        Ok(options)
    }
}

/// Cuts at single commas; two are one that belongs to the word.
fn words(text: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut rest = text.chars().peekable();
    while let Some(letter) = rest.next() {
        match (letter, words.last_mut()) {
            (',', Some(word)) if rest.peek() == Some(&',') => {
                rest.next();
                word.push(',');
            }
            (',', _) => words.push(String::new()),
            (letter, Some(word)) => word.push(letter),
            (_, None) => {}
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn parse(text: &str) -> Result<DiskOptions, String> {
        text.parse().map_err(|error: DiskError| error.to_string())
    }

    #[test]
    fn a_path_alone_is_a_disk_as_usual() {
        assert_eq!(parse("a b.qcow2").unwrap(), DiskOptions::new("a b.qcow2"));
        let options = parse("x").unwrap();
        assert!(!options.is_read_only && !options.has_overlay && options.is_locked);
        assert_eq!((options.format, options.cache), (None, Cache::WriteBack));
    }

    #[test]
    fn options_follow_in_any_order() {
        let options = parse("d,cache=none,ro,format=vpc,backing=/b,lock=off").unwrap();
        assert!(options.is_read_only && !options.is_locked);
        assert_eq!((options.format, options.cache), (Some(Format::Vhd), Cache::None));
        assert_eq!(options.backing.as_deref(), Some(Path::new("/b")));
        assert!(parse("d,overlay").unwrap().has_overlay);
    }

    #[test]
    fn a_double_comma_belongs_to_the_path() {
        let options = parse("a,,b,,.img,ro").unwrap();
        assert_eq!(options.path, Path::new("a,b,.img"));
        assert!(options.is_read_only);
    }

    #[test]
    fn what_makes_no_sense_is_told_with_what_would() {
        for (text, hint) in [
            ("", "PATH"),
            (",ro", "PATH"),
            ("d,rw", "no option of a disk: use ro"),
            ("d,format=vdi", "raw, qcow2, vmdk, vhd, vhdx"),
            ("d,format", "no option"),
            ("d,cache=writethrough", "'writeback'"),
            ("d,ro,ro", "twice"),
            ("d,ro,overlay", "exclude each other"),
            ("a,b.img", "written twice"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(hint), "{text}: {error}");
        }
    }

    #[test]
    fn every_format_has_its_name() {
        for format in Format::ALL {
            assert_eq!(format.to_string().parse::<Format>().unwrap(), format);
        }
    }
}
