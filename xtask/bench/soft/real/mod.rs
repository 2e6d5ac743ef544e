//! Real programs: Debian's C compiler and Python, as they are on this host, in an initramfs with all that they are linked
//! to. In the guest every file has the path that it has here, so that guests and host run the same command.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use tern_image::cpio::Archive;
use tern_image::linked;

use super::workload::{Group, Source, Workload};

const COMPILER: &str = "compile a C file";
const PYTHON: &str = "run a Python program";

/// The programs, what they work on, and where that is.
#[derive(Debug)]
pub(crate) struct Real {
    programs: Vec<PathBuf>,
    others: Vec<PathBuf>,
    pub workloads: Vec<Workload>,
}

/// Finds the programs, and writes what they work on to `directory`.
///
/// # Errors
/// If one of them is not there or does not work.
pub(crate) fn find(directory: &Path) -> Result<Real> {
    let compiler = answer(Command::new("gcc").arg("-print-prog-name=cc1"))?;
    let compiler = fs::canonicalize(compiler.trim()).context("gcc does not tell where its compiler is")?;
    let python = fs::canonicalize("/usr/bin/python3").context("there is no Debian Python")?;
    let library = python_library(&python)?;

    let [source, wanted, script] = ["program.c", "wanted.s", "program.py"].map(|name| directory.join(name));
    fs::write(&source, include_bytes!("program.c")).context("cannot write the C file")?;
    fs::write(&script, include_bytes!("program.py")).context("cannot write the Python program")?;
    let compile =
        |to: &str| format!("{} -quiet -nostdinc -O2 {} -o {to}", compiler.display(), source.display());
    // What this host makes of it is what everybody must.
    answer(Command::new("sh").args(["-c", &compile(&wanted.to_string_lossy())]))?;
    let compile = format!("{} && cmp /tmp/tern.s {}", compile("/tmp/tern.s"), wanted.display());
    // Isolated, without `site`: what else the host has installed does not matter.
    let python_line = format!("{} -I -S {}", python.display(), script.display());
    let row = |name: &str, line| Workload {
        name: name.into(),
        unit: "s".into(),
        group: Group::Real,
        source: Source::Anywhere(line),
    };
    let workloads = vec![row(COMPILER, compile), row(PYTHON, python_line)];
    let others = [source, wanted, script].into_iter().chain(library).collect();
    Ok(Real { programs: vec![compiler, python], others, workloads })
}

/// The files of Python's library that it cannot do without: those of Debian's package for them.
fn python_library(python: &Path) -> Result<Vec<PathBuf>> {
    let name = python.file_name().unwrap_or_default().to_string_lossy();
    let list = answer(Command::new("dpkg").args(["--listfiles", &format!("lib{name}-minimal")]))?;
    let prefix = format!("/usr/lib/{name}/");
    let files = list.lines().filter(|path| path.starts_with(&prefix)).map(PathBuf::from);
    Ok(files.filter(|path| path.is_file()).collect())
}

/// What a command prints.
fn answer(command: &mut Command) -> Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.output().with_context(|| format!("cannot start '{name}'"))?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "'{name}' failed: {}", errors.trim());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

impl Real {
    /// Adds everything to an initramfs.
    ///
    /// # Errors
    /// If a file cannot be read, or the libraries cannot be found out.
    pub fn pack(&self, archive: &mut Archive) -> Result<()> {
        let mut files = self.others.clone();
        for program in &self.programs {
            files.push(program.clone());
            files.extend(linked::libraries(program).context("cannot find out what a program is linked to")?);
        }
        files.sort();
        files.dedup();
        for directory in linked::directories(&files) {
            archive.directory(&directory);
        }
        for file in files {
            let content = fs::read(&file).with_context(|| format!("cannot read '{}'", file.display()))?;
            archive.file(file.to_string_lossy().trim_start_matches('/'), 0o755, &content);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_command_prints_is_its_answer_and_a_failure_is_told() {
        assert_eq!(answer(Command::new("sh").args(["-c", "echo yes"])).unwrap(), "yes\n");
        let error = answer(Command::new("sh").args(["-c", "echo no >&2; exit 1"])).unwrap_err().to_string();
        assert_eq!(error, "'sh' failed: no");
    }
}
