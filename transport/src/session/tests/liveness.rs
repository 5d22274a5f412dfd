//! Heartbeats, and the detection of a dead peer.

use super::*;

#[test]
fn an_idle_pair_pings_once_in_each_heartbeat() {
    let mut pair = SessionPair::open(0);
    for _ in 0..100 {
        assert_eq!(pair.sender.poll_timeout(), Some(pair.now + HEARTBEAT));
        assert_eq!(pair.receiver.poll_timeout(), Some(pair.now + HEARTBEAT));
        pair.wait(HEARTBEAT);
        assert_eq!(pair.sender.outbox().len(), bytes_of(Message::Ping).len());
        assert_eq!(pair.receiver.outbox().len(), bytes_of(Message::Ping).len());
        assert_eq!(pair.flow_up(), Ok(None));
        assert_eq!(pair.flow_down(), Ok(None));
    }
}

#[test]
fn pings_do_not_accumulate_behind_unwritten_data() {
    let mut pair = SessionPair::open(0);
    pair.sender.send_batch(&batch(0, 1)).unwrap();
    let length = pair.sender.outbox().len();
    for _ in 0..2 {
        pair.wait(HEARTBEAT);
    }
    assert_eq!(pair.sender.outbox().len(), length);
    assert_eq!(pair.receiver.outbox().len(), bytes_of(Message::Ping).len());
}

#[test]
fn a_silent_peer_is_dead_after_three_heartbeats() {
    let mut pair = SessionPair::open(0);
    let moment = Duration::from_millis(1);
    for wait in [HEARTBEAT, HEARTBEAT, Duration::from_millis(4999)] {
        pair.wait(wait);
        assert_eq!(pair.sender.poll_event(), Ok(None));
        assert_eq!(pair.receiver.poll_event(), Ok(None));
    }
    assert_eq!(pair.sender.poll_timeout(), Some(pair.now + moment));
    pair.wait(moment);
    let silent = SessionError::Silent(3 * HEARTBEAT);
    assert_eq!(pair.sender.poll_event(), Err(silent.clone()));
    assert_eq!(pair.receiver.poll_event(), Err(silent.clone()));
    assert_eq!(
        silent.to_string(),
        "no byte from the other side for 15s: its host, its service or the network is down"
    );
}

#[test]
fn a_receiver_that_never_answers_hello_is_dead() {
    let mut pair = SessionPair::new(0);
    pair.wait(3 * HEARTBEAT);
    assert!(matches!(pair.sender.poll_event(), Err(SessionError::Silent(_))));
    assert_eq!(pair.receiver.poll_timeout(), None, "no heartbeat applies before HELLO");
}

#[test]
fn silence_since_welcome_is_noticed() {
    let mut pair = SessionPair::open(0);
    assert!(!pair.receiver.is_silent_since_welcome(pair.now));
    pair.wait(3 * HEARTBEAT);
    assert!(matches!(pair.receiver.poll_event(), Err(SessionError::Silent(_))));
    assert!(pair.receiver.is_silent_since_welcome(pair.now));
    let mut pair = SessionPair::open(0);
    pair.receiver.handle_bytes(&[0], pair.now);
    assert!(!pair.receiver.is_silent_since_welcome(pair.now + 3 * HEARTBEAT), "half a message was received");
}

#[test]
fn half_a_message_is_a_sign_of_life() {
    let mut pair = SessionPair::open(0);
    pair.sender.send_batch(&batch(0, 1)).unwrap();
    for byte in written(pair.sender.outbox()).iter().take(40) {
        pair.now += 2 * HEARTBEAT;
        pair.receiver.handle_bytes(&[*byte], pair.now);
        pair.receiver.handle_timeout(pair.now);
        assert_eq!(pair.receiver.poll_event(), Ok(None));
    }
}

#[test]
fn slow_delivery_does_not_time_out_the_session() {
    let mut pair = SessionPair::open(0);
    pair.sender.send_batch(&batch(0, 1)).unwrap();
    assert_eq!(pair.flow_up(), Ok(Some(delivery(&batch(0, 1), 0))));
    for _ in 0..50 {
        pair.wait(HEARTBEAT);
        written(pair.sender.outbox());
        assert_eq!(pair.receiver.poll_event(), Ok(None));
        assert!(!pair.receiver.outbox().is_empty(), "the receiver sends heartbeats");
        assert_eq!(pair.flow_down(), Ok(None));
    }
    deliver_everything(&mut pair.receiver, pair.now);
    pair.wait(2 * HEARTBEAT);
    assert_eq!(pair.receiver.poll_event(), Ok(None), "the silence timer restarts after the pause");
    pair.wait(HEARTBEAT);
    assert!(matches!(pair.receiver.poll_event(), Err(SessionError::Silent(_))));
}
