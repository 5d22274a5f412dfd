//! `rate`: the highest rate end to end at which every datagram arrives once, in order, unchanged and without
//! a backlog.

use crate::modes::GENERATOR;
use crate::relay::{Buffer, Kind};
use crate::results::Results;
use crate::run::{Course, EXPORTERS};
use crate::search;
use crate::settings::Settings;

/// Topic: datagrams per second.
pub(crate) const RATE: &str = "rate";

/// Start of the first search, in datagrams per second.
const START: f64 = 40_000.0;

pub(crate) fn turn(settings: &Settings, results: &mut Results) {
    for kind in settings.chosen(Kind::all()) {
        let guess = results.median(RATE, kind.name(), 0);
        let (highest, is_generator) =
            highest(settings, kind.name(), guess, || Course::new(kind, EXPORTERS, Buffer::Permitted));
        results.add(RATE, kind.name(), 0, highest);
        results.add(GENERATOR, kind.name(), 0, f64::from(u8::from(is_generator)));
    }
}

/// Returns the highest rate, and whether the generator was the limit.
pub(super) fn highest(
    settings: &Settings,
    who: &str,
    guess: Option<f64>,
    start: impl Fn() -> Course,
) -> (f64, bool) {
    let mut is_generator = false;
    let mut course = None;
    let highest = search::highest(guess, START, |rate| {
        let run = course.get_or_insert_with(&start).run(rate, settings.probe);
        settings.print_run(who, &run);
        if !run.is_exact() {
            course = None; // leftovers must not reach the next probe
        }
        is_generator = if run.is_reached() { is_generator } else { run.is_exact() && !run.sent.kept };
        run.is_reached()
    });
    settings.print_run(who, &format!("highest {highest:.0}/s"));
    (highest, is_generator)
}
