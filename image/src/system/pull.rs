//! The distribution's cloud image, for hosts that cannot make a system themselves: fetched with curl(1), which knows the host's
//! proxies and whom it trusts, and compared with the list of checksums beside it before anything looks into it.
//!
//! It is the image without cloud-init: root has no password there.

use std::env;
use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use sha2::{Digest, Sha512};

use super::tools::{CURL, SETPRIV};
use super::{About, DISK, INITRD, KERNEL, Release, disk};
use crate::{Error, Progress};

/// Where Debian has its cloud images.
const SERVER: &str = "https://cloud.debian.org/images/cloud";

/// Names another place than [`SERVER`].
const SERVER_VARIABLE: &str = "TERN_IMAGE_SERVER";

/// The list of checksums, in each folder.
const SUMS: &str = "SHA512SUMS";

/// How often a download is looked at to show how far it is.
const LOOK: Duration = Duration::from_millis(100);

/// How many digits of a digest messages show.
const DIGITS: usize = 16;

/// Fetches the system's files into `directory`: from `base`, the folder in which the image and its list of checksums are, or
/// from the server's.
pub(super) fn pull(
    release: Release,
    base: Option<&str>,
    directory: &Path,
    progress: &dyn Progress,
) -> Result<(), Error> {
    let usual = || {
        let server = env::var(SERVER_VARIABLE).ok().filter(|server| !server.is_empty());
        let server = server.unwrap_or_else(|| SERVER.to_owned());
        format!("{}/{}/latest", server.trim_end_matches('/'), release.codename())
    };
    let base = base.map_or_else(usual, |base| base.trim_end_matches('/').to_owned());
    let file = format!("debian-{}-nocloud-amd64.qcow2", release.number());
    let (url, sums_url) = (format!("{base}/{file}"), format!("{base}/{SUMS}"));
    for tool in [SETPRIV, CURL] {
        if !tool.exists() {
            return Err(tool.missing());
        }
    }
    let sums = directory.join(SUMS);
    fetch(&sums_url, &sums, &format!("looking for {release} at {base}"), progress)?;
    let text = fs::read_to_string(&sums).map_err(Error::io("read", &sums))?;
    let expected = checksum(&text, &file).ok_or(Error::Unlisted { url: sums_url, file })?;
    fs::remove_file(&sums).map_err(Error::io("remove", &sums))?;

    let path = directory.join(DISK);
    fetch(&url, &path, &format!("fetching the cloud image of {release}"), progress)?;
    progress.begin("checking what came", None);
    let found = sha512(&path);
    progress.end();
    let found = found?;
    if found != expected {
        let begin = |digest: &str| digest.chars().take(DIGITS).collect();
        return Err(Error::Checksum { url, found: begin(&found), expected: begin(&expected) });
    }
    progress.begin("looking for its kernel", None);
    let taken = disk::take_out(&path, &directory.join(KERNEL), &directory.join(INITRD));
    progress.end();
    let disk::Found { version, kernel, root } = taken?;
    About::new(release, version, kernel, url, root).write(directory)
}

/// The checksum that a list has of a file: lines of digest, blanks and name.
fn checksum(list: &str, file: &str) -> Option<String> {
    list.lines().find_map(|line| {
        let (digest, name) = line.split_once(char::is_whitespace)?;
        // An asterisk says that the file was read as bytes.
        (name.trim_start().trim_start_matches('*') == file).then(|| digest.to_ascii_lowercase())
    })
}

fn sha512(path: &Path) -> Result<String, Error> {
    let mut digest = Sha512::new();
    let mut file = File::open(path).map_err(Error::io("open", path))?;
    io::copy(&mut file, &mut digest).map_err(Error::io("read", path))?;
    Ok(digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Fetches a file, and shows how far it is.
fn fetch(url: &str, path: &Path, what: &str, progress: &dyn Progress) -> Result<(), Error> {
    let log = path.with_extension("log");
    let report = File::create(&log).map_err(Error::io("create", &log))?;
    // Some servers forget a connection; what came of it is not fetched twice.
    let mut command = CURL.command();
    command.args(["--fail", "--silent", "--show-error", "--location", "--proto", "=http,https"]);
    command.args(["--connect-timeout", "30", "--speed-limit", "1000", "--speed-time", "60", "--retry", "3"]);
    command.arg("--output").arg(path).arg("--url").arg(url);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(report);
    progress.begin(what, length(url));
    let status = command.spawn().map_err(|error| CURL.cannot_start(error)).and_then(|mut child| {
        loop {
            if let Some(status) = child.try_wait().map_err(Error::io("wait for", &log))? {
                return Ok(status);
            }
            if let Ok(metadata) = fs::metadata(path) {
                progress.advance(metadata.len());
            }
            thread::sleep(LOOK);
        }
    });
    progress.end();
    let status = status?;
    let said = fs::read_to_string(&log).unwrap_or_default();
    fs::remove_file(&log).map_err(Error::io("remove", &log))?;
    if status.success() && path.is_file() {
        return Ok(());
    }
    let why = said.lines().last().map_or_else(|| status.to_string(), |line| line.trim().to_owned());
    Err(Error::Download { url: url.to_owned(), why })
}

/// How many bytes the server says that the file has.
fn length(url: &str) -> Option<u64> {
    let mut command = CURL.command();
    command.args(["--fail", "--silent", "--location", "--head", "--connect-timeout", "30"]);
    command.args(["--proto", "=http,https", "--url", url]);
    let output = command.stdin(Stdio::null()).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).to_ascii_lowercase();
    // The last of several answers is the file's.
    text.lines().rev().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checksum_is_found_by_the_whole_name() {
        let list = "AB12  debian-13-nocloud-amd64.qcow2\ncd34 *debian-13-nocloud-amd64.raw\n";
        assert_eq!(checksum(list, "debian-13-nocloud-amd64.qcow2").as_deref(), Some("ab12"));
        assert_eq!(checksum(list, "debian-13-nocloud-amd64.raw").as_deref(), Some("cd34"));
        assert_eq!(checksum(list, "nocloud-amd64.raw"), None);
        assert_eq!(checksum("<html>", "a"), None);
    }
}
