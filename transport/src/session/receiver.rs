//! The receiver's side of a session: returns one batch at a time and acknowledges delivered positions.

mod event;
mod stream_state;

use std::time::Instant;

pub use event::ReceiverEvent;
use stream_state::StreamState;

use crate::framing::{Hello, Message, Refusal, RefusalCode, Resend, Welcome};
use crate::limits::{ACK_BYTES, ACK_DELAY, ACK_PAUSE, WINDOW};
use crate::sequence::{Position, RunId};
use crate::session::liveness::Liveness;
use crate::session::wire::Wire;
use crate::session::{Outbox, SessionError};

/// Progress of a stream at the time its sender connects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResumePoint {
    /// Position below which everything is delivered.
    pub delivered: Position,
    /// Position below which everything is received, delivered or not.
    pub received: Position,
    /// Run of the sender that sent the latest of it.
    pub run: RunId,
}

/// The receiver's side of a session.
#[derive(Debug, Default)]
pub struct ReceiverSession {
    wire: Wire,
    phase: ReceiverPhase,
    /// Highest positions of [`Self::note_delivered`].
    delivered: Position,
    skip_position: Option<Position>,
    /// True if the daemon should store and acknowledge what is delivered.
    is_ack_due: bool,
    /// Latest time at which that becomes true; `None` if everything delivered is acknowledged.
    ack_at: Option<Instant>,
    /// Time of the last [`Self::acknowledge`].
    acknowledged_at: Option<Instant>,
    /// Position of the next ACK; `None` if everything stored is acknowledged.
    pending_ack: Option<Position>,
    /// True if pending messages are sent as soon as the outbox is empty.
    is_flush_due: bool,
    /// Bytes of batches that were received since the last [`Self::acknowledge`].
    bytes_since_ack: usize,
    /// Position of the next RECEIVED message, if one is pending.
    pending_received: Option<Position>,
    /// Time at which the first bytes after WELCOME are overdue; `None` before WELCOME or after the first
    /// byte.
    first_bytes_due: Option<Instant>,
}

#[derive(Debug, Default)]
enum ReceiverPhase {
    /// HELLO is not received yet.
    #[default]
    Greeting,
    /// The daemon has received HELLO and has not answered it yet.
    HelloReceived(Hello),
    Open(StreamState),
    Ended,
}

impl ReceiverSession {
    /// Creates a session that waits for HELLO. It has no timeout yet, so the daemon limits the wait.
    pub fn new() -> Self {
        Self::default()
    }

    /// Processes bytes that were read from the connection.
    pub fn handle_bytes(&mut self, bytes: &[u8], now: Instant) {
        if !bytes.is_empty() {
            self.first_bytes_due = None;
        }
        self.wire.handle_bytes(bytes, now);
    }

    /// True if the daemon may read from the connection.
    ///
    /// It is false while HELLO is not answered and while reading is paused. The sender's backlog then stays
    /// in its spool and in socket buffers.
    pub fn wants_bytes(&self) -> bool {
        match &self.phase {
            ReceiverPhase::Greeting => true,
            ReceiverPhase::Open(progress) => !progress.is_paused,
            ReceiverPhase::HelloReceived(_) | ReceiverPhase::Ended => false,
        }
    }

