//! One connection: its state, the start and the end of its session.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::sync::Arc;

use nf_transport_core::framing::{Hello, RefusalCode};
use nf_transport_core::secure::is_proven;
use nf_transport_core::sequence::{RunId, SenderId};
use nf_transport_core::session::{ReceiverEvent, ReceiverSession, ResumePoint, SessionError};
use tokio::io::Ready;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::host::connection::{flush_and_close, transfer};
use crate::host::secure_stream::{Received, SecureStream, StreamError};
use crate::host::systemd::messages::receiver;
use crate::host::{Deadline, SessionExpiry, Shutdown, Suppressed};
use crate::receiver::accept::authenticated::AuthenticatedSender;
use crate::receiver::delivery::Delivery;
use crate::receiver::output::Outputs;
use crate::receiver::session::ended::{ConnectionEnd, refusal_code};
use crate::receiver::session::sender_log::SenderLine;
use crate::receiver::session::senders::{ActiveStream, StreamGuard};
use crate::receiver::session::shared::Shared;
use crate::receiver::state::positions::{StreamInUse, StreamOwner};

/// Bytes read from a connection at once.
const READ_SIZE: usize = 256 * 1024;

thread_local! {
    /// Input buffer of this thread. Thousands of idle connections share it instead of a buffer each.
    static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; READ_SIZE]);
}

pub(super) struct ReceiverConnection<'a> {
    pub(super) shared: &'a Arc<Shared>,
    pub(super) session: ReceiverSession,
    pub(super) outputs: watch::Receiver<Arc<Outputs>>,
    pub(super) sender: AuthenticatedSender,
    pub(super) stop: Shutdown,
    /// The run that the sender named in HELLO.
    pub(super) run: RunId,
    /// True if the start of this session was logged. If so, its end is logged as well.
    pub(super) is_logged: bool,
    /// Latest end of the session, once the sender has closed its connection.
    pub(super) deadline: Option<Instant>,
    pub(super) expiry: SessionExpiry,
    /// Timer of the session.
    pub(super) timer: Deadline,
}

