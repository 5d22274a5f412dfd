//! `catch-up`: a backlog is delivered once the receiver starts. Measures the rate from the first to the last
//! arrival, and the peak memory of the daemons. For comparison a bare sender sends prepared datagrams and
//! watches the sink's queue.

use std::sync::Arc;
use std::time::Duration;

use nf_transport_kit::pair::STALL;
use nf_transport_kit::samples;

use crate::generator::{Generator, Sending, Timetable};
use crate::numbers::{count, float};
use crate::pair::{self, BenchPair};
use crate::payload::LEN;
use crate::process::Memory;
use crate::relay::Buffer;
use crate::results::Results;
use crate::run::{EXPORTERS, next_run};
use crate::settings::Settings;
use crate::sink::{Arrivals, Sink};

/// Topic: datagrams per second.
pub(crate) const CATCH_UP: &str = "catch-up";

/// Subjects.
pub(crate) const PAIR: &str = "the pair";
pub(crate) const PLAIN: &str = "bare sendmmsg";
pub(crate) const GSO: &str = "bare GSO";

/// Topics: memory of the daemons in MiB. The peak includes files in `/run`, which are in memory. The others
/// are taken after catching up: anonymous memory, the program, and the files in `/run`.
pub(crate) const MEMORY_PEAK: &str = "memory peak";
pub(crate) const MEMORY_OWN: &str = "memory of its own";
pub(crate) const MEMORY_FILE: &str = "memory of files";
pub(crate) const MEMORY_JOURNAL: &str = "memory of the receive journal";

/// Calls between two checks of the queue of nf-sender's socket, and of the sink's larger one.
const FILL_LOOKS: usize = 4;
const SINK_LOOKS: usize = 64;

pub(crate) fn turn(settings: &Settings, results: &mut Results) {
    let total = count(settings.backlog * f64::from(1 << 20) / float(u64::try_from(LEN).unwrap()));
    let (arrivals, memory) = caught_up(total);
    add_result(settings, results, PAIR, total, &arrivals);
    for (who, memory, journal) in memory {
        let mebibytes = |bytes: u64| float(bytes) / f64::from(1 << 20);
        results.add(MEMORY_PEAK, who, 0, mebibytes(memory.peak + journal.saturating_sub(memory.shared)));
        results.add(MEMORY_OWN, who, 0, mebibytes(memory.anonymous));
        results.add(MEMORY_FILE, who, 0, mebibytes(memory.file));
        results.add(MEMORY_JOURNAL, who, 0, mebibytes(journal));
        settings.print_run(who, &format!("{memory:?}, journal {journal}"));
    }
    for (who, sending) in [(PLAIN, Sending::Plain), (GSO, Sending::Gso)] {
        add_result(settings, results, who, total, &bare(sending, total));
    }
}

fn add_result(
    settings: &Settings,
    results: &mut Results,
    who: &'static str,
    total: u64,
    arrivals: &Arrivals,
) {
    let lost = total - arrivals.arrived;
    settings.print_run(who, &format!("{:>7.0}/s, {lost} of {total} lost", arrivals.rate()));
    if lost + arrivals.repeated + arrivals.out_of_order + arrivals.corrupted == 0 {
        results.add(CATCH_UP, who, 0, arrivals.rate());
    } else {
        let Arrivals { repeated, out_of_order, corrupted, .. } = arrivals;
        println!(
            "catch-up: {who} is not counted: {lost} lost, {repeated} repeated, \
             {out_of_order} out of order, {corrupted} corrupted"
        );
    }
}

/// Fills nf-sender's spool, then starts nf-receiver.
fn caught_up(total: u64) -> (Arrivals, [(&'static str, Memory, u64); 2]) {
    let sink = Sink::start();
    let mut pair = BenchPair::new(sink.addr(), None, Buffer::Permitted);
    pair.sender.host.set_receiver(None);
    pair.sender.host.start();
    let timetable = Timetable::new(next_run(), total);
    let mut generator = Generator::new(EXPORTERS, &[pair.input()], Sending::Plain);
    sink.begin(&timetable, generator.sequences());
    let udp = pair.sender.host.udp();
    generator.flood(&timetable, FILL_LOOKS, || wait_while(|| udp.kernel().queued > udp.capacity() / 4));
    pair.sender.host.wait_status(STALL, |status| samples::count(status, "/queued/datagrams") == total);
    pair.receiver.start();
    pair.sender.host.set_toml(&format!("receivers = [\"{}\"]\n{}", pair.receiver.addr(), pair::SETTINGS));
    pair.sender.host.daemon().reload();
    sink.wait_for_all(STALL);
    let [sender, receiver] = pair.processes().map(|process| (process.name, process.memory()));
    let journal = pair.sender.journal();
    (sink.arrivals(), [(sender.0, sender.1, journal), (receiver.0, receiver.1, 0)])
}

/// Sends prepared datagrams as fast as the sink reads them.
fn bare(sending: Sending, total: u64) -> Arrivals {
    let sink = Sink::start();
    let timetable = Timetable::new(next_run(), total);
    let mut generator = Generator::new(1, &[sink.addr()], sending);
    sink.begin(&Arc::clone(&timetable), generator.sequences());
    generator.flood(&timetable, SINK_LOOKS, || wait_while(|| sink.queued() > sink.capacity() / 2));
    sink.wait_for_all(STALL);
    sink.arrivals()
}

fn wait_while(is_full: impl Fn() -> bool) {
    while is_full() {
        std::thread::sleep(Duration::from_micros(200));
    }
}
