//! Refusals, errors and GOODBYE: the end of a session.

use super::*;
use crate::limits::REFUSAL_TEXT_MAX;

#[test]
fn a_refusal_ends_both_sides() {
    let mut pair = SessionPair::new(0);
    pair.flow_up().unwrap();
    pair.receiver.reject(RefusalCode::StorageFailed, "no space left");
    assert_eq!(pair.refusal().code(), RefusalCode::StorageFailed);
    assert_eq!((pair.sender.poll_timeout(), pair.receiver.poll_timeout()), (None, None));
    assert!(!pair.receiver.wants_bytes());
    pair.receiver.reject(RefusalCode::Superseded, "again");
    assert!(pair.receiver.outbox().is_empty(), "a session ends once");
}

#[test]
fn a_refusal_follows_the_last_acknowledgement() {
    let mut pair = SessionPair::open(0);
    pair.sender.send_batch(&batch(0, 2)).unwrap();
    pair.flow_up().unwrap();
    deliver_everything(&mut pair.receiver, pair.now);
    pair.receiver.reject(RefusalCode::Superseded, "a newer connection of this sender is open");
    assert_eq!(pair.flow_down(), Ok(Some(acknowledged(2))));
    assert_eq!(pair.refusal().code(), RefusalCode::Superseded);
}

#[test]
fn a_refused_hello_names_both_versions() {
    let mut pair = SessionPair::new(0);
    let mut hello = bytes_of(Message::Hello(hello(0)));
    hello[6] = 9;
    pair.receiver.handle_bytes(&hello, pair.now);
    assert!(matches!(pair.receiver.poll_event(), Err(SessionError::Version(_))));
    let refusal = pair.refusal();
    assert_eq!(refusal.code(), RefusalCode::UnsupportedVersion);
    assert_eq!(refusal.text(), "protocol version 9 is not supported, only version 1: update the older side");
}

#[test]
fn garbage_ends_the_session_with_its_type() {
    let mut pair = SessionPair::open(0);
    pair.receiver.handle_bytes(b"GET / HTTP/1.1\r\n\r\n", pair.now);
    let error = pair.receiver.poll_event().unwrap_err();
    assert_eq!(error.to_string(), "the other side sent a message of the unknown type 47");
    assert_eq!(pair.refusal().code(), RefusalCode::BrokenProtocol);

    let mut pair = SessionPair::open(0);
    pair.sender.handle_bytes(&[0xFF; 20], pair.now);
    assert!(matches!(pair.sender.poll_event(), Err(SessionError::Framing(_))));
    assert_eq!(pair.sender.poll_event(), Ok(None));
}

#[test]
fn damaged_or_foreign_batches_are_never_returned() {
    let good = batch(0, 3).bytes().to_vec();
    for bit in 0..good.len() * 8 {
        let mut bytes = good.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        let rejected = SessionPair::open(0).send_to_receiver(Message::Data(bytes.into()));
        assert!(matches!(rejected, Err(SessionError::Batch(_))), "bit {bit}");
    }
    let other = {
        let mut builder = BatchBuilder::new(StreamId([8; 16]), Compression::None);
        let address = "192.0.2.1:1".parse().unwrap();
        let datagram = Datagram { exporter: address, local: address, arrival: Timestamp(1), payload: b"x" };
        builder.push(&datagram).unwrap();
        builder.finish(Position(0)).unwrap()
    };
    let rejected = SessionPair::open(0).send_to_receiver(Message::Data(other.bytes().clone()));
    assert!(matches!(rejected, Err(SessionError::Batch(_))));
}

#[test]
fn an_unexpected_message_ends_the_session() {
    let ack = || Message::Ack(Position(0));
    let welcome = || Message::Welcome(welcome(0, 1));
    for message in [ack(), Message::Ping, Message::Goodbye, Message::Gap(gap(0, 1)), welcome()] {
        let mut pair = SessionPair::new(0);
        let rejected = pair.send_to_receiver(message);
        assert!(matches!(rejected, Err(SessionError::Unexpected { .. })), "{rejected:?}");
    }
    for message in [ack(), welcome(), Message::Hello(hello(0))] {
        let rejected = SessionPair::open(0).send_to_receiver(message);
        assert!(matches!(rejected, Err(SessionError::Unexpected { .. })), "{rejected:?}");
    }
    for message in [welcome(), Message::Hello(hello(0)), Message::Gap(gap(0, 1))] {
        let rejected = SessionPair::open(0).send_to_sender(message);
        assert!(matches!(rejected, Err(SessionError::Unexpected { .. })), "{rejected:?}");
    }
    assert_eq!(
        SessionPair::new(0).send_to_sender(ack()).unwrap_err().to_string(),
        "the other side sent ACK before WELCOME"
    );
}

#[test]
fn a_goodbye_closes_both_sides() {
    let mut pair = SessionPair::open(0);
    pair.sender.send_batch(&batch(0, 1)).unwrap();
    pair.sender.goodbye();
    assert_eq!((pair.sender.next_position(), pair.sender.poll_timeout()), (None, None));
    assert_eq!(pair.flow_up(), Ok(Some(delivery(&batch(0, 1), 0))));
    deliver_everything(&mut pair.receiver, pair.now);
    assert_eq!(pair.receiver.poll_event(), Ok(Some(ReceiverEvent::Goodbye)));
    assert_eq!(pair.send_to_receiver(Message::Ping), Ok(None), "messages after GOODBYE are ignored");

    let mut pair = SessionPair::open(0);
    pair.receiver.goodbye();
    assert_eq!(pair.flow_down(), Ok(Some(SenderEvent::Goodbye)));
    assert_eq!(pair.sender.next_position(), None);
}

#[test]
fn every_error_text_fits_into_a_refusal() {
    let longest = Position(u64::MAX);
    let error = SessionError::AcknowledgedTooMuch { acknowledged: longest, sent: longest };
    assert!(error.to_string().len() < REFUSAL_TEXT_MAX);
}
