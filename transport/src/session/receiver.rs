//! The receiver's side: says where to go on, hands out one batch at a time, and acknowledges what is delivered.

use std::time::Instant;

use bytes::Bytes;

use crate::batch::{Batch, BatchError};
use crate::framing::{Again, Hello, Message, Refusal, RefusalCode, Welcome};
use crate::limits::{ACK_BYTES, ACK_DELAY, WINDOW};
use crate::sequence::{Gap, Position, RunId, StreamId};
use crate::session::liveness::Liveness;
use crate::session::wire::Wire;
use crate::session::{Outbox, SessionError};

/// What a receiver learns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReceiverEvent {
    /// A sender asks for a session: `welcome` or `refuse` it.
    Hello(Hello),
    /// The next batch: no other comes before `go_on`. Once it is delivered and that is stored, `acknowledge` its end.
    Batch {
        /// The batch, whole and undamaged; its records are not looked at yet.
        batch: Batch,
        /// So many datagrams at its start were delivered before; `skip < batch.datagrams()`.
        skip: usize,
    },
    /// The next positions will never come: `go_on` and `acknowledge` as with a batch. Starts at what was expected.
    Gap(Gap),
    /// A batch that was asked for once more: the position that was wanted is in it.
    Again(Batch),
    /// The next positions that were asked for once more will never come.
    GapAgain(Gap),
    /// A batch came of which everything was delivered before. Nothing is to be done.
    Repeat {
        /// How many datagrams it held.
        datagrams: u32,
    },
    /// The sender ended the session in good order.
    Goodbye,
}

/// How far a stream has come when its sender connects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Everything below is delivered.
    pub delivered: Position,
    /// Everything below has come, delivered or not.
    pub received: Position,
    /// The run of the sender that sent the latest of it.
    pub run: RunId,
}

/// The receiver's side of a session.
#[derive(Debug, Default)]
pub struct ReceiverSession {
    wire: Wire,
    phase: Phase,
    /// Everything below is delivered and the sender is not told yet.
    unsaid: Option<Position>,
    /// When it is to be told at the latest, and whether it is to be told now.
    say_at: Option<Instant>,
    is_due: bool,
    /// Bytes of batches that came since the sender was told something.
    since_said: usize,
    /// Everything below has come and the sender is not told yet.
    unsaid_taken: Option<Position>,
    /// When the first bytes after HELLO are overdue; `None` once they have come.
    overdue_at: Option<Instant>,
}

#[derive(Debug, Default)]
enum Phase {
    /// HELLO is not here yet.
    #[default]
    Greeting,
    /// HELLO was handed out and not answered yet.
    Asked(Hello),
    Open(Progress),
    Ended,
}

/// How far a stream came.
#[derive(Debug)]
struct Progress {
    stream: StreamId,
    /// The position that is to come next.
    expected: Position,
    /// Everything below is delivered; `delivered <= expected`.
    delivered: Position,
    /// The sender was told that everything below has come.
    taken: Position,
    /// A batch or gap was handed out, and the next one is not wanted yet.
    is_paused: bool,
    /// What was asked for once more and has not come: from where on, and how many bytes.
    asked: Option<(Position, usize)>,
}

impl Progress {
    fn take_batch(&mut self, bytes: &Bytes) -> Result<ReceiverEvent, SessionError> {
        let batch = Batch::parse_exact(self.stream, bytes)?;
        if batch.is_sealed() {
            return Err(BatchError::Sealed.into());
        }
        let skip = self.expected.since(batch.first());
        if self.take_asked(batch.first(), batch.end(), batch.bytes().len()).is_some() {
            return Ok(ReceiverEvent::Again(batch));
        }
        if !self.advance(batch.first(), batch.end())? {
            let datagrams = batch.datagrams().saturating_sub(u32::from(batch.dropped()));
            return Ok(ReceiverEvent::Repeat { datagrams });
        }
        Ok(ReceiverEvent::Batch { batch, skip: usize::try_from(skip).unwrap_or(usize::MAX) })
    }

    fn take_gap(&mut self, gap: Gap) -> Result<Option<ReceiverEvent>, SessionError> {
        let first = gap.first.max(self.expected);
        if let Some(first) = self.take_asked(gap.first, gap.end, 0) {
            return Ok(Some(ReceiverEvent::GapAgain(Gap { first, ..gap })));
        }
        let is_news = self.advance(gap.first, gap.end)?;
        Ok(is_news.then_some(ReceiverEvent::Gap(Gap { first, ..gap })))
    }

