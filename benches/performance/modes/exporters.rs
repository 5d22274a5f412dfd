//! `exporters`: cost of a datagram with few and with many exporters at the same total rate.

use crate::numbers::float;
use crate::relay::{Buffer, Kind};
use crate::results::Results;
use crate::run::Course;
use crate::settings::Settings;

/// Topic: core-microseconds per datagram, by number of exporters.
pub(crate) const EXPORTERS: &str = "exporters";

/// Numbers of exporters.
pub(crate) const COUNTS: [u16; 4] = [1, 10, 100, 1000];

/// Total rate in datagrams per second.
pub(crate) const RATE: u64 = 20_000;

/// Subjects.
pub(crate) const KINDS: [Kind; 2] = [Kind::PLAIN, Kind::Nfacctd];

pub(crate) fn turn(settings: &Settings, results: &mut Results) {
    for exporters in COUNTS {
        for kind in settings.chosen(KINDS) {
            let run = Course::new(kind, exporters, Buffer::Package).run(float(RATE), settings.run);
            settings.print_run(kind.name(), &format!("{exporters:>4} exporters {run}"));
            results.add(EXPORTERS, kind.name(), exporters.into(), run.cost());
        }
    }
}
