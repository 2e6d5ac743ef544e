//! Machines that leave an engine at a random moment and go on.

#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod compute;
mod devices;
mod linux;
mod refusals;

use std::ops::Range;
use std::time::Duration;

use tern_engine::Engine;
use tern_test_transfer::{Journey, engines};

/// How long a machine may take: the host may be an emulated one, whose own host is busy, and whose clock is fast then.
const PATIENCE: Duration = Duration::from_secs(600);

/// The ways that can be gone here: from `soft` to itself; where there is another engine, from that to itself, and to and fro.
fn journeys(departures: usize, stay: Range<u64>) -> Vec<Journey> {
    let engines = engines();
    let mut ways: Vec<Vec<&'static dyn Engine>> = vec![vec![*engines.last().unwrap()]];
    if engines.len() > 1 {
        ways.push(engines);
    }
    let journey = |engines| Journey { engines, departures, stay: stay.clone(), patience: PATIENCE };
    ways.into_iter().map(journey).collect()
}

/// The way from `kvm` to itself, on which a host's own processor can go; none where that engine cannot run.
fn on_this_host(departures: usize, stay: Range<u64>) -> Option<Journey> {
    let kvm = engines().into_iter().find(|engine| engine.name() == "kvm");
    if kvm.is_none() {
        eprintln!("not tested: the engine 'kvm' cannot run here");
    }
    kvm.map(|kvm| Journey { engines: vec![kvm], departures, stay, patience: PATIENCE })
}

fn name(journey: &Journey) -> String {
    journey.engines.iter().map(|engine| engine.name()).collect::<Vec<_>>().join(" and ")
}
