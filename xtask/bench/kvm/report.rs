//! What was measured, as tables for people and as JSON for programs, and whether it is what Tern promises.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use serde_json::{Value, json};

use super::contender::{PEERS, TERN};
use super::exits::{Exit, Exits, total};
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
    #[expect(clippy::cast_precision_loss, reason = "a count for people to read")]
    fn exits(&self) -> Option<f64> {
        Some(total(self.exits.as_ref()?) as f64)
    }
}

/// Judges what was measured, against the better of the peers; what was not measured is not judged.
pub(crate) fn judge(measured: &[Measured]) -> Vec<Promise> {
    let Some(tern) = tern(measured) else { return Vec::new() };
    let best = |of: &dyn Fn(&Measured) -> Option<f64>| {
        let peers = peers(measured).filter_map(|peer| Some((of(peer)?, peer.name)));
        peers.min_by(|(one, _), (other, _)| one.total_cmp(other))
    };
    let mut promises = Vec::new();
    let mut promise = |what: String, kept| promises.push(Promise { what, kept });
    if let Some((own, (other, peer))) = tern.init().zip(best(&Measured::init)) {
        promise(format!("init comes up before {peer}'s ({own:.3} s, {other:.3} s)"), own < other);
    }
    if let Some((own, (other, peer))) = tern.exits().zip(best(&Measured::exits)) {
        promise(format!("fewer exits than {peer} ({own}, {other})"), own < other);
    }
    if let Some((own, (other, peer))) = tern.beside().zip(best(&Measured::beside)) {
        promise(
            format!("less memory beside the guest's than {peer} ({own:.1} MiB, {other:.1} MiB)"),
            own < other,
        );
        promise(
            format!("at most {MOST_BESIDE} MiB beside the guest's memory ({own:.1} MiB)"),
            own <= MOST_BESIDE,
        );
    }
    promises
}

fn tern(measured: &[Measured]) -> Option<&Measured> {
    measured.iter().find(|measured| measured.name == TERN)
}

fn peers(measured: &[Measured]) -> impl Iterator<Item = &Measured> {
    measured.iter().filter(|measured| PEERS.contains(&measured.name))
}

/// Tables and the promises.
pub(crate) fn text(measured: &[Measured], promises: &[Promise]) -> String {
    let mut text = align(&overview(measured));
    if measured.iter().any(|measured| measured.exits.is_some()) {
        text.push('\n');
        text.push_str(&align(&exits(measured)));
    }
    if let Some(saved) = saved(measured) {
        text.push('\n');
        text.push_str(&align(&saved));
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
fn exits(measured: &[Measured]) -> Vec<Vec<String>> {
    let kinds: BTreeSet<_> =
        measured.iter().filter_map(|one| one.exits.as_ref()).flat_map(Exits::keys).collect();
    let heading = measured.iter().flat_map(|one| [one.name.to_owned(), "each".to_owned()]);
    let mut table = vec![std::iter::once("exits by kind".to_owned()).chain(heading).collect::<Vec<_>>()];
    for kind in kinds {
        let cells =
            measured.iter().flat_map(|one| match one.exits.as_ref().and_then(|exits| exits.get(kind)) {
                Some(exit) => [exit.count.to_string(), each(exit)],
                None => ["-".to_owned(), "-".to_owned()],
            });
        table.push(std::iter::once(kind.clone()).chain(cells).collect());
    }
    table
}

/// Beside the peer with the fewest exits: by kind, how many Tern saves and what one of them takes there, and how many remain
/// and what one of them takes; the kinds that cost most first. A kind of which Tern has more saves less than nothing.
fn saved(measured: &[Measured]) -> Option<Vec<Vec<String>>> {
    let own = tern(measured)?.exits.as_ref()?;
    let peers = peers(measured).filter_map(|peer| Some((peer.exits()?, peer)));
    let (_, peer) = peers.min_by(|(one, _), (other, _)| one.total_cmp(other))?;
    let theirs = peer.exits.as_ref()?;
    let kinds: BTreeSet<_> = own.keys().chain(theirs.keys()).collect();
    let mut rows: Vec<_> = kinds
        .into_iter()
        .map(|kind| {
            let [own, theirs] = [own, theirs].map(|exits| exits.get(kind).copied().unwrap_or_default());
            Saved { kind, own, theirs }
        })
        .collect();
    rows.sort_by(|one, other| other.seconds().total_cmp(&one.seconds()));
    let all = rows.iter().fold((0, 0.0, 0, 0.0), |(saved, gained, remain, spent), row| {
        (saved + row.count(), gained + row.seconds(), remain + row.own.count, spent + row.own.seconds)
    });
    let heading =
        [&format!("beside {}", peer.name), "saved", "each", "altogether", "remain", "each", "altogether"];
    let mut table = vec![heading.map(str::to_owned).to_vec()];
    table.extend(rows.iter().map(Saved::cells));
    let (saved, gained, remain, spent) = all;
    let sum =
        ["all", &saved.to_string(), "", &milliseconds(gained), &remain.to_string(), "", &milliseconds(spent)];
    table.push(sum.map(str::to_owned).to_vec());
    Some(table)
}

/// One kind of exit, here and there.
struct Saved<'a> {
    kind: &'a str,
    own: Exit,
    theirs: Exit,
}

impl Saved<'_> {
    /// How many fewer.
    fn count(&self) -> i64 {
        self.theirs.count.cast_signed() - self.own.count.cast_signed()
    }

    /// How much less time, in seconds.
    fn seconds(&self) -> f64 {
        self.theirs.seconds - self.own.seconds
    }

    fn cells(&self) -> Vec<String> {
        let Self { kind, own, theirs } = self;
        vec![
            (*kind).to_owned(),
            self.count().to_string(),
            each(theirs),
            milliseconds(self.seconds()),
            own.count.to_string(),
            each(own),
            milliseconds(own.seconds),
        ]
    }
}

