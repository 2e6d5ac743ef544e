//! How often and why a guest was left: the kernel's trace events `kvm_exit` and `kvm_entry`
//! (`Documentation/trace/events.rst`), which name the reason in words for AMD-V and VT-x alike.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// Where the trace file system may be, or be mounted.
const PLACES: [&str; 2] = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"];

/// Room for the events of one processor, in KiB: a boot leaves some ten thousand.
const BUFFER: &str = "32768";

/// One kind of exit.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Exit {
    pub count: u64,
    /// From leaving the guest to entering it again, in seconds, over all of them.
    pub seconds: f64,
}

/// Exits by the kernel's names of their reasons.
pub(crate) type Exits = BTreeMap<String, Exit>;

/// How many there are of all kinds.
pub(crate) fn total(exits: &Exits) -> u64 {
    exits.values().map(|exit| exit.count).sum()
}

/// The kernel's trace. Dropping it leaves it as it is by default: off.
#[derive(Debug)]
pub(crate) struct Trace {
    directory: PathBuf,
}

impl Trace {
    /// Finds it, or mounts it.
    ///
    /// # Errors
    /// If the kernel has none, or it may not be used.
    pub fn new() -> Result<Self> {
        let found = || PLACES.iter().map(PathBuf::from).find(|place| place.join("events/kvm").is_dir());
        let directory = match found() {
            Some(directory) => directory,
            None => {
                let mounted = Command::new("mount").args(["-t", "tracefs", "tracefs", PLACES[0]]).output();
                mounted.context("cannot start mount")?;
                found().context("the kernel's trace is not to be had (it needs root, and the module kvm)")?
            }
        };
        let trace = Self { directory };
        trace.write("tracing_on", "0")?;
        trace.write("buffer_size_kb", BUFFER)?;
        trace.write("trace_clock", "mono")?;
        for event in ["kvm_exit", "kvm_entry"] {
            trace.write(&format!("events/kvm/{event}/enable"), "1")?;
        }
        Ok(trace)
    }

    /// Begins anew.
    pub fn start(&self) -> Result<()> {
        self.write("trace", "")?;
        self.write("tracing_on", "1")
    }

    /// Records no more.
    pub fn stop(&self) -> Result<()> {
        self.write("tracing_on", "0")
    }

    /// What the threads of `process`, which still lives, have left their guest for.
    pub fn exits(&self, process: u32) -> Result<Exits> {
        let tasks = fs::read_dir(format!("/proc/{process}/task")).context("the process has ended")?;
        let threads: Vec<_> =
            tasks.filter_map(|task| task.ok()?.file_name().to_str()?.parse().ok()).collect();
        let path = self.directory.join("trace");
        let text = fs::read(&path).with_context(|| format!("cannot read '{}'", path.display()))?;
        let exits = count(&String::from_utf8_lossy(&text), &threads);
        ensure!(!exits.is_empty(), "the kernel's trace holds no exit of process {process}");
        Ok(exits)
    }

    fn write(&self, file: &str, text: &str) -> Result<()> {
        let path = self.directory.join(file);
        fs::write(&path, text).with_context(|| format!("cannot write '{}'", path.display()))
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        // If these fail, so did what came before, and was told.
        for event in ["kvm_exit", "kvm_entry"] {
            let _ = self.write(&format!("events/kvm/{event}/enable"), "0");
        }
        let _ = self.write("trace", "");
    }
}

/// Counts the exits of these threads, in lines like
/// `tern-vcpu0-71  [000] d.... 12.345678: kvm_exit: vcpu 0 reason io rip 0x… info1 0x…`.
fn count(text: &str, threads: &[u32]) -> Exits {
    let mut exits = Exits::new();
    let mut left: HashMap<u32, (String, f64)> = HashMap::new();
    for line in text.lines() {
        let Some((thread, seconds, event, rest)) = parse(line) else { continue };
        if !threads.contains(&thread) {
            continue;
        }
        match event {
            "kvm_exit" => {
                let reason = rest.split_once("reason ").and_then(|(_, rest)| rest.split(' ').next());
                let Some(reason) = reason else { continue };
                exits.entry(reason.to_owned()).or_default().count += 1;
                left.insert(thread, (reason.to_owned(), seconds));
            }
            _ => {
                if let Some((reason, since)) = left.remove(&thread) {
                    exits.entry(reason).or_default().seconds += seconds - since;
                }
            }
        }
    }
    exits
}

/// Thread, time in seconds, event, and what the event tells.
fn parse(line: &str) -> Option<(u32, f64, &str, &str)> {
    let (task, rest) = line.split_once(" [")?;
    let thread = task.trim_end().rsplit_once('-')?.1.parse().ok()?;
    let mut parts = rest.splitn(3, ": ");
    let seconds = parts.next()?.rsplit(' ').next()?.parse().ok()?;
    let event = parts.next()?;
    matches!(event, "kvm_exit" | "kvm_entry").then_some((thread, seconds, event, parts.next()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exits_are_counted_and_their_cost_is_the_time_to_the_next_entry() {
        let text = "\
# tracer: nop
  tern-vcpu-0-71      [001] d..1.   10.000100: kvm_entry: vcpu 0, rip 0xfff0
  tern-vcpu-0-71      [001] d..1.   10.000200: kvm_exit: vcpu 0 reason io rip 0x1 info1 0x3f80008 info2 0x2
  tern-vcpu-0-71      [001] d..1.   10.000300: kvm_entry: vcpu 0, rip 0x2
  other-72            [000] d..1.   10.000350: kvm_exit: vcpu 0 reason hlt rip 0x1 info1 0x0
  tern-vcpu-0-71      [000] d..1.   10.000400: kvm_exit: vcpu 0 reason npf rip 0x2 info1 0x0
  tern-vcpu-0-71      [000] d..1.   10.000700: kvm_entry: vcpu 0, rip 0x2
  tern-vcpu-0-71      [000] d..1.   10.000800: kvm_exit: vcpu 0 reason io rip 0x3 info1 0x0
";
        let exits = count(text, &[71]);
        assert_eq!(exits.keys().collect::<Vec<_>>(), ["io", "npf"]);
        assert_eq!(exits["io"].count, 2);
        assert!((exits["io"].seconds - 100e-6).abs() < 1e-9);
        assert!((exits["npf"].seconds - 300e-6).abs() < 1e-9);
    }
}
