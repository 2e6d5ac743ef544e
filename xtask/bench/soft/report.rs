//! The summary as a table for people, and as JSON for programs.

use serde_json::{Map, Value, json};

use super::promise::Promise;
use super::session::Outcome;
use super::summary::{Row, Summary};
use super::workload::SUMMED_UP;
use crate::numbers::median;
use crate::table::align;

/// What stands where nothing was measured.
const NOTHING: &str = "-";

/// What stands where every round failed.
const FAILED: &str = "failed";

/// How far apart the ratios of a row's rounds lie, the greatest in times of the least, from where on something may have disturbed them.
const UNSTEADY: f64 = 1.25;

/// A table of medians and ratios, and below it what failed and what became of the promises.
pub(crate) fn text(summary: &Summary, promises: &[Promise]) -> String {
    let mut text = align(&cells(summary));
    let mut add = |line: String| {
        text.push_str(&line);
        text.push('\n');
    };
    if let Some(mips) = median(&summary.mips) {
        add(format!("\ntern executed {mips:.0} million guest instructions per second"));
    }
    for (row, name, round, reason) in summary.failures() {
        add(format!("failed: {row}, {name}, round {round}: {}", reason.lines().next().unwrap_or_default()));
    }
    for Promise { what, measured, kept } in promises {
        let verdict = if *kept { "kept" } else { "BROKEN" };
        add(format!("promise {verdict}: {what} ({})", significant(*measured)));
    }
    if let Some((unsteady, all)) = unsteady(summary) {
        let apart = "of the ratios above are medians of rounds that lie far apart";
        add(format!("{unsteady} of {all} {apart}: is this computer busy with something else?"));
    }
    text
}

/// How many ratios are medians of rounds of which the greatest is a quarter more than the least, and how many there are; none if none
/// is.
fn unsteady(summary: &Summary) -> Option<(usize, usize)> {
    let (tern, peers) = (summary.tern()?, summary.peers());
    let all =
        summary.rows.iter().flat_map(|row| peers.iter().filter_map(move |peer| row.spread(tern, *peer)));
    let (unsteady, steady): (Vec<_>, Vec<_>) = all.partition(|spread| *spread > UNSTEADY);
    (!unsteady.is_empty()).then(|| (unsteady.len(), unsteady.len() + steady.len()))
}

/// The table cell by cell: a heading, the rows, and the means of the ratios.
fn cells(summary: &Summary) -> Vec<Vec<String>> {
    let columns = 0..summary.names.len();
    let peers = summary.peers();
    let heading = std::iter::once("median of all rounds".to_owned())
        .chain(summary.names.iter().map(ToString::to_string))
        .chain(peers.iter().map(|peer| format!("tern to {}", summary.names[*peer])));
    let mut table = vec![heading.collect()];
    for row in &summary.rows {
        let values = columns.clone().map(|column| value(row, column));
        let ratios = peers.iter().map(|peer| ratio(summary.tern().and_then(|tern| row.ratio(tern, *peer))));
        let name = format!("{} ({})", row.workload.name, row.workload.unit);
        table.push(std::iter::once(name).chain(values).chain(ratios).collect());
    }
    for group in SUMMED_UP {
        if peers.is_empty() || summary.rows.iter().all(|row| row.workload.group != group) {
            continue;
        }
        let means = peers.iter().map(|peer| ratio(summary.mean_ratio(group, *peer)));
        let blank = columns.clone().map(|_| String::new());
        let name = format!("{} rows (geometric mean)", group.name());
        table.push(std::iter::once(name).chain(blank).chain(means).collect());
    }
    table
}

fn value(row: &Row, column: usize) -> String {
    match row.median(column) {
        Some(median) => significant(median),
        None if row.is_absent(column) => NOTHING.to_owned(),
        None => FAILED.to_owned(),
    }
}

fn ratio(value: Option<f64>) -> String {
    value.map_or_else(|| NOTHING.to_owned(), |value| format!("{} x as fast", significant(value)))
}

/// Three digits that say something, and all those before the point.
fn significant(value: f64) -> String {
    let places = (0_u8..6).find(|places| value.abs() * 10_f64.powi((*places).into()) >= 99.95).unwrap_or(6);
    format!("{value:.*}", usize::from(places))
}

