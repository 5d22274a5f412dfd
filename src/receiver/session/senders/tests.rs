use std::collections::HashMap;
use std::time::Instant;

use nf_transport_core::framing::{Heartbeat, Hello, StreamProof};
use nf_transport_core::sequence::{Gap, GapReason, Position, RunId};

use super::*;
use crate::host::Lines;
use crate::limits::SENDER_ENTRIES_MAX;
use crate::receiver::delivery::{Delivery, PendingBatch};
use crate::receiver::output::Outputs;
use crate::receiver::state::positions::{Positions, StreamOwner};
use crate::status::Tally;

const STREAM: StreamId = StreamId([1; 16]);

fn hello() -> Hello {
    let heartbeat = Heartbeat::nearest(core::time::Duration::from_secs(5));
    let (run, proof) = (RunId([2; 16]), StreamProof::NONE);
    Hello { stream: STREAM, first: Position(0), heartbeat, run, replaces: None, proof }
}

async fn guard(senders: &Senders, id: &str) -> StreamGuard {
    let peer = "192.0.2.1:40000".parse().unwrap();
    let entry = senders.entry(&id.parse().unwrap(), peer, STREAM);
    entry.acquire(peer, &hello(), SystemTime::UNIX_EPOCH, "none").await.unwrap()
}

#[tokio::test]
async fn an_absent_sender_keeps_counters_but_no_file() {
    let state = tempfile::tempdir().unwrap();
    let positions = Positions::open(state.path()).unwrap();
    let senders = Senders::default();
    let mut guard = guard(&senders, "edge").await;
    let owner = StreamOwner { sender: "edge".parse().unwrap(), source: None };
    let in_use = positions.stream(&owner, STREAM, Instant::now()).unwrap();
    let stored = in_use.position().clone();
    let file = Arc::downgrade(&stored);
    stored.store(Position(3), RunId::NONE).unwrap();
    let sender = "edge".parse().unwrap();
    let delivery = Delivery::new(sender, Position(3), None, &Outputs::to(&[]), &HashMap::new());
    let in_use = Some(in_use);
    *guard.active = Some(ActiveStream { stream: STREAM, stored, in_use, delivery, run: RunId::NONE });
    Counters::add(&guard.entry.counters.datagrams, 3);
    drop(guard);
    positions.sync().unwrap();
    assert!(file.upgrade().is_none());
    assert_eq!(senders.status(&AccessPolicy::default())[0].delivered.datagrams, 3);
}

#[tokio::test]
async fn a_loss_settled_after_the_session_is_logged() {
    let state = tempfile::tempdir().unwrap();
    let positions = Positions::open(state.path()).unwrap();
    let senders = Senders::default();
    let mut guard = guard(&senders, "edge").await;
    let sender: SenderId = "edge".parse().unwrap();
    let owner = StreamOwner { sender: sender.clone(), source: None };
    let in_use = positions.stream(&owner, STREAM, Instant::now()).unwrap();
    let stored = in_use.position().clone();
    let mut delivery = Delivery::new(sender, Position(0), None, &Outputs::to(&[]), &HashMap::new());
    delivery.push(PendingBatch::of_gap(Gap {
        first: Position(0),
        end: Position(3),
        reason: GapReason::SpoolFull,
    }));
    let in_use = Some(in_use);
    *guard.active = Some(ActiveStream { stream: STREAM, stored, in_use, delivery, run: RunId::NONE });
    let lines = Lines::default();
    tracing::subscriber::with_default(lines.clone().subscriber(), || drop(guard));
    let lines = lines.all();
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].contains("edge lost 3 datagrams, 3 since nf-receiver started"), "{lines:?}");
}

#[test]
fn counts_of_forgotten_senders_stay_in_the_totals() {
    let senders = Senders::default();
    let peer = "192.0.2.1:40000".parse().unwrap();
    let entry = senders.entry(&"edge".parse().unwrap(), peer, STREAM);
    Counters::add(&entry.counters.datagrams, 30);
    Counters::add(&entry.counters.bytes, 3000);
    Counters::add(&entry.counters.duplicates, 2);
    Counters::add(&entry.counters.gaps, u64::MAX);
    drop(entry);
    let before = senders.totals();
    for number in 0..=SENDER_ENTRIES_MAX {
        let entry = senders.entry(&format!("other-{number}").parse().unwrap(), peer, STREAM);
        Counters::add(&entry.counters.gaps, 1);
    }
    let is_kept = senders.status(&AccessPolicy::default()).iter().any(|row| row.id == "edge");
    assert!(!is_kept, "the entry made room");
    assert_eq!(senders.totals(), before);
    assert_eq!(before.delivered, Tally { datagrams: 30, bytes: 3000 });
    assert_eq!((before.duplicates, before.gaps), (2, u64::MAX));
}

/// Acquires `entry` for a connection with stream `number`, which began at that second.
async fn acquire(entry: &Arc<SenderEntry>, number: u8) -> Result<StreamGuard, Superseded> {
    let peer = SocketAddr::from(([192, 0, 2, number], 40_000));
    let begun = SystemTime::UNIX_EPOCH + core::time::Duration::from_secs(number.into());
    let hello = Hello { stream: StreamId([number; 16]), ..hello() };
    entry.clone().acquire(peer, &hello, begun, "none").await
}

fn peer(number: u8) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, number], 40_000))
}

#[tokio::test]
async fn a_superseded_connection_waits_no_longer() {
    let senders = Senders::default();
    let entry = senders.entry(&"edge".parse().unwrap(), peer(1), STREAM);
    let held = acquire(&entry, 3).await.unwrap();
    let waiting = [2, 1].map(|number| {
        let entry = entry.clone();
        tokio::spawn(async move { acquire(&entry, number).await.map(drop) })
    });
    let [earlier, later] = waiting;
    assert_eq!(earlier.await.unwrap().unwrap_err(), Superseded::KnownLonger(peer(1)));
    assert_eq!(held.superseded(), Superseded::KnownLonger(peer(1)));
    assert_eq!(acquire(&entry, 2).await.unwrap_err(), Superseded::InUse(peer(1)));
    drop(held);
    later.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_cancelled_claim_blocks_no_connection() {
    let senders = Senders::default();
    let entry = senders.entry(&"edge".parse().unwrap(), peer(1), STREAM);
    let held = acquire(&entry, 3).await.unwrap();
    let waiting = tokio::spawn({
        let entry = entry.clone();
        async move { acquire(&entry, 1).await.map(drop) }
    });
    while held.superseded() != Superseded::KnownLonger(peer(1)) {
        tokio::task::yield_now().await;
    }
    waiting.abort();
    waiting.await.unwrap_err();
    drop(held);
    acquire(&entry, 4).await.unwrap();
}

#[tokio::test]
async fn an_entry_about_to_be_acquired_is_kept() {
    let senders = Senders::default();
    let peer = "192.0.2.1:40000".parse().unwrap();
    let entry = senders.entry(&"edge".parse().unwrap(), peer, STREAM);
    for number in 0..=SENDER_ENTRIES_MAX {
        senders.entry(&format!("other-{number}").parse().unwrap(), peer, STREAM);
    }
    assert!(Arc::ptr_eq(&entry, &senders.entry(&"edge".parse().unwrap(), peer, STREAM)));
}