impl ReceiverConnection<'_> {
    /// Waits for HELLO, acquires the sender's stream, and sends the position at which it resumes.
    pub(super) async fn open_session(
        &mut self,
        stream: &mut SecureStream,
        peer: SocketAddr,
        owner: &StreamOwner,
    ) -> Result<StreamGuard, ConnectionEnd> {
        let id = &owner.sender;
        let hello = self.hello(stream).await?;
        self.check_proof(stream, &hello)?;
        // Opened first, because a rejected stream must not end a session of the same sender.
        let in_use = self.shared.position_of(owner.clone(), peer, hello.stream).await?;
        let entry = self.shared.senders.entry(id, peer, hello.stream);
        let cipher = stream.channel().cipher();
        let mut guard = entry.acquire(peer, &hello, in_use.begun(), cipher).await?;
        let (place, is_new) = self.resume_stream(&mut guard, in_use, id, &hello);
        self.run = hello.run;
        if let Some(replaced) = hello.replaces.filter(|_| is_new)
            && let Some(held_back) = self.shared.senders.sender_log().admit(id, SenderLine::Replaced)
        {
            tracing::warn!(
                message_id = receiver::STREAM_REPLACED,
                %peer,
                sender = %id,
                %replaced,
                held_back,
                "sender {id} at {peer} began a new stream: its spool was restored from a backup, is also \
                 used by another machine, or lost its file 'stream'; datagrams in flight may arrive twice, \
                 none is lost{}",
                Suppressed(held_back)
            );
        }
        let resume = place.delivered.max(hello.first);
        self.session.welcome(place, Instant::now().into_std());
        if let Some(held_back) = self.shared.senders.sender_log().admit(id, SenderLine::Session) {
            let (stream, resume, held_back) = (hello.stream, resume.0, held_back);
            tracing::info!(
                message_id = receiver::SESSION_BEGAN,
                %peer,
                sender = %id,
                cipher,
                %stream,
                resume,
                held_back,
                "sender {id} connected from {peer} ({}), resuming at datagram {resume}{}",
                if cipher == "none" { "clear text" } else { cipher },
                Suppressed(held_back)
            );
            self.is_logged = true;
        }
        Ok(guard)
    }

    /// Fails unless the sender holds the secret of its stream. Runs before anything changes for the sender
    /// that has the stream.
    pub(super) fn check_proof(&self, stream: &SecureStream, hello: &Hello) -> Result<(), ConnectionEnd> {
        let binding = stream.channel().binding().map_err(StreamError::from)?;
        if is_proven(hello.stream, &hello.proof, binding) {
            return Ok(());
        }
        let holder = self.shared.senders.peer_of(&self.sender.sender, hello.stream);
        Err(ConnectionEnd::NotProven { stream: hello.stream, holder })
    }

    /// Returns the position of the stream of `hello`, and whether the stream is new here.
    pub(super) fn resume_stream(
        &mut self,
        guard: &mut StreamGuard,
        in_use: StreamInUse,
        id: &SenderId,
        hello: &Hello,
    ) -> (ResumePoint, bool) {
        if let Some(active) = guard.active.as_mut().filter(|active| active.stream == hello.stream) {
            active.in_use = Some(in_use);
            let delivered = active.delivery.position();
            active.delivery.resume(delivered.max(hello.first));
            active.delivery.change(&self.outputs.borrow_and_update());
            return (
                ResumePoint { delivered, received: active.delivery.highest_position(), run: active.run },
                false,
            );
        }
        let stored = in_use.position().clone();
        let (known, run) = (stored.get(), stored.run());
        let delivered = known.unwrap_or_default();
        let (offsets, run_ahead) = self.shared.collector_offsets.take(id, hello.stream);
        let furthest = offsets.values().copied().max().filter(|position| *position > delivered);
        let run = run_ahead.filter(|_| furthest > stored.skip_position()).unwrap_or(run);
        let position = delivered.max(hello.first);
        let outputs = self.outputs.borrow_and_update();
        let delivery = Delivery::new(id.clone(), position, stored.skip_position(), &outputs, &offsets);
        let place = ResumePoint { delivered, received: delivery.highest_position(), run };
        let in_use = Some(in_use);
        *guard.active = Some(ActiveStream { stream: hello.stream, stored, in_use, delivery, run });
        (place, known.is_none())
    }

    pub(super) async fn hello(&mut self, stream: &mut SecureStream) -> Result<Hello, ConnectionEnd> {
        loop {
            match self.session.poll_event()? {
                Some(ReceiverEvent::Hello(hello)) => return Ok(hello),
                Some(ReceiverEvent::Goodbye) => return Err(ConnectionEnd::Goodbye),
                Some(_) | None => {}
            }
            let ready = stream.ready(true, false).await.map_err(StreamError::from)?;
            self.transfer(stream, ready)?;
        }
    }

    /// Exchanges bytes with the sender, as far as the socket is `ready`.
    pub(super) fn transfer(&mut self, stream: &mut SecureStream, ready: Ready) -> Result<(), ConnectionEnd> {
        let received = BUFFER.with_borrow_mut(|buffer| transfer(&mut self.session, stream, ready, buffer))?;
        if received == Received::End { Err(ConnectionEnd::Closed) } else { Ok(()) }
    }

    /// Adds the likely cause to an end that the sender's silence explains.
    pub(super) fn with_likely_cause(&self, ended: ConnectionEnd) -> ConnectionEnd {
        let is_unheard = self.session.is_silent_since_welcome(Instant::now().into_std());
        match ended {
            ConnectionEnd::Closed
            | ConnectionEnd::Stream(StreamError::Lost(_))
            | ConnectionEnd::Session(SessionError::Silent(_))
                if is_unheard =>
            {
                ConnectionEnd::Unheard(Box::new(ended))
            }
            ended => ended,
        }
    }

    /// Logs the end of the connection.
    pub(super) fn log_end(&self, peer: SocketAddr, ended: &ConnectionEnd) {
        let id = &self.sender.sender;
        let sentence =
            |held_back| format!("session of {id} at {peer} ended: {ended}{}", Suppressed(held_back));
        if ended.is_failure() {
            let (message_id, line) = match ended {
                ConnectionEnd::Unheard(_) => (receiver::SENDER_UNHEARD, SenderLine::Failed),
                ConnectionEnd::NotProven { .. } => (receiver::STREAM_NOT_PROVEN, SenderLine::NotProven),
                ConnectionEnd::Superseded(_) => (receiver::ID_IN_USE, SenderLine::InUse),
                _ => (receiver::SESSION_ENDED, SenderLine::Failed),
            };
            if let Some(held_back) = self.shared.senders.sender_log().admit(id, line) {
                tracing::warn!(message_id, %peer, sender = %id, held_back, "{}", sentence(held_back));
            }
            return;
        }
        let held_back = if self.is_logged {
            Some(0)
        } else {
            self.shared.senders.sender_log().admit(id, SenderLine::Session)
        };
        if let Some(held_back) = held_back {
            let message_id = receiver::SESSION_ENDED;
            tracing::info!(message_id, %peer, sender = %id, held_back, "{}", sentence(held_back));
        }
    }

    /// Sends the last message for this end, and closes.
    pub(super) async fn close(&mut self, stream: &mut SecureStream, ended: &ConnectionEnd) {
        match ended {
            ConnectionEnd::AccessRevoked => {
                self.session.reject(
                    RefusalCode::NotAuthorized,
                    "the receiver changed its configuration: this sender is no longer accepted as before (key, name, \
                     cipher or certificates)",
                );
            }
            ConnectionEnd::NotProven { .. } => self.session.reject(
                RefusalCode::StreamNotProven,
                "this sender did not prove that the stream is its own: something on the path changes the \
                 connection, or the two sides disagree on the protocol; all datagrams stay queued",
            ),
            ConnectionEnd::OwnExpired | ConnectionEnd::Expired => {
                self.session.reject(RefusalCode::NotAuthorized, &ended.to_string());
            }
            ConnectionEnd::Superseded(superseded) => {
                self.session
                    .reject(refusal_code(*superseded), &format!("sender {}: {ended}", self.sender.sender));
            }
            ConnectionEnd::Storage(error) if error.is_too_many_new() => {
                self.session.reject(RefusalCode::TooManyStreams, &error.to_string());
            }
            ConnectionEnd::Storage(error) => {
                self.session.reject(RefusalCode::StorageFailed, &error.to_string());
            }
            ConnectionEnd::Stopping => self.session.goodbye(),
            ConnectionEnd::Closed
            | ConnectionEnd::Goodbye
            | ConnectionEnd::Stream(_)
            | ConnectionEnd::Session(_)
            | ConnectionEnd::Unheard(_)
            | ConnectionEnd::NoHello => {}
            ConnectionEnd::Crowded(_) => {
                self.session.reject(RefusalCode::TooManyConnections, &ended.to_string());
                // Others wait for this place, so only output that the socket accepts at once is sent.
                if let Err(error) = stream.send(self.session.outbox()) {
                    tracing::debug!(%error, "the sender did not accept the last message");
                }
                return;
            }
        }
        flush_and_close(&mut self.session, stream).await;
    }
}
