//! The sender's side of a session: sends batches and gaps, and processes acknowledgements.

use std::collections::VecDeque;
use std::time::Instant;

use crate::batch::Batch;
use crate::framing::{HEADER_LEN, Hello, Message, Refusal, Resend, Welcome};
use crate::limits::{MESSAGE_MAX, OUTBOX_MAX, WINDOW};
use crate::sequence::{Gap, Position};
use crate::session::liveness::Liveness;
use crate::session::wire::Wire;
use crate::session::{OutOfOrder, Outbox, SessionError};

/// An event of the sender's side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SenderEvent {
    /// The receiver accepted the session.
    ///
    /// Everything below `resume` counts as acknowledged and is not acknowledged again. This may exceed all
    /// earlier acknowledgements, because these can get lost. The daemon must check that the run named by
    /// WELCOME sent all positions that the receiver claims to have.
    Welcomed(Welcome),
    /// Everything below this position is delivered. The position is greater than the last acknowledged one.
    Acknowledged(Position),
    /// The receiver has everything below this position, but not all of it is delivered.
    ///
    /// The sender does not send it again unless the receiver requests it. All of it was sent in this session
    /// or was reported as received by WELCOME.
    Received(Position),
    /// The receiver ended the session with a reason.
    Rejected(Refusal),
    /// The receiver closed the session regularly.
    Goodbye,
}

/// The sender's side of a session.
#[derive(Debug)]
pub struct SenderSession {
    wire: Wire,
    phase: SenderPhase,
}

#[derive(Debug)]
enum SenderPhase {
    /// HELLO is sent, WELCOME is not received yet.
    Greeting,
    Open(InFlight),
    Ended,
}

/// Sent and acknowledged positions; `acknowledged <= next`.
#[derive(Debug)]
struct InFlight {
    acknowledged: Position,
    /// Next position to send for the first time.
    next: Position,
    /// Position below which the receiver had everything at the start of the session.
    received: Position,
    /// Ends and lengths of the sent batches that are neither acknowledged nor received, in order.
    batches: VecDeque<(Position, usize)>,
    /// Bytes of these batches.
    bytes: usize,
    /// Bytes in flight at which sending pauses.
    window: usize,
    /// Request of the receiver to resend batches.
    resend: Option<PendingResend>,
    /// Position below which the receiver has all data, by its last RECEIVED.
    reported: Position,
    /// True if holding collectors lack data that others have and that the receiver no longer holds.
    is_ahead: bool,
    /// Highest end of resent data.
    resent: Position,
    /// End of everything sent at the time at which resent data caught up with it: the receiver sent a
    /// RECEIVED up to here before it had that.
    caught_up: Position,
    /// Until the first RECEIVED: data sent below this position was received before, and may count as resent.
    resumed_to: Position,
}

/// Remaining part of a request to resend batches; `next < end`, `0 < bytes`.
#[derive(Clone, Copy, Debug)]
struct PendingResend {
    next: Position,
    /// Position after the last one that was sent when the request was received.
    end: Position,
    /// Bytes of batches that the receiver still wants.
    bytes: usize,
}

impl InFlight {
    fn new(welcome: Welcome) -> Self {
        Self {
            acknowledged: welcome.resume,
            next: welcome.resume,
            received: welcome.received,
            batches: VecDeque::new(),
            bytes: 0,
            window: usize::try_from(welcome.window.min(WINDOW)).unwrap_or(usize::MAX),
            resend: None,
            reported: welcome.resume,
            is_ahead: false,
            resent: welcome.resume,
            caught_up: welcome.resume,
            resumed_to: welcome.received,
        }
    }

    /// Next position to send. Requested positions precede new ones.
    fn next_position(&self) -> Position {
        self.resend.map_or(self.next, |pending| pending.next)
    }

    /// Advances to `end` after sending the positions `first` to `end` in `bytes` bytes.
    ///
    /// Returns true if they are sent for the first time.
    fn advance_past(&mut self, first: Position, end: Position, bytes: usize) -> Result<bool, OutOfOrder> {
        if !(first..end).contains(&self.next_position()) {
            return Err(OutOfOrder { first, end });
        }
        let Some(pending) = self.resend.take() else {
            self.next = end;
            return Ok(true);
        };
        let bytes = pending.bytes.saturating_sub(bytes);
        if end < pending.end && bytes > 0 {
            self.resend = Some(PendingResend { next: end, bytes, ..pending });
        }
        self.resent = self.resent.max(end);
        if end >= self.next {
            self.is_ahead = false;
            self.caught_up = end;
        }
        self.next = self.next.max(end);
        Ok(false)
    }

