//! From samples to medians and ratios.

use super::contender::TERN;
use super::session::Sample;
use super::workload::WORKLOADS;
use crate::numbers::{geometric_mean, median};

/// The name of the row with the time to the prompt.
pub(crate) const BOOT: &str = "boot to prompt";

/// One thing that was measured.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Row {
    pub name: &'static str,
    /// For each contender, its rounds in seconds.
    pub seconds: Vec<Vec<f64>>,
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
    pub fn new(names: &[&'static str], samples: &[Vec<Sample>]) -> Self {
        let row = |name, time: &dyn Fn(&Sample) -> f64| Row {
            name,
            seconds: samples.iter().map(|rounds| rounds.iter().map(time).collect()).collect(),
        };
        let boot = row(BOOT, &|sample| sample.boot);
        let workloads = WORKLOADS
            .iter()
            .enumerate()
            .map(|(index, workload)| row(workload.name, &|sample| sample.workloads[index]));
        let rows = std::iter::once(boot).chain(workloads).collect();
        let mips = samples.iter().flatten().filter_map(|sample| sample.mips).collect();
        Self { names: names.to_vec(), rows, mips }
    }

    /// Which column is Tern's.
    pub fn tern(&self) -> Option<usize> {
        self.names.iter().position(|name| *name == TERN)
    }

    /// The geometric mean over all workloads of how many times as fast as contender `peer` Tern is.
    pub fn mean_ratio(&self, peer: usize) -> Option<f64> {
        let tern = self.tern()?;
        let workloads = self.rows.iter().filter(|row| row.name != BOOT);
        geometric_mean(workloads.filter_map(|row| row.ratio(tern, peer)))
    }
}

impl Row {
    /// The median of a contender's rounds, in seconds.
    pub fn median(&self, contender: usize) -> Option<f64> {
        median(&self.seconds[contender])
    }

    /// How many times as fast as `peer` contender `tern` is.
    pub fn ratio(&self, tern: usize, peer: usize) -> Option<f64> {
        Some(self.median(peer)? / self.median(tern)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_workloads_rounds_are_in_its_row_and_column() {
        let sample = |boot: f64, first: f64| {
            let mut workloads = vec![1.0; WORKLOADS.len()];
            workloads[0] = first;
            Sample { boot, workloads, mips: (boot < 5.0).then_some(80.0) }
        };
        let samples = [vec![sample(1.0, 10.0), sample(2.0, 20.0)], vec![sample(5.0, 30.0)]];
        let summary = Summary::new(&["tern", "qemu-tcg"], &samples);
        assert_eq!(summary.rows[0], Row { name: BOOT, seconds: vec![vec![1.0, 2.0], vec![5.0]] });
        assert_eq!(summary.rows[1].seconds, [vec![10.0, 20.0], vec![30.0]]);
        assert_eq!(summary.rows[1].ratio(0, 1), Some(2.0));
        assert_eq!(summary.mips, [80.0, 80.0]);
    }
}
