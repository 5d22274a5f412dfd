//! Tests with a pair of sessions in memory and virtual time.

mod acknowledging;
mod ending;
mod liveness;
mod resend;
mod simulation;

use core::time::Duration;
use std::io::IoSlice;
use std::time::Instant;

use bytes::{Buf, BytesMut};

use super::*;
use crate::batch::{Batch, BatchBuilder, Compression};
use crate::datagram::{Datagram, Timestamp};
use crate::framing::{Heartbeat, Hello, Message, Refusal, RefusalCode, StreamProof, Welcome};
use crate::limits::{OUTBOX_MAX, WINDOW};
use crate::sequence::{Gap, GapReason, Position, RunId, StreamId};

const STREAM: StreamId = StreamId([7; 16]);
const RUN: RunId = RunId([3; 16]);
const HEARTBEAT: Duration = Duration::from_secs(5);

/// Acknowledges all received data and resumes reading.
fn deliver_everything(receiver: &mut ReceiverSession, now: Instant) {
    receiver.acknowledge(Position(u64::MAX), now);
    receiver.resume_reading(now);
}

/// A batch of datagrams whose payloads start with their position and have `length` bytes.
fn batch_of(first: u64, datagrams: u64, length: usize) -> Batch {
    let mut builder = BatchBuilder::new(STREAM, Compression::None);
    for position in first..first + datagrams {
        let mut payload = position.to_be_bytes().to_vec();
        payload.resize(length, 0);
        let exporter = "192.0.2.1:4000".parse().unwrap();
        let local = "192.0.2.2:2055".parse().unwrap();
        builder.push(&Datagram { exporter, local, arrival: Timestamp(1), payload: &payload }).unwrap();
    }
    builder.finish(Position(first)).unwrap()
}

fn batch(first: u64, end: u64) -> Batch {
    batch_of(first, end - first, 8)
}

fn gap(first: u64, end: u64) -> Gap {
    Gap { first: Position(first), end: Position(end), reason: GapReason::Corrupt }
}

fn hello(first: u64) -> Hello {
    let heartbeat = Heartbeat::nearest(HEARTBEAT);
    let (first, proof) = (Position(first), StreamProof::NONE);
    Hello { stream: STREAM, first, heartbeat, run: RUN, replaces: None, proof }
}

/// A resume point at which everything below `position` is delivered and nothing else is received.
fn place(position: Position) -> ResumePoint {
    ResumePoint { delivered: position, received: position, run: RUN }
}

fn welcome(resume: u64, window: u32) -> Welcome {
    Welcome { resume: Position(resume), window, received: Position(resume), run: RUN }
}

/// Removes and returns all unwritten bytes.
fn written(outbox: &mut Outbox) -> Vec<u8> {
    outbox.copy_to_bytes(outbox.len()).to_vec()
}

fn bytes_of(message: Message) -> Vec<u8> {
    let mut bytes = BytesMut::new();
    let batch = message.encode(&mut bytes).unwrap_or_default();
    [bytes.freeze(), batch].concat()
}

/// A sender and a receiver with a perfect connection between them.
struct SessionPair {
    sender: SenderSession,
    receiver: ReceiverSession,
    now: Instant,
}

impl SessionPair {
    fn new(first: u64) -> Self {
        let now = Instant::now();
        Self { sender: SenderSession::new(hello(first), now), receiver: ReceiverSession::new(), now }
    }

    /// A pair with an open session, in which everything below `resume` is delivered.
    fn open(resume: u64) -> Self {
        Self::open_with(resume, resume)
    }

    /// Like `open`, with everything below `received` received earlier.
    fn open_with(resume: u64, received: u64) -> Self {
        let mut pair = Self::new(0);
        assert_eq!(pair.flow_up(), Ok(Some(ReceiverEvent::Hello(hello(0)))));
        let received = Position(received);
        pair.receiver.welcome(ResumePoint { received, ..place(Position(resume)) }, pair.now);
        let welcome = Welcome { received, ..welcome(resume, WINDOW) };
        assert_eq!(pair.flow_down(), Ok(Some(SenderEvent::Welcomed(welcome))));
        pair
    }