/// What one exit took, on average.
#[expect(clippy::cast_precision_loss, reason = "an average for people to read")]
fn each(exit: &Exit) -> String {
    if exit.count == 0 {
        return "-".to_owned();
    }
    format!("{:.1} us", exit.seconds * 1e6 / exit.count as f64)
}

fn milliseconds(seconds: f64) -> String {
    format!("{:.1} ms", seconds * 1e3)
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
    use super::*;

    fn measured(name: &'static str, init: f64, beside: u64, io: u64) -> Measured {
        let exits = Exits::from([("io".to_owned(), Exit { count: io, seconds: 1e-3 })]);
        let samples = vec![Sample { init, beside, exits: None }];
        Measured { name, samples, exits: Some(exits) }
    }

    #[test]
    fn ahead_on_all_three_and_light_is_what_is_promised() {
        let ahead = [measured(TERN, 1.0, 4096, 10), measured(PEERS[0], 2.0, 30000, 20)];
        assert!(judge(&ahead).iter().all(|promise| promise.kept));
        let behind = [measured(TERN, 2.0, 40000, 20), measured(PEERS[0], 1.0, 30000, 10)];
        assert!(judge(&behind).iter().all(|promise| !promise.kept));
        assert_eq!(judge(&ahead).len(), 4);
    }

    #[test]
    fn the_better_peer_is_who_counts() {
        let peers = [measured(PEERS[0], 3.0, 30000, 5), measured(PEERS[1], 1.5, 9000, 50)];
        let [first, second] = peers;
        let promises = judge(&[measured(TERN, 2.0, 4096, 10), first, second]);
        let kept: Vec<_> = promises.iter().map(|promise| promise.kept).collect();
        assert_eq!(kept, [false, false, true, true]);
        assert!(promises[0].what.contains(PEERS[1]) && promises[1].what.contains(PEERS[0]));
    }

    #[test]
    fn the_tables_show_counts_and_what_each_cost() {
        let text = text(&[measured(TERN, 1.0, 4096, 10)], &[]);
        assert!(text.contains("io") && text.contains("100.0 us") && text.contains("4.0 MiB"), "{text}");
    }

    #[test]
    fn what_is_saved_costs_what_it_costs_there_and_what_remains_what_it_costs_here() {
        let mut peer = measured(PEERS[0], 2.0, 30000, 40);
        peer.exits.as_mut().unwrap().insert("hlt".to_owned(), Exit { count: 2, seconds: 5e-3 });
        let table = saved(&[measured(TERN, 1.0, 4096, 10), peer]).unwrap();
        assert_eq!(table[1], ["hlt", "2", "2500.0 us", "5.0 ms", "0", "-", "0.0 ms"]);
        assert_eq!(table[2], ["io", "30", "25.0 us", "0.0 ms", "10", "100.0 us", "1.0 ms"]);
        assert_eq!(table[3], ["all", "32", "", "5.0 ms", "10", "", "1.0 ms"]);
    }
}
