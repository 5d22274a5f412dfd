//! `idle`: how often the threads of a connected pair without datagrams wake up.

use std::time::Duration;

use crate::numbers::float;
use crate::relay::{Buffer, Kind};
use crate::results::Results;
use crate::settings::Settings;
use crate::sink::Sink;

/// Topics: wake-ups of all threads per second, in total and by process.
pub(crate) const WAKE_UPS: &str = "idle wake-ups";
pub(crate) const WAKE_UPS_SENDER: &str = "idle wake-ups of nf-sender";
pub(crate) const WAKE_UPS_RECEIVER: &str = "idle wake-ups of nf-receiver";

/// Time after which the work for a new connection is done.
pub(crate) const SETTLED: Duration = Duration::from_secs(3);

/// Returns the subjects.
pub(crate) fn kinds() -> Vec<Kind> {
    let pairs = Kind::PAIRS.into_iter().take(2);
    pairs.flat_map(|kind| [Some(kind), kind.baseline()]).flatten().collect()
}

/// Measures once: the figures hardly vary between turns.
pub(crate) fn turn(settings: &Settings, results: &mut Results) {
    for kind in settings.chosen(kinds()) {
        if results.latest(WAKE_UPS, kind.name(), 0).is_none() {
            measure(settings, results, kind);
        }
    }
}

fn measure(settings: &Settings, results: &mut Results, kind: Kind) {
    let sink = Sink::start();
    let relay = kind.start(sink.addr(), Buffer::Package);
    std::thread::sleep(SETTLED);
    let all = || relay.processes.iter().map(|process| (process.name, process.wake_ups())).collect::<Vec<_>>();
    let before = all();
    std::thread::sleep(Duration::from_secs_f64(settings.idle));
    let mut total = 0.0;
    for ((process, after), (_, before)) in all().into_iter().zip(before) {
        let mut of_process = 0.0;
        for (thread, count) in after {
            let earlier = before.get(&thread).copied().unwrap_or_default();
            let rate = float(count.saturating_sub(earlier)) / settings.idle;
            settings.print_run(kind.name(), &format!("{process}, thread {thread}: {rate:.1} wake-ups/s"));
            of_process += rate;
        }
        let topic = if process == "nf-sender" { WAKE_UPS_SENDER } else { WAKE_UPS_RECEIVER };
        results.add(topic, kind.name(), 0, of_process);
        total += of_process;
    }
    settings.print_run(kind.name(), &format!("{total:.1} wake-ups/s"));
    results.add(WAKE_UPS, kind.name(), 0, total);
}