    fn flow_up(&mut self) -> Result<Option<ReceiverEvent>, SessionError> {
        self.receiver.handle_bytes(&written(self.sender.outbox()), self.now);
        self.receiver.poll_event()
    }

    fn flow_down(&mut self) -> Result<Option<SenderEvent>, SessionError> {
        self.sender.handle_bytes(&written(self.receiver.outbox()), self.now);
        self.sender.poll_event()
    }

    /// Passes the receiver a message that the sender of the pair did not send.
    fn send_to_receiver(&mut self, message: Message) -> Result<Option<ReceiverEvent>, SessionError> {
        self.receiver.handle_bytes(&bytes_of(message), self.now);
        self.receiver.poll_event()
    }

    fn send_to_sender(&mut self, message: Message) -> Result<Option<SenderEvent>, SessionError> {
        self.sender.handle_bytes(&bytes_of(message), self.now);
        self.sender.poll_event()
    }

    fn wait(&mut self, time: Duration) {
        self.now += time;
        self.sender.handle_timeout(self.now);
        self.receiver.handle_timeout(self.now);
    }

    /// The refusal that the sender receives.
    fn refusal(&mut self) -> Refusal {
        match self.flow_down() {
            Ok(Some(SenderEvent::Rejected(refusal))) => refusal,
            other => panic!("{other:?} instead of a refusal"),
        }
    }
}

fn delivery(batch: &Batch, skip: usize) -> ReceiverEvent {
    ReceiverEvent::Batch { batch: batch.clone(), skip }
}

fn acknowledged(position: u64) -> SenderEvent {
    SenderEvent::Acknowledged(Position(position))
}

#[test]
fn nothing_is_sent_before_the_welcome() {
    let mut pair = SessionPair::new(0);
    assert_eq!(pair.sender.next_position(), None);
    assert!(pair.sender.send_batch(&batch(0, 1)).is_err());
    assert_eq!(pair.flow_up(), Ok(Some(ReceiverEvent::Hello(hello(0)))));
    assert!(!pair.receiver.wants_bytes(), "nothing is read before HELLO is answered");
    pair.receiver.welcome(place(Position(0)), pair.now);
    assert!(pair.receiver.wants_bytes());
    assert_eq!(pair.flow_down(), Ok(Some(SenderEvent::Welcomed(welcome(0, WINDOW)))));
    assert_eq!(pair.sender.next_position(), Some(Position(0)));
}

#[test]
fn a_session_resumes_from_the_later_position() {
    for (first, stored, resume) in [(0, 70, 70), (50, 20, 50), (50, 50, 50)] {
        let mut pair = SessionPair::new(first);
        pair.flow_up().unwrap();
        pair.receiver.welcome(place(Position(stored)), pair.now);
        assert_eq!(pair.flow_down(), Ok(Some(SenderEvent::Welcomed(welcome(resume, WINDOW)))));
        assert_eq!(pair.sender.next_position(), Some(Position(resume)));
    }
}

#[test]
fn a_delivered_batch_is_acknowledged_once() {
    let mut pair = SessionPair::open(0);
    let sent = batch(0, 5);
    pair.sender.send_batch(&sent).unwrap();
    assert_eq!(pair.sender.next_position(), Some(Position(5)));
    assert_eq!(pair.flow_up(), Ok(Some(delivery(&sent, 0))));
    assert_eq!(pair.flow_down(), Ok(None));
    deliver_everything(&mut pair.receiver, pair.now);
    assert_eq!(pair.flow_down(), Ok(Some(acknowledged(5))));
    deliver_everything(&mut pair.receiver, pair.now);
    assert!(pair.receiver.outbox().is_empty(), "nothing is acknowledged twice");
}

#[test]
fn resuming_inside_a_batch_skips_known_datagrams() {
    let mut pair = SessionPair::open(3);
    let sent = batch(0, 5);
    pair.sender.send_batch(&sent).unwrap();
    assert_eq!(pair.sender.next_position(), Some(Position(5)));
    assert_eq!(pair.flow_up(), Ok(Some(delivery(&sent, 3))));
}

