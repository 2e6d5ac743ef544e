//! Takes single files out of Debian packages, without installing anything.
//!
//! `dpkg-deb` opens the package and undoes whatever compression it uses (deb(5): gzip, xz, zstd); it
//! is on every host that has `apt`, so we bring no decompressors of our own. Its tar stream is read
//! here, and only the wanted member touches the disk: a generic kernel package would otherwise unpack
//! to 400 MB of modules.

use std::fs::File;
use std::io::{self, Read};
use std::ops::RangeInclusive;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::Error;

/// Writes the regular files of `deb` whose paths (without a leading `./`) are `wanted` to `directory`, under their own names.
/// With the most of `count` found, it looks no further; fewer than the least are an error.
pub(crate) fn extract(
    deb: &Path,
    wanted: impl Fn(&str) -> bool,
    count: RangeInclusive<usize>,
    directory: &Path,
) -> Result<(), Error> {
    let mut child = Command::new("dpkg-deb")
        .arg("--fsys-tarfile")
        .arg(deb)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|_| Error::NotDebian { tool: "dpkg-deb" })?;
    let stream = child.stdout.take().expect("stdout was asked for");
    let found = extract_from_tar(stream, wanted, *count.end(), directory);
    // Having what we want, we no longer listen: dpkg-deb then ends with a broken pipe.
    child.wait().map_err(Error::io("unpack", deb))?;
    if found.map_err(Error::io("unpack", deb))? < *count.start() {
        return Err(Error::Package {
            package: deb.file_name().unwrap_or_default().display().to_string(),
            why: "it does not hold the expected files".to_owned(),
        });
    }
    Ok(())
}

/// How many were found.
fn extract_from_tar(
    stream: impl Read,
    wanted: impl Fn(&str) -> bool,
    most: usize,
    directory: &Path,
) -> io::Result<usize> {
    let mut found = 0;
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
            found += 1;
            if found == most {
                break;
            }
        }
    }
    Ok(found)
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
        assert_eq!(extract_from_tar(archive().as_slice(), wanted, 1, directory.path()).unwrap(), 1);
        let written = std::fs::read(directory.path().join("vmlinuz-6.1")).unwrap();
        assert_eq!(written, b"kernel");
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_missing_member_is_not_an_error_of_the_stream() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(extract_from_tar(archive().as_slice(), |_| false, 1, directory.path()).unwrap(), 0);
    }

    #[test]
    fn no_more_members_are_written_than_were_asked_for() {
        let directory = tempfile::tempdir().unwrap();
        for (count, files) in [(1, 1), (2, 2)] {
            assert_eq!(
                extract_from_tar(archive().as_slice(), |_| true, count, directory.path()).unwrap(),
                files
            );
            assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), files);
        }
    }
}
