//! Delivery from nf-receiver to a collector on the same machine. Its socket never overflows, even with a
//! large backlog and a slow collector.

use std::net::UdpSocket;
use std::time::Duration;

use nf_transport_kit::chatter::{LARGE, MIXED, Pattern};
use nf_transport_kit::collector::{Collector, Reading, ReadingPace};
use nf_transport_kit::hosts::QUICK_SENDER;
use nf_transport_kit::load::Until;
use nf_transport_kit::pair::{Pair, STALL};
use nf_transport_kit::samples::count;

use crate::isolation::alone;

/// Datagrams in the backlog.
const BACKLOG: u32 = 100_000;

/// A collector that handles 20,000 datagrams a second: about the speed of one core with datagrams of 13
/// flows. The kit's exporters and nf-receiver send several times as fast.
const BUSY: ReadingPace = ReadingPace::Work(Duration::from_micros(50));

/// Exporters of all three versions.
const EXPORTERS: u16 = 3;

/// Sends each exporter's datagrams 0 to `sent` to the collector by one `sendto` after the other, as
/// samplicator does. Returns the number of datagrams dropped at the collector's socket.
fn dropped_by_plain_sending(pattern: Pattern, sent: &[u32]) -> u64 {
    let collector = Collector::start_reading("127.0.0.1:0", EXPORTERS, pattern, Reading::by_default(BUSY));
    let highest = *sent.iter().max().unwrap();
    let each =
        |number| (0..).zip(sent).filter(move |(_, sent)| number < **sent).map(|(exporter, _)| exporter);
    let made = |(exporter, number)| {
        let mut payload = Vec::new();
        pattern.datagram(exporter, number, &mut payload);
        payload
    };
    let all = (0..highest).flat_map(|number| each(number).map(move |exporter| (exporter, number)));
    let payloads: Vec<Vec<u8>> = all.map(made).collect();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    for payload in &payloads {
        assert_eq!(socket.send_to(payload, collector.addr()).unwrap(), payload.len());
    }
    collector.wait_until_drained();
    collector.kernel().dropped
}

#[test]
fn a_backlog_does_not_overrun_the_collector() {
    let _running = alone();
    let pattern = Pattern::new(MIXED);
    let collector = Collector::start_reading("127.0.0.1:0", EXPORTERS, pattern, Reading::by_default(BUSY));
    let capacity = collector.capacity();
    let mut pair = Pair::around(collector, EXPORTERS, pattern, QUICK_SENDER);
    pair.link.cut();
    pair.receiver.start();
    pair.sender.start();
    let exporters = pair.load(None, Until::Sent(BACKLOG.into())).finish();
    pair.sender.wait_status(STALL, |status| count(status, "/queued/datagrams") == u64::from(BACKLOG));

    pair.link.restore();
    pair.assert_all_arrive(&exporters, true);
    let dropped = pair.collector.kernel().dropped;
    let by_plain_sending = dropped_by_plain_sending(pattern, exporters.sent());
    println!(
        "{BACKLOG} datagrams into a socket with {capacity} bytes of buffer: {dropped} dropped through \
         the pair, {by_plain_sending} by plain sending"
    );
    assert_eq!(pair.receiver.status()["collectors"][0]["socket_drops"], 0);
    assert_eq!(dropped, 0);
    assert!(by_plain_sending > u64::from(BACKLOG) / 2, "plain sending lost only {by_plain_sending}");
}

#[test]
fn datagrams_for_a_slow_collector_are_spooled() {
    const ARRIVING: u32 = 1000;
    const READ: u32 = ARRIVING - 20;
    const SECONDS: u32 = 30;
    let _running = alone();
    let pattern = Pattern::new(LARGE);
    let reading = Reading::by_default(ReadingPace::PerSecond(READ));
    let collector = Collector::start_reading("127.0.0.1:0", EXPORTERS, pattern, reading);
    let capacity = u64::try_from(collector.capacity()).unwrap();
    let mut pair = Pair::around(collector, EXPORTERS, pattern, QUICK_SENDER);
    pair.receiver.start();
    pair.sender.start();
    pair.sender.wait_state("connected", STALL);
    let load = pair.load(Some(ARRIVING), Until::Sent(u64::from(ARRIVING * SECONDS)));
    let (mut waiting, mut fullest) = (Vec::new(), 0);
    for second in 1..=SECONDS {
        while load.sent() < u64::from(ARRIVING * second) {
            fullest = fullest.max(pair.collector.kernel().queued);
            std::thread::sleep(Duration::from_millis(2));
        }
        waiting.push(count(&pair.sender.status(), "/queued/datagrams"));
    }
    let exporters = load.finish();
    pair.assert_all_arrive(&exporters, true);
    println!(
        "waiting in the spool at the ends of the seconds: {waiting:?}; at most {fullest} of {capacity} bytes \
         in the collector's socket, {} dropped there",
        pair.collector.kernel().dropped
    );
    // Half of the buffer holds 41 datagrams of this size. The other unread datagrams are queued at the
    // sender.
    let behind = u64::from((ARRIVING - READ) * SECONDS);
    let (half_way, end) = (waiting[waiting.len() / 2], waiting[waiting.len() - 1]);
    assert!(end >= behind / 2 && end > half_way, "{waiting:?}");
    assert!(fullest <= capacity / 2, "{fullest} of {capacity} bytes");
}
