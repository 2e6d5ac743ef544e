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
    let areas = areas(&mappings(&text));
    let (guests, others): (Vec<_>, Vec<_>) =
        areas.into_iter().partition(|area| (area.end - area.start) >> 10 >= guest);
    ensure!(!guests.is_empty(), "process {process} has no mapping as large as its guest's memory");
    Ok(others.iter().map(|area| area.rss).sum())
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

/// Mappings without a gap between them as one: the kernel splits one whose pages are treated differently.
fn areas(mappings: &[Mapping]) -> Vec<Mapping> {
    let mut areas: Vec<Mapping> = Vec::new();
    for mapping in mappings {
        match areas.last_mut() {
            Some(last) if last.end == mapping.start => {
                last.end = mapping.end;
                last.rss += mapping.rss;
            }
            _ => areas.push(*mapping),
        }
    }
    areas
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_the_guests_memory_are_taken_together() {
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
        let areas = areas(&mappings(text));
        assert_eq!(areas.len(), 2);
        assert_eq!((areas[0].end - areas[0].start, areas[0].rss), (1 << 30, 70008));
        assert_eq!(areas[1].rss, 12);
    }

    #[test]
    fn a_process_without_a_guest_is_an_error() {
        assert!(beside_guest(std::process::id(), 1 << 40).is_err());
    }
}
