//! The sender's side: says what it has, learns where to go on, sends, and is told what is delivered.

use std::collections::VecDeque;
use std::time::Instant;

use crate::batch::Batch;
use crate::framing::{Again, HEADER_LEN, Hello, Message, Refusal, Welcome};
use crate::limits::{MESSAGE_MAX, OUTBOX_MAX, WINDOW};
use crate::sequence::{Gap, Position};
use crate::session::liveness::Liveness;
use crate::session::wire::Wire;
use crate::session::{OutOfTurn, Outbox, SessionError};

/// What a sender learns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SenderEvent {
    /// The session is agreed. Everything below `resume` counts as acknowledged and is not acknowledged again; it
    /// may be more than was ever acknowledged before, as acknowledgements get lost. The daemon has to check that the run
    /// named by WELCOME sent all that the receiver says it has.
    Welcomed(Welcome),
    /// Everything below this position is delivered; more than was acknowledged before.
    Acknowledged(Position),
    /// Everything below this position has come, without being delivered, and is not to be sent unless it is asked for. It was
    /// sent in this session, or WELCOME said that it had come.
    Taken(Position),
    /// The receiver ended the session and says why.
    Refused(Refusal),
    /// The receiver ended the session in good order.
    Goodbye,
}

/// The sender's side of a session.
#[derive(Debug)]
pub struct SenderSession {
    wire: Wire,
    phase: Phase,
}

#[derive(Debug)]
enum Phase {
    /// HELLO is sent, WELCOME not here yet.
    Greeting,
    Open(UnderWay),
    Ended,
}

/// What is sent and what of it is acknowledged; `acknowledged <= next`.
#[derive(Debug)]
struct UnderWay {
    acknowledged: Position,
    /// The position to be sent next.
    next: Position,
    /// The receiver had everything below when the session began.
    received: Position,
    /// Ends and lengths of the batches that were sent and are not acknowledged, in order.
    batches: VecDeque<(Position, usize)>,
    /// Bytes of them all.
    bytes: usize,
    /// No further batch while as many bytes are under way.
    window: usize,
    /// What the receiver wants once more.
    again: Option<Once>,
    /// Everything below has come, as the receiver last reported.
    taken: Position,
    /// Whether collectors that are waited for lack what others have, which the receiver has forgotten.
    is_ahead: bool,
    /// What was sent once more ends here at most.
    resent: Position,
    /// When what was sent once more came as far as all that was sent, that ended here: the receiver sent a TAKEN up to here
    /// before it had that.
    caught_up: Position,
    /// Until the first TAKEN: what is sent below this position had come before, and may come as what was asked for.
    resumed_to: Position,
}

/// What is to be sent once more; `next < end`, `0 < bytes`.
#[derive(Clone, Copy, Debug)]
struct Once {
    next: Position,
    /// What was sent when the receiver asked ends here.
    end: Position,
    /// Bytes of batches that it still wants.
    bytes: usize,
}

impl UnderWay {
    fn new(welcome: Welcome) -> Self {
        Self {
            acknowledged: welcome.resume,
            next: welcome.resume,
            received: welcome.received,
            batches: VecDeque::new(),
            bytes: 0,
            window: usize::try_from(welcome.window.min(WINDOW)).unwrap_or(usize::MAX),
            again: None,
            taken: welcome.resume,
            is_ahead: false,
            resent: welcome.resume,
            caught_up: welcome.resume,
            resumed_to: welcome.received,
        }
    }

    /// The position to be sent next: what is wanted once more goes first.
    fn wanted(&self) -> Position {
        self.again.map_or(self.next, |again| again.next)
    }

