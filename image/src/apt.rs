//! The host's `apt`, used without being root and without changing the host.
//!
//! `apt` knows the mirrors, the proxies and the keys, and checks the archive's signatures; we only
//! ask it (apt-cache(8), apt-get(8)). If its package lists are missing or stale, or another suite is
//! wanted, a private set of lists is fetched into a directory of ours.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::Duration;

use crate::cache::sha256_of_file;
use crate::{Error, Progress};

/// How often a download is looked at to show how far it is.
const LOOK: Duration = Duration::from_millis(100);

/// One package of one version, as the signed lists describe it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Package {
    pub name: String,
    pub version: String,
    /// Names of the packages it depends on, in order; of alternatives the first.
    pub depends: Vec<String>,
    /// The size of the `.deb`, in bytes.
    pub size: u64,
    /// Its SHA-256, in hexadecimal.
    pub sha256: String,
}

/// A view of the archive: the host's, or one of our own.
#[derive(Debug)]
pub(crate) struct Apt {
    options: Vec<OsString>,
    /// What the last `update` reported, for when a package is not found.
    pub report: String,
}

impl Apt {
    /// The host's sources and the lists it has.
    pub fn of_host() -> Self {
        Self { options: Vec::new(), report: String::new() }
    }

    /// Lists fetched now into `root`, from the host's sources or from `sources` (one `deb` line).
    pub fn private(root: &Path, sources: Option<&str>, progress: &dyn Progress) -> Result<Self, Error> {
        let create = |path: PathBuf| fs::create_dir_all(&path).map_err(Error::io("create directory", &path));
        create(root.join("lists/partial"))?;
        create(root.join("cache/archives/partial"))?;
        let mut apt = Self::of_host();
        apt.set("Dir::State::lists", root.join("lists"));
        apt.set("Dir::Cache", root.join("cache"));
        apt.set("Dir::Cache::pkgcache", "");
        apt.set("Dir::Cache::srcpkgcache", "");
        apt.set("Acquire::Languages", "none");
        if let Some(line) = sources {
            let list = root.join("sources.list");
            fs::write(&list, line).map_err(Error::io("write", &list))?;
            apt.set("Dir::Etc::sourcelist", list);
            apt.set("Dir::Etc::sourceparts", "-");
            // What is installed here has no say in what another suite offers.
            apt.set("Dir::State::status", "/dev/null");
        }
        progress.begin("fetching Debian's package lists", None);
        // One broken source among several is no reason to stop: only a missing package is.
        let update = apt.run("apt-get", &["update", "-q"]);
        progress.end();
        apt.report = String::from_utf8_lossy(&update?.stderr).into_owned();
        Ok(apt)
    }

    /// The candidate version of a package, if it is known.
    pub fn show(&self, name: &str) -> Result<Option<Package>, Error> {
        let output = self.run("apt-cache", &["show", "--no-all-versions", name])?;
        Package::parse(name, &String::from_utf8_lossy(&output.stdout))
    }

    /// The base address of the mirror that this view has for an archive, named by origin and label: `Debian/Debian`.
    pub fn mirror(&self, archive: &str) -> Result<Option<String>, Error> {
        let format = "$(ORIGIN)/$(LABEL) $(REPO_URI)";
        let output = self.run("apt-get", &["indextargets", "--format", format, "Created-By: Packages"])?;
        let text = String::from_utf8_lossy(&output.stdout);
        let mirror = text.lines().find_map(|line| line.strip_prefix(archive)?.strip_prefix(' '));
        Ok(mirror.map(str::to_owned))
    }

    /// How the host's apt fetches, as lines of apt.conf(5): proxies, and what it insists on.
    pub fn acquisition(&self) -> Result<String, Error> {
        // What to fetch beside packages is the host's own business.
        const OTHERS: [&str; 4] = ["IndexTargets", "Changelogs", "CompressionTypes", "Languages"];
        let output = self.run("apt-config", &["dump", "Acquire"])?;
        let text = String::from_utf8_lossy(&output.stdout);
        let is_how = |line: &&str| {
            let topic = line.strip_prefix("Acquire::").and_then(|rest| rest.split([':', ' ']).next());
            topic.is_some_and(|topic| !OTHERS.contains(&topic))
        };
        Ok(text.lines().filter(is_how).flat_map(|line| [line, "\n"]).collect())
    }

    /// Fetches a package into `directory` and checks its digest.
    pub fn download(
        &self,
        package: &Package,
        directory: &Path,
        progress: &dyn Progress,
    ) -> Result<PathBuf, Error> {
        let Package { name, version, .. } = package;
        progress.begin(&format!("fetching {name} {version}"), Some(package.size));
        let fetched = self.fetch(&format!("{name}={version}"), directory, progress);
        progress.end();
        let deb = fetched?;
        let found = sha256_of_file(&deb)?;
        if found != package.sha256 {
            return Err(Error::Digest {
                package: format!("{name} {version}"),
                expected: package.sha256.clone(),
                found,
            });
        }
        Ok(deb)
    }

