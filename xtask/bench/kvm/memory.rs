//! What a process holds in memory beside its guest's memory, from proc_pid_smaps(5).

use std::fs;

use anyhow::{Context, Result, ensure};

/// One mapping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Mapping {
    start: u64,
    end: u64,
    /// What of it is in memory, in KiB.
    rss: u64,
}

/// What of `process` is in memory, without the mappings that are its guest's memory of `guest` KiB; in KiB.
///
/// # Errors
/// If the process's mappings cannot be read, or none is as large as the guest's memory.
pub(crate) fn beside_guest(process: u32, guest: u64) -> Result<u64> {
    let path = format!("/proc/{process}/smaps");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read '{path}'"))?;
    let (guests, others): (Vec<_>, Vec<_>) =
        mappings(&text).into_iter().partition(|mapping| (mapping.end - mapping.start) >> 10 >= guest);
    ensure!(!guests.is_empty(), "process {process} has no mapping as large as its guest's memory");
    Ok(others.iter().map(|mapping| mapping.rss).sum())
}

fn mappings(text: &str) -> Vec<Mapping> {
    let mut mappings: Vec<Mapping> = Vec::new();
    for line in text.lines() {
        if let Some(rss) = line.strip_prefix("Rss:") {
            if let Some(last) = mappings.last_mut() {
                last.rss = rss.trim().trim_end_matches("kB").trim().parse().unwrap_or(0);
            }
        } else if let Some((start, end)) = line.split(' ').next().and_then(|range| range.split_once('-'))
            && let (Ok(start), Ok(end)) = (u64::from_str_radix(start, 16), u64::from_str_radix(end, 16))
        {
            mappings.push(Mapping { start, end, rss: 0 });
        }
    }
    mappings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_mapping_has_its_own_size() {
        let text = "\
10000000-30000000 rw-p 00000000 00:00 0
Size:             524288 kB
Rss:               70000 kB
30000000-50000000 rw-p 00000000 00:00 0
Rss:                   8 kB
60000000-60003000 r-xp 00000000 08:01 12 /bin/tern
Rss:                  12 kB
VmFlags: rd ex mr mw me sd
";
        let mappings = mappings(text);
        assert_eq!(mappings.iter().map(|mapping| mapping.rss).collect::<Vec<_>>(), [70000, 8, 12]);
        assert_eq!(mappings[0].end - mappings[0].start, 512 << 20);
    }

    #[test]
    fn a_process_without_a_guest_is_an_error() {
        assert!(beside_guest(std::process::id(), 1 << 40).is_err());
    }
}
