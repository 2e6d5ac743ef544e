//! The program that is measured with, `tests/workload`: what it can measure, how it gets into the guest, and what its
//! output says.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use tern_image::cpio::Archive;

use super::workload::{Group, Source, Workload};

/// Its name, in the guest too.
pub(crate) const NAME: &str = "tern-workload";

/// The program, which `cargo xtask bench` has built beside this one.
///
/// # Errors
/// If it is not there.
pub(crate) fn path() -> Result<PathBuf> {
    let path = env::current_exe().context("cannot find out where this program is")?.with_file_name(NAME);
    ensure!(
        path.is_file(),
        "there is no '{}': `cargo xtask bench` builds it before it starts this",
        path.display()
    );
    Ok(path)
}

/// What it can measure.
///
/// # Errors
/// If it cannot be started here, or does not say.
pub(crate) fn workloads(program: &Path) -> Result<Vec<Workload>> {
    let failed = || format!("cannot ask '{}' what it measures", program.display());
    let output = Command::new(program).arg("--list").output().with_context(failed)?;
    ensure!(output.status.success(), "{}: {}", failed(), output.status);
    String::from_utf8_lossy(&output.stdout).lines().map(listed).collect()
}

/// What it can measure of a guest's virtio disks, which have these names, in their order.
///
/// # Errors
/// As [`workloads`].
pub(crate) fn disk_workloads(disks: &[&str]) -> Result<Vec<Workload>> {
    let program = path()?;
    let failed = || format!("cannot ask '{}' what it measures", program.display());
    let output = Command::new(&program).args(["disk", "--list"]).output().with_context(failed)?;
    ensure!(output.status.success(), "{}: {}", failed(), output.status);
    let list = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut workloads = Vec::new();
    for (disk, letter) in disks.iter().zip('a'..) {
        for line in list.lines() {
            let (row, unit) = line.split_once(' ').with_context(|| format!("{NAME} lists {line:?}"))?;
            let (name, source) = (format!("{disk}-{row}"), Source::Disk(format!("/dev/vd{letter}")));
            workloads.push(Workload { name, unit: unit.into(), group: Group::Disk, source });
        }
    }
    Ok(workloads)
}

/// Reads a line of the list: name, unit, group.
fn listed(line: &str) -> Result<Workload> {
    let words: Vec<_> = line.split_whitespace().collect();
    let [name, unit, group] = words[..] else { bail!("{NAME} lists what cannot be read: {line:?}") };
    let group = match group {
        "integer" => Group::Integer,
        "wide" => Group::Wide,
        "kernel" => Group::Kernel,
        other => bail!("{NAME} lists '{name}' in a group that is not known: '{other}'"),
    };
    Ok(Workload { name: name.into(), unit: unit.into(), group, source: Source::Program })
}

/// Adds the program to an initramfs.
///
/// # Errors
/// If it cannot be read.
pub(crate) fn pack(program: &Path, archive: &mut Archive) -> Result<()> {
    let content = fs::read(program).with_context(|| format!("cannot read '{}'", program.display()))?;
    archive.file(&format!("bin/{NAME}"), 0o755, &content);
    Ok(())
}

/// What the program said of one row.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Said {
    /// In the row's unit.
    pub value: f64,
    /// How long the program ran by its own clock, in seconds.
    pub took: f64,
}

/// Reads `row NAME VALUE UNIT` for this workload, and `took SECONDS s`, among whatever else came.
///
/// # Errors
/// If one of them is not there, or holds no time.
pub(crate) fn said(text: &str, workload: &Workload) -> Result<Said> {
    let lines = || text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let value = lines().find_map(|words| match words[..] {
        ["row", name, value, unit] if name == workload.name && unit == workload.unit => {
            Some(value.to_owned())
        }
        _ => None,
    });
    let took = lines().find_map(|words| match words[..] {
        ["took", seconds, "s"] => Some(seconds.to_owned()),
        _ => None,
    });
    let (Some(value), Some(took)) = (value, took) else {
        bail!("it printed no result, but: {}", text.trim())
    };
    let number = |text: &str| text.parse().ok().filter(|number| f64::is_finite(*number) && *number > 0.0);
    let (Some(value), Some(took)) = (number(&value), number(&took)) else {
        bail!("what it printed is not a time: {}", text.trim())
    };
    Ok(Said { value, took })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_read_and_a_strange_one_refused() {
        let workload = listed("crc32 ns/byte integer").unwrap();
        assert_eq!((workload.name.as_str(), workload.unit.as_str()), ("crc32", "ns/byte"));
        assert_eq!((workload.group, workload.source), (Group::Integer, Source::Program));
        assert!(listed("crc32 ns/byte").is_err());
        assert!(listed("crc32 ns/byte strange").is_err());
    }

    #[test]
    fn a_result_is_found_among_other_lines() {
        let workload = listed("crc32 ns/byte integer").unwrap();
        let text = "\r\n[   1.2] a message of the kernel\r\nrow crc32 3.3055 ns/byte\r\ntook 0.912 s\r\n";
        assert_eq!(said(text, &workload).unwrap(), Said { value: 3.3055, took: 0.912 });
    }

    #[test]
    fn what_is_no_result_is_shown_instead() {
        let workload = listed("crc32 ns/byte integer").unwrap();
        let error = said("tern-workload: crc32: the answer is 0x1\r\n", &workload).unwrap_err().to_string();
        assert!(error.ends_with("the answer is 0x1"), "{error}");
        for text in [
            "row fib 1.0 ns/byte\ntook 1 s",
            "row crc32 1.0 ns/call\ntook 1 s",
            "row crc32 NaN ns/byte\ntook 1 s",
        ] {
            assert!(said(text, &workload).is_err(), "{text}");
        }
    }
}
