use core::net::SocketAddr;
use core::time::Duration;
use std::net::UdpSocket;
use std::sync::Arc;
use std::thread::JoinHandle;

use nf_transport_core::batch::{BatchBuilder, BatchError, Compression, Records};
use nf_transport_core::datagram::{Datagram, Timestamp};
use nf_transport_core::limits::PAYLOAD_MAX;
use nf_transport_core::prefixes::Prefixes;
use nf_transport_core::sequence::{Gap, GapReason, Position, StreamId};
use rand::{RngExt, SeedableRng};

use super::*;
use crate::receiver::output::ResolvedCollector;
use crate::receiver::state::templates::{netflow_9, test_sender};
use crate::status::CollectorState;

/// `payloads` as batches.
fn batches(payloads: &[Vec<u8>]) -> Vec<Records> {
    let exporter = "192.0.2.1:4000".parse().unwrap();
    let local = "192.0.2.2:2055".parse().unwrap();
    let mut builder = BatchBuilder::new(StreamId([1; 16]), Compression::None);
    let mut batches = Vec::new();
    for payload in payloads {
        let datagram = Datagram { exporter, local, arrival: Timestamp(0), payload };
        if builder.push(&datagram).is_err() {
            batches.push(builder.finish(Position(0)).unwrap().records().unwrap());
            builder.push(&datagram).unwrap();
        }
    }
    batches.extend(builder.finish(Position(0)).map(|batch| batch.records().unwrap()));
    batches
}

/// Payloads of `length` bytes that contain their number.
fn numbered(count: u32, length: usize) -> Vec<Vec<u8>> {
    let numbered = |number: u32| {
        let mut payload = number.to_be_bytes().to_vec();
        payload.resize(length, 0);
        payload
    };
    (0..count).map(numbered).collect()
}

/// 2,000 numbered payloads whose last byte is `sender`.
fn signed(sender: u8) -> Vec<Vec<u8>> {
    let mut payloads = numbered(2000, 300);
    for payload in &mut payloads {
        payload[299] = sender;
    }
    payloads
}

fn collector(address: &str) -> UdpSocket {
    let socket = UdpSocket::bind(address).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    socket
}

/// Reads `count` datagrams, with a pause after every `burst` of them.
fn read_slowly(socket: UdpSocket, count: usize, burst: usize) -> JoinHandle<Vec<Vec<u8>>> {
    std::thread::spawn(move || {
        let mut buffer = vec![0; 65_536];
        let mut read = Vec::new();
        while read.len() < count {
            let Ok(length) = socket.recv(&mut buffer) else { break };
            read.push(buffer[..length].to_vec());
            if read.len().is_multiple_of(burst) {
                std::thread::sleep(Duration::from_millis(3));
            }
        }
        read
    })
}

/// A delivery to `outputs`, which have everything below `position`.
fn begun(position: u64, outputs: &Outputs) -> Delivery {
    Delivery::new(test_sender(), Position(position), None, outputs, &HashMap::new())
}

/// A batch whose sender may deliver datagrams of all exporters.
fn pending(first: Position, end: Position, first_new: Position, records: Records) -> PendingBatch {
    PendingBatch { first, end, first_new, records: Ok(records), exporters: Prefixes::default() }
}

/// Queues the next batch of the stream.
fn push(delivery: &mut Delivery, records: Records) {
    let first = Position(delivery.received_up_to.0);
    let count = u64::try_from(records.iter().count()).unwrap();
    delivery.push(pending(first, first.plus(count), first, records));
}

/// A delivery of the first batch of the stream, of which all collectors have `done` datagrams.
fn begun_within(records: Records, done: u64, outputs: &Outputs) -> Delivery {
    let mut delivery = begun(done, outputs);
    let count = u64::try_from(records.iter().count()).unwrap();
    let (first, end, first_new) = (Position(0), Position(count), Position(done));
    delivery.push(pending(first, end, first_new, records));
    delivery
}

async fn deliver_all(outputs: &Outputs, payloads: &[Vec<u8>]) {
    let mut delivery = begun(0, outputs);
    for records in batches(payloads) {
        push(&mut delivery, records);
        delivery.run().await;
        delivery.settle();
    }
}

