//! Tests of a receiver that receives more than it can deliver to all collectors, and requests the rest again.

use super::*;
use crate::framing::Resend;

/// A pair in which the receiver has received all batches of 10 positions up to `end` and delivered nothing.
fn received_up_to(end: u64) -> SessionPair {
    let mut pair = SessionPair::open(0);
    for first in (0..end).step_by(10) {
        pair.sender.send_batch(&batch(first, first + 10)).unwrap();
        assert_eq!(pair.flow_up(), Ok(Some(delivery(&batch(first, first + 10), 0))));
        pair.receiver.resume_reading(pair.now);
    }
    pair.receiver.mark_received(Position(end));
    assert_eq!(pair.flow_down(), Ok(Some(SenderEvent::Received(Position(end)))));
    pair
}

#[test]
fn received_positions_must_have_been_sent() {
    let mut pair = SessionPair::open_with(0, 15);
    let outcome = pair.send_to_sender(Message::Received(Position(16)));
    assert_eq!(outcome, Err(SessionError::ReceivedTooMuch { received: Position(16), sent: Position(15) }));
}

fn resent(batch: &Batch) -> ReceiverEvent {
    ReceiverEvent::ResentBatch(batch.clone())
}

#[test]
fn received_batches_leave_the_window() {
    let mut pair = SessionPair::open(0);
    let mut end = 0;
    while pair.sender.next_position().is_some() {
        pair.sender.send_batch(&batch(end, end + 10)).unwrap();
        written(pair.sender.outbox());
        end += 10;
    }
    let half = end / 20 * 10;
    assert_eq!(
        pair.send_to_sender(Message::Received(Position(half))),
        Ok(Some(SenderEvent::Received(Position(half))))
    );
    assert_eq!(pair.sender.next_position(), Some(Position(end)));
    assert_eq!(pair.send_to_sender(Message::Ack(Position(10))), Ok(Some(acknowledged(10))));
}

#[test]
fn a_received_position_is_reported_once() {
    let mut pair = received_up_to(20);
    pair.receiver.mark_received(Position(20));
    assert!(pair.receiver.outbox().is_empty());
}

#[test]
fn positions_received_earlier_are_not_sent_again() {
    let mut pair = SessionPair::open_with(20, 70);
    pair.receiver.mark_received(Position(70));
    assert_eq!(pair.flow_down(), Ok(Some(SenderEvent::Received(Position(70)))));
    assert_eq!(pair.sender.next_position(), Some(Position(70)));
    pair.sender.send_batch(&batch(70, 75)).unwrap();
    assert_eq!(pair.flow_up(), Ok(Some(delivery(&batch(70, 75), 0))));
}

#[test]
fn a_batch_with_new_positions_can_be_requested() {
    let mut pair = SessionPair::open_with(0, 15);
    pair.receiver.mark_received(Position(15));
    pair.receiver.request_resend(Position(0), u32::MAX);
    assert_eq!(pair.flow_down(), Ok(Some(SenderEvent::Received(Position(15)))));
    assert_eq!(pair.flow_down(), Ok(None));
    pair.sender.send_batch(&batch(0, 10)).unwrap();
    assert_eq!(pair.flow_up(), Ok(Some(resent(&batch(0, 10)))));
    assert_eq!(pair.sender.next_position(), Some(Position(10)));
    pair.sender.send_batch(&batch(10, 20)).unwrap();
    assert_eq!(pair.flow_up(), Ok(Some(delivery(&batch(10, 20), 5))));
    assert!(!pair.receiver.is_resend_pending());
    pair.receiver.resume_reading(pair.now);
    pair.receiver.request_resend(Position(10), u32::MAX);
    assert_eq!(pair.flow_down(), Ok(None));
    pair.sender.send_batch(&batch(10, 20)).unwrap();
    assert_eq!(pair.flow_up(), Ok(Some(resent(&batch(10, 20)))));
    assert_eq!(pair.sender.next_position(), Some(Position(20)));
}

#[test]
fn requested_batches_precede_new_ones() {
    let mut pair = received_up_to(40);
    let bytes = u32::try_from(batch(10, 20).bytes().len()).unwrap();
    pair.receiver.request_resend(Position(10), 2 * bytes);
    assert_eq!(pair.flow_down(), Ok(None));
    for first in [10, 20] {
        assert!(pair.receiver.is_resend_pending());
        assert_eq!(pair.sender.next_position(), Some(Position(first)));
        pair.sender.send_batch(&batch(first, first + 10)).unwrap();
        assert_eq!(pair.flow_up(), Ok(Some(resent(&batch(first, first + 10)))));
        assert!(pair.receiver.wants_bytes(), "a requested batch does not pause reading");
    }
    assert!(!pair.receiver.is_resend_pending());
    assert_eq!(pair.sender.next_position(), Some(Position(40)));
}

#[test]
fn a_request_ends_with_the_last_sent_position() {
    let mut pair = received_up_to(20);
    pair.receiver.request_resend(Position(0), u32::MAX);
    pair.flow_down().unwrap();
    for first in [0, 10] {
        pair.sender.send_batch(&batch(first, first + 10)).unwrap();
        assert_eq!(pair.flow_up(), Ok(Some(resent(&batch(first, first + 10)))));
    }
    assert!(!pair.receiver.is_resend_pending());
    pair.sender.send_batch(&batch(20, 30)).unwrap();
    assert_eq!(pair.flow_up(), Ok(Some(delivery(&batch(20, 30), 0))));
}

#[test]
fn a_gap_answers_a_request_up_to_its_end() {
    let mut pair = received_up_to(20);
    pair.receiver.request_resend(Position(0), u32::MAX);
    pair.flow_down().unwrap();
    pair.sender.send_gap(gap(0, 50)).unwrap();
    assert_eq!(pair.flow_up(), Ok(Some(ReceiverEvent::ResentGap(gap(0, 20)))));
    assert!(!pair.receiver.is_resend_pending());
    assert_eq!(pair.sender.next_position(), Some(Position(20)));
    pair.sender.send_gap(gap(0, 50)).unwrap();
    assert_eq!(pair.flow_up(), Ok(Some(ReceiverEvent::Gap(gap(20, 50)))));
}

#[test]
fn an_invalid_request_ends_the_session() {
    for first in [5, 40, 1000] {
        let mut pair = received_up_to(40);
        pair.receiver.acknowledge(Position(10), pair.now);
        assert_eq!(pair.flow_down(), Ok(Some(acknowledged(10))));
        let error = SessionError::NotSent { wanted: Position(first), sent: Position(40) };
        assert_eq!(
            pair.send_to_sender(Message::Resend(Resend { first: Position(first), bytes: 1 })),
            Err(error)
        );
    }
}

#[test]
fn received_and_resend_need_an_open_session() {
    for message in [Message::Received(Position(1)), Message::Resend(Resend { first: Position(1), bytes: 1 })]
    {
        let mut pair = SessionPair::new(0);
        assert!(matches!(pair.send_to_sender(message.clone()), Err(SessionError::Unexpected { .. })));
        let mut pair = SessionPair::open(0);
        assert!(matches!(pair.send_to_receiver(message), Err(SessionError::Unexpected { .. })));
    }
}
