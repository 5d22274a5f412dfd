//! Several streams that use one sender id, and proofs of a stream id.

use super::*;

#[tokio::test]
async fn a_stream_id_without_its_secret_is_rejected() {
    let mut victim = Exchange::agreed().await;
    let mut hostile = Exchange::connected(&victim.receiver, "edge", PATIENCE).await;
    hostile.greet(stream(), key(2).prove(BINDING)).await;
    let Message::Refuse(refusal) = hostile.hear().await else { panic!("no refusal") };
    assert_eq!(refusal.code(), RefusalCode::StreamNotProven);
    let (_, refused) = victim.receiver.shared.rejected();
    let victim_at = victim.stream.local_addr().unwrap();
    for words in [stream().to_string(), format!("that of the sender at {victim_at}")] {
        assert!(refused[0].reason.contains(&words), "{refused:?}");
    }
    // The session continues, and nothing is stored.
    victim.say(Message::Data(batch(Position(0), b"first").bytes().clone())).await;
    while victim.hear().await != Message::Ack(Position(1)) {}
    let files = std::fs::read_dir(victim.receiver.state.path().join("positions")).unwrap();
    assert_eq!(files.count(), 1);
}

#[tokio::test]
async fn a_proof_of_another_connection_is_rejected() {
    let mut exchange = Exchange::agreed().await;
    let mut hostile = Exchange::connected(&exchange.receiver, "edge", PATIENCE).await;
    hostile.greet(stream(), key(1).prove(ChannelBinding([8; 32]))).await;
    let Message::Refuse(refusal) = hostile.hear().await else { panic!("no refusal") };
    assert_eq!(refusal.code(), RefusalCode::StreamNotProven);
    exchange.say(Message::Ping).await;
}

/// A connection of the sender that has requested a session with the stream of this key.
async fn greeted(receiver: &Arc<Receiver>, seed: u8) -> Exchange {
    let mut exchange = Exchange::connected(receiver, "edge", PATIENCE).await;
    exchange.greet(key(seed).id(), key(seed).prove(BINDING)).await;
    exchange
}

impl Exchange {
    /// Returns the refusal that comes next.
    async fn refusal(&mut self) -> nf_transport_core::framing::Refusal {
        match self.hear().await {
            Message::Refuse(refusal) => refusal,
            other => panic!("the receiver answers {}", other.name()),
        }
    }

    /// Ends the session, and waits until the receiver has closed the connection.
    async fn leave(mut self) {
        self.say(Message::Goodbye).await;
        while self.stream.read(&mut [0; 64]).await.is_ok_and(|count| count > 0) {}
    }
}

#[tokio::test]
async fn a_rejected_new_stream_ends_no_session() {
    let receiver = Receiver::new(&[]).await;
    for seed in 1.. {
        let mut hostile = greeted(&receiver, seed).await;
        match hostile.hear().await {
            Message::Welcome(_) => hostile.leave().await,
            Message::Refuse(refusal) => {
                assert_eq!(refusal.code(), RefusalCode::TooManyStreams);
                break;
            }
            other => panic!("the receiver answers {}", other.name()),
        }
    }
    let mut known = greeted(&receiver, 1).await;
    assert!(matches!(known.hear().await, Message::Welcome(_)), "the first stream is known");
    let mut hostile = greeted(&receiver, 99).await;
    assert_eq!(hostile.refusal().await.code(), RefusalCode::IdInUse);
    known.say(Message::Data(batch(Position(0), b"first").bytes().clone())).await;
    while known.hear().await != Message::Ack(Position(1)) {}
}

#[tokio::test]
async fn another_stream_ends_no_session() {
    let mut victim = Exchange::agreed().await;
    let receiver = victim.receiver.clone();
    let victim_at = victim.stream.local_addr().unwrap();
    for seed in 2..100 {
        let mut rival = greeted(&receiver, seed).await;
        let refusal = rival.refusal().await;
        assert_eq!(refusal.code(), RefusalCode::IdInUse);
        let words = format!("sender edge: its id is in use by another sender, at {victim_at}: give each");
        assert!(refusal.text().starts_with(&words), "{}", refusal.text());
        let [row] = receiver.shared.senders.status(&AccessPolicy::default()).try_into().unwrap();
        assert_eq!(row.rival, Some(rival.stream.local_addr().unwrap().to_string()));
    }
    let (count, peers) = receiver.shared.rejected();
    assert!(count >= 97 && peers[0].reason.contains("in use by another sender"), "{peers:?}");
    victim.say(Message::Data(batch(Position(0), b"first").bytes().clone())).await;
    while victim.hear().await != Message::Ack(Position(1)) {}
    let files = std::fs::read_dir(receiver.state.path().join("positions")).unwrap();
    assert_eq!(files.count(), 1, "a refused stream left a file");
}

#[tokio::test]
async fn the_stream_known_first_resumes_its_session() {
    let victim = Exchange::agreed().await;
    let receiver = victim.receiver.clone();
    victim.leave().await;
    let mut rival = greeted(&receiver, 2).await;
    assert!(matches!(rival.hear().await, Message::Welcome(_)));
    let mut victim = greeted(&receiver, 1).await;
    assert!(matches!(victim.hear().await, Message::Welcome(_)));
    let refusal = rival.refusal().await;
    assert_eq!(refusal.code(), RefusalCode::Superseded);
    assert!(refusal.text().contains("has known its stream for longer"), "{}", refusal.text());
    let mut again = greeted(&receiver, 2).await;
    assert_eq!(again.refusal().await.code(), RefusalCode::IdInUse);
    victim.leave().await;
    assert!(matches!(greeted(&receiver, 2).await.hear().await, Message::Welcome(_)));
}
