//! `spaced`: cost of a datagram if each arrives at a time of its own, not in a burst.

use crate::numbers::float;
use crate::relay::{Buffer, Kind};
use crate::results::Results;
use crate::run::{Course, EXPORTERS};
use crate::settings::Settings;

/// Topic: core-microseconds per datagram, by rate.
pub(crate) const SPACED: &str = "spaced";

/// Rates in datagrams per second.
pub(crate) const RATES: [u64; 3] = [1000, 5000, 20_000];

/// Subjects.
pub(crate) const KINDS: [Kind; 3] = [Kind::PLAIN, Kind::PlainRelay, Kind::Nfacctd];

pub(crate) fn turn(settings: &Settings, results: &mut Results) {
    for rate in RATES {
        for kind in settings.chosen(KINDS) {
            let run = Course::new(kind, EXPORTERS, Buffer::Package).run_evenly(float(rate), settings.run);
            settings.print_run(kind.name(), &format!("evenly {run}"));
            results.add(SPACED, kind.name(), rate, run.cost());
        }
    }
}