    /// The first of the positions `first` to `end` that is wanted, if they are what was asked for once more; then what
    /// follows them is waited for.
    fn take_asked(&mut self, first: Position, end: Position, bytes: usize) -> Option<Position> {
        let (next, wanted) = self.asked?;
        if !(first..end).contains(&next) {
            return None;
        }
        if end > self.expected {
            // The front lies within it. All of it can be asked for once it has come.
            self.asked = None;
            return None;
        }
        let wanted = wanted.saturating_sub(bytes);
        self.asked = (end < self.expected && wanted > 0).then_some((end, wanted));
        Some(next)
    }

    /// Whether positions `first` to `end` hold news; then nothing else is wanted for now.
    fn advance(&mut self, first: Position, end: Position) -> Result<bool, SessionError> {
        if first > self.expected {
            return Err(SessionError::Hole { expected: self.expected, found: first });
        }
        self.is_paused = end > self.expected;
        self.expected = self.expected.max(end);
        Ok(self.is_paused)
    }
}

impl ReceiverSession {
    /// A session that waits for HELLO, for as long as the daemon lets it: it has no timeout yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes in what was read from the connection.
    pub fn handle_bytes(&mut self, bytes: &[u8], now: Instant) {
        if !bytes.is_empty() {
            self.overdue_at = None;
        }
        self.wire.handle_bytes(bytes, now);
    }

    /// Whether the daemon may read from the connection. Not while an event waits for its answer, or the next batch is not
    /// wanted: what the sender sends meanwhile stays in its spool and on the way.
    pub fn wants_bytes(&self) -> bool {
        match &self.phase {
            Phase::Greeting => true,
            Phase::Open(progress) => !progress.is_paused,
            Phase::Asked(_) | Phase::Ended => false,
        }
    }

