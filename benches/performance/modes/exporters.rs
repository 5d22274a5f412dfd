//! `exporters`: what a datagram costs with few and with many exporters, at the same rate in all.

use crate::numbers::float;
use crate::relay::Kind;
use crate::results::Results;
use crate::run::Course;
use crate::settings::Settings;

/// Topic: core-microseconds per datagram, by number of exporters.
pub(crate) const EXPORTERS: &str = "exporters";

/// How many exporters.
pub(crate) const COUNTS: [u16; 4] = [1, 10, 100, 1000];

/// Datagrams a second of all together.
pub(crate) const RATE: u64 = 20_000;

/// Who is measured.
pub(crate) const KINDS: [Kind; 2] = [Kind::PLAIN, Kind::Nfacctd];

pub(crate) fn turn(settings: &Settings, results: &mut Results) {
    for exporters in COUNTS {
        for kind in settings.chosen(KINDS) {
            let run = Course::new(kind, exporters).run(float(RATE), settings.run);
            settings.note(kind.name(), &format!("{exporters:>4} exporters {run}"));
            results.add(EXPORTERS, kind.name(), exporters.into(), run.cost());
        }
    }
}
