//! From samples to medians and ratios.

use super::contender::TERN;
use super::session::{Outcome, Sample};
use super::workload::{Group, Workload};
use crate::numbers::{geometric_mean, median};

/// One thing that was measured.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Row {
    pub workload: Workload,
    /// For each contender, its rounds.
    pub rounds: Vec<Vec<Outcome>>,
}

/// Everything that was measured.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Summary {
    /// The contenders, in the order of the rows' columns.
    pub names: Vec<&'static str>,
    pub rows: Vec<Row>,
    /// Tern's rounds, in millions of guest instructions per second.
    pub mips: Vec<f64>,
}

impl Summary {
    /// Sorts samples (for each contender, its rounds) by what was measured.
    pub fn new(names: &[&'static str], workloads: &[Workload], samples: &[Vec<Sample>]) -> Self {
        let row = |(index, workload): (usize, &Workload)| {
            let of =
                |rounds: &Vec<Sample>| rounds.iter().map(|sample| sample.outcomes[index].clone()).collect();
            Row { workload: workload.clone(), rounds: samples.iter().map(of).collect() }
        };
        let rows = workloads.iter().enumerate().map(row).collect();
        let mips = samples.iter().flatten().filter_map(|sample| sample.mips).collect();
        Self { names: names.to_vec(), rows, mips }
    }

    /// Which column is Tern's.
    pub fn tern(&self) -> Option<usize> {
        self.names.iter().position(|name| *name == TERN)
    }

    /// The columns that Tern's is compared to.
    pub fn peers(&self) -> Vec<usize> {
        self.tern().map_or(Vec::new(), |tern| (0..self.names.len()).filter(|peer| *peer != tern).collect())
    }

    /// The geometric mean over a group's rows of how many times as fast as contender `peer` Tern is. There is none if a row
    /// that both should have is missing: without it the mean would look better, or worse, than it is.
    pub fn mean_ratio(&self, group: Group, peer: usize) -> Option<f64> {
        let tern = self.tern()?;
        let rows = self.rows.iter().filter(|row| row.workload.group == group);
        let ratios: Vec<_> = rows
            .filter(|row| !row.is_absent(peer))
            .map(|row| row.ratio(tern, peer))
            .collect::<Option<_>>()?;
        geometric_mean(ratios.into_iter())
    }

    /// Every failure: the row, the contender, the round (counted from 1) and the reason.
    pub fn failures(&self) -> impl Iterator<Item = (&str, &'static str, usize, &str)> {
        self.rows.iter().flat_map(|row| {
            row.rounds.iter().zip(&self.names).flat_map(|(rounds, name)| {
                (1..).zip(rounds).filter_map(|(round, outcome)| match outcome {
                    Outcome::Failed(reason) => {
                        Some((row.workload.name.as_str(), *name, round, reason.as_str()))
                    }
                    _ => None,
                })
            })
        })
    }
}

impl Row {
    /// A contender's values, without the rounds that failed.
    pub fn values(&self, contender: usize) -> Vec<f64> {
        let value = |outcome: &Outcome| if let Outcome::Value(value) = outcome { Some(*value) } else { None };
        self.rounds[contender].iter().filter_map(value).collect()
    }

    /// The median of a contender's rounds, in the row's unit.
    pub fn median(&self, contender: usize) -> Option<f64> {
        median(&self.values(contender))
    }

    /// How far the rounds' ratios lie apart: the greatest in times of the least.
    pub fn spread(&self, tern: usize, peer: usize) -> Option<f64> {
        let ratios = self.ratios(tern, peer);
        let least = ratios.iter().copied().reduce(f64::min)?;
        Some(ratios.into_iter().fold(least, f64::max) / least)
    }

    /// How many times as fast as `peer` contender `tern` is: the median over the rounds in which both have a value, because
    /// what disturbs one of them disturbs both in the same round.
    pub fn ratio(&self, tern: usize, peer: usize) -> Option<f64> {
        median(&self.ratios(tern, peer))
    }

    fn ratios(&self, tern: usize, peer: usize) -> Vec<f64> {
        let pairs = self.rounds[tern].iter().zip(&self.rounds[peer]);
        let ratios = pairs.filter_map(|pair| match pair {
            (Outcome::Value(tern), Outcome::Value(peer)) => Some(peer / tern),
            _ => None,
        });
        ratios.collect()
    }

