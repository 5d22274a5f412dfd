//! Each delivered, unmatched or lost datagram is counted once.

use nf_transport_core::batch::BatchError;
use nf_transport_core::sequence::{Gap, GapReason};

use super::*;

#[tokio::test]
async fn datagrams_without_any_collector_are_settled() {
    let outputs = Outputs::to(&[]);
    let mut delivery = begun(0, &outputs);
    push(&mut delivery, batches(&numbered(3, 10)).remove(0));
    let settled = delivery.take_settled();
    assert_eq!((settled.delivered.datagrams, delivery.settled()), (3, Position(3)));
    assert_eq!(delivery.take_settled(), Settled::default());
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
        let settled = delivery.take_settled();
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
                settled.add(delivery.take_settled());
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

#[test]
fn a_whole_batch_counts_as_its_datagrams_do() {
    let records = batches(&numbered(7, 100)).remove(0);
    let every_v4: Prefixes = vec!["0.0.0.0/0".parse().unwrap()].into();
    for (first_new, position) in
        (0..8).flat_map(|first_new| (0..8).map(move |position| (first_new, position)))
    {
        let [by_header, one_by_one] = [Prefixes::default(), every_v4.clone()].map(|exporters| {
            let batch = pending(Position(0), Position(7), Position(first_new), records.clone());
            PendingBatch { exporters, ..batch }.settled_below(Position(position), &ExporterFilter::All)
        });
        assert_eq!(by_header, one_by_one, "from {first_new} to {position}");
        assert_eq!(by_header.delivered.datagrams, position.saturating_sub(first_new));
    }
}
