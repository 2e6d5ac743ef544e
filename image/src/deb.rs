//! Takes single files out of Debian packages, without installing anything.
//!
//! `dpkg-deb` opens the package and undoes whatever compression it uses (deb(5): gzip, xz, zstd); it
//! is on every host that has `apt`, so we bring no decompressors of our own. Its tar stream is read
//! here, and only the wanted member touches the disk: a generic kernel package would otherwise unpack
//! to 400 MB of modules.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::process::{Command, Stdio};

use crate::Error;

/// Writes the first regular file of `deb` whose path (without a leading `./`) is `wanted` to
/// `directory`, under its own name, which is returned.
pub(crate) fn extract(deb: &Path, wanted: impl Fn(&str) -> bool, directory: &Path) -> Result<String, Error> {
    let mut child = Command::new("dpkg-deb")
        .arg("--fsys-tarfile")
        .arg(deb)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|_| Error::NotDebian { tool: "dpkg-deb" })?;
    let stream = child.stdout.take().expect("stdout was asked for");
    let found = extract_from_tar(stream, wanted, directory);
    // Having what we want, we no longer listen: dpkg-deb then ends with a broken pipe.
    child.wait().map_err(Error::io("unpack", deb))?;
    found.map_err(Error::io("unpack", deb))?.ok_or_else(|| Error::Package {
        package: deb.file_name().unwrap_or_default().display().to_string(),
        why: "it does not hold the expected file".to_owned(),
    })
}

fn extract_from_tar(
    stream: impl Read,
    wanted: impl Fn(&str) -> bool,
    directory: &Path,
) -> io::Result<Option<String>> {
    for member in tar::Archive::new(stream).entries()? {
        let mut member = member?;
        let path = member.path()?.into_owned();
        let path = path.strip_prefix(".").unwrap_or(&path);
        let (Some(path_text), Some(name)) = (path.to_str(), path.file_name().and_then(|name| name.to_str()))
        else {
            continue;
        };
        if member.header().entry_type().is_file() && wanted(path_text) {
            io::copy(&mut member, &mut File::create(directory.join(name))?)?;
            return Ok(Some(name.to_owned()));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive() -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (path, content) in [("./boot/config-6.1", "no"), ("./boot/vmlinuz-6.1", "kernel")] {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            builder.append_data(&mut header, path, content.as_bytes()).unwrap();
        }
        builder.into_inner().unwrap()
    }

    #[test]
    fn only_the_wanted_member_is_written() {
        let directory = tempfile::tempdir().unwrap();
        let wanted = |path: &str| path.starts_with("boot/vmlinuz-");
        let name = extract_from_tar(archive().as_slice(), wanted, directory.path()).unwrap();
        assert_eq!(name.as_deref(), Some("vmlinuz-6.1"));
        let written = std::fs::read(directory.path().join("vmlinuz-6.1")).unwrap();
        assert_eq!(written, b"kernel");
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_missing_member_is_not_an_error_of_the_stream() {
        let directory = tempfile::tempdir().unwrap();
        let name = extract_from_tar(archive().as_slice(), |_| false, directory.path()).unwrap();
        assert_eq!(name, None);
    }
}