    fn fetch(&self, package: &str, directory: &Path, progress: &dyn Progress) -> Result<PathBuf, Error> {
        // A file, not a pipe: nobody reads it until the end.
        let log = directory.join("apt.log");
        let report = File::create(&log).map_err(Error::io("create", &log))?;
        let mut child = self
            .command("apt-get")
            .args(["download", "-q", package])
            .current_dir(directory)
            .stdout(Stdio::null())
            .stderr(report)
            .spawn()
            .map_err(|error| cannot_start("apt-get", error))?;
        let status = loop {
            let ended = child.try_wait().map_err(Error::io("wait for", &log))?;
            if let Some(status) = ended {
                break status;
            }
            if let Some((_, size)) = package_file(directory) {
                progress.advance(size);
            }
            thread::sleep(LOOK);
        };
        match package_file(directory) {
            Some((deb, _)) if status.success() => Ok(deb),
            rest => {
                // Half a package must not be taken for the next one.
                if let Some((half, _)) = rest {
                    fs::remove_file(&half).map_err(Error::io("remove", &half))?;
                }
                let apt = fs::read_to_string(&log).unwrap_or_default();
                Err(Error::Fetch { package: package.to_owned(), apt })
            }
        }
    }

    fn set(&mut self, name: &str, value: impl Into<OsString>) {
        let mut option = OsString::from(format!("{name}="));
        option.push(value.into());
        self.options.extend(["-o".into(), option]);
    }

    fn command(&self, tool: &str) -> Command {
        let mut command = Command::new(tool);
        command
            .args(&self.options)
            // As root, apt would download as the user _apt, who cannot write into our directories.
            .args(["-o", "APT::Sandbox::User=root"])
            .args(["-o", "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false"])
            .env("LC_ALL", "C")
            .stdin(Stdio::null());
        command
    }

    fn run(&self, tool: &'static str, arguments: &[&str]) -> Result<Output, Error> {
        self.command(tool).args(arguments).output().map_err(|error| cannot_start(tool, error))
    }
}

fn cannot_start(tool: &'static str, error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::NotFound => Error::NotDebian { tool },
        _ => Error::io("run", Path::new(tool))(error),
    }
}

/// The package in a directory, whole or in the making, and its size.
fn package_file(directory: &Path) -> Option<(PathBuf, u64)> {
    let path = fs::read_dir(directory)
        .ok()?
        .filter_map(|item| Some(item.ok()?.path()))
        .find(|path| path.extension().is_some_and(|extension| extension == "deb"))?;
    let size = fs::metadata(&path).ok()?.len();
    Some((path, size))
}

impl Package {
    /// Reads the first stanza of `apt-cache show`; no stanza, no package.
    fn parse(name: &str, text: &str) -> Result<Option<Self>, Error> {
        let stanza = text.split("\n\n").next().unwrap_or_default();
        let field = |key: &str| stanza.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(": "));
        if field("Package").is_none() {
            return Ok(None);
        }
        let needed = |key: &str| {
            field(key).ok_or_else(|| Error::Package {
                package: name.to_owned(),
                why: format!("the package list does not give its {key}; run `apt-get update`"),
            })
        };
        let size = needed("Size")?;
        let depends = field("Depends").unwrap_or_default();
        Ok(Some(Self {
            name: name.to_owned(),
            version: needed("Version")?.to_owned(),
            depends: depends
                .split(',')
                .filter_map(|one| one.split_whitespace().next())
                .map(str::to_owned)
                .collect(),
            size: size.parse().map_err(|_| Error::Package {
                package: name.to_owned(),
                why: format!("the package list gives '{size}' as its size"),
            })?,
            sha256: needed("SHA256")?.to_owned(),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STANZA: &str = "Package: linux-image-cloud-amd64\nVersion: 6.1.192-2\n\
        Depends: linux-image-6.1.0-56-cloud-amd64 (= 6.1.192-2), kmod | module-init\n\
        Description: Linux\n Size: of no account\nSize: 1504\nSHA256: 00be\n\nPackage: next\n";

    #[test]
    fn a_stanza_gives_version_dependencies_size_and_digest() {
        let package = Package::parse("linux-image-cloud-amd64", STANZA).unwrap().unwrap();
        assert_eq!(package.version, "6.1.192-2");
        assert_eq!(package.depends, ["linux-image-6.1.0-56-cloud-amd64", "kmod"]);
        assert_eq!((package.size, package.sha256.as_str()), (1504, "00be"));
    }

    #[test]
    fn no_stanza_is_no_package() {
        assert_eq!(Package::parse("x", "").unwrap(), None);
    }

    #[test]
    fn a_stanza_of_an_installed_package_without_digest_is_reported() {
        let error = Package::parse("x", "Package: x\nVersion: 1\nSize: 2\n").unwrap_err();
        assert!(error.to_string().contains("SHA256"), "{error}");
    }

    #[test]
    fn a_host_without_apt_is_told_the_way_out() {
        let error = cannot_start("apt-get", io::ErrorKind::NotFound.into());
        assert!(error.to_string().contains("--kernel"), "{error}");
    }
}
