//! `catch-up`: a backlog is delivered when the receiver comes up: datagrams a second from the first to the last arrival,
//! and the most memory that the daemons had. Beside it a bare sender of prepared datagrams that looks at the sink's queue.

use std::sync::Arc;
use std::time::Duration;

use crate::generator::{Generator, Sending, Timetable};
use crate::numbers::{count, float};
use crate::pair::{self, Pair};
use crate::payload::LEN;
use crate::process::Memory;
use crate::results::Results;
use crate::run::{EXPORTERS, next_run};
use crate::settings::Settings;
use crate::sink::{Arrivals, Sink};
use crate::support::pair::STALL;
use crate::support::samples;

/// Topic: datagrams a second.
pub(crate) const CATCH_UP: &str = "catch-up";

/// Who is measured.
pub(crate) const PAIR: &str = "the pair";
pub(crate) const PLAIN: &str = "bare sendmmsg";
pub(crate) const GSO: &str = "bare GSO";

/// Topics of the daemons' memory, MiB: at the most; then, after catching up, by kind.
pub(crate) const MEMORY_PEAK: &str = "memory peak";
pub(crate) const MEMORY_OWN: &str = "memory of its own";
pub(crate) const MEMORY_FILE: &str = "memory of files";
pub(crate) const MEMORY_SHARED: &str = "memory in mappings of /run";

/// The backlog is made at this rate, datagrams a second.
const FILL_RATE: f64 = 60_000.0;

pub(crate) fn turn(settings: &Settings, results: &mut Results) {
    let total = count(settings.backlog * f64::from(1 << 20) / float(u64::try_from(LEN).unwrap()));
    let (arrivals, memory) = caught_up(total);
    note(settings, results, PAIR, total, &arrivals);
    for (who, memory) in memory {
        let mebibytes = |bytes: u64| float(bytes) / f64::from(1 << 20);
        results.add(MEMORY_PEAK, who, 0, mebibytes(memory.peak));
        results.add(MEMORY_OWN, who, 0, mebibytes(memory.anonymous));
        results.add(MEMORY_FILE, who, 0, mebibytes(memory.file));
        results.add(MEMORY_SHARED, who, 0, mebibytes(memory.shared));
        settings.note(who, &format!("{memory:?}"));
    }
    for (who, sending) in [(PLAIN, Sending::Plain), (GSO, Sending::Gso)] {
        note(settings, results, who, total, &bare(sending, total));
    }
}

fn note(settings: &Settings, results: &mut Results, who: &'static str, total: u64, arrivals: &Arrivals) {
    let lost = total - arrivals.arrived;
    settings.note(who, &format!("{:>7.0}/s, {lost} of {total} lost", arrivals.rate()));
    assert_eq!(
        lost + arrivals.repeated + arrivals.out_of_order + arrivals.corrupted,
        0,
        "{who} caught up, but not exactly"
    );
    results.add(CATCH_UP, who, 0, arrivals.rate());
}

/// nf-sender fills its spool, then nf-receiver comes up.
fn caught_up(total: u64) -> (Arrivals, Vec<(&'static str, Memory)>) {
    let sink = Sink::start();
    let mut pair = Pair::new(sink.addr(), None);
    pair.sender.host.set_receiver(None);
    pair.sender.host.start();
    let timetable = Timetable::new(next_run(), total);
    let mut generator = Generator::new(EXPORTERS, &[pair.input()], Sending::Plain);
    sink.begin(&timetable, generator.sequences());
    generator.run(&timetable, FILL_RATE);
    pair.sender.host.wait_status(STALL, |status| samples::count(status, "/queued/datagrams") == total);
    pair.receiver.start();
    pair.sender.host.set_toml(&format!("receivers = [\"{}\"]\n{}", pair.receiver.addr(), pair::SETTINGS));
    pair.sender.host.daemon().reload();
    sink.wait_for_all(STALL);
    (sink.arrivals(), pair.processes().map(|process| (process.name, process.memory())).to_vec())
}

/// Prepared datagrams, as fast as the sink takes them.
fn bare(sending: Sending, total: u64) -> Arrivals {
    let sink = Sink::start();
    let timetable = Timetable::new(next_run(), total);
    let mut generator = Generator::new(1, &[sink.addr()], sending);
    sink.begin(&Arc::clone(&timetable), generator.sequences());
    generator.flood(&timetable, || {
        while sink.queued() > sink.capacity() / 2 {
            std::thread::sleep(Duration::from_micros(200));
        }
    });
    sink.wait_for_all(STALL);
    sink.arrivals()
}
