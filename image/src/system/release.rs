//! The systems that can be asked for by name.

use std::fmt;

/// A release of Debian.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Release {
    /// Its number, as in `debian:13`.
    number: u32,
    /// Its name in the archive, as in `trixie`.
    codename: &'static str,
    /// Its systemd's version.
    systemd: u32,
}

impl Release {
    /// All of them; the first is what `debian` alone means.
    pub const ALL: [Self; 2] = [
        Self { number: 13, codename: "trixie", systemd: 257 },
        Self { number: 12, codename: "bookworm", systemd: 252 },
    ];

    /// The release that `name` asks for: `debian`, `debian:13`, `debian:trixie`.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        let (system, tag) = name.split_once(':').map_or((name, None), |(system, tag)| (system, Some(tag)));
        if system != "debian" {
            return None;
        }
        let is_meant = |release: &Self| {
            tag.is_none_or(|tag| {
                tag == "latest" && release.number == Self::ALL[0].number
                    || tag == release.codename
                    || tag == release.number.to_string()
            })
        };
        Self::ALL.into_iter().find(is_meant)
    }

    /// The name by which it is asked for, `debian:13`.
    #[must_use]
    pub fn name(self) -> String {
        format!("debian:{}", self.number)
    }

    /// Its entry in the cache.
    #[must_use]
    pub fn key(self) -> String {
        format!("debian-{}", self.number)
    }

    /// The version of its systemd, which tells what that can be told.
    #[must_use]
    pub fn systemd(self) -> u32 {
        self.systemd
    }

    pub(super) fn number(self) -> u32 {
        self.number
    }

    pub(super) fn codename(self) -> &'static str {
        self.codename
    }
}

impl fmt::Display for Release {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Debian {} ({})", self.number, self.codename)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_release_is_asked_for_by_number_codename_or_not_at_all() {
        let key = |name| Release::named(name).map(Release::key);
        for (name, number) in [
            ("debian", 13),
            ("debian:13", 13),
            ("debian:latest", 13),
            ("debian:trixie", 13),
            ("debian:12", 12),
            ("debian:bookworm", 12),
        ] {
            assert_eq!(key(name), Some(format!("debian-{number}")), "{name}");
        }
        for name in ["", "tiny", "debian:", "debian:11", "debian13", "Debian", "fedora:13"] {
            assert_eq!(key(name), None, "{name}");
        }
    }
}
