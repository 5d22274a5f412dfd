//! `max-delay`: latency and cost of a datagram by the setting `max-delay` of nf-sender.

use crate::numbers::float;
use crate::pair::BenchPair;
use crate::relay::{Buffer, of_pair};
use crate::results::Results;
use crate::run::{Course, EXPORTERS};
use crate::settings::Settings;

/// Topics: core-microseconds per datagram, and milliseconds, by milliseconds of `max-delay`.
pub(crate) const COST: &str = "cost by max-delay";
pub(crate) const MEDIAN: &str = "p50 by max-delay";
pub(crate) const LATE: &str = "p99 by max-delay";

/// Rates in datagrams per second, with their names as subjects.
pub(crate) const RATES: [(u64, &str); 2] = [(1000, "1,000/s"), (20_000, "20,000/s")];

/// The subject whose latencies have marks.
pub(crate) const LATENCY_RATE: &str = RATES[1].1;

/// Values of `max-delay`, in milliseconds.
pub(crate) const DELAYS: [u64; 5] = [0, 1, 10, 50, 200];

pub(crate) fn turn(settings: &Settings, results: &mut Results) {
    for (rate, who) in RATES {
        for delay in DELAYS {
            let toml = format!("max-delay = \"{delay}ms\"");
            let mut course = Course::of(EXPORTERS, |sink| {
                of_pair(BenchPair::new(sink, None, Buffer::Package).with_settings(&toml).connect())
            });
            let run = course.run(float(rate), settings.run);
            settings.print_run("plain", &format!("{toml}: {run}"));
            results.add(COST, who, delay, run.cost());
            results.add(MEDIAN, who, delay, run.arrivals.latency(0.5));
            results.add(LATE, who, delay, run.arrivals.latency(0.99));
        }
    }
}
