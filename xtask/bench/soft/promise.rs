//! What Tern promises about its speed, and whether a run kept it.

use super::contender::{NATIVE, TCG};
use super::debian::LOGIN;
use super::summary::{Row, Summary};
use super::workload::{BOOT, Group, INITIALISED};
use crate::numbers::median;

/// Millions of guest instructions per second, at least.
const MIPS: f64 = 80.0;

/// From `tern run` to the tiny guest's prompt, in seconds, at most.
const PROMPT: f64 = 25.0;

/// What a boot takes, in TCG's times, at most.
const BOOTS: f64 = 0.6;

/// How many times as fast as TCG Tern is at least, on each row of a group.
const ON_EACH_ROW: [(Group, f64); 2] = [(Group::Wide, 10.0), (Group::Kernel, 2.0)];

/// How many times as fast as TCG Tern is at least, by a group's geometric mean.
const ON_AVERAGE: [(Group, f64); 2] = [(Group::Integer, 2.0), (Group::Shell, 2.0)];

/// What the integer rows take, in times of the host itself, by their geometric mean, at most.
const OF_NATIVE: f64 = 2.2;

/// A promise and what became of it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Promise {
    pub what: String,
    pub measured: f64,
    pub kept: bool,
}

impl Promise {
    fn at_most(what: String, limit: f64, measured: f64) -> Self {
        Self { what: format!("{what}, at most {limit}"), measured, kept: measured <= limit }
    }

    fn at_least(what: String, limit: f64, measured: f64) -> Self {
        Self { what: format!("{what}, at least {limit}"), measured, kept: measured >= limit }
    }
}

/// Judges what was measured; what was not is not judged, nor are means over groups that are not `whole`.
pub(crate) fn judge(summary: &Summary, whole: bool) -> Vec<Promise> {
    let mut promises = Vec::new();
    let column = |name| summary.names.iter().position(|known| *known == name);
    if let Some(tern) = summary.tern() {
        let boot = summary.rows.iter().find(|row| row.workload.name == BOOT);
        let prompt = boot.and_then(|row| row.median(tern));
        promises.extend(prompt.map(|it| Promise::at_most("seconds to the prompt".into(), PROMPT, it)));
        promises.extend(column(TCG).into_iter().flat_map(|tcg| beside_tcg(summary, tern, tcg, whole)));
        let native = column(NATIVE).filter(|_| whole);
        let integer = native.and_then(|native| summary.mean_ratio(Group::Integer, native));
        promises.extend(integer.map(|mean| {
            Promise::at_most(format!("{NATIVE}'s time on the integer rows"), OF_NATIVE, 1.0 / mean)
        }));
    }
    promises.extend(
        median(&summary.mips).map(|measured| {
            Promise::at_least("million guest instructions per second".into(), MIPS, measured)
        }),
    );
    promises
}

/// What is promised of Tern beside TCG.
fn beside_tcg(summary: &Summary, tern: usize, tcg: usize, whole: bool) -> Vec<Promise> {
    let least = |wanted: &dyn Fn(&Row) -> bool| {
        let ratios = summary
            .rows
            .iter()
            .filter(|row| wanted(row))
            .filter_map(|row| row.ratio(tern, tcg).map(|ratio| (ratio, row.workload.name.as_str())));
        ratios.min_by(|a, b| a.0.total_cmp(&b.0))
    };
    let mut promises = Vec::new();
    promises.extend(least(&|_| true).map(|(ratio, name)| Promise {
        what: format!("times as fast as {TCG} on the slowest row, '{name}', more than 1"),
        measured: ratio,
        kept: ratio > 1.0,
    }));
    for (group, limit) in ON_EACH_ROW {
        promises.extend(least(&|row| row.workload.group == group).map(|(ratio, name)| {
            let group = group.name();
            Promise::at_least(format!("times as fast on the slowest {group} row, '{name}'"), limit, ratio)
        }));
    }
    for (group, limit) in ON_AVERAGE {
        let mean = summary.mean_ratio(group, tcg).filter(|_| whole);
        promises.extend(mean.map(|mean| {
            Promise::at_least(format!("times as fast on the {} rows", group.name()), limit, mean)
        }));
    }
    for name in [INITIALISED, LOGIN] {
        let row = summary.rows.iter().find(|row| row.workload.name == name);
        let ratio = row.and_then(|row| row.ratio(tern, tcg));
        promises.extend(
            ratio.map(|ratio| Promise::at_most(format!("{TCG}'s time of '{name}'"), BOOTS, 1.0 / ratio)),
        );
    }
    promises
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::soft::session::Outcome;
    use crate::soft::summary::tests::row;

    fn kept(boot: f64, mips: Vec<f64>) -> Vec<bool> {
        let rows = vec![row(BOOT, Group::Boot, &[&[Outcome::Value(boot)]])];
        let promises = judge(&Summary { names: vec!["tern"], rows, mips }, true);
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
        assert_eq!(judge(&Summary { names: vec![TCG], rows: vec![], mips: vec![] }, true), []);
    }

    /// What is broken where Tern takes 1 and the others take this, of one row of each group.
    fn broken(tcg: [f64; 6], native: f64, whole: bool) -> Vec<String> {
        let groups = [Group::Integer, Group::Wide, Group::Kernel, Group::Shell, Group::Boot, Group::Boot];
        let names = ["crc32", "matmul", "fault", "sort", INITIALISED, LOGIN];
        let value = Outcome::Value;
        let rows = groups.into_iter().zip(names).zip(tcg);
        let rows = rows
            .map(|((group, name), tcg)| row(name, group, &[&[value(1.0)], &[value(tcg)], &[value(native)]]));
        let summary = Summary { names: vec!["tern", TCG, NATIVE], rows: rows.collect(), mips: vec![] };
        let broken = judge(&summary, whole).into_iter().filter(|promise| !promise.kept);
        broken.map(|promise| promise.what).collect()
    }

    #[test]
    fn each_group_has_its_bar() {
        let good = [2.0, 10.0, 2.0, 2.0, 1.7, 1.7];
        assert_eq!(broken(good, 0.5, true), Vec::<String>::new());
        for slow in 0..good.len() {
            let mut times = good;
            times[slow] -= 0.1;
            assert_eq!(broken(times, 0.5, true).len(), 1, "{times:?}");
        }
        assert_eq!(broken(good, 0.45, true).len(), 1);
        // Slower than TCG on one row, which breaks that row's bar as well; the mean is not judged.
        assert_eq!(broken([0.9, 10.0, 2.0, 2.0, 1.7, 1.7], 0.5, false).len(), 1);
    }
}
