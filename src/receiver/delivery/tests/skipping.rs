//! Collectors that are set to skip, next to collectors that hold.

use nf_transport_core::internal_error::expecting_internal_errors;
use nf_transport_core::sequence::{Gap, GapReason};

use super::*;

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
        delivery.take_settled();
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
    // Nothing is missing in the lane of the collectors set to hold, as there are none.
    push(&mut delivery, stream.next().unwrap());
    drop((delivery, reader));
}

#[test]
fn positions_that_a_lane_never_got_are_noticed() {
    let outputs = of_both_kinds(nobody(), nobody());
    let mut lane = begun(0, &outputs).holding;
    let mut push = |first, end| {
        let gap = Gap { first: Position(first), end: Position(end), reason: GapReason::SpoolFull };
        expecting_internal_errors(|| lane.push(Arc::new(PendingBatch::of_gap(gap)))).1
    };
    assert_eq!([push(0, 5), push(3, 7), push(7, 9), push(10, 12), push(12, 13)], [0, 0, 0, 1, 0]);
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
        delivery.take_settled();
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
    delivery.take_settled();
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
        delivery.take_settled();
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
