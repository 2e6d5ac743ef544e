//! The summary as a table for people, and as JSON for programs.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::promise::Promise;
use super::summary::Summary;
use crate::numbers::median;
use crate::table::align;

/// What stands where nothing was measured.
const NOTHING: &str = "-";

/// A table of medians and ratios, and the promises below it.
pub(crate) fn text(summary: &Summary, promises: &[Promise]) -> String {
    let mut text = align(&cells(summary));
    if let Some(mips) = median(&summary.mips) {
        writeln!(text, "\ntern executed {mips:.0} million guest instructions per second")
            .expect("a string takes everything");
    }
    for Promise { what, measured, kept } in promises {
        let verdict = if *kept { "kept" } else { "BROKEN" };
        writeln!(text, "promise {verdict}: {what} ({measured:.1})").expect("a string takes everything");
    }
    text
}

/// The table cell by cell: a heading, the rows, and the mean of the ratios.
fn cells(summary: &Summary) -> Vec<Vec<String>> {
    let columns = 0..summary.names.len();
    let peers: Vec<_> =
        columns.clone().filter(|column| summary.tern().is_some_and(|tern| tern != *column)).collect();
    let heading = std::iter::once("median of all rounds".to_owned())
        .chain(summary.names.iter().map(ToString::to_string))
        .chain(peers.iter().map(|peer| format!("tern to {}", summary.names[*peer])));
    let mut table = vec![heading.collect()];
    for row in &summary.rows {
        let times = columns.clone().map(|column| cell(row.median(column), |time| format!("{time:.3} s")));
        let ratios =
            peers.iter().map(|peer| cell(summary.tern().and_then(|tern| row.ratio(tern, *peer)), ratio));
        table.push(std::iter::once(row.name.to_owned()).chain(times).chain(ratios).collect());
    }
    if !peers.is_empty() {
        let means = peers.iter().map(|peer| cell(summary.mean_ratio(*peer), ratio));
        let blank = columns.map(|_| String::new());
        let name = "all workloads (geometric mean)".to_owned();
        table.push(std::iter::once(name).chain(blank).chain(means).collect());
    }
    table
}

fn cell(value: Option<f64>, show: impl FnOnce(f64) -> String) -> String {
    value.map_or_else(|| NOTHING.to_owned(), show)
}

fn ratio(value: f64) -> String {
    format!("{value:.2} x as fast")
}

/// Everything that was measured, with medians and ratios.
pub(crate) fn json(summary: &Summary, promises: &[Promise]) -> Value {
    let rows = summary.rows.iter().map(|row| {
        let contenders = summary.names.iter().enumerate().map(|(column, name)| {
            let ratio = summary.tern().and_then(|tern| row.ratio(tern, column));
            let about = json!({
                "rounds": row.seconds[column],
                "median": row.median(column),
                "tern_is_times_as_fast": ratio,
            });
            ((*name).to_owned(), about)
        });
        json!({ "name": row.name, "seconds": Value::Object(contenders.collect()) })
    });
    let promises = promises
        .iter()
        .map(|promise| json!({ "what": promise.what, "measured": promise.measured, "kept": promise.kept }));
    json!({
        "measurements": rows.collect::<Vec<_>>(),
        "tern_mips": { "rounds": summary.mips, "median": median(&summary.mips) },
        "promises": promises.collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::soft::summary::{BOOT, Row};

    fn summary() -> Summary {
        let row =
            |name, tern: &[f64], qemu: &[f64]| Row { name, seconds: vec![tern.to_vec(), qemu.to_vec()] };
        Summary {
            names: vec!["tern", "qemu-tcg"],
            rows: vec![
                row(BOOT, &[4.0, 8.0, 5.0], &[2.5]),
                row("work", &[1.0], &[2.0]),
                row("more", &[1.0], &[]),
            ],
            mips: vec![90.0],
        }
    }

    #[test]
    fn the_table_shows_medians_and_how_fast_tern_is() {
        let promise = Promise { what: "to be quick".into(), measured: 1.0, kept: false };
        let text = text(&summary(), &[promise]);
        let expected = "\
median of all rounds               tern  qemu-tcg  tern to qemu-tcg
boot to prompt                  5.000 s   2.500 s    0.50 x as fast
work                            1.000 s   2.000 s    2.00 x as fast
more                            1.000 s         -                 -
all workloads (geometric mean)                       2.00 x as fast

tern executed 90 million guest instructions per second
promise BROKEN: to be quick (1.0)
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
        assert_eq!(value["measurements"][0]["seconds"]["tern"]["rounds"], json!([4.0, 8.0, 5.0]));
        assert_eq!(value["measurements"][0]["seconds"]["qemu-tcg"]["tern_is_times_as_fast"], json!(0.5));
        assert_eq!(value["measurements"][2]["seconds"]["qemu-tcg"]["median"], Value::Null);
    }
}