#[tokio::test]
async fn every_length_arrives_byte_for_byte() {
    let payloads: Vec<Vec<u8>> =
        [0, 1, 1464, 0, 9000, PAYLOAD_MAX, 3].iter().map(|length| vec![0xA5; *length]).collect();
    let sockets = ["127.0.0.1:0", "[::1]:0", "0.0.0.0:0"].map(collector);
    let port = sockets[2].local_addr().unwrap().port();
    let addresses = [
        sockets[0].local_addr().unwrap(),
        sockets[1].local_addr().unwrap(),
        SocketAddr::new("127.0.0.1".parse().unwrap(), port),
    ];
    let outputs = Outputs::to(&addresses);
    let readers = sockets.map(|socket| read_slowly(socket, payloads.len(), 1));
    deliver_all(&outputs, &payloads).await;
    for reader in readers {
        assert_eq!(reader.join().unwrap(), payloads);
    }
    let bytes: usize = payloads.iter().map(Vec::len).sum();
    for (counters, address) in outputs.figures().iter().zip(addresses) {
        assert_eq!(counters.address, address);
        assert_eq!(counters.counts.datagrams, 7);
        assert_eq!(counters.counts.bytes, u64::try_from(bytes).unwrap());
        assert_eq!(counters.held_s, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_collector_loses_nothing() {
    let payloads = numbered(20_000, 1000);
    let socket = collector("127.0.0.1:0");
    let outputs = Outputs::to(&[socket.local_addr().unwrap()]);
    let keep_open = socket.try_clone().unwrap();
    let reader = read_slowly(socket, payloads.len(), 200);
    deliver_all(&outputs, &payloads).await;
    assert!(reader.join().unwrap() == payloads, "lost, repeated or out of order");
    let counters = outputs.figures();
    assert_eq!((counters[0].state, counters[0].counts.socket_drops), (CollectorState::Up, 0));
    drop(keep_open);
}

#[tokio::test(start_paused = true)]
async fn held_datagrams_arrive_in_order() {
    let payloads = numbered(500, 200);
    let address = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let outputs = Outputs::to(&[address]);
    let mut delivery = Box::pin(deliver_all(&outputs, &payloads));
    tokio::time::timeout(Duration::from_secs(60), &mut delivery).await.unwrap_err();
    let counters = outputs.figures().remove(0);
    assert_eq!((counters.state, counters.counts.datagrams), (CollectorState::Down, 0));
    let reader = read_slowly(collector(&address.to_string()), payloads.len(), 100);
    delivery.await;
    assert_eq!(reader.join().unwrap(), payloads);
    assert_eq!(outputs.figures()[0].counts.datagrams, 500);
}

#[tokio::test(start_paused = true)]
async fn a_changed_set_of_collectors_repeats_nothing() {
    let payloads = numbered(50, 200);
    let [stays, comes] = ["127.0.0.1:0", "127.0.0.1:0"].map(collector);
    let [stays_at, comes_at] = [&stays, &comes].map(|socket| socket.local_addr().unwrap());
    let absent = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let outputs = Outputs::to(&[stays_at, absent]);
    let mut delivery = begun_within(batches(&payloads).remove(0), 10, &outputs);
    tokio::time::timeout(Duration::from_secs(5), delivery.run()).await.unwrap_err();
    assert_eq!(delivery.progress().collect::<Vec<_>>(), [(stays_at, Position(50)), (absent, Position(10))]);

    delivery
        .change(&outputs.changed_to(&[comes_at, stays_at].map(|address| ResolvedCollector::at(&address))));
    assert_eq!(delivery.position().0, 10);
    delivery.run().await;
    assert_eq!(delivery.position().0, 50);
    for (socket, count) in [(stays, 40), (comes, 40)] {
        assert_eq!(read_slowly(socket, count, count).join().unwrap(), payloads[10..]);
    }
}

#[tokio::test]
async fn a_cancelled_delivery_resumes_exactly() {
    let mut random = rand::rngs::StdRng::seed_from_u64(7);
    let payloads = numbered(5000, 1200);
    let sockets = ["127.0.0.1:0", "[::1]:0"].map(collector);
    let addresses = [0, 1].map(|index| sockets[index].local_addr().unwrap());
    let outputs = Outputs::to(&addresses);
    let bursts = [100, 333];
    let mut bursts = bursts.iter();
    let readers = sockets.map(|socket| read_slowly(socket, payloads.len(), *bursts.next().unwrap()));
    let mut dropped = 0;
    let mut delivery = begun(0, &outputs);
    for records in batches(&payloads) {
        let mut before = delivery.position().0;
        push(&mut delivery, records);
        let end = delivery.received_up_to.0;
        while delivery.position().0 < end {
            let patience = Duration::from_micros(random.random_range(0..1500));
            let whole = tokio::time::timeout(patience, delivery.run()).await;
            dropped += u32::from(whole.is_err());
            assert!(delivery.position().0 >= before);
            before = delivery.position().0;
        }
        delivery.settle();
    }
    for reader in readers {
        assert!(reader.join().unwrap() == payloads, "lost, repeated or out of order");
    }
    assert!(dropped > 10, "{dropped}");
}

#[tokio::test]
async fn a_restart_skips_delivered_datagrams() {
    let payloads = numbered(10, 20);
    let socket = collector("127.0.0.1:0");
    let outputs = Outputs::to(&[socket.local_addr().unwrap()]);
    let mut delivery = begun_within(batches(&payloads).remove(0), 4, &outputs);
    assert_eq!(delivery.position().0, 4);
    delivery.run().await;
    assert_eq!(delivery.position().0, 10);
    assert_eq!(read_slowly(socket, 6, 10).join().unwrap(), payloads[4..]);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_sender_keeps_its_order_at_one_collector() {
    let socket = collector("127.0.0.1:0");
    let outputs = Arc::new(Outputs::to(&[socket.local_addr().unwrap()]));
    let reader = read_slowly(socket, 4 * 2000, 500);
    let senders: Vec<_> = (1u8..=4)
        .map(|sender| {
            let outputs = Arc::clone(&outputs);
            let payloads = signed(sender);
            tokio::spawn(async move { deliver_all(&outputs, &payloads).await })
        })
        .collect();
    for sender in senders {
        sender.await.unwrap();
    }
    let read = reader.join().unwrap();
    for sender in 1..=4 {
        let of_sender: Vec<_> = read.iter().filter(|payload| payload[299] == sender).cloned().collect();
        assert!(of_sender == signed(sender), "lost, repeated or out of order");
    }
}

/// Outputs to `hold` and `skip`, with these settings.
fn of_both_kinds(hold: SocketAddr, skip: SocketAddr) -> Outputs {
    let mut skipping = ResolvedCollector::at(&skip);
    skipping.settings.when_down = WhenDown::Skip;
    Outputs::to(&[]).changed_to(&[ResolvedCollector::at(&hold), skipping])
}

/// Batches of 100 datagrams of 1,000 bytes, more than fit in two lanes, and all payloads.
fn long_stream() -> (Vec<Records>, Vec<Vec<u8>>) {
    let payloads = numbered(3000, 1000);
    (batches(&payloads), payloads)
}

fn nobody() -> SocketAddr {
    UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// Queues the next batch of the stream, and delivers until another one may follow.
async fn push_and_make_way(delivery: &mut Delivery, records: Records) {
    push(delivery, records);
    while !delivery.may_take_more() {
        delivery.run().await;
        delivery.settle();
    }
}

/// Delivers until there is no progress any more.
async fn run_to_the_end(delivery: &mut Delivery) {
    while delivery.is_under_way() {
        if tokio::time::timeout(Duration::from_millis(300), delivery.run()).await.is_err() {
            break;
        }
        delivery.settle();
    }
}

#[tokio::test]
async fn holding_does_not_delay_collectors_that_skip() {
    let (stream, payloads) = long_stream();
    let skip = collector("127.0.0.1:0");
    let absent = nobody();
    let outputs = of_both_kinds(absent, skip.local_addr().unwrap());
    let reader = read_slowly(skip, payloads.len(), 1000);
    let mut delivery = begun(0, &outputs);
    for records in stream {
        push_and_make_way(&mut delivery, records).await;
        assert!(delivery.holding.bytes <= LANE_MAX + 66_000 && delivery.skipping.bytes <= LANE_MAX + 66_000);
    }
    run_to_the_end(&mut delivery).await;
    assert!(reader.join().unwrap() == payloads, "lost, repeated or out of order");
    assert_eq!((delivery.position(), delivery.settled()), (Position(0), Position(0)));
    assert_eq!(outputs.figures()[1].counts.skipped, 0);
    assert!(delivery.is_behind());
    assert_eq!(delivery.wanted_resend(), None, "there is no room before the collector is back");
}

/// Outputs to these, all set to skip.
fn skipping(addresses: [SocketAddr; 2]) -> Outputs {
    let collectors = addresses.map(|address| {
        let mut resolved = ResolvedCollector::at(&address);
        resolved.settings.when_down = WhenDown::Skip;
        resolved
    });
    Outputs::to(&[]).changed_to(&collectors)
}

#[tokio::test]
async fn a_down_collector_sets_no_pace() {
    let (stream, payloads) = long_stream();
    let slow = collector("127.0.0.1:0");
    let outputs = skipping([nobody(), slow.local_addr().unwrap()]);
    let reader = read_slowly(slow, payloads.len(), 50);
    let mut delivery = begun(0, &outputs);
    for records in stream {
        push_and_make_way(&mut delivery, records).await;
    }
    run_to_the_end(&mut delivery).await;
    assert_eq!(outputs.figures()[1].counts.skipped, 0);
    assert!(reader.join().unwrap() == payloads, "lost, repeated or out of order");
}

#[tokio::test]
async fn a_new_skipping_collector_starts_at_the_end() {
    let (stream, _) = long_stream();
    let (skip, absent) = (collector("127.0.0.1:0"), nobody());
    let both = of_both_kinds(absent, skip.local_addr().unwrap());
    let reader = read_slowly(skip, usize::MAX, 1000);
    let mut delivery = begun(0, &both);
    let mut stream = stream.into_iter();
    while !delivery.is_behind() {
        push(&mut delivery, stream.next().unwrap());
        run_to_the_end(&mut delivery).await;
    }
    let front = delivery.received_up_to();
    delivery.change(&both.changed_to(&[ResolvedCollector::at(&absent)]));
    delivery.change(&both);
    assert_eq!((delivery.skipping.position(), delivery.skip_position()), (Some(front), Some(front)));
    let skipping = skipping([absent, both.figures()[1].address]);
    delivery.change(&skipping);
    assert_eq!(skipping.figures()[0].counts.skipped, front.0, "it was waited for until now");
    drop((delivery, reader));
}

#[tokio::test]
async fn only_a_returning_collector_gets_resends() {
    let (stream, payloads) = long_stream();
    let skip = collector("127.0.0.1:0");
    let absent = nobody();
    let outputs = of_both_kinds(absent, skip.local_addr().unwrap());
    let skip_reader = read_slowly(skip, payloads.len(), 1000);
    let mut delivery = begun(0, &outputs);
    for records in &stream {
        push(&mut delivery, records.clone());
        while !delivery.may_take_more() {
            delivery.run().await;
        }
    }
    let hold_reader = read_slowly(collector(&absent.to_string()), payloads.len(), 1000);
    while delivery.position() < Position(3000) {
        delivery.run().await;
        delivery.settle();
        let Some((first, bytes)) = delivery.wanted_resend() else { continue };
        let (mut place, mut room) = (Position(0), usize::try_from(bytes).unwrap());
        for records in &stream {
            let end = place.plus(u64::try_from(records.iter().count()).unwrap());
            if place >= first && room > 0 {
                room = room.saturating_sub(records.len());
                delivery.push_resent(pending(place, end, place, records.clone()));
            }
            place = end;
        }
    }
    delivery.settle();
    assert!(!delivery.is_behind() && delivery.is_even());
    assert_eq!(delivery.settled(), Position(3000));
    assert!(hold_reader.join().unwrap() == payloads, "lost, repeated or out of order");
    assert!(skip_reader.join().unwrap() == payloads, "lost, repeated or out of order");
    assert_eq!(outputs.figures()[1].counts.datagrams, 3000);
}

#[tokio::test]
async fn a_stuck_skipping_collector_delays_nobody() {
    let (stream, payloads) = long_stream();
    let hold = collector("127.0.0.1:0");
    // Its socket exists, and it reads nothing.
    let stuck = collector("127.0.0.1:0");
    let outputs = of_both_kinds(hold.local_addr().unwrap(), stuck.local_addr().unwrap());
    let reader = read_slowly(hold, payloads.len(), 1000);
    let mut delivery = begun(0, &outputs);
    for records in stream {
        push_and_make_way(&mut delivery, records).await;
    }
    while delivery.position() < Position(3000) {
        delivery.run().await;
        delivery.settle();
    }
    assert!(reader.join().unwrap() == payloads, "lost, repeated or out of order");
    let [_, stuck] = outputs.figures().try_into().unwrap();
    let waiting: u64 = delivery.skipping.batches.iter().map(|batch| batch.end.since(batch.first)).sum();
    let partly = stuck.counts.datagrams + stuck.counts.skipped;
    assert!(stuck.counts.skipped > 1000 && partly + waiting >= 3000, "{stuck:?}, {waiting} waiting");
}

#[tokio::test]
async fn after_a_lost_link_each_collector_resumes() {
    let skip = collector("127.0.0.1:0");
    let outputs = of_both_kinds(nobody(), skip.local_addr().unwrap());
    let payloads = numbered(50, 100);
    let mut delivery = begun(0, &outputs);
    push(&mut delivery, batches(&payloads).remove(0));
    run_to_the_end(&mut delivery).await;
    assert_eq!(delivery.skip_position(), Some(Position(50)));
    assert_eq!(delivery.suspend(), Settled::default());
    delivery.resume(Position(0));
    assert_eq!((delivery.position(), delivery.received_up_to()), (Position(0), Position(50)));
    assert!(delivery.is_behind());
    assert_eq!(delivery.wanted_resend().unwrap().0, Position(0));
    let again = Delivery::new(test_sender(), Position(0), Some(Position(50)), &outputs, &HashMap::new());
    assert_eq!((again.position(), again.received_up_to()), (Position(0), Position(50)));
}

/// A datagram that defines template 256 with one field of this length.
fn defining(length: u8) -> Vec<u8> {
    let mut payload = netflow_9(true);
    *payload.last_mut().unwrap() = length;
    payload
}

/// All datagrams that `socket` has received.
fn received(socket: &UdpSocket) -> Vec<Vec<u8>> {
    socket.set_nonblocking(true).unwrap();
    let mut buffer = [0; 2048];
    core::iter::from_fn(|| socket.recv(&mut buffer).ok().map(|length| buffer[..length].to_vec())).collect()
}

/// The lengths of the field of template 256, as these payloads define it; `None` for others.
fn definitions(payloads: &[Vec<u8>]) -> Vec<Option<u8>> {
    payloads.iter().map(|payload| (payload[20..22] == [0, 0]).then(|| payload[31])).collect()
}

/// Two collectors get a definition. Then one of them is down while it changes, and back afterwards. Returns
/// the definitions that each one gets after that.
async fn redefined_while_away(when_down: [WhenDown; 2]) -> [Vec<Option<u8>>; 2] {
    let [stays, leaves] = ["127.0.0.1:0", "127.0.0.1:0"].map(collector);
    let addresses = [&stays, &leaves].map(|socket| socket.local_addr().unwrap());
    let mut resolved = addresses.map(|address| ResolvedCollector::at(&address));
    for (resolved, when_down) in resolved.iter_mut().zip(when_down) {
        resolved.settings.when_down = when_down;
    }
    let outputs = Outputs::to(&[]).changed_to(&resolved);
    let mut delivery = begun(0, &outputs);
    push(&mut delivery, batches(&[defining(4)]).remove(0));
    run_to_the_end(&mut delivery).await;
    assert_eq!([&stays, &leaves].map(|socket| received(socket).len()), [1, 1]);
    drop(leaves);
    let data = netflow_9(false);
    push(&mut delivery, batches(&[data.clone(), defining(8), data]).remove(0));
    for _ in 0..3 {
        tokio::time::timeout(Duration::from_millis(200), delivery.run()).await.ok();
    }
    let back = collector(&addresses[1].to_string());
    run_to_the_end(&mut delivery).await;
    [&back, &stays].map(|socket| definitions(&received(socket)))
}

#[tokio::test]
async fn a_returning_collector_gets_its_own_templates() {
    for when_down in [[WhenDown::Hold; 2], [WhenDown::Skip, WhenDown::Hold]] {
        let [back, stayed] = redefined_while_away(when_down).await;
        assert_eq!(back, [Some(4), None, Some(8), None], "{when_down:?}");
        assert_eq!(stayed, [None, Some(8), None], "{when_down:?}: no repeats");
    }
}

#[tokio::test]
async fn an_unrelated_collector_teaches_nothing() {
    let [stays, leaves] = ["127.0.0.1:0", "127.0.0.1:0"].map(collector);
    let [stays_at, leaves_at] = [&stays, &leaves].map(|socket| socket.local_addr().unwrap());
    let mut others = ResolvedCollector::at(&stays_at);
    others.settings.exporters = vec!["198.51.100.0/24".parse().unwrap()];
    let outputs = Outputs::to(&[]).changed_to(&[others, ResolvedCollector::at(&leaves_at)]);
    let mut delivery = begun(0, &outputs);
    push(&mut delivery, batches(&[defining(4)]).remove(0));
    run_to_the_end(&mut delivery).await;
    drop(leaves);
    let data = netflow_9(false);
    push(&mut delivery, batches(&[data.clone(), defining(8), data]).remove(0));
    tokio::time::timeout(Duration::from_millis(300), delivery.run()).await.unwrap_err();
    let back = collector(&leaves_at.to_string());
    run_to_the_end(&mut delivery).await;
    assert_eq!(definitions(&received(&back)), [Some(4), None, Some(8), None]);
    assert!(received(&stays).is_empty());
}

#[tokio::test]
async fn datagrams_without_any_collector_are_settled() {
    let outputs = Outputs::to(&[]);
    let mut delivery = begun(0, &outputs);
    push(&mut delivery, batches(&numbered(3, 10)).remove(0));
    let settled = delivery.settle();
    assert_eq!((settled.delivered.datagrams, delivery.settled()), (3, Position(3)));
    assert_eq!(delivery.settle(), Settled::default());
}

#[tokio::test]
async fn a_delivery_resumes_among_dropped_datagrams() {
    let live = [true, false, true, true, false, false, true, false];
    let payloads = numbered(8, 100);
    for done in 0..8 {
        let socket = collector("127.0.0.1:0");
        let outputs = Outputs::to(&[socket.local_addr().unwrap()]);
        let mut builder = BatchBuilder::new(StreamId([1; 16]), Compression::None);
        for (payload, is_live) in payloads.iter().zip(live) {
            let (exporter, local) = ("192.0.2.1:4000".parse().unwrap(), "192.0.2.2:2055".parse().unwrap());
            let datagram = Datagram { exporter, local, arrival: Timestamp(0), payload };
            if is_live {
                builder.push(&datagram).unwrap();
            } else {
                builder.push_dropped(Timestamp(0)).unwrap();
            }
        }
        let batch = builder.finish(Position(0)).unwrap();
        let mut delivery = begun(done, &outputs);
        let (first, end, first_new) = (batch.first(), batch.end(), Position(done));
        let (records, exporters) = (Ok(batch.records().unwrap()), Prefixes::default());
        delivery.push(PendingBatch { first, end, first_new, records, exporters });
        delivery.run().await;
        let settled = delivery.settle();
        assert_eq!(delivery.settled(), Position(8), "dropped datagrams hold nothing up");
        let expected: Vec<Vec<u8>> = (0..8)
            .filter(|place| *place >= usize::try_from(done).unwrap() && live[*place])
            .map(|place| payloads[place].clone())
            .collect();
        assert_eq!(settled.delivered.datagrams, u64::try_from(expected.len()).unwrap());
        assert_eq!(read_slowly(socket, expected.len(), 8).join().unwrap(), expected, "from {done}");
    }
}

#[tokio::test]
async fn a_repeated_batch_is_counted_once() {
    let socket = collector("127.0.0.1:0");
    let mut of_others = ResolvedCollector::at(&socket.local_addr().unwrap());
    of_others.settings.exporters = vec!["198.51.100.0/24".parse().unwrap()];
    let outputs = Outputs::to(&[]).changed_to(&[of_others]);
    let mut delivery = begun(0, &outputs);
    let gap = Gap { first: Position(5), end: Position(8), reason: GapReason::Corrupt };
    let mut settled = Settled::default();
    for connection in 0..4 {
        push(&mut delivery, batches(&numbered(5, 100)).remove(0));
        delivery.push(PendingBatch::of_gap(gap));
        let cause = LossCause::Unreadable(BatchError::Records);
        let (first, end, exporters) = (Position(8), Position(10), Prefixes::default());
        delivery.push(PendingBatch { first, end, first_new: first, records: Err(cause), exporters });
        let unused = Gap { first: Position(10), end: Position(1000), reason: GapReason::Unused };
        delivery.push(PendingBatch::of_gap(unused));
        if connection == 3 {
            while delivery.is_under_way() {
                delivery.run().await;
                settled.add(delivery.settle());
            }
        }
        settled.add(delivery.suspend());
        delivery.resume(delivery.position());
    }
    assert_eq!(settled.unmatched, [("192.0.2.1".parse().unwrap(), 5)].into());
    let loss = |first, datagrams, cause| Loss { first: Position(first), datagrams, cause };
    let reported = loss(5, 3, LossCause::Reported(GapReason::Corrupt));
    assert_eq!(settled.losses, [reported, loss(8, 2, LossCause::Unreadable(BatchError::Records))]);
}
