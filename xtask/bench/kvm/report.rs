//! What was measured, as tables for people and as JSON for programs, and whether it is what Tern promises.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use serde_json::{Value, json};

use super::contender::{PEER, TERN};
use super::exits::Exits;
use super::sample::Sample;
use crate::numbers::median;
use crate::table::align;

/// What Tern takes beside the guest's memory, at most, in MiB.
const MOST_BESIDE: f64 = 5.0;

/// One contender and what it gave.
#[derive(Debug)]
pub(crate) struct Measured {
    pub name: &'static str,
    pub samples: Vec<Sample>,
    pub exits: Option<Exits>,
}

/// A promise and what became of it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Promise {
    pub what: String,
    pub kept: bool,
}

impl Measured {
    /// Nothing yet.
    pub const fn new(name: &'static str) -> Self {
        Self { name, samples: Vec::new(), exits: None }
    }

    /// The median time to the guest's init, in seconds.
    fn init(&self) -> Option<f64> {
        median(&self.samples.iter().map(|sample| sample.init).collect::<Vec<_>>())
    }

    /// The median of what is beside the guest's memory, in MiB.
    #[expect(clippy::cast_precision_loss, reason = "a size for people to read")]
    fn beside(&self) -> Option<f64> {
        median(&self.samples.iter().map(|sample| sample.beside as f64 / 1024.0).collect::<Vec<_>>())
    }

    /// All exits until the guest's init.
    fn exits(&self) -> Option<u64> {
        Some(self.exits.as_ref()?.values().map(|exit| exit.count).sum())
    }
}

/// Judges what was measured; what was not is not judged.
pub(crate) fn judge(measured: &[Measured]) -> Vec<Promise> {
    let find = |name| measured.iter().find(|measured| measured.name == name);
    let Some((tern, peer)) = find(TERN).zip(find(PEER)) else { return Vec::new() };
    let mut promises = Vec::new();
    let mut promise = |what: String, kept| promises.push(Promise { what, kept });
    if let Some((own, other)) = tern.init().zip(peer.init()) {
        promise(format!("init comes up before {PEER}'s ({own:.3} s, {other:.3} s)"), own < other);
    }
    if let Some((own, other)) = tern.exits().zip(peer.exits()) {
        promise(format!("fewer exits than {PEER} ({own}, {other})"), own < other);
    }
    if let Some((own, other)) = tern.beside().zip(peer.beside()) {
        promise(
            format!("less memory beside the guest's than {PEER} ({own:.1} MiB, {other:.1} MiB)"),
            own < other,
        );
        promise(
            format!("at most {MOST_BESIDE} MiB beside the guest's memory ({own:.1} MiB)"),
            own <= MOST_BESIDE,
        );
    }
    promises
}

/// Two tables and the promises.
pub(crate) fn text(measured: &[Measured], promises: &[Promise]) -> String {
    let mut text = align(&overview(measured));
    if measured.iter().any(|measured| measured.exits.is_some()) {
        text.push('\n');
        text.push_str(&align(&exits(measured)));
    }
    text.push('\n');
    for Promise { what, kept } in promises {
        let verdict = if *kept { "kept" } else { "BROKEN" };
        writeln!(text, "promise {verdict}: {what}").expect("a string takes everything");
    }
    text
}

fn overview(measured: &[Measured]) -> Vec<Vec<String>> {
    let row = |name: &str, cell: &dyn Fn(&Measured) -> Option<String>| -> Vec<String> {
        let cells = measured.iter().map(|measured| cell(measured).unwrap_or_else(|| "-".into()));
        std::iter::once(name.to_owned()).chain(cells).collect()
    };
    vec![
        row("median of all rounds", &|measured| Some(measured.name.into())),
        row("start to the guest's init", &|measured| Some(format!("{:.3} s", measured.init()?))),
        row("exits until then", &|measured| Some(measured.exits()?.to_string())),
        row("memory beside the guest's", &|measured| Some(format!("{:.1} MiB", measured.beside()?))),
    ]
}

/// For each kind of exit: how many each contender had, and what one of them took.
#[expect(clippy::cast_precision_loss, reason = "counts for people to read")]
fn exits(measured: &[Measured]) -> Vec<Vec<String>> {
    let kinds: BTreeSet<_> =
        measured.iter().filter_map(|one| one.exits.as_ref()).flat_map(Exits::keys).collect();
    let heading = measured.iter().flat_map(|one| [one.name.to_owned(), "each".to_owned()]);
    let mut table = vec![std::iter::once("exits by kind".to_owned()).chain(heading).collect::<Vec<_>>()];
    for kind in kinds {
        let cells =
            measured.iter().flat_map(|one| match one.exits.as_ref().and_then(|exits| exits.get(kind)) {
                Some(exit) => [
                    exit.count.to_string(),
                    format!("{:.1} us", exit.seconds * 1e6 / exit.count.max(1) as f64),
                ],
                None => ["-".to_owned(), "-".to_owned()],
            });
        table.push(std::iter::once(kind.clone()).chain(cells).collect());
    }
    table
}

/// Everything that was measured.
pub(crate) fn json(measured: &[Measured], promises: &[Promise]) -> Value {
    let contenders = measured.iter().map(|one| {
        let exits = one.exits.as_ref().map(|exits| {
            let kinds = exits
                .iter()
                .map(|(kind, exit)| (kind.clone(), json!({ "count": exit.count, "seconds": exit.seconds })));
            Value::Object(kinds.collect())
        });
        json!({
            "name": one.name,
            "seconds_to_init": one.samples.iter().map(|sample| sample.init).collect::<Vec<_>>(),
            "kib_beside_the_guests_memory": one.samples.iter().map(|sample| sample.beside).collect::<Vec<_>>(),
            "exits_until_init": exits,
        })
    });
    let promises = promises.iter().map(|promise| json!({ "what": promise.what, "kept": promise.kept }));
    json!({ "contenders": contenders.collect::<Vec<_>>(), "promises": promises.collect::<Vec<_>>() })
}

#[cfg(test)]
mod tests {
    use super::super::exits::Exit;
    use super::*;

    fn measured(name: &'static str, init: f64, beside: u64, io: u64) -> Measured {
        let exits = Exits::from([("io".to_owned(), Exit { count: io, seconds: 1e-3 })]);
        let samples = vec![Sample { init, beside, exits: None }];
        Measured { name, samples, exits: Some(exits) }
    }

    #[test]
    fn ahead_on_all_three_and_light_is_what_is_promised() {
        let ahead = [measured(TERN, 1.0, 4096, 10), measured(PEER, 2.0, 30000, 20)];
        assert!(judge(&ahead).iter().all(|promise| promise.kept));
        let behind = [measured(TERN, 2.0, 40000, 20), measured(PEER, 1.0, 30000, 10)];
        assert!(judge(&behind).iter().all(|promise| !promise.kept));
        assert_eq!(judge(&ahead).len(), 4);
    }

    #[test]
    fn the_tables_show_counts_and_what_each_cost() {
        let text = text(&[measured(TERN, 1.0, 4096, 10)], &[]);
        assert!(text.contains("io") && text.contains("100.0 us") && text.contains("4.0 MiB"), "{text}");
    }
}