    /// Removes everything below `position` from the data to send and from the data in flight.
    fn release_below(&mut self, position: Position) {
        while let Some((_, bytes)) = self.batches.front().filter(|(end, _)| *end <= position) {
            self.bytes -= bytes;
            self.batches.pop_front();
        }
        self.next = self.next.max(position);
    }

    /// Handles RECEIVED: the receiver has everything below `position`.
    fn note_received(&mut self, position: Position) -> Result<(), SessionError> {
        let sent = self.next.max(self.received);
        if position > sent {
            return Err(SessionError::ReceivedTooMuch { received: position, sent });
        }
        let resumed_to = core::mem::take(&mut self.resumed_to);
        self.resent = self.resent.max(self.next.min(resumed_to));
        self.is_ahead |= position > self.caught_up.max(self.acknowledged);
        self.reported = self.reported.max(position);
        self.release_below(position);
        Ok(())
    }

    /// Handles RESEND: replaces an earlier request.
    fn queue_resend(&mut self, request: Resend) -> Result<(), SessionError> {
        if !(self.acknowledged..self.next).contains(&request.first) {
            return Err(SessionError::NotSent { wanted: request.first, sent: self.next });
        }
        let bytes = usize::try_from(request.bytes).unwrap_or(usize::MAX);
        self.resend = Some(PendingResend { next: request.first, end: self.next, bytes });
        Ok(())
    }

    /// Handles ACK. Returns true if `position` is greater than the last acknowledged one.
    fn acknowledge(&mut self, position: Position) -> Result<bool, SessionError> {
        if position > self.next {
            return Err(SessionError::AcknowledgedTooMuch { acknowledged: position, sent: self.next });
        }
        if position <= self.acknowledged {
            return Ok(false);
        }
        self.acknowledged = position;
        self.release_below(position);
        self.is_ahead &= position < self.reported;
        if let Some(pending) = self.resend.filter(|pending| pending.next < position) {
            self.resend = (position < pending.end).then_some(PendingResend { next: position, ..pending });
        }
        Ok(true)
    }
}

impl SenderSession {
    /// Opens a session and puts HELLO into the outbox.
    pub fn new(hello: Hello, now: Instant) -> Self {
        let mut wire = Wire::default();
        wire.liveness = Some(Liveness::new(hello.heartbeat.duration(), now));
        wire.outbox.push(Message::Hello(hello));
        Self { wire, phase: SenderPhase::Greeting }
    }

    /// Processes bytes that were read from the connection.
    pub fn handle_bytes(&mut self, bytes: &[u8], now: Instant) {
        self.wire.handle_bytes(bytes, now);
    }