    /// Goes on behind `end` with what is sent now, `bytes` of it. Whether it is sent for the first time.
    fn take_turn(&mut self, first: Position, end: Position, bytes: usize) -> Result<bool, OutOfTurn> {
        if !(first..end).contains(&self.wanted()) {
            return Err(OutOfTurn { first, end });
        }
        let Some(again) = self.again.take() else {
            self.next = end;
            return Ok(true);
        };
        let bytes = again.bytes.saturating_sub(bytes);
        if end < again.end && bytes > 0 {
            self.again = Some(Once { next: end, bytes, ..again });
        }
        self.resent = self.resent.max(end);
        if end >= self.next {
            self.is_ahead = false;
            self.caught_up = end;
        }
        self.next = self.next.max(end);
        Ok(false)
    }

    /// Nothing below `position` is to be sent or counts as under way.
    fn pass(&mut self, position: Position) {
        while let Some((_, bytes)) = self.batches.front().filter(|(end, _)| *end <= position) {
            self.bytes -= bytes;
            self.batches.pop_front();
        }
        self.next = self.next.max(position);
    }

    /// The receiver has everything below `position`.
    fn take(&mut self, position: Position) -> Result<(), SessionError> {
        let sent = self.next.max(self.received);
        if position > sent {
            return Err(SessionError::TakenTooMuch { taken: position, sent });
        }
        let resumed_to = core::mem::take(&mut self.resumed_to);
        self.resent = self.resent.max(self.next.min(resumed_to));
        self.is_ahead |= position > self.caught_up.max(self.acknowledged);
        self.taken = self.taken.max(position);
        self.pass(position);
        Ok(())
    }

    fn send_again(&mut self, wish: Again) -> Result<(), SessionError> {
        if !(self.acknowledged..self.next).contains(&wish.first) {
            return Err(SessionError::NotSent { wanted: wish.first, sent: self.next });
        }
        let bytes = usize::try_from(wish.bytes).unwrap_or(usize::MAX);
        self.again = Some(Once { next: wish.first, end: self.next, bytes });
        Ok(())
    }

    /// Whether that was news.
    fn acknowledge(&mut self, position: Position) -> Result<bool, SessionError> {
        if position > self.next {
            return Err(SessionError::AcknowledgedTooMuch { acknowledged: position, sent: self.next });
        }
        if position <= self.acknowledged {
            return Ok(false);
        }
        self.acknowledged = position;
        self.pass(position);
        self.is_ahead &= position < self.taken;
        if let Some(again) = self.again.filter(|again| again.next < position) {
            self.again = (position < again.end).then_some(Once { next: position, ..again });
        }
        Ok(true)
    }
}

impl SenderSession {
    /// Opens a session: HELLO waits in the outbox.
    pub fn new(hello: Hello, now: Instant) -> Self {
        let mut wire = Wire::default();
        wire.liveness = Some(Liveness::new(hello.heartbeat.duration(), now));
        wire.outbox.push(Message::Hello(hello));
        Self { wire, phase: Phase::Greeting }
    }

    /// Takes in what was read from the connection.
    pub fn handle_bytes(&mut self, bytes: &[u8], now: Instant) {
        self.wire.handle_bytes(bytes, now);
    }

