//! The time of acknowledgements.

use super::*;
use crate::limits::{ACK_BYTES, ACK_DELAY, ACK_PAUSE};

/// Sends the batch with the position `first`, and delivers it.
fn deliver(pair: &mut SessionPair, first: u64, length: usize) -> Batch {
    let batch = batch_of(first, 1, length);
    pair.sender.send_batch(&batch).unwrap();
    assert!(matches!(pair.flow_up(), Ok(Some(ReceiverEvent::Batch { .. }))));
    pair.receiver.note_delivered(batch.end(), None, pair.now);
    pair.receiver.resume_reading(pair.now);
    batch
}

/// A session that acknowledged its first position just now.
fn acknowledged_once() -> SessionPair {
    let mut pair = SessionPair::open(0);
    deliver(&mut pair, 0, 8);
    assert!(pair.receiver.is_ack_due(), "nothing was acknowledged recently");
    pair.receiver.acknowledge(Position(1), pair.now);
    assert!(!pair.receiver.is_ack_due());
    assert_eq!(written(pair.receiver.outbox()), bytes_of(Message::Ack(Position(1))));
    pair
}

#[test]
fn an_acknowledgement_waits_for_the_ack_delay() {
    let mut pair = acknowledged_once();
    let begun = pair.now;
    for first in 1..3 {
        deliver(&mut pair, first, 8);
        assert!(!pair.receiver.is_ack_due() && pair.receiver.outbox().is_empty());
        assert_eq!(pair.receiver.poll_timeout(), Some(begun + ACK_DELAY));
        pair.wait(ACK_DELAY / 2);
    }
    assert!(pair.receiver.is_ack_due());
    assert!(pair.receiver.outbox().is_empty(), "it must be stored first");
    pair.receiver.acknowledge(Position(3), pair.now);
    assert_eq!(written(pair.receiver.outbox()), bytes_of(Message::Ack(Position(3))));
}

#[test]
fn a_regular_sender_needs_no_ack_timer() {
    let mut pair = acknowledged_once();
    let period = ACK_PAUSE * 2 / 3;
    for first in 1..9 {
        pair.now += period;
        assert!(pair.receiver.poll_timeout().is_none_or(|at| at > pair.now), "a timer expires");
        deliver(&mut pair, first, 8);
        assert_eq!(pair.receiver.is_ack_due(), first % 2 == 0);
        if pair.receiver.is_ack_due() {
            pair.receiver.acknowledge(Position(first + 1), pair.now);
            assert_eq!(written(pair.receiver.outbox()), bytes_of(Message::Ack(Position(first + 1))));
        }
    }
}

#[test]
fn ack_bytes_are_acknowledged_at_once() {
    let mut pair = acknowledged_once();
    let mut sent = 0;
    for first in 1.. {
        sent += deliver(&mut pair, first, 60_000).bytes().len();
        assert_eq!(pair.receiver.is_ack_due(), sent >= ACK_BYTES);
        if sent >= ACK_BYTES {
            pair.receiver.acknowledge(Position(first + 1), pair.now);
            assert_eq!(written(pair.receiver.outbox()), bytes_of(Message::Ack(Position(first + 1))));
            break;
        }
    }
}

#[test]
fn only_stored_positions_are_acknowledged_at_the_end() {
    let mut pair = acknowledged_once();
    deliver(&mut pair, 1, 8);
    pair.receiver.goodbye();
    assert_eq!(written(pair.receiver.outbox()), bytes_of(Message::Goodbye));
}

#[test]
fn a_sender_that_reads_nothing_delays_no_store() {
    let mut pair = acknowledged_once();
    deliver(&mut pair, 1, 8);
    pair.wait(ACK_DELAY);
    pair.receiver.acknowledge(Position(2), pair.now);
    assert!(!pair.receiver.outbox().is_empty(), "it is not written");
    deliver(&mut pair, 2, 8);
    pair.wait(ACK_DELAY);
    assert!(pair.receiver.is_ack_due());
}

#[test]
fn a_collector_that_catches_up_is_acknowledged() {
    let mut pair = acknowledged_once();
    pair.sender.send_batch(&batch_of(1, 4, 8)).unwrap();
    pair.flow_up().unwrap();
    // The collectors set to skip are ahead of those set to hold.
    pair.receiver.note_delivered(Position(1), Some(Position(5)), pair.now);
    pair.wait(ACK_DELAY);
    assert!(pair.receiver.is_ack_due(), "the position of the first is stored");
    pair.receiver.acknowledge(Position(1), pair.now);
    assert!(pair.receiver.outbox().is_empty());
    pair.receiver.note_delivered(Position(5), None, pair.now);
    pair.wait(ACK_DELAY);
    assert!(pair.receiver.is_ack_due());
}
