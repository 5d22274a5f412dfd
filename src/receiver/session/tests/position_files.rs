//! Position files that a slow disk opens late.

use super::*;
use crate::receiver::state::positions::StreamOwner;

#[tokio::test]
async fn a_slow_position_file_delays_no_other_sender() {
    let mut served = Exchange::agreed().await;
    let positions = &served.receiver.clone().shared.positions;
    let mut waiting = Exchange::connected(&served.receiver, "other", PATIENCE).await;
    // Simulates a slow disk: nothing else in this thread locks it.
    let slow = positions.hold();
    waiting.greet(key(2).id(), key(2).prove(BINDING)).await;
    while !positions.is_opening() {
        tokio::task::yield_now().await;
    }
    served.say(Message::Data(batch(Position(0), b"first").bytes().clone())).await;
    while served.hear().await != Message::Ack(Position(1)) {}
    drop(slow);
    assert!(matches!(waiting.hear().await, Message::Welcome(_)));
}

#[tokio::test]
async fn a_cancelled_hello_leaves_no_file_open() {
    let mut known = Exchange::agreed().await;
    let receiver = known.receiver.clone();
    let positions = &receiver.shared.positions;
    // Simulates an entry that keeps the offsets of collectors.
    let owner = StreamOwner { sender: "edge".parse().unwrap(), source: None };
    let in_use = positions.stream(&owner, stream(), Instant::now().into_std()).unwrap();
    let kept = in_use.position().clone();
    drop(in_use);
    known.say(Message::Goodbye).await;
    while known.stream.read(&mut [0; 64]).await.is_ok_and(|count| count > 0) {}
    assert_eq!(positions.open_files(), 0);
    let slow = positions.hold();
    let mut cut_off = Exchange::connected(&receiver, "edge", PATIENCE).await;
    cut_off.greet(stream(), key(1).prove(BINDING)).await;
    while !positions.is_opening() {
        tokio::task::yield_now().await;
    }
    cut_off.stopper.request();
    assert_eq!(cut_off.hear().await, Message::Goodbye);
    drop(slow);
    let closed = async {
        while positions.is_opening() || positions.open_files() > 0 {
            tokio::task::yield_now().await;
        }
    };
    timeout(Duration::from_secs(10), closed).await.expect("the file stays open");
    drop(kept);
}

/// Returns the stored position of the sender's stream, as after a restart of nf-receiver.
fn stored(receiver: &Receiver) -> Option<Position> {
    let positions = Positions::open(receiver.state.path()).unwrap();
    let owner = StreamOwner { sender: "edge".parse().unwrap(), source: None };
    positions.stream(&owner, stream(), Instant::now().into_std()).unwrap().get()
}

#[tokio::test]
async fn an_acknowledged_position_is_stored() {
    let mut exchange = Exchange::agreed().await;
    for first in 0..20 {
        exchange.say(Message::Data(batch(Position(first), b"x").bytes().clone())).await;
        if first % 3 == 0 {
            let Message::Ack(position) = exchange.hear().await else { panic!("no acknowledgement") };
            assert!(stored(&exchange.receiver) >= Some(position));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_end_of_a_session_stores_the_last_position() {
    for is_orderly in [true, false] {
        let mut exchange = Exchange::agreed().await;
        for first in 0..2 {
            exchange.say(Message::Data(batch(Position(first), b"x").bytes().clone())).await;
            exchange.receiver.collector.recv(&mut [0; 16]).await.unwrap();
            if first == 0 {
                assert_eq!(exchange.hear().await, Message::Ack(Position(1)));
            }
        }
        let receiver = exchange.receiver.clone();
        if is_orderly {
            exchange.stopper.request();
            assert_eq!(exchange.hear().await, Message::Ack(Position(2)));
            assert_eq!(exchange.hear().await, Message::Goodbye);
        } else {
            drop(exchange);
            let senders = &receiver.shared.senders;
            while senders.status(&AccessPolicy::default())[0].ended.is_none() {
                tokio::task::yield_now().await;
            }
        }
        assert_eq!(stored(&receiver), Some(Position(2)), "orderly: {is_orderly}");
    }
}