    /// Looks at the clock: to be called when `poll_timeout` has passed, at any other time without harm.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.wire.handle_timeout(now);
    }

    /// When `handle_timeout` is to be called, unless something else happens first.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.wire.poll_timeout()
    }

    /// What waits to be written.
    pub fn outbox(&mut self) -> &mut Outbox {
        &mut self.wire.outbox
    }

    /// The next event; `None` until more bytes or a timeout were handled. An error ends the session.
    pub fn poll_event(&mut self) -> Result<Option<SenderEvent>, SessionError> {
        let event = self.next_event();
        if matches!(event, Err(_) | Ok(Some(SenderEvent::Refused(_) | SenderEvent::Goodbye))) {
            self.end();
        }
        event
    }

    fn next_event(&mut self) -> Result<Option<SenderEvent>, SessionError> {
        while !matches!(self.phase, Phase::Ended) {
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
            (_, Message::Refuse(refusal)) => Ok(Some(SenderEvent::Refused(refusal))),
            (_, Message::Goodbye) => Ok(Some(SenderEvent::Goodbye)),
            (Phase::Greeting, Message::Welcome(welcome)) => {
                self.phase = Phase::Open(UnderWay::new(welcome));
                Ok(Some(SenderEvent::Welcomed(welcome)))
            }
            (Phase::Open(under_way), Message::Ack(position)) => {
                let is_news = under_way.acknowledge(position)?;
                Ok(is_news.then_some(SenderEvent::Acknowledged(position)))
            }
            (Phase::Open(under_way), Message::Taken(position)) => {
                under_way.take(position)?;
                Ok(Some(SenderEvent::Taken(position)))
            }
            (Phase::Open(under_way), Message::Again(wish)) => {
                under_way.send_again(wish)?;
                Ok(None)
            }
            (phase, message) => {
                let moment = match phase {
                    Phase::Greeting => "before WELCOME",
                    Phase::Open(_) | Phase::Ended => "to a sender that it had welcomed",
                };
                Err(SessionError::Unexpected { message: message.name(), moment })
            }
        }
    }

    /// The position to be sent next; `None` while nothing may be sent.
    pub fn wants(&self) -> Option<Position> {
        let Phase::Open(under_way) = &self.phase else { return None };
        let has_room = self.wire.outbox.len() + HEADER_LEN + MESSAGE_MAX <= OUTBOX_MAX;
        let may_send = under_way.again.is_some() || under_way.bytes < under_way.window;
        (has_room && may_send).then_some(under_way.wanted())
    }

    /// Set while collectors that are waited for lack what others have. Then the receiver has forgotten what they lack: only what
    /// it holds for them, and what it was sent once more, reaches them without being asked for again. The latter ends at the
    /// position returned.
    pub fn resent(&self) -> Option<Position> {
        let Phase::Open(under_way) = &self.phase else { return None };
        under_way.is_ahead.then(|| under_way.resent.max(under_way.acknowledged))
    }

    /// Whether what is sent next may reach all collectors that are waited for.
    pub fn sends_to_all(&self) -> bool {
        matches!(&self.phase, Phase::Open(under_way) if !under_way.is_ahead || under_way.again.is_some())
    }

    /// The position after the last one that was sent or taken.
    pub fn sent(&self) -> Position {
        let Phase::Open(under_way) = &self.phase else { return Position::default() };
        under_way.next
    }

    /// Whether anything was sent that is not acknowledged.
    pub fn has_unacknowledged(&self) -> bool {
        matches!(&self.phase, Phase::Open(under_way) if under_way.acknowledged < under_way.next)
    }

    /// Sends a batch that holds the wanted position: after a resume in its middle, all of it.
    pub fn send_batch(&mut self, batch: &Batch) -> Result<(), OutOfTurn> {
        let (first, end) = (batch.first(), batch.end());
        let Phase::Open(under_way) = &mut self.phase else { return Err(OutOfTurn { first, end }) };
        let bytes = batch.bytes().clone();
        if under_way.take_turn(first, end, bytes.len())? {
            under_way.bytes += bytes.len();
            under_way.batches.push_back((end, bytes.len()));
        }
        self.wire.outbox.push(Message::Data(bytes));
        Ok(())
    }

    /// Says that positions, among them the wanted one, will never come.
    pub fn send_gap(&mut self, gap: Gap) -> Result<(), OutOfTurn> {
        let Gap { first, mut end, reason } = gap;
        let Phase::Open(under_way) = &mut self.phase else { return Err(OutOfTurn { first, end }) };
        if let Some(again) = under_way.again {
            end = end.min(again.end);
        }
        let gap = Gap { first, end, reason };
        under_way.take_turn(first, end, 0)?;
        self.wire.outbox.push(Message::Gap(gap));
        Ok(())
    }

    /// Ends the session in good order. Acknowledgements that are still on their way are not waited for.
    pub fn goodbye(&mut self) {
        if !matches!(self.phase, Phase::Ended) {
            self.wire.outbox.push(Message::Goodbye);
            self.end();
        }
    }

    fn end(&mut self) {
        self.phase = Phase::Ended;
        self.wire.liveness = None;
    }
}