#[test]
fn data_without_the_next_position_is_not_sent() {
    let mut pair = SessionPair::open(5);
    for (first, end) in [(0, 5), (6, 8)] {
        let out_of_turn = Err(OutOfOrder { first: Position(first), end: Position(end) });
        assert_eq!(pair.sender.send_batch(&batch(first, end)), out_of_turn);
        assert_eq!(pair.sender.send_gap(gap(first, end)), out_of_turn);
    }
    assert!(pair.sender.outbox().is_empty());
    assert_eq!(pair.sender.next_position(), Some(Position(5)));
}

#[test]
fn a_duplicate_batch_is_not_delivered_again() {
    let mut pair = SessionPair::open(5);
    let repeated = Message::Data(batch(1, 5).bytes().clone());
    assert_eq!(pair.send_to_receiver(repeated), Ok(Some(ReceiverEvent::Duplicate { datagrams: 4 })));
    assert!(pair.receiver.wants_bytes());
    assert_eq!(written(pair.receiver.outbox()), bytes_of(Message::Ack(Position(5))));
}

#[test]
fn a_hole_ends_the_session_on_both_sides() {
    let mut pair = SessionPair::open(5);
    let hole = SessionError::Hole { expected: Position(5), found: Position(6) };
    assert_eq!(pair.send_to_receiver(Message::Data(batch(6, 8).bytes().clone())), Err(hole.clone()));
    let refusal = pair.refusal();
    assert_eq!(refusal, Refusal::new(RefusalCode::BrokenProtocol, &hole.to_string()));
    assert_eq!(refusal.text(), "the other side skipped positions 5 to 6 without a GAP");
    assert!(SessionPair::open(5).send_to_receiver(Message::Gap(gap(6, 8))).is_err());
}

#[test]
fn a_gap_replaces_its_positions() {
    let mut pair = SessionPair::open(0);
    pair.sender.send_gap(gap(0, 9)).unwrap();
    pair.sender.send_batch(&batch(9, 10)).unwrap();
    assert_eq!(pair.flow_up(), Ok(Some(ReceiverEvent::Gap(gap(0, 9)))));
    assert_eq!(pair.receiver.poll_event(), Ok(None), "a gap needs an acknowledgement, too");
    deliver_everything(&mut pair.receiver, pair.now);
    assert_eq!(pair.flow_down(), Ok(Some(acknowledged(9))));
    assert_eq!(pair.receiver.poll_event(), Ok(Some(delivery(&batch(9, 10), 0))));
}

#[test]
fn only_the_new_part_of_a_gap_is_returned() {
    let mut pair = SessionPair::open(5);
    assert_eq!(pair.send_to_receiver(Message::Gap(gap(2, 5))), Ok(None));
    assert_eq!(written(pair.receiver.outbox()), bytes_of(Message::Ack(Position(5))));
    assert_eq!(pair.send_to_receiver(Message::Gap(gap(2, 8))), Ok(Some(ReceiverEvent::Gap(gap(5, 8)))));
}

#[test]
fn an_acknowledgement_opens_a_full_window() {
    let mut pair = SessionPair::new(0);
    let sent = [batch(0, 2), batch(2, 4)];
    let window = u32::try_from(sent[0].bytes().len() + 1).unwrap();
    pair.send_to_sender(Message::Welcome(welcome(0, window))).unwrap();
    for batch in &sent {
        assert_eq!(pair.sender.next_position(), Some(batch.first()));
        pair.sender.send_batch(batch).unwrap();
    }
    assert_eq!(pair.sender.next_position(), None);
    assert_eq!(pair.send_to_sender(Message::Ack(Position(1))), Ok(Some(acknowledged(1))));
    assert_eq!(pair.sender.next_position(), None, "the first batch is not acknowledged as a whole");
    assert_eq!(pair.send_to_sender(Message::Ack(Position(2))), Ok(Some(acknowledged(2))));
    assert_eq!(pair.sender.next_position(), Some(Position(4)));
}