    /// Processes the expiry of timers. Call it when `poll_timeout` has passed. Other calls have no effect.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.wire.handle_timeout(now);
        if self.ack_at.take_if(|at| *at <= now).is_some() {
            self.is_ack_due = true;
        }
    }

    /// Time of the next `handle_timeout` call, unless another event happens first.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.wire.poll_timeout().into_iter().chain(self.ack_at).min()
    }

    /// Messages to be written to the connection. Of several acknowledgements only the newest is sent.
    pub fn outbox(&mut self) -> &mut Outbox {
        if self.wire.outbox.is_empty() && self.is_flush_due {
            self.flush_acks();
        }
        &mut self.wire.outbox
    }

    /// Puts the pending ACK and RECEIVED into the outbox.
    fn flush_acks(&mut self) {
        // In this order: the data that the sender must keep for holding collectors begins at the
        // acknowledged position.
        if let Some(position) = self.pending_ack.take() {
            self.wire.outbox.push(Message::Ack(position));
        }
        if let Some(position) = self.pending_received.take() {
            self.wire.outbox.push(Message::Received(position));
        }
        self.is_flush_due = false;
    }

    /// Returns the next event.
    ///
    /// Returns `None` until more bytes or a timeout are processed, and while the last event is not answered
    /// yet. An error ends the session and puts a refusal for the sender into the outbox.
    pub fn poll_event(&mut self) -> Result<Option<ReceiverEvent>, SessionError> {
        let event = self.next_event();
        match &event {
            Err(error) => match error.refusal_code() {
                Some(code) => self.reject(code, &error.to_string()),
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
            self.bytes_since_ack = self.bytes_since_ack.saturating_add(bytes.len());
        }
        let event = match (&mut self.phase, message) {
            (ReceiverPhase::Greeting, Message::Hello(hello)) => {
                self.phase = ReceiverPhase::HelloReceived(hello);
                return Ok(Some(ReceiverEvent::Hello(hello)));
            }
            (ReceiverPhase::Open(progress), Message::Data(bytes)) => Some(progress.accept_batch(&bytes)?),
            (ReceiverPhase::Open(progress), Message::Gap(gap)) => progress.accept_gap(gap)?,
            (ReceiverPhase::Open(_), Message::Ping) => return Ok(None),
            (ReceiverPhase::Open(_), Message::Goodbye) => return Ok(Some(ReceiverEvent::Goodbye)),
            (phase, message) => {
                let state = match phase {
                    ReceiverPhase::Open(_) | ReceiverPhase::Ended => "in an open session",
                    ReceiverPhase::Greeting | ReceiverPhase::HelloReceived(_) => {
                        "before the session was agreed"
                    }
                };
                return Err(SessionError::Unexpected { message: message.name(), state });
            }
        };
        self.acknowledge_duplicate();
        if !self.wants_bytes()
            && let Some(liveness) = &mut self.wire.liveness
        {
            liveness.pause_silence_timer();
        }
        Ok(event)
    }

    /// Acknowledges again at once, because a sender that repeats data has not seen the last acknowledgement.
    fn acknowledge_duplicate(&mut self) {
        if let ReceiverPhase::Open(StreamState { delivered, is_paused: false, .. }) = &self.phase {
            self.pending_ack = Some(*delivered);
            self.is_flush_due = true;
        }
    }

    /// Answers HELLO with the progress of the stream and opens the session.
    ///
    /// The sender resumes from the delivered position, or from its first position if that is later. From now
    /// on the heartbeat applies to both sides.
    pub fn welcome(&mut self, place: ResumePoint, now: Instant) {
        let ReceiverPhase::HelloReceived(hello) = &self.phase else { return };
        let resume = place.delivered.max(hello.first);
        let (received, run) = (place.received.max(resume), place.run);
        let heartbeat = hello.heartbeat.duration();
        self.delivered = resume;
        self.wire.liveness = Some(Liveness::new(heartbeat, now));
        self.first_bytes_due = Some(now + heartbeat * 3 / 2);
        let (stream, expected, delivered) = (hello.stream, resume, resume);
        self.phase = ReceiverPhase::Open(StreamState {
            stream,
            expected,
            delivered,
            reported_received: resume,
            is_paused: false,
            requested: None,
        });
        self.wire.outbox.push(Message::Welcome(Welcome { resume, window: WINDOW, received, run }));
    }

    /// True if a heartbeat is overdue and no byte was received since WELCOME. Stays true after the end of the
    /// session.
    pub fn is_silent_since_welcome(&self, now: Instant) -> bool {
        self.first_bytes_due.is_some_and(|overdue_at| overdue_at <= now)
    }

    /// Allows the next batch or gap.
    ///
    /// The pause does not count as silence of the sender. Returns true if reading was paused: the next
    /// message may already be in the buffer.
    pub fn resume_reading(&mut self, now: Instant) -> bool {
        let ReceiverPhase::Open(progress) = &mut self.phase else { return false };
        let was_paused = core::mem::take(&mut progress.is_paused);
        if let Some(liveness) = self.wire.liveness.as_mut().filter(|_| was_paused) {
            liveness.restart_silence_timer(now);
        }
        was_paused
    }

    /// Notes that everything below `position` is delivered, and everything below `skip_position` to the
    /// collectors set to skip, if these are ahead.
    ///
    /// New positions are due to be stored and acknowledged at once if the last acknowledgement was
    /// `ACK_PAUSE` ago, else within `ACK_DELAY`.
    pub fn note_delivered(&mut self, position: Position, skip_position: Option<Position>, now: Instant) {
        let is_new = position > self.delivered || skip_position > self.skip_position;
        if !is_new || !matches!(self.phase, ReceiverPhase::Open(_)) {
            return;
        }
        self.delivered = self.delivered.max(position);
        self.skip_position = self.skip_position.max(skip_position);
        if self.acknowledged_at.is_none_or(|at| now.saturating_duration_since(at) >= ACK_PAUSE) {
            self.is_ack_due = true;
        } else {
            self.ack_at.get_or_insert(now + ACK_DELAY);
        }
    }

    /// True if the daemon should now store the delivered positions and call [`Self::acknowledge`]: after the
    /// time of [`Self::note_delivered`], or after `ACK_BYTES` of batches.
    pub fn is_ack_due(&self) -> bool {
        self.is_ack_due || (self.ack_at.is_some() && self.bytes_since_ack >= ACK_BYTES)
    }

    /// Acknowledges everything below `position`, which is delivered to all collectors. That fact must be
    /// stored.
    pub fn acknowledge(&mut self, position: Position, now: Instant) {
        let ReceiverPhase::Open(progress) = &mut self.phase else { return };
        (self.is_ack_due, self.ack_at, self.acknowledged_at) = (false, None, Some(now));
        self.bytes_since_ack = 0;
        let position = position.min(progress.expected);
        if position > progress.delivered {
            progress.delivered = position;
            self.pending_ack = Some(position);
            self.is_flush_due = true;
        }
    }

    /// Reports to the sender that everything below `position` is received, in this session or an earlier one.
    ///
    /// The sender then sends only later positions. Unacknowledged ones below can be requested again. What is
    /// delivered below must be acknowledged first: from there on the sender keeps data for requests.
    pub fn mark_received(&mut self, position: Position) {
        let ReceiverPhase::Open(progress) = &mut self.phase else { return };
        progress.expected = progress.expected.max(position);
        if position > progress.delivered.max(progress.reported_received) {
            progress.reported_received = position;
            self.pending_received = Some(position);
            self.is_flush_due = true;
        }
    }

    /// Requests batches again from the unacknowledged position `first` on: `bytes` of them, at least one
    /// batch.
    pub fn request_resend(&mut self, first: Position, bytes: u32) {
        let ReceiverPhase::Open(progress) = &mut self.phase else { return };
        if first < progress.expected {
            progress.requested = Some((first, usize::try_from(bytes).unwrap_or(usize::MAX)));
            // RECEIVED precedes RESEND, so that the sender knows that everything was received.
            self.flush_acks();
            self.wire.outbox.push(Message::Resend(Resend { first, bytes: bytes.max(1) }));
        }
    }

    /// True if a request is not completely answered yet.
    pub fn is_resend_pending(&self) -> bool {
        matches!(&self.phase, ReceiverPhase::Open(StreamState { requested: Some(_), .. }))
    }

    /// Ends the session with a refusal. `text` is for the sender's operator.
    pub fn reject(&mut self, code: RefusalCode, text: &str) {
        self.end_with(Message::Refuse(Refusal::new(code, text)));
    }

    /// Closes the session regularly.
    pub fn goodbye(&mut self) {
        self.end_with(Message::Goodbye);
    }

    fn end_with(&mut self, final_message: Message) {
        if !matches!(self.phase, ReceiverPhase::Ended) {
            self.flush_acks();
            self.wire.outbox.push(final_message);
            self.end();
        }
    }

    fn end(&mut self) {
        self.phase = ReceiverPhase::Ended;
        self.wire.liveness = None;
    }
}