/// Everything that was measured, with medians and ratios.
pub(crate) fn json(summary: &Summary, promises: &[Promise]) -> Value {
    let peers = summary.peers();
    let rows = summary.rows.iter().map(|row| {
        let contenders = summary.names.iter().enumerate().map(|(column, name)| {
            let about = json!({
                "rounds": row.rounds[column].iter().map(outcome).collect::<Vec<_>>(),
                "median": row.median(column),
                "tern_is_times_as_fast": summary.tern().and_then(|tern| row.ratio(tern, column)),
            });
            ((*name).to_owned(), about)
        });
        json!({
            "name": row.workload.name,
            "unit": row.workload.unit,
            "group": row.workload.group.name(),
            "contenders": Value::Object(contenders.collect()),
        })
    });
    let means: Map<_, _> = SUMMED_UP
        .into_iter()
        .map(|group| {
            let mean =
                |peer: &usize| (summary.names[*peer].to_owned(), json!(summary.mean_ratio(group, *peer)));
            (group.name().to_owned(), Value::Object(peers.iter().map(mean).collect()))
        })
        .collect();
    let promises = promises
        .iter()
        .map(|promise| json!({ "what": promise.what, "measured": promise.measured, "kept": promise.kept }));
    json!({
        "measurements": rows.collect::<Vec<_>>(),
        "geometric_means_of_tern_is_times_as_fast": means,
        "tern_mips": { "rounds": summary.mips, "median": median(&summary.mips) },
        "promises": promises.collect::<Vec<_>>(),
    })
}

/// A number, the reason why there is none, or null where there is nothing to measure.
fn outcome(outcome: &Outcome) -> Value {
    match outcome {
        Outcome::Value(value) => json!(value),
        Outcome::Failed(reason) => json!({ "failed": reason }),
        Outcome::Absent => Value::Null,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::soft::summary::tests::{failed, row};
    use crate::soft::workload::Group;

    fn summary() -> Summary {
        let value = Outcome::Value;
        Summary {
            names: vec!["tern", "qemu-tcg", "native"],
            rows: vec![
                row(
                    "boot",
                    Group::Boot,
                    &[
                        &[value(4.0), value(8.0), value(5.0)],
                        &[value(2.5), value(2.5), value(2.5)],
                        &[Outcome::Absent],
                    ],
                ),
                row("work", Group::Integer, &[&[value(40.0)], &[value(80.0)], &[value(1.0)]]),
                row("more", Group::Integer, &[&[value(1.0)], &[value(2.0)], &[value(0.1)]]),
                row("broken", Group::Kernel, &[&[failed()], &[value(1234.5)], &[value(2.0)]]),
            ],
            mips: vec![90.0],
        }
    }

    #[test]
    fn the_table_shows_medians_and_how_fast_tern_is() {
        let promise = Promise { what: "to be quick".into(), measured: 1.0, kept: false };
        let text = text(&summary(), &[promise]);
        let expected = "\
median of all rounds             tern  qemu-tcg  native  tern to qemu-tcg    tern to native
boot (ns)                        5.00      2.50       -   0.500 x as fast                 -
work (ns)                        40.0      80.0    1.00    2.00 x as fast  0.0250 x as fast
more (ns)                        1.00      2.00   0.100    2.00 x as fast   0.100 x as fast
broken (ns)                    failed      1234    2.00                 -                 -
integer rows (geometric mean)                              2.00 x as fast  0.0500 x as fast
kernel rows (geometric mean)                                            -                 -

tern executed 90 million guest instructions per second
failed: broken, tern, round 1: it broke
promise BROKEN: to be quick (1.00)
1 of 5 of the ratios above are medians of rounds that lie far apart: is this computer busy with something else?
";
        assert_eq!(text, expected);
    }

    #[test]
    fn without_tern_there_are_no_ratios() {
        let mut summary = summary();
        summary.names[0] = "other";
        assert!(!text(&summary, &[]).contains("as fast"));
    }

    #[test]
    fn json_holds_every_round() {
        let value = json(&summary(), &[]);
        let contenders = &value["measurements"][0]["contenders"];
        assert_eq!(contenders["tern"]["rounds"], json!([4.0, 8.0, 5.0]));
        assert_eq!(contenders["qemu-tcg"]["tern_is_times_as_fast"], json!(0.5));
        assert_eq!(contenders["native"]["median"], Value::Null);
        let broken = &value["measurements"][3];
        assert_eq!((&broken["unit"], &broken["group"]), (&json!("ns"), &json!("kernel")));
        assert!(broken["contenders"]["tern"]["rounds"][0]["failed"].is_string());
        assert_eq!(value["geometric_means_of_tern_is_times_as_fast"]["integer"]["qemu-tcg"], json!(2.0));
    }

    #[test]
    fn three_digits_are_shown() {
        let shown = [0.000_123_4, 0.012_34, 0.999_9, 1.0, 12.345, 99.99, 123.4, 43_971.2].map(significant);
        assert_eq!(shown, ["0.000123", "0.0123", "1.00", "1.00", "12.3", "100", "123", "43971"]);
    }
}
