//! `cost` and `latency`: CPU time and latency of a datagram at given rates.

use crate::generator::Sending;
use crate::numbers::{count, float};
use crate::relay::{Buffer, Kind};
use crate::results::Results;
use crate::run::{Course, EXPORTERS, RelayRun};
use crate::settings::Settings;

/// Topics: core-microseconds per datagram by rate, in total and by process.
pub(crate) const COST: &str = "cost";
pub(crate) const COST_SENDER: &str = "cost of nf-sender";
pub(crate) const COST_RECEIVER: &str = "cost of nf-receiver";

/// Topic: lost datagrams per thousand, by rate.
pub(crate) const LOSS: &str = "loss";

/// Topics: milliseconds, by rate.
pub(crate) const LATENCY_MEDIAN: &str = "latency p50";
pub(crate) const LATENCY_LATE: &str = "latency p99";

/// Rates in datagrams per second.
pub(crate) const RATES: [u64; 5] = [1000, 5000, 20_000, 40_000, 60_000];

/// Rates of the relays that no mark compares.
const FEW_RATES: [u64; 3] = [1000, 20_000, 60_000];

/// Relays that are measured at `FEW_RATES` only, to save time.
const RARE: [Kind; 4] = [Kind::PAIRS[2], Kind::PAIRS[3], Kind::BarePair, Kind::BARE];

/// Rate at which latencies are compared, in datagrams per second.
pub(crate) const LATENCY_RATE: u64 = 20_000;

/// Measures one relay after the other at each rate, so that other work of the machine affects all alike.
pub(crate) fn turn(settings: &Settings, results: &mut Results) {
    for rate in RATES {
        for kind in settings.chosen(kinds(rate)) {
            let run = measure(settings, kind, rate);
            add_results(results, kind, &run);
        }
    }
}

/// Returns the relays that are measured at this rate.
pub(crate) fn kinds(rate: u64) -> impl Iterator<Item = Kind> {
    Kind::all().into_iter().filter(move |kind| FEW_RATES.contains(&rate) || !RARE.contains(kind))
}

/// Measures the latency of the relays of interest.
pub(crate) fn latency(settings: &Settings, results: &mut Results) {
    for kind in
        settings.chosen(Kind::PAIRS.into_iter().chain([Kind::BarePair, Kind::BARE, Kind::Bare(Sending::Gso)]))
    {
        // The runs of `cost` may have measured it already.
        if results.count(LATENCY_MEDIAN, kind.name(), LATENCY_RATE) < settings.turns {
            note_latency(results, kind, &measure(settings, kind, LATENCY_RATE));
        }
    }
}

/// Starts a new relay for each rate, so that no backlog of an earlier run remains.
fn measure(settings: &Settings, kind: Kind, rate: u64) -> RelayRun {
    let run = Course::new(kind, EXPORTERS, Buffer::Package).run(float(rate), settings.run);
    settings.print_run(kind.name(), &run);
    run
}

fn add_results(results: &mut Results, kind: Kind, run: &RelayRun) {
    let rate = count(run.rate);
    if rate == LATENCY_RATE {
        note_latency(results, kind, run);
    }
    results.add(COST, kind.name(), rate, run.cost());
    results.add(LOSS, kind.name(), rate, 1000.0 * float(run.lost()) / float(run.total));
    for (process, spent) in &run.cpu {
        let topic = match *process {
            "nf-sender" => COST_SENDER,
            "nf-receiver" => COST_RECEIVER,
            _ => continue,
        };
        results.add(topic, kind.name(), rate, spent.as_secs_f64() * 1e6 / float(run.total));
    }
}

fn note_latency(results: &mut Results, kind: Kind, run: &RelayRun) {
    results.add(LATENCY_MEDIAN, kind.name(), LATENCY_RATE, run.arrivals.latency(0.5));
    results.add(LATENCY_LATE, kind.name(), LATENCY_RATE, run.arrivals.latency(0.99));
}