    /// Processes the expiry of timers. Call it when `poll_timeout` has passed. Other calls have no effect.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.wire.handle_timeout(now);
    }

    /// Time of the next `handle_timeout` call, unless another event happens first.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.wire.poll_timeout()
    }

    /// Messages to be written to the connection.
    pub fn outbox(&mut self) -> &mut Outbox {
        &mut self.wire.outbox
    }

    /// Returns the next event; `None` until more bytes or a timeout are processed. An error ends the session.
    pub fn poll_event(&mut self) -> Result<Option<SenderEvent>, SessionError> {
        let event = self.next_event();
        if matches!(event, Err(_) | Ok(Some(SenderEvent::Rejected(_) | SenderEvent::Goodbye))) {
            self.end();
        }
        event
    }

    fn next_event(&mut self) -> Result<Option<SenderEvent>, SessionError> {
        while !matches!(self.phase, SenderPhase::Ended) {
            let Some(message) = self.wire.next_message()? else { break };
            if let Some(event) = self.handle_message(message)? {
                return Ok(Some(event));
            }
        }
        Ok(None)
    }

    fn handle_message(&mut self, message: Message) -> Result<Option<SenderEvent>, SessionError> {
        match (&mut self.phase, message) {
            (_, Message::Ping) => Ok(None),
            (_, Message::Refuse(refusal)) => Ok(Some(SenderEvent::Rejected(refusal))),
            (_, Message::Goodbye) => Ok(Some(SenderEvent::Goodbye)),
            (SenderPhase::Greeting, Message::Welcome(welcome)) => {
                self.phase = SenderPhase::Open(InFlight::new(welcome));
                Ok(Some(SenderEvent::Welcomed(welcome)))
            }
            (SenderPhase::Open(in_flight), Message::Ack(position)) => {
                let is_new = in_flight.acknowledge(position)?;
                Ok(is_new.then_some(SenderEvent::Acknowledged(position)))
            }
            (SenderPhase::Open(in_flight), Message::Received(position)) => {
                in_flight.note_received(position)?;
                Ok(Some(SenderEvent::Received(position)))
            }
            (SenderPhase::Open(in_flight), Message::Resend(request)) => {
                in_flight.queue_resend(request)?;
                Ok(None)
            }
            (phase, message) => {
                let state = match phase {
                    SenderPhase::Greeting => "before WELCOME",
                    SenderPhase::Open(_) | SenderPhase::Ended => "to a sender that it had welcomed",
                };
                Err(SessionError::Unexpected { message: message.name(), state })
            }
        }
    }

    /// Next position to send; `None` while the window or the outbox is full or the session is not open.
    pub fn next_position(&self) -> Option<Position> {
        let SenderPhase::Open(in_flight) = &self.phase else { return None };
        let has_room = self.wire.outbox.len() + HEADER_LEN + MESSAGE_MAX <= OUTBOX_MAX;
        let may_send = in_flight.resend.is_some() || in_flight.bytes < in_flight.window;
        (has_room && may_send).then_some(in_flight.next_position())
    }

    /// Highest end of resent data, while holding collectors lack data that others have; else `None`. In
    /// that time the receiver no longer holds the missing data: only the data in its lane and resent data
    /// reach these collectors without a further RESEND.
    pub fn resent(&self) -> Option<Position> {
        let SenderPhase::Open(in_flight) = &self.phase else { return None };
        in_flight.is_ahead.then(|| in_flight.resent.max(in_flight.acknowledged))
    }

    /// True if the next data sent can reach all holding collectors.
    pub fn sends_to_all(&self) -> bool {
        let SenderPhase::Open(in_flight) = &self.phase else { return false };
        !in_flight.is_ahead || in_flight.resend.is_some()
    }

    /// Position after the last one that was sent or received before.
    pub fn sent(&self) -> Position {
        let SenderPhase::Open(in_flight) = &self.phase else { return Position::default() };
        in_flight.next
    }

    /// True if sent data is not acknowledged yet.
    pub fn has_unacknowledged(&self) -> bool {
        matches!(&self.phase, SenderPhase::Open(in_flight) if in_flight.acknowledged < in_flight.next)
    }

    /// Sends a batch that contains the next position, always as a whole: the receiver skips the datagrams
    /// that it has.
    pub fn send_batch(&mut self, batch: &Batch) -> Result<(), OutOfOrder> {
        let (first, end) = (batch.first(), batch.end());
        let SenderPhase::Open(in_flight) = &mut self.phase else { return Err(OutOfOrder { first, end }) };
        let bytes = batch.bytes().clone();
        if in_flight.advance_past(first, end, bytes.len())? {
            in_flight.bytes += bytes.len();
            in_flight.batches.push_back((end, bytes.len()));
        }
        self.wire.outbox.push(Message::Data(bytes));
        Ok(())
    }

    /// Reports positions, including the next one, that will never be sent.
    pub fn send_gap(&mut self, gap: Gap) -> Result<(), OutOfOrder> {
        let Gap { first, mut end, reason } = gap;
        let SenderPhase::Open(in_flight) = &mut self.phase else { return Err(OutOfOrder { first, end }) };
        if let Some(pending) = in_flight.resend {
            end = end.min(pending.end);
        }
        let gap = Gap { first, end, reason };
        in_flight.advance_past(first, end, 0)?;
        self.wire.outbox.push(Message::Gap(gap));
        Ok(())
    }

    /// Closes the session regularly, without waiting for outstanding acknowledgements.
    pub fn goodbye(&mut self) {
        if !matches!(self.phase, SenderPhase::Ended) {
            self.wire.outbox.push(Message::Goodbye);
            self.end();
        }
    }

    fn end(&mut self) {
        self.phase = SenderPhase::Ended;
        self.wire.liveness = None;
    }
}