#[test]
fn the_outbox_never_holds_more_than_its_limit() {
    let mut pair = SessionPair::open(0);
    while let Some(position) = pair.sender.next_position() {
        pair.sender.send_batch(&batch_of(position.0, 1, 65_507)).unwrap();
    }
    let length = pair.sender.outbox().len();
    assert!(length > OUTBOX_MAX / 2 && length <= OUTBOX_MAX);
    written(pair.sender.outbox());
    assert!(pair.sender.next_position().is_some());
}

#[test]
fn only_sent_positions_can_be_acknowledged() {
    let mut pair = SessionPair::open(5);
    pair.sender.send_batch(&batch(5, 7)).unwrap();
    assert_eq!(pair.send_to_sender(Message::Ack(Position(3))), Ok(None));
    assert_eq!(pair.send_to_sender(Message::Ack(Position(7))), Ok(Some(acknowledged(7))));
    assert_eq!(pair.send_to_sender(Message::Ack(Position(7))), Ok(None));
    let too_much = SessionError::AcknowledgedTooMuch { acknowledged: Position(8), sent: Position(7) };
    assert_eq!(pair.send_to_sender(Message::Ack(Position(8))), Err(too_much));
    assert_eq!(pair.sender.next_position(), None);
}

#[test]
fn one_batch_is_returned_at_a_time() {
    let mut pair = SessionPair::open(0);
    let sent = [batch(0, 2), batch(2, 4)];
    for batch in &sent {
        pair.sender.send_batch(batch).unwrap();
    }
    assert_eq!(pair.flow_up(), Ok(Some(delivery(&sent[0], 0))));
    assert!(!pair.receiver.wants_bytes());
    assert_eq!(pair.receiver.poll_event(), Ok(None));
    deliver_everything(&mut pair.receiver, pair.now);
    assert_eq!(pair.receiver.poll_event(), Ok(Some(delivery(&sent[1], 0))));
}

#[test]
fn only_the_newest_acknowledgement_is_written() {
    let mut pair = SessionPair::open(0);
    for first in 0..3 {
        pair.sender.send_batch(&batch(first, first + 1)).unwrap();
    }
    pair.flow_up().unwrap();
    for _ in 0..3 {
        deliver_everything(&mut pair.receiver, pair.now);
        pair.receiver.poll_event().unwrap();
    }
    assert_eq!(written(pair.receiver.outbox()), bytes_of(Message::Ack(Position(3))));
    assert!(pair.receiver.outbox().is_empty());
}

#[test]
fn sent_data_is_unacknowledged_until_its_end() {
    let mut pair = SessionPair::open(0);
    assert!(!pair.sender.has_unacknowledged());
    pair.sender.send_batch(&batch(0, 4)).unwrap();
    pair.send_to_sender(Message::Ack(Position(3))).unwrap();
    assert!(pair.sender.has_unacknowledged());
    pair.send_to_sender(Message::Ack(Position(4))).unwrap();
    assert!(!pair.sender.has_unacknowledged());
}

#[test]
fn an_outbox_is_read_in_steps_of_any_size() {
    let fill = || {
        let mut outbox = Outbox::default();
        outbox.push(Message::Ping);
        outbox.push(Message::Data(batch(0, 3).bytes().clone()));
        outbox.push(Message::Ack(Position(9)));
        outbox
    };
    let whole = written(&mut fill());
    for step in 1..=whole.len() {
        let (mut outbox, mut read) = (fill(), Vec::new());
        while outbox.has_remaining() {
            let mut slices = [IoSlice::new(&[]); 3];
            let count = outbox.chunks_vectored(&mut slices);
            let visible: Vec<u8> = slices[..count].iter().flat_map(|slice| slice.iter().copied()).collect();
            let now = step.min(visible.len());
            read.extend_from_slice(&visible[..now]);
            outbox.advance(now);
            assert_eq!(outbox.len() + read.len(), whole.len());
        }
        assert_eq!(read, whole, "in steps of {step}");
    }
}
