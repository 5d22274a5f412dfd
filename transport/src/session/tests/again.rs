//! A receiver that takes more than it can deliver to all, and asks for the rest once more.

use super::*;
use crate::framing::Again;

/// A pair in which the sender has sent batches of 10 positions up to `end`, of which the receiver has taken all and
/// delivered nothing.
fn taken_up_to(end: u64) -> Pair {
    let mut pair = Pair::open(0);
    for first in (0..end).step_by(10) {
        pair.sender.send_batch(&batch(first, first + 10)).unwrap();
        assert_eq!(pair.flow_up(), Ok(Some(delivery(&batch(first, first + 10), 0))));
        pair.receiver.go_on(pair.now);
    }
    pair.receiver.take(Position(end));
    assert_eq!(pair.flow_down(), Ok(Some(SenderEvent::Taken(Position(end)))));
    pair
}

#[test]
fn a_receiver_cannot_have_received_what_was_never_sent() {
    let mut pair = Pair::open_with(0, 15);
    let taken = pair.say_to_sender(Message::Taken(Position(16)));
    assert_eq!(taken, Err(SessionError::TakenTooMuch { taken: Position(16), sent: Position(15) }));
}

fn once_more(batch: &Batch) -> ReceiverEvent {
    ReceiverEvent::Again(batch.clone())
}

#[test]
fn what_a_receiver_takes_makes_room_in_the_window_and_is_not_acknowledged() {
    let mut pair = Pair::open(0);
    let mut end = 0;
    while pair.sender.wants().is_some() {
        pair.sender.send_batch(&batch(end, end + 10)).unwrap();
        written(pair.sender.outbox());
        end += 10;
    }
    let half = end / 20 * 10;
    assert_eq!(
        pair.say_to_sender(Message::Taken(Position(half))),
        Ok(Some(SenderEvent::Taken(Position(half))))
    );
    assert_eq!(pair.sender.wants(), Some(Position(end)));
    assert_eq!(pair.say_to_sender(Message::Ack(Position(10))), Ok(Some(acknowledged(10))));
}

#[test]
fn what_a_receiver_takes_is_told_once() {
    let mut pair = taken_up_to(20);
    pair.receiver.take(Position(20));
    assert!(pair.receiver.outbox().is_empty());
}

#[test]
fn a_receiver_that_took_more_in_an_earlier_session_is_sent_only_what_follows() {
    let mut pair = Pair::open_with(20, 70);
    pair.receiver.take(Position(70));
    assert_eq!(pair.flow_down(), Ok(Some(SenderEvent::Taken(Position(70)))));
    assert_eq!(pair.sender.wants(), Some(Position(70)));
    pair.sender.send_batch(&batch(70, 75)).unwrap();
    assert_eq!(pair.flow_up(), Ok(Some(delivery(&batch(70, 75), 0))));
}

#[test]
fn what_is_asked_for_and_ends_within_a_batch_can_be_asked_for_again_when_all_of_that_has_come() {
    let mut pair = Pair::open_with(0, 15);
    pair.receiver.take(Position(15));
    pair.receiver.ask_again(Position(0), u32::MAX);
    assert_eq!(pair.flow_down(), Ok(Some(SenderEvent::Taken(Position(15)))));
    assert_eq!(pair.flow_down(), Ok(None));
    pair.sender.send_batch(&batch(0, 10)).unwrap();
    assert_eq!(pair.flow_up(), Ok(Some(once_more(&batch(0, 10)))));
    assert_eq!(pair.sender.wants(), Some(Position(10)));
    pair.sender.send_batch(&batch(10, 20)).unwrap();
    assert_eq!(pair.flow_up(), Ok(Some(delivery(&batch(10, 20), 5))));
    assert!(!pair.receiver.is_asking());
    pair.receiver.go_on(pair.now);
    pair.receiver.ask_again(Position(10), u32::MAX);
    assert_eq!(pair.flow_down(), Ok(None));
    pair.sender.send_batch(&batch(10, 20)).unwrap();
    assert_eq!(pair.flow_up(), Ok(Some(once_more(&batch(10, 20)))));
    assert_eq!(pair.sender.wants(), Some(Position(20)));
}

#[test]
fn what_is_asked_for_comes_once_more_before_anything_new() {
    let mut pair = taken_up_to(40);
    let bytes = u32::try_from(batch(10, 20).bytes().len()).unwrap();
    pair.receiver.ask_again(Position(10), 2 * bytes);
    assert_eq!(pair.flow_down(), Ok(None));
    for first in [10, 20] {
        assert!(pair.receiver.is_asking());
        assert_eq!(pair.sender.wants(), Some(Position(first)));
        pair.sender.send_batch(&batch(first, first + 10)).unwrap();
        assert_eq!(pair.flow_up(), Ok(Some(once_more(&batch(first, first + 10)))));
        assert!(pair.receiver.wants_bytes(), "what was asked for holds nothing up");
    }
    assert!(!pair.receiver.is_asking());
    assert_eq!(pair.sender.wants(), Some(Position(40)));
}

#[test]
fn what_is_asked_for_ends_with_what_was_sent() {
    let mut pair = taken_up_to(20);
    pair.receiver.ask_again(Position(0), u32::MAX);
    pair.flow_down().unwrap();
    for first in [0, 10] {
        pair.sender.send_batch(&batch(first, first + 10)).unwrap();
        assert_eq!(pair.flow_up(), Ok(Some(once_more(&batch(first, first + 10)))));
    }
    assert!(!pair.receiver.is_asking());
    pair.sender.send_batch(&batch(20, 30)).unwrap();
    assert_eq!(pair.flow_up(), Ok(Some(delivery(&batch(20, 30), 0))));
}

#[test]
fn a_gap_in_the_place_of_what_is_asked_for_is_told_up_to_where_it_was_sent() {
    let mut pair = taken_up_to(20);
    pair.receiver.ask_again(Position(0), u32::MAX);
    pair.flow_down().unwrap();
    pair.sender.send_gap(gap(0, 50)).unwrap();
    assert_eq!(pair.flow_up(), Ok(Some(ReceiverEvent::GapAgain(gap(0, 20)))));
    assert!(!pair.receiver.is_asking());
    assert_eq!(pair.sender.wants(), Some(Position(20)));
    pair.sender.send_gap(gap(0, 50)).unwrap();
    assert_eq!(pair.flow_up(), Ok(Some(ReceiverEvent::Gap(gap(20, 50)))));
}

#[test]
fn a_receiver_that_asks_again_for_what_was_never_sent_or_is_acknowledged_ends_the_session() {
    for first in [5, 40, 1000] {
        let mut pair = taken_up_to(40);
        acknowledge_at_once(&mut pair.receiver, Position(10), pair.now);
        assert_eq!(pair.flow_down(), Ok(Some(acknowledged(10))));
        let error = SessionError::NotSent { wanted: Position(first), sent: Position(40) };
        assert_eq!(
            pair.say_to_sender(Message::Again(Again { first: Position(first), bytes: 1 })),
            Err(error)
        );
    }
}

#[test]
fn neither_is_heard_before_the_welcome_or_by_a_receiver() {
    for message in [Message::Taken(Position(1)), Message::Again(Again { first: Position(1), bytes: 1 })] {
        let mut pair = Pair::new(0);
        assert!(matches!(pair.say_to_sender(message.clone()), Err(SessionError::Unexpected { .. })));
        let mut pair = Pair::open(0);
        assert!(matches!(pair.say_to_receiver(message), Err(SessionError::Unexpected { .. })));
    }
}
