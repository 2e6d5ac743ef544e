//! What a program of this host needs in an initramfs: the libraries that it is linked to, as ldd(1) tells them, and the
//! folders above its files.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::process::Command;

/// What a program is linked to, with the dynamic linker itself; nothing if it is linked statically.
///
/// # Errors
/// If ldd cannot be started, or does not understand the program.
pub fn libraries(program: &Path) -> io::Result<Vec<PathBuf>> {
    let output = Command::new("ldd").env("LC_ALL", "C").arg(program).output()?;
    if !output.status.success() {
        // It says so of whatever is no program, too.
        let is_static = String::from_utf8_lossy(&output.stderr).contains("not a dynamic executable");
        if is_static && is_elf(program)? {
            return Ok(Vec::new());
        }
        return Err(io::Error::other(format!("ldd does not understand '{}'", program.display())));
    }
    Ok(paths(&String::from_utf8_lossy(&output.stdout)))
}

fn is_elf(program: &Path) -> io::Result<bool> {
    let mut magic = Vec::new();
    File::open(program)?.take(4).read_to_end(&mut magic)?;
    Ok(magic == b"\x7fELF")
}

/// The paths in ldd's lines: `libc.so.6 => /lib/…/libc.so.6 (0x…)`, or `/lib64/ld-linux-x86-64.so.2 (0x…)`.
fn paths(text: &str) -> Vec<PathBuf> {
    text.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from).collect()
}

/// All folders above the files, without their leading slash, parents first and each once.
pub fn directories<'a>(files: impl IntoIterator<Item = &'a PathBuf>) -> BTreeSet<String> {
    // A parent's name is the beginning of its children's, and so comes before them.
    files
        .into_iter()
        .flat_map(|file| file.ancestors().skip(1))
        .map(|directory| directory.to_string_lossy().trim_start_matches('/').to_owned())
        .filter(|directory| !directory.is_empty())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_program_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let script = folder.path().join("script");
        std::fs::write(&script, "#!/bin/sh\n").unwrap();
        assert!(libraries(&script).unwrap_err().to_string().contains("does not understand"));
    }

    #[test]
    fn libraries_and_the_linker_are_found_in_what_ldd_says() {
        let text = "\tlinux-vdso.so.1 (0x00007f44)\n\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f)\n\
            \t/lib64/ld-linux-x86-64.so.2 (0x00007f44)\n";
        let paths = paths(text);
        assert_eq!(
            paths,
            ["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"].map(PathBuf::from)
        );
        assert!(directories(&paths).iter().eq(["lib", "lib/x86_64-linux-gnu", "lib64"].iter()));
    }
}