    /// Looks at the clock: to be called when `poll_timeout` has passed, at any other time without harm.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.wire.handle_timeout(now);
        if self.say_at.is_some_and(|at| at <= now) {
            self.is_due = true;
            self.say_at = None;
        }
    }

    /// When `handle_timeout` is to be called, unless something else happens first.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.wire.poll_timeout().into_iter().chain(self.say_at).min()
    }

    /// What waits to be written. However many acknowledgements there were since the last one was written, only
    /// the newest goes: once `ACK_BYTES` have come, after `ACK_DELAY`, or with what is said anyway.
    pub fn outbox(&mut self) -> &mut Outbox {
        if self.wire.outbox.is_empty() && (self.is_due || self.since_said >= ACK_BYTES) {
            self.say_unsaid();
        }
        &mut self.wire.outbox
    }

    fn say_unsaid(&mut self) {
        // In this order: what the sender must keep for those that are waited for begins at what is acknowledged.
        if let Some(position) = self.unsaid.take() {
            self.wire.outbox.push(Message::Ack(position));
        }
        if let Some(position) = self.unsaid_taken.take() {
            self.wire.outbox.push(Message::Taken(position));
        }
        self.since_said = 0;
        self.is_due = false;
        self.say_at = None;
    }

    /// The next event; `None` until more bytes or a timeout were handled, and while the last event still waits
    /// for its answer. An error ends the session, and the sender is told.
    pub fn poll_event(&mut self) -> Result<Option<ReceiverEvent>, SessionError> {
        let event = self.next_event();
        match &event {
            Err(error) => match error.refusal_code() {
                Some(code) => self.refuse(code, &error.to_string()),
                None => self.end(),
            },
            Ok(Some(ReceiverEvent::Goodbye)) => self.end(),
            Ok(_) => {}
        }
        event
    }

    fn next_event(&mut self) -> Result<Option<ReceiverEvent>, SessionError> {
        while self.wants_bytes() {
            let Some(message) = self.wire.next_message()? else { break };
            if let Some(event) = self.handle_message(message)? {
                return Ok(Some(event));
            }
        }
        Ok(None)
    }

    fn handle_message(&mut self, message: Message) -> Result<Option<ReceiverEvent>, SessionError> {
        if let Message::Data(bytes) = &message {
            self.since_said = self.since_said.saturating_add(bytes.len());
        }
        let event = match (&mut self.phase, message) {
            (Phase::Greeting, Message::Hello(hello)) => {
                self.phase = Phase::Asked(hello);
                return Ok(Some(ReceiverEvent::Hello(hello)));
            }
            (Phase::Open(progress), Message::Data(bytes)) => Some(progress.take_batch(&bytes)?),
            (Phase::Open(progress), Message::Gap(gap)) => progress.take_gap(gap)?,
            (Phase::Open(_), Message::Ping) => return Ok(None),
            (Phase::Open(_), Message::Goodbye) => return Ok(Some(ReceiverEvent::Goodbye)),
            (phase, message) => {
                let moment = match phase {
                    Phase::Open(_) | Phase::Ended => "in an open session",
                    Phase::Greeting | Phase::Asked(_) => "before the session was agreed",
                };
                return Err(SessionError::Unexpected { message: message.name(), moment });
            }
        };
        self.acknowledge_repeats();
        if !self.wants_bytes()
            && let Some(liveness) = &mut self.wire.liveness
        {
            liveness.stop_listening();
        }
        Ok(event)
    }

    /// A sender that repeats does not know what was delivered.
    fn acknowledge_repeats(&mut self) {
        if let Phase::Open(Progress { delivered, is_paused: false, .. }) = &self.phase {
            self.unsaid = Some(*delivered);
            self.is_due = true;
        }
    }

    /// Answers HELLO with how far the stream has come. The sender goes on from what is delivered, or from the first
    /// position that it still holds if that is later. From now on both sides must give signs of life.
    pub fn welcome(&mut self, place: Place, now: Instant) {
        let Phase::Asked(hello) = &self.phase else { return };
        let resume = place.delivered.max(hello.first);
        let (received, run) = (place.received.max(resume), place.run);
        let heartbeat = hello.heartbeat.duration();
        self.wire.liveness = Some(Liveness::new(heartbeat, now));
        self.overdue_at = Some(now + heartbeat * 3 / 2);
        let (stream, expected, delivered) = (hello.stream, resume, resume);
        self.phase = Phase::Open(Progress {
            stream,
            expected,
            delivered,
            taken: resume,
            is_paused: false,
            asked: None,
        });
        self.wire.outbox.push(Message::Welcome(Welcome { resume, window: WINDOW, received, run }));
    }

    /// Whether not one byte has come since WELCOME, although a heartbeat is overdue. Remains true after the end.
    pub fn is_unheard(&self, now: Instant) -> bool {
        self.overdue_at.is_some_and(|overdue_at| overdue_at <= now)
    }

    /// The next batch or gap may come. The time for which it was not wanted does not count as the sender's silence. Says
    /// whether it was not wanted until now: then it may have come already.
    pub fn go_on(&mut self, now: Instant) -> bool {
        let Phase::Open(progress) = &mut self.phase else { return false };
        let was_paused = core::mem::take(&mut progress.is_paused);
        if let Some(liveness) = self.wire.liveness.as_mut().filter(|_| was_paused) {
            liveness.listen(now);
        }
        was_paused
    }

    /// Everything below `position` is delivered, and that is stored: the sender is told before long.
    pub fn acknowledge(&mut self, position: Position, now: Instant) {
        let Phase::Open(progress) = &mut self.phase else { return };
        let position = position.min(progress.expected);
        if position > progress.delivered {
            progress.delivered = position;
            self.unsaid = Some(position);
            if !self.is_due {
                self.say_at.get_or_insert(now + ACK_DELAY);
            }
        }
    }

    /// Everything below `position` has come, if not in this session then in an earlier one: the sender is told to send only
    /// what follows. What lies between that and what is acknowledged can be asked for.
    pub fn take(&mut self, position: Position) {
        let Phase::Open(progress) = &mut self.phase else { return };
        progress.expected = progress.expected.max(position);
        if position > progress.delivered.max(progress.taken) {
            progress.taken = position;
            self.unsaid_taken = Some(position);
            self.is_due = true;
        }
    }

    /// Asks for batches from `first` on, which is not acknowledged, once more: as many as make up `bytes`, at least one.
    pub fn ask_again(&mut self, first: Position, bytes: u32) {
        let Phase::Open(progress) = &mut self.phase else { return };
        if first < progress.expected {
            progress.asked = Some((first, usize::try_from(bytes).unwrap_or(usize::MAX)));
            // The sender must know first that everything has come.
            self.say_unsaid();
            self.wire.outbox.push(Message::Again(Again { first, bytes: bytes.max(1) }));
        }
    }

    /// Whether something that was asked for once more is still to come.
    pub fn is_asking(&self) -> bool {
        matches!(&self.phase, Phase::Open(Progress { asked: Some(_), .. }))
    }

    /// Ends the session and says why, in a sentence for the sender's operator.
    pub fn refuse(&mut self, code: RefusalCode, text: &str) {
        self.end_with(Message::Refuse(Refusal::new(code, text)));
    }

    /// Ends the session in good order.
    pub fn goodbye(&mut self) {
        self.end_with(Message::Goodbye);
    }

    fn end_with(&mut self, last_word: Message) {
        if !matches!(self.phase, Phase::Ended) {
            self.say_unsaid();
            self.wire.outbox.push(last_word);
            self.end();
        }
    }

    fn end(&mut self) {
        self.phase = Phase::Ended;
        self.wire.liveness = None;
    }
}
