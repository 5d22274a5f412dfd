//! `ingest`: the highest rate that is taken without loss while the link is down, beside a bare loop that only receives.
//! Both have the GSO generator, as there is no sink to make room for.

use std::time::Duration;

use nf_transport_kit::samples;

use crate::bare::Bare;
use crate::generator::{Generator, Sending, Timetable};
use crate::modes::GENERATOR;
use crate::numbers::count;
use crate::pair::Sender;
use crate::results::Results;
use crate::run::{EXPORTERS, WARM_UP_RATE, WARM_UP_SECONDS, next_run};
use crate::search;
use crate::settings::Settings;

/// Topic: datagrams a second.
pub(crate) const INGEST: &str = "ingest";

/// Who is measured.
pub(crate) const SENDER: &str = "nf-sender, link down";
pub(crate) const BARE: &str = "bare recvmmsg loop";

/// Nobody listens there: TCP's discard port.
pub(crate) const NOWHERE: ([u8; 4], u16) = ([127, 0, 0, 1], 9);

/// Where the first search begins, datagrams a second.
const START: f64 = 150_000.0;

/// After this time all must be taken, or it only lies in the socket.
const PROMPT: Duration = Duration::from_millis(150);

/// What came of a probe.
struct Probe {
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
            let Probe { total, taken, dropped, kept } = measure(rate, settings.probe);
            let words =
                format!("{rate:>7.0}/s: {total} sent, {taken} taken, {dropped} dropped, rate kept: {kept}");
            settings.note(who, &words);
            let is_taken = total == taken && dropped == 0;
            is_generator = if is_taken && kept { is_generator } else { is_taken };
            is_taken && kept
        });
        results.add(INGEST, who, 0, highest);
        results.add(GENERATOR, who, 0, f64::from(u8::from(is_generator)));
    }
}

/// nf-sender, with all that it received in the spool.
fn sender(rate: f64, seconds: f64) -> Probe {
    let mut sender = Sender::new("edge", NOWHERE.into());
    sender.host.start();
    let udp = sender.host.udp();
    let mut generator = Generator::new(EXPORTERS, &[udp.addr()], Sending::Gso);
    let warmed = send(&mut generator, WARM_UP_RATE, WARM_UP_SECONDS).0;
    let (sent, kept) = send(&mut generator, rate, seconds);
    std::thread::sleep(PROMPT);
    let status = sender.host.status();
    let taken = ["/received/datagrams", "/queued/datagrams"].map(|place| samples::count(&status, place));
    Probe { total: warmed + sent, taken: taken[0].min(taken[1]), dropped: udp.dropped(), kept }
}

/// The loop that counts, and does nothing else.
fn bare(rate: f64, seconds: f64) -> Probe {
    let bare = Bare::start(None, Sending::Plain);
    let mut generator = Generator::new(EXPORTERS, &[bare.addr()], Sending::Gso);
    let warmed = send(&mut generator, WARM_UP_RATE, WARM_UP_SECONDS).0;
    let (sent, kept) = send(&mut generator, rate, seconds);
    std::thread::sleep(PROMPT);
    let dropped = bare.kernel().dropped;
    Probe { total: warmed + sent, taken: bare.finish(), dropped, kept }
}

/// How many were sent, and whether the rate was kept.
fn send(generator: &mut Generator, rate: f64, seconds: f64) -> (u64, bool) {
    let timetable = Timetable::new(next_run(), count(rate * seconds));
    let sent = generator.run(&timetable, rate);
    (timetable.total(), sent.kept)
}
