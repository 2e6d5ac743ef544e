//! What Tern promises about its speed, and whether a run kept it.

use super::summary::Summary;
use super::workload::BOOT;
use crate::numbers::median;

/// Millions of guest instructions per second, at least.
const MIPS: f64 = 80.0;

/// From `tern run` to the tiny guest's prompt, in seconds, at most.
const PROMPT: f64 = 25.0;

/// A promise and what became of it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Promise {
    pub what: String,
    pub measured: f64,
    pub kept: bool,
}

/// Judges what was measured; what was not is not judged.
pub(crate) fn judge(summary: &Summary) -> Vec<Promise> {
    let boot = summary.rows.iter().find(|row| row.workload.name == BOOT);
    let boot = boot.zip(summary.tern()).and_then(|(row, tern)| row.median(tern));
    let prompt = boot.map(|measured| Promise {
        what: format!("seconds to the prompt, at most {PROMPT}"),
        measured,
        kept: measured <= PROMPT,
    });
    let speed = median(&summary.mips).map(|measured| Promise {
        what: format!("million guest instructions per second, at least {MIPS}"),
        measured,
        kept: measured >= MIPS,
    });
    prompt.into_iter().chain(speed).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::soft::session::Outcome;
    use crate::soft::summary::tests::row;
    use crate::soft::workload::Group;

    fn kept(boot: f64, mips: Vec<f64>) -> Vec<bool> {
        let rows = vec![row(BOOT, Group::Boot, &[&[Outcome::Value(boot)]])];
        let promises = judge(&Summary { names: vec!["tern"], rows, mips });
        promises.iter().map(|promise| promise.kept).collect()
    }

    #[test]
    fn a_promise_is_kept_up_to_its_limit() {
        assert_eq!(kept(25.0, vec![80.0]), [true, true]);
        assert_eq!(kept(25.1, vec![79.9]), [false, false]);
    }

    #[test]
    fn what_was_not_measured_is_not_judged() {
        assert_eq!(kept(1.0, vec![]), [true]);
        assert_eq!(judge(&Summary { names: vec!["qemu-tcg"], rows: vec![], mips: vec![] }), []);
    }
}
