//! `ingest`: the highest rate that nf-sender receives without loss while the link is down, compared with a
//! bare loop that only receives. Both use the GSO generator, since there is no sink that needs CPU time.

use std::time::Duration;

use nf_transport_kit::samples;

use crate::bare::Bare;
use crate::generator::{Generator, Sending, TICK, Timetable};
use crate::modes::GENERATOR;
use crate::numbers::count;
use crate::pair::Sender;
use crate::relay::Buffer;
use crate::results::Results;
use crate::run::{EXPORTERS, WARM_UP_RATE, WARM_UP_SECONDS, next_run};
use crate::search;
use crate::settings::Settings;

/// Topic: datagrams per second.
pub(crate) const INGEST: &str = "ingest";

/// Subjects.
pub(crate) const SENDER: &str = "nf-sender, link down";
pub(crate) const BARE: &str = "bare recvmmsg loop";

/// TCP's discard port, where nothing listens.
pub(crate) const NOWHERE: ([u8; 4], u16) = ([127, 0, 0, 1], 9);

/// Start of the first search, in datagrams per second.
const START: f64 = 150_000.0;

/// Longest time until all datagrams are received. Later ones were only waiting in the socket.
const PROMPT: Duration = Duration::from_millis(150);

/// Result of a probe.
struct IngestProbe {
    total: u64,
    taken: u64,
    dropped: u64,
    kept: bool,
}

pub(crate) fn turn(settings: &Settings, results: &mut Results) {
    for who in [SENDER, BARE] {
        let measure = if who == SENDER { sender } else { bare };
        let mut is_generator = false;
        let highest = search::highest(results.median(INGEST, who, 0), START, |rate| {
            let IngestProbe { total, taken, dropped, kept } = measure(rate, settings.probe);
            let line =
                format!("{rate:>7.0}/s: {total} sent, {taken} taken, {dropped} dropped, rate kept: {kept}");
            settings.print_run(who, &line);
            let is_taken = total == taken && dropped == 0;
            is_generator = if is_taken && kept { is_generator } else { is_taken };
            is_taken && kept
        });
        results.add(INGEST, who, 0, highest);
        results.add(GENERATOR, who, 0, f64::from(u8::from(is_generator)));
    }
}

/// Measures nf-sender. Every received datagram must be in the spool.
fn sender(rate: f64, seconds: f64) -> IngestProbe {
    let mut sender = Sender::new("edge", NOWHERE.into(), Buffer::Permitted);
    sender.host.start();
    let udp = sender.host.udp();
    let mut generator = Generator::new(EXPORTERS, &[udp.addr()], Sending::Gso);
    let warmed = send(&mut generator, WARM_UP_RATE, WARM_UP_SECONDS).0;
    let (sent, kept) = send(&mut generator, rate, seconds);
    std::thread::sleep(PROMPT);
    let status = sender.host.status();
    let taken = ["/received/datagrams", "/queued/datagrams"].map(|place| samples::count(&status, place));
    IngestProbe { total: warmed + sent, taken: taken[0].min(taken[1]), dropped: udp.dropped(), kept }
}

/// Measures the loop that only counts.
fn bare(rate: f64, seconds: f64) -> IngestProbe {
    let bare = Bare::start(None, Sending::Plain, Buffer::Permitted);
    let mut generator = Generator::new(EXPORTERS, &[bare.addr()], Sending::Gso);
    let warmed = send(&mut generator, WARM_UP_RATE, WARM_UP_SECONDS).0;
    let (sent, kept) = send(&mut generator, rate, seconds);
    std::thread::sleep(PROMPT);
    let dropped = bare.kernel().dropped;
    IngestProbe { total: warmed + sent, taken: bare.finish(), dropped, kept }
}

/// Sends at this rate. Returns the number of sent datagrams and whether the rate was kept.
fn send(generator: &mut Generator, rate: f64, seconds: f64) -> (u64, bool) {
    let timetable = Timetable::new(next_run(), count(rate * seconds));
    let sent = generator.run(&timetable, rate, TICK);
    (timetable.total(), sent.kept)
}
