//! `idle`: how often the threads of a connected pair without datagrams wake up.

use std::time::Duration;

use crate::numbers::float;
use crate::pair::BenchPair;
use crate::relay::{Buffer, Kind};
use crate::results::Results;
use crate::settings::Settings;
use crate::sink::Sink;

/// Topic: wake-ups of all threads per second.
pub(crate) const WAKE_UPS: &str = "idle wake-ups";

/// Time after which the work for a new connection is done.
const SETTLED: Duration = Duration::from_secs(3);

pub(crate) fn turn(settings: &Settings, results: &mut Results) {
    for kind in settings.chosen(Kind::PAIRS.into_iter().take(2)) {
        let Kind::Pair(suite) = kind else { continue };
        let sink = Sink::start();
        let pair = BenchPair::new(sink.addr(), suite, Buffer::Package).connect();
        std::thread::sleep(SETTLED);
        let wake_ups = || pair.processes().map(|process| float(process.wake_ups()));
        let before = wake_ups();
        std::thread::sleep(Duration::from_secs_f64(settings.idle));
        let [sender, receiver]: [f64; 2] =
            std::array::from_fn(|at| (wake_ups()[at] - before[at]) / settings.idle);
        let parts = format!("wake-ups per second: nf-sender {sender:.1}, nf-receiver {receiver:.1}");
        settings.print_run(kind.name(), &parts);
        results.add(WAKE_UPS, kind.name(), 0, sender + receiver);
    }
}
