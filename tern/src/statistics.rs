//! What a machine did, as `--stats` tells it.

use std::fmt::Write as _;
use std::time::Duration;

use serde_json::{Map, json};
use tern_engine::{ExitKind, Statistics};

/// The lines that are printed; what cannot be counted is left out. `wall` is how long the machine ran.
pub(crate) fn text(engine: &str, cpus: u32, wall: Duration, statistics: &Statistics) -> String {
    let mut text = String::new();
    let longest = statistics.engine.iter().map(|(name, _)| name.len()).max().unwrap_or(0).max(20);
    let mut line = |name: &str, value: String| {
        writeln!(text, "  {name:<longest$} {value:>16}").expect("a string takes everything");
    };
    line("engine", engine.to_owned());
    line("processors", cpus.to_string());
    line("wall time", format!("{:.3} s", wall.as_secs_f64()));
    line("busy time", format!("{:.3} s", Duration::from_nanos(statistics.busy_nanoseconds).as_secs_f64()));
    if statistics.instructions > 0 {
        line("instructions", grouped(statistics.instructions));
        line("MIPS while busy", format!("{:.1}", statistics.mips()));
    }
    for kind in ExitKind::ALL {
        line(kind.name(), grouped(statistics.exits[kind as usize]));
    }
    for (name, count) in &statistics.engine {
        line(name, grouped(*count));
    }
    if let Some(rate) = hit_rate(statistics) {
        line(HIT_RATE, format!("{:.3} %", rate * 100.0));
    }
    text
}

/// The same as one JSON object in a line. Times are in seconds; what cannot be counted is left out.
pub(crate) fn json(engine: &str, cpus: u32, wall: Duration, statistics: &Statistics) -> String {
    let busy = Duration::from_nanos(statistics.busy_nanoseconds).as_secs_f64();
    let exits: Map<_, _> = ExitKind::ALL
        .iter()
        .map(|kind| (kind.name().to_owned(), statistics.exits[*kind as usize].into()))
        .collect();
    let own: Map<_, _> =
        statistics.engine.iter().map(|(name, count)| ((*name).to_owned(), (*count).into())).collect();
    let mut object = json!({
        "engine": engine,
        "processors": cpus,
        "wall-seconds": wall.as_secs_f64(),
        "busy-seconds": busy,
        "exits": exits,
        "of-the-engine": own,
    });
    if statistics.instructions > 0 {
        object["instructions"] = statistics.instructions.into();
        object["mips"] = statistics.mips().into();
    }
    if let Some(rate) = hit_rate(statistics) {
        object[HIT_RATE] = rate.into();
    }
    format!("{object}\n")
}

/// The name of the [`hit_rate`].
const HIT_RATE: &str = "tlb-hit-rate";

/// The share of translated code's checks of memory accesses that found their page, from 0 to 1, if the engine counted them.
#[expect(clippy::cast_precision_loss, reason = "a rate for people to read")]
fn hit_rate(statistics: &Statistics) -> Option<f64> {
    let count = |wanted| statistics.engine.iter().find(|(name, _)| *name == wanted).map(|(_, count)| *count);
    let (hits, misses) = (count("tlb-hits")?, count("tlb-misses")?);
    (hits > 0).then(|| hits as f64 / hits.saturating_add(misses) as f64)
}

/// A number with its thousands apart.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn thousands_are_apart() {
        for (number, text) in [(0, "0"), (999, "999"), (1000, "1,000"), (12_345_678, "12,345,678")] {
            assert_eq!(grouped(number), text);
        }
    }

    #[test]
    fn every_counter_has_its_line() {
        let mut statistics =
            Statistics { instructions: 1_000_000, busy_nanoseconds: 10_000_000, ..Statistics::default() };
        statistics.count(ExitKind::Halt);
        statistics.engine.push(("tlb-misses", 7));
        let value: Value =
            serde_json::from_str(&json("kvm", 1, Duration::from_millis(1500), &statistics)).unwrap();
        assert_eq!((&value["wall-seconds"], &value["exits"]["halt"]), (&json!(1.5), &json!(1)));
        assert_eq!((&value["of-the-engine"]["tlb-misses"], &value["mips"]), (&json!(7), &json!(100.0)));
        let text = text("soft", 2, Duration::from_millis(1500), &statistics);
        let value = |name: &str| {
            let line = text.lines().find(|line| line.trim_start().starts_with(name));
            line.and_then(|line| line.strip_prefix(&format!("  {name}"))).map(str::trim)
        };
        assert_eq!(value("MIPS while busy"), Some("100.0"));
        assert_eq!(value("wall time"), Some("1.500 s"));
        assert_eq!([value("halt"), value("port-in"), value("tlb-misses")], [Some("1"), Some("0"), Some("7")]);
    }

    #[test]
    fn the_rate_of_hits_is_told_where_hits_are_counted() {
        let mut statistics = Statistics { engine: vec![("tlb-misses", 1)], ..Statistics::default() };
        let told = |statistics: &Statistics| {
            let value: Value = serde_json::from_str(&json("soft", 1, Duration::ZERO, statistics)).unwrap();
            (text("soft", 1, Duration::ZERO, statistics).contains(" 75.000 %"), value[HIT_RATE].clone())
        };
        assert_eq!(told(&statistics), (false, Value::Null));
        statistics.engine.push(("tlb-hits", 3));
        assert_eq!(told(&statistics), (true, json!(0.75)));
    }

    #[test]
    fn what_hardware_executes_without_a_word_has_no_line_and_long_names_keep_the_column() {
        let engine = vec![("kvm-interrupt-window-exits", 12), ("kvm-exits", 1)];
        let text = text("kvm", 1, Duration::ZERO, &Statistics { engine, ..Statistics::default() });
        assert!(!text.contains("instructions") && !text.contains("MIPS"), "{text}");
        assert!(text.lines().all(|line| line.len() == text.lines().next().unwrap().len()), "{text}");
    }
}