    /// Whether the contender does not do this at all.
    pub fn is_absent(&self, contender: usize) -> bool {
        self.rounds[contender].iter().all(|outcome| *outcome == Outcome::Absent)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::super::workload::{self, Source};
    use super::*;

    /// A row of these rounds.
    pub(crate) fn row(name: &str, group: Group, rounds: &[&[Outcome]]) -> Row {
        let source = Source::Program;
        let workload = Workload { name: name.into(), unit: "ns".into(), group, source };
        Row { workload, rounds: rounds.iter().map(|rounds| rounds.to_vec()).collect() }
    }

    pub(crate) fn failed() -> Outcome {
        Outcome::Failed("it broke\nits console:\nnoise".into())
    }

    fn summary(rows: Vec<Row>) -> Summary {
        Summary { names: vec!["tern", "qemu-tcg"], rows, mips: vec![] }
    }

    #[test]
    fn each_workloads_rounds_are_in_its_row_and_column() {
        let workloads = workload::boot();
        let sample = |init, prompt, mips| Sample {
            outcomes: vec![Outcome::Value(init), Outcome::Value(prompt)],
            mips,
            clock: None,
        };
        let samples = [
            vec![sample(1.0, 10.0, Some(80.0)), sample(2.0, 20.0, Some(81.0))],
            vec![sample(5.0, 30.0, None), sample(5.0, 10.0, None)],
        ];
        let summary = Summary::new(&["tern", "qemu-tcg"], &workloads, &samples);
        assert_eq!(summary.rows[0].values(0), [1.0, 2.0]);
        assert_eq!(summary.rows[1].values(0), [10.0, 20.0]);
        assert_eq!(summary.rows[1].ratio(0, 1), Some(1.75));
        assert_eq!(summary.mips, [80.0, 81.0]);
    }

    #[test]
    fn the_mean_of_a_group_is_that_of_its_rows_alone() {
        let value = Outcome::Value;
        let rows = vec![
            row("a", Group::Integer, &[&[value(1.0)], &[value(4.0)]]),
            row("b", Group::Integer, &[&[value(1.0)], &[value(1.0)]]),
            row("c", Group::Kernel, &[&[value(1.0)], &[value(100.0)]]),
        ];
        assert_eq!(summary(rows).mean_ratio(Group::Integer, 1), Some(2.0));
    }

    #[test]
    fn a_mean_is_not_made_of_the_rows_that_happened_to_work() {
        let value = Outcome::Value;
        let good = row("a", Group::Integer, &[&[value(1.0)], &[value(4.0)]]);
        let bad = row("b", Group::Integer, &[&[failed()], &[value(1.0)]]);
        let absent = row("c", Group::Integer, &[&[value(1.0)], &[Outcome::Absent]]);
        assert_eq!(summary(vec![good.clone(), bad]).mean_ratio(Group::Integer, 1), None);
        assert_eq!(summary(vec![good, absent]).mean_ratio(Group::Integer, 1), Some(4.0));
        assert_eq!(summary(vec![]).mean_ratio(Group::Integer, 1), None);
    }

    #[test]
    fn a_ratio_is_of_the_same_rounds() {
        let value = Outcome::Value;
        // Twice as fast in each round, whatever the round was like.
        let tern = [value(1.0), value(3.0), value(2.0), value(9.0)];
        let peer = [value(2.0), value(6.0), value(4.0), failed()];
        assert_eq!(row("a", Group::Integer, &[&tern, &peer]).ratio(0, 1), Some(2.0));
        assert_eq!(row("a", Group::Integer, &[&[failed()], &[value(1.0)]]).ratio(0, 1), None);
    }

    #[test]
    fn a_round_that_failed_is_told_and_not_counted() {
        let rounds = [Outcome::Value(1.0), failed(), Outcome::Value(3.0)];
        let summary = summary(vec![row("a", Group::Wide, &[&rounds, &[]])]);
        assert_eq!(summary.rows[0].median(0), Some(2.0));
        let failures: Vec<_> = summary.failures().map(|(row, name, round, _)| (row, name, round)).collect();
        assert_eq!(failures, [("a", "tern", 2)]);
    }
}
