//! Sessions: one connection of an authenticated sender. It checks and orders batches, drops repeats,
//! delivers, stores the position, and acknowledges.
//!
//! A connection holds one read of input and the batches in the lanes of its delivery. While a collector
//! blocks these, nothing more is read from TCP: the backlog stays in the sender's spool.

pub(crate) mod sender_log;
pub(crate) mod senders;

use std::cell::RefCell;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nf_transport_core::batch::{Batch, BatchError};
use nf_transport_core::framing::{Hello, RefusalCode};
use nf_transport_core::internal_error::note_internal_error;
use nf_transport_core::secure::is_proven;
use nf_transport_core::sequence::{GapReason, Position, RunId, SenderId, StreamId};
use nf_transport_core::session::{Place, ReceiverEvent, ReceiverSession, SessionError};
use tokio::io::Ready;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use crate::host::secure_stream::{Received, Stream, StreamError, protection};
use crate::host::systemd::messages::receiver;
use crate::host::{ExpiredCertificate, LogLimit, More, SessionExpiry, Stop};
use crate::limits::{HANG_UP_GRACE, WAITING_PER_SENDER};
use crate::receiver::accept::authenticated::AuthenticatedSender;
use crate::receiver::accept::known_sources::KnownSources;
use crate::receiver::accept::rejected::RejectedPeers;
use crate::receiver::accept::waiting::WaitingForSession;
use crate::receiver::collectors::confusion::Confusion;
use crate::receiver::delivery::collector_offsets::CollectorOffsets;
use crate::receiver::delivery::{Delivery, Loss, LossCause, PendingBatch};
use crate::receiver::output::Outputs;
use crate::receiver::session::sender_log::{SenderLine, SenderLog};
use crate::receiver::session::senders::{ActiveStream, Counters, Senders, StreamGuard, Superseded};
use crate::receiver::state::positions::{Positions, PositionsError, StreamInUse, StreamOwner};
use crate::receiver::state::templates::Templates;
use crate::status::{RefusedStatus, count_of};

/// Bytes read from a connection at once.
const READ_SIZE: usize = 256 * 1024;

thread_local! {
    /// Input buffer of this thread. Thousands of idle connections share it instead of a buffer each.
    static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; READ_SIZE]);
}

/// Time for the last messages to a sender before its connection is closed.
pub(crate) const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// State shared by all connections.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) senders: Senders,
    pub(crate) positions: Positions,
    /// The active collectors.
    pub(crate) outputs: watch::Receiver<Arc<Outputs>>,
    pub(crate) collector_offsets: CollectorOffsets,
    pub(crate) templates: Arc<Templates>,
    pub(crate) log_limit: Mutex<LogLimit<IpAddr>>,
    pub(crate) sender_log: SenderLog,
    pub(crate) rejected: Mutex<RejectedPeers>,
    pub(crate) known_sources: Arc<KnownSources>,
    pub(crate) waiting: WaitingForSession,
    pub(crate) confusion: Confusion,
}

impl Shared {
    /// The active collectors.
    pub(crate) fn outputs(&self) -> Arc<Outputs> {
        self.outputs.borrow().clone()
    }

    /// Opens the stored position of a stream on a thread that may block, so that a slow disk delays nothing
    /// else. If the caller is cancelled, its use ends as soon as it is open. Fails without a trace on disk if
    /// another sender uses the id.
    async fn position_of(
        self: &Arc<Self>,
        owner: StreamOwner,
        peer: SocketAddr,
        stream: StreamId,
    ) -> Result<StreamInUse, Ended> {
        let permit = self.positions.opening_permit().await;
        let shared = self.clone();
        let opening = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            let begun = shared.positions.begun(&owner.sender, stream);
            shared.senders.check(&owner.sender, peer, stream, begun)?;
            Ok(shared.open_position(&owner, stream)?)
        });
        opening.await.unwrap_or_else(|error| Err(self.positions.not_opened(error.into()).into()))
    }

    /// Opens the stored position of a stream. If file descriptors run out, it closes exporter sockets and
    /// retries.
    fn open_position(&self, owner: &StreamOwner, stream: StreamId) -> Result<StreamInUse, PositionsError> {
        let now = Instant::now().into_std();
        self.positions.stream(owner, stream, now).or_else(|error| {
            if !error.is_out_of_files() {
                return Err(error);
            }
            self.outputs().shed_sockets();
            self.positions.stream(owner, stream, now)
        })
    }

    /// Returns the number of suppressed log lines about `peer` if one may be logged now, else `None`.
    pub(crate) fn may_log(&self, peer: IpAddr) -> Option<u64> {
        let mut complaints = self.log_limit.lock().unwrap_or_else(PoisonError::into_inner);
        complaints.admit(peer, Instant::now().into_std())
    }

    /// Notes for the status that a connection of `peer` was rejected.
    pub(crate) fn note_rejected(&self, peer: SocketAddr, reason: String) {
        self.rejected.lock().unwrap_or_else(PoisonError::into_inner).note(peer, reason);
    }

    /// Returns the number of rejected connections, and the latest peers.
    pub(crate) fn rejected(&self) -> (u64, Vec<RefusedStatus>) {
        let refused = self.rejected.lock().unwrap_or_else(PoisonError::into_inner);
        (refused.count(), refused.status())
    }
}

/// Reason for the end of a connection.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("the sender closed the connection")]
    Closed,
    #[error("the sender ended the session")]
    Goodbye,
    #[error("{0}")]
    Stream(#[from] StreamError),
    #[error("{0}")]
    Session(#[from] SessionError),
    #[error("{0}")]
    Superseded(#[from] Superseded),
    #[error("the configuration was reloaded, and its key or name is no longer accepted")]
    AccessRevoked,
    #[error(
        "{0}; nothing came from the sender since the session began, not even a heartbeat: if its host is \
         up, large packets are probably lost on the path (path MTU black hole); let ICMP \"fragmentation \
         needed\" and \"packet too big\" pass, or lower the MTU of the route there"
    )]
    Unheard(Box<Self>),
    #[error(
        "it named the stream {stream}{}, and did not prove that the stream is its own: another machine may \
         use this id, or something changed the connection on the path; nothing was delivered or \
         acknowledged; identify the machine, and give each sender a key of its own (nf-receiver invite NAME)",
        holder_text(*.holder)
    )]
    NotProven {
        stream: StreamId,
        /// Address of the sender that has the stream, if it was connected.
        holder: Option<SocketAddr>,
    },
    #[error("the certificate of nf-receiver has expired: renew it and reload nf-receiver")]
    OwnExpired,
    #[error("the certificate of this sender has expired: renew it and reload nf-sender")]
    Expired,
    #[error("no HELLO in time")]
    NoHello,
    #[error(
        "sender {0} opened more than {WAITING_PER_SENDER} connections without a session: if only one \
         machine uses this id, another one has its key; renew it (nf-receiver invite --renew {0})"
    )]
    Crowded(SenderId),
    #[error("{0}")]
    Storage(#[from] PositionsError),
    #[error("stopping")]
    Stopping,
}

impl Ended {
    /// Returns whether something failed, in contrast to a deliberate end by either side.
    fn is_failure(&self) -> bool {
        match self {
            Self::Closed
            | Self::Goodbye
            | Self::Superseded(Superseded::Newer(_) | Superseded::KnownLonger(_))
            | Self::AccessRevoked
            | Self::Stopping => false,
            Self::Stream(_)
            | Self::Session(_)
            | Self::OwnExpired
            | Self::Expired
            | Self::Unheard(_)
            | Self::NotProven { .. }
            | Self::Superseded(Superseded::InUse(_))
            | Self::NoHello
            | Self::Crowded(_)
            | Self::Storage(_) => true,
        }
    }
}

fn holder_text(holder: Option<SocketAddr>) -> String {
    holder.map_or_else(String::new, |holder| format!(", which is that of the sender at {holder}"))
}

/// Serves `stream` until it ends. A session must be established before `greeted_by`.
pub(crate) async fn serve(
    shared: &Arc<Shared>,
    mut stream: Stream,
    peer: SocketAddr,
    sender: AuthenticatedSender,
    greeted_by: Instant,
    stop: Stop,
) {
    let mut stopping = stop.clone();
    let id = sender.sender.clone();
    let outputs = shared.outputs.clone();
    let mut connection = Connection {
        shared,
        session: ReceiverSession::new(),
        outputs,
        known: sender,
        stop,
        run: RunId::NONE,
        is_logged: false,
        deadline: None,
        expiry: SessionExpiry::of(stream.channel()),
    };
    let mut place = shared.waiting.enter(&id);
    let greeting = timeout_at(greeted_by, connection.open_session(&mut stream, peer, &id));
    let greeted = tokio::select! {
        greeted = greeting => greeted.unwrap_or(Err(Ended::NoHello)),
        () = place.lost() => Err(Ended::Crowded(id.clone())),
        () = stopping.told() => Err(Ended::Stopping),
    };
    drop(place);
    let ended = match greeted {
        Ok(mut guard) => {
            let ended = connection.run(&mut stream, &mut guard).await;
            let ended = connection.with_likely_cause(ended);
            guard.entry.note_ended(ended.to_string());
            ended
        }
        Err(ended) => {
            if ended.is_failure() {
                shared.note_rejected(peer, format!("session of {id} was not established: {ended}"));
            }
            ended
        }
    };
    connection.log_end(peer, &ended);
    if matches!(ended, Ended::Crowded(_)) {
        return connection.close(&mut stream, &ended).await;
    }
    let mut place = shared.waiting.enter(&id);
    tokio::select! {
        () = connection.close(&mut stream, &ended) => {}
        () = place.lost() => tracing::debug!("closed without a last message: newer connections of the \
                                              sender wait"),
    }
}

/// Rejects an authenticated sender for lack of a place, with `reason`.
pub(crate) async fn reject(mut stream: Stream, reason: &str) {
    let mut session = ReceiverSession::new();
    session.refuse(RefusalCode::TooManyConnections, reason);
    flush_and_close(&mut stream, &mut session).await;
}

struct Connection<'a> {
    shared: &'a Arc<Shared>,
    session: ReceiverSession,
    outputs: watch::Receiver<Arc<Outputs>>,
    known: AuthenticatedSender,
    stop: Stop,
    /// The run that the sender named in HELLO.
    run: RunId,
    /// Whether the start of this session was logged. If so, its end is logged as well.
    is_logged: bool,
    /// Latest end of the session, once the sender has closed its connection.
    deadline: Option<Instant>,
    expiry: SessionExpiry,
}

/// Event that ended a wait.
enum Wakeup {
    Socket(io::Result<Ready>),
    HungUp,
    Overdue,
    Delivered,
    Time,
    Collectors,
    Superseded,
    Expelled,
    Expired(ExpiredCertificate),
    Stop,
}

impl Connection<'_> {
    /// Waits for HELLO, acquires the sender's stream, and sends the position at which it resumes.
    async fn open_session(
        &mut self,
        stream: &mut Stream,
        peer: SocketAddr,
        id: &SenderId,
    ) -> Result<StreamGuard, Ended> {
        let hello = self.hello(stream).await?;
        self.check_proof(stream, &hello)?;
        // Opened first, because a rejected stream must not end a session of the same sender.
        let in_use = self.shared.position_of(self.known.owner_at(peer.ip()), peer, hello.stream).await?;
        let entry = self.shared.senders.entry(id, peer, hello.stream);
        let cipher = stream.channel().cipher();
        let mut guard = entry.acquire(peer, &hello, in_use.begun(), cipher).await?;
        let (place, is_new) = self.resume_stream(&mut guard, in_use, id, &hello);
        self.run = hello.run;
        if let Some(replaced) = hello.replaces.filter(|_| is_new)
            && let Some(held_back) = self.shared.sender_log.admit(id, SenderLine::Replaced)
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
                More(held_back)
            );
        }
        let resume = place.delivered.max(hello.first);
        self.session.welcome(place, Instant::now().into_std());
        if let Some(held_back) = self.shared.sender_log.admit(id, SenderLine::Session) {
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
                protection(cipher),
                More(held_back)
            );
            self.is_logged = true;
        }
        Ok(guard)
    }

    /// Fails unless the sender holds the secret of its stream. Runs before anything changes for the sender
    /// that has the stream.
    fn check_proof(&self, stream: &Stream, hello: &Hello) -> Result<(), Ended> {
        let binding = stream.channel().binding().map_err(StreamError::from)?;
        if is_proven(hello.stream, &hello.proof, binding) {
            return Ok(());
        }
        let holder = self.shared.senders.peer_of(&self.known.sender, hello.stream);
        Err(Ended::NotProven { stream: hello.stream, holder })
    }

    /// Returns the position of the stream of `hello`, and whether the stream is new here.
    fn resume_stream(
        &mut self,
        guard: &mut StreamGuard,
        in_use: StreamInUse,
        id: &SenderId,
        hello: &Hello,
    ) -> (Place, bool) {
        if let Some(active) = guard.active.as_mut().filter(|active| active.stream == hello.stream) {
            active.in_use = Some(in_use);
            let delivered = active.delivery.position();
            active.delivery.resume(delivered.max(hello.first));
            active.delivery.change(&self.outputs.borrow_and_update());
            return (
                Place { delivered, received: active.delivery.highest_position(), run: active.run },
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
        let place = Place { delivered, received: delivery.highest_position(), run };
        let in_use = Some(in_use);
        *guard.active = Some(ActiveStream { stream: hello.stream, stored, in_use, delivery, run });
        (place, known.is_none())
    }

    async fn hello(&mut self, stream: &mut Stream) -> Result<Hello, Ended> {
        loop {
            match self.session.poll_event()? {
                Some(ReceiverEvent::Hello(hello)) => return Ok(hello),
                Some(ReceiverEvent::Goodbye) => return Err(Ended::Goodbye),
                Some(_) | None => {}
            }
            stream.ready(true, false).await.map_err(StreamError::from)?;
            self.read(stream)?;
        }
    }

    /// Reads and handles the available input.
    fn read(&mut self, stream: &mut Stream) -> Result<Received, Ended> {
        let now = Instant::now().into_std();
        let take = |bytes: &[u8]| self.session.handle_bytes(bytes, now);
        match BUFFER.with_borrow_mut(|buffer| stream.receive(buffer, take))? {
            Received::End => Err(Ended::Closed),
            received => Ok(received),
        }
    }

    /// Reads the available input, or else writes pending output. Reads come first because an unread last
    /// message may explain why writes fail.
    fn transfer(&mut self, stream: &mut Stream, ready: Ready) -> Result<(), Ended> {
        if ready.is_readable() && self.read(stream)? == Received::Bytes {
            return Ok(());
        }
        if ready.is_writable() {
            stream.send(self.session.outbox())?;
        }
        Ok(())
    }

    async fn run(&mut self, stream: &mut Stream, guard: &mut StreamGuard) -> Ended {
        loop {
            // Handles all events that need no wait.
            loop {
                match self.handle_events(guard).and_then(|()| Ok(self.settle(guard)?)) {
                    Ok(true) => {}
                    Ok(false) => break,
                    Err(ended) => return ended,
                }
            }
            if let Err(error) = stream.send_at_once(self.session.outbox()) {
                return error.into();
            }
            match self.next_wakeup(stream, guard).await {
                Wakeup::Socket(Ok(ready)) => {
                    if let Err(ended) = self.transfer(stream, ready) {
                        return ended;
                    }
                }
                Wakeup::Socket(Err(error)) => return Ended::Stream(error.into()),
                Wakeup::HungUp => self.deadline = Some(Instant::now() + HANG_UP_GRACE),
                Wakeup::Overdue => return Ended::Closed,
                Wakeup::Delivered => {}
                Wakeup::Time => {
                    // Reads available input before the sender counts as silent: this process may have been
                    // stopped.
                    if self.session.wants_bytes()
                        && let Err(ended) = self.read(stream)
                    {
                        return ended;
                    }
                    self.session.handle_timeout(Instant::now().into_std());
                }
                Wakeup::Collectors => self.follow_collectors(guard),
                Wakeup::Superseded => return guard.superseded().into(),
                Wakeup::Expelled => return Ended::AccessRevoked,
                Wakeup::Expired(ExpiredCertificate::Own) => return Ended::OwnExpired,
                Wakeup::Expired(ExpiredCertificate::Peer) => return Ended::Expired,
                Wakeup::Stop => return Ended::Stopping,
            }
        }
    }

    /// Waits for the next event.
    async fn next_wakeup(&mut self, stream: &Stream, guard: &mut StreamGuard) -> Wakeup {
        let wake_at = self.session.poll_timeout().map(Instant::from_std);
        let wants_bytes = self.session.wants_bytes();
        let has_output = !self.session.outbox().is_empty();
        let StreamGuard { active, holder, .. } = guard;
        let delivery = active.as_mut().map(|active| &mut active.delivery);
        let delivery = delivery.filter(|delivery| delivery.is_under_way());
        let is_delivering = delivery.is_some();
        let ends_by = self.deadline;
        tokio::select! {
            ready = stream.ready(wants_bytes, has_output) => Wakeup::Socket(ready),
            // While bytes are wanted, a read finds the end.
            () = stream.hung_up(), if ends_by.is_none() && !wants_bytes => Wakeup::HungUp,
            () = sleep_until(ends_by.unwrap_or_else(Instant::now)), if ends_by.is_some() => Wakeup::Overdue,
            () = deliver(delivery), if is_delivering => Wakeup::Delivered,
            () = sleep_until(wake_at.unwrap_or_else(Instant::now)), if wake_at.is_some() => Wakeup::Time,
            Ok(()) = self.outputs.changed() => Wakeup::Collectors,
            Ok(()) = holder.changed() => Wakeup::Superseded,
            () = self.known.access_revoked() => Wakeup::Expelled,
            whose = self.expiry.expired() => Wakeup::Expired(whose),
            () = self.stop.told() => Wakeup::Stop,
        }
    }

    fn handle_events(&mut self, guard: &mut StreamGuard) -> Result<(), Ended> {
        while let Some(event) = self.session.poll_event()? {
            match event {
                ReceiverEvent::Hello(_) => {}
                ReceiverEvent::Batch { batch, skip } => {
                    self.adopt_run(guard);
                    self.push_batch(guard, &batch, skip);
                }
                ReceiverEvent::Gap(gap) => {
                    self.adopt_run(guard);
                    push(guard, PendingBatch::of_gap(gap));
                }
                ReceiverEvent::Again(batch) => {
                    self.adopt_run(guard);
                    push_resent(guard, self.pending_batch(&batch, batch.first()));
                }
                ReceiverEvent::GapAgain(gap) => {
                    self.adopt_run(guard);
                    push_resent(guard, PendingBatch::of_gap(gap));
                }
                ReceiverEvent::Repeat { datagrams } => {
                    Counters::add(&guard.entry.counters.duplicates, u64::from(datagrams));
                }
                ReceiverEvent::Goodbye => return Err(Ended::Goodbye),
            }
        }
        Ok(())
    }

    /// Assigns the stream to the current run. By sending, the sender has accepted the stream state of
    /// WELCOME.
    fn adopt_run(&self, guard: &mut StreamGuard) {
        if let Some(active) = guard.active.as_mut() {
            active.run = self.run;
        }
    }

    /// Redirects pending batches to the current collectors.
    fn follow_collectors(&mut self, guard: &mut StreamGuard) {
        let outputs = self.outputs.borrow_and_update();
        if let Some(active) = guard.active.as_mut() {
            active.delivery.change(&outputs);
        }
    }

    /// Queues `batch`, of which the first `skip` datagrams were delivered before.
    fn push_batch(&self, guard: &mut StreamGuard, batch: &Batch, skip: usize) {
        let skipped = u64::try_from(skip).unwrap_or(u64::MAX);
        let pending = self.pending_batch(batch, batch.first().plus(skipped));
        let dropped_before = pending.records.as_ref().map_or(0, |records| records.dropped_in(..skip));
        Counters::add(&guard.entry.counters.duplicates, skipped.saturating_sub(dropped_before));
        push(guard, pending);
    }

    /// Returns `batch` as a pending batch, in which datagrams from `news` on are new.
    fn pending_batch(&self, batch: &Batch, news: Position) -> PendingBatch {
        let (first, end, exporters) = (batch.first(), batch.end(), self.known.exporters());
        PendingBatch {
            first,
            end,
            first_new: news,
            records: batch.records().map_err(LossCause::Unreadable),
            exporters,
        }
    }

    /// Logs lost datagrams. The sender has now lost `in_all`.
    fn log_loss(&self, lost: &Loss, in_all: u64) {
        match lost.cause {
            LossCause::Reported(reason) => self.log_reported(lost, reason, in_all),
            LossCause::Unreadable(error) => self.log_unreadable(lost, error, in_all),
        }
    }

    fn log_reported(&self, lost: &Loss, reason: GapReason, in_all: u64) {
        let sender = &self.known.sender;
        let Some(held_back) = self.shared.sender_log.admit(sender, SenderLine::Lost(reason)) else {
            return;
        };
        let reason = reason.word();
        tracing::warn!(
            message_id = receiver::SENDER_LOST,
            %sender,
            first = lost.first.0,
            lost = lost.datagrams,
            in_all,
            reason,
            held_back,
            "sender {sender} lost {}, {in_all} since nf-receiver started: {reason}{}",
            count_of(lost.datagrams, "datagram"),
            More(held_back)
        );
    }

    fn log_unreadable(&self, lost: &Loss, error: BatchError, in_all: u64) {
        let sender = &self.known.sender;
        let Some(held_back) = self.shared.sender_log.admit(sender, SenderLine::Unreadable) else { return };
        tracing::error!(
            %error,
            %sender,
            first = lost.first.0,
            lost = lost.datagrams,
            in_all,
            held_back,
            "lost {} of {sender}, {in_all} since nf-receiver started: cannot decode a batch: {error}{}",
            count_of(lost.datagrams, "datagram"),
            More(held_back)
        );
    }

    /// Stores the settled position, acknowledges it, and requests more if there is room. Returns whether more
    /// may be received that could not before.
    fn settle(&mut self, guard: &mut StreamGuard) -> Result<bool, PositionsError> {
        let Some(active) = guard.active.as_mut() else { return Ok(false) };
        let settled = active.delivery.settle();
        guard.entry.counters.add_settled(&settled);
        for loss in &settled.losses {
            self.log_loss(loss, guard.entry.counters.gaps.load(Ordering::Relaxed));
        }
        let position = active.delivery.settled();
        if active.stored.get().is_none_or(|stored| stored < position) {
            active.stored.store(position, active.run)?;
        }
        self.session.acknowledge(position, Instant::now().into_std());
        if let Some(further) = active.delivery.skip_position() {
            active.stored.store_skip_position(further, active.run)?;
        }
        if active.delivery.is_behind() {
            self.session.take(active.delivery.received_up_to());
            if let Some((first, bytes)) =
                active.delivery.wanted_resend().filter(|_| !self.session.is_asking())
            {
                self.session.ask_again(first, bytes);
            }
        }
        Ok(active.delivery.may_take_more() && self.session.go_on(Instant::now().into_std()))
    }

    /// Adds the likely cause to an end that the sender's silence explains.
    fn with_likely_cause(&self, ended: Ended) -> Ended {
        let is_unheard = self.session.is_unheard(Instant::now().into_std());
        match ended {
            Ended::Closed | Ended::Stream(StreamError::Lost(_)) | Ended::Session(SessionError::Silent(_))
                if is_unheard =>
            {
                Ended::Unheard(Box::new(ended))
            }
            ended => ended,
        }
    }

    /// Logs the end of the connection.
    fn log_end(&self, peer: SocketAddr, ended: &Ended) {
        let id = &self.known.sender;
        let sentence = |held_back| format!("session of {id} at {peer} ended: {ended}{}", More(held_back));
        if ended.is_failure() {
            let (message_id, line) = match ended {
                Ended::Unheard(_) => (receiver::SENDER_UNHEARD, SenderLine::Failed),
                Ended::NotProven { .. } => (receiver::STREAM_NOT_PROVEN, SenderLine::NotProven),
                Ended::Superseded(_) => (receiver::ID_IN_USE, SenderLine::InUse),
                _ => (receiver::SESSION_ENDED, SenderLine::Failed),
            };
            if let Some(held_back) = self.shared.sender_log.admit(id, line) {
                tracing::warn!(message_id, %peer, sender = %id, held_back, "{}", sentence(held_back));
            }
            return;
        }
        let held_back =
            if self.is_logged { Some(0) } else { self.shared.sender_log.admit(id, SenderLine::Session) };
        if let Some(held_back) = held_back {
            let message_id = receiver::SESSION_ENDED;
            tracing::info!(message_id, %peer, sender = %id, held_back, "{}", sentence(held_back));
        }
    }

    /// Sends the last message for this end, and closes.
    async fn close(&mut self, stream: &mut Stream, ended: &Ended) {
        match ended {
            Ended::AccessRevoked => {
                self.session.refuse(
                    RefusalCode::NotAdmitted,
                    "the receiver changed its configuration: this sender's key or name is no longer accepted",
                );
            }
            Ended::NotProven { .. } => self.session.refuse(
                RefusalCode::StreamNotProven,
                "this sender did not prove that the stream is its own: something on the path changes the \
                 connection, or the two sides disagree on the protocol; all datagrams stay queued",
            ),
            Ended::OwnExpired | Ended::Expired => {
                self.session.refuse(RefusalCode::NotAdmitted, &ended.to_string());
            }
            Ended::Superseded(superseded) => {
                self.session
                    .refuse(refusal_code(*superseded), &format!("sender {}: {ended}", self.known.sender));
            }
            Ended::Storage(error) if error.is_too_many_new() => {
                self.session.refuse(RefusalCode::TooManyStreams, &error.to_string());
            }
            Ended::Storage(error) => self.session.refuse(RefusalCode::StorageFailed, &error.to_string()),
            Ended::Stopping => self.session.goodbye(),
            Ended::Closed
            | Ended::Goodbye
            | Ended::Stream(_)
            | Ended::Session(_)
            | Ended::Unheard(_)
            | Ended::NoHello => {}
            Ended::Crowded(_) => {
                self.session.refuse(RefusalCode::TooManyConnections, &ended.to_string());
                // Others wait for this place, so the sender gets only what the socket accepts at once.
                if let Err(error) = stream.send(self.session.outbox()) {
                    tracing::debug!(%error, "the sender did not accept the last message");
                }
                return;
            }
        }
        flush_and_close(stream, &mut self.session).await;
    }
}

fn refusal_code(superseded: Superseded) -> RefusalCode {
    match superseded {
        Superseded::Newer(_) | Superseded::KnownLonger(_) => RefusalCode::Superseded,
        Superseded::InUse(_) => RefusalCode::IdInUse,
    }
}

/// Sends pending messages of `session`, and closes.
async fn flush_and_close(stream: &mut Stream, session: &mut ReceiverSession) {
    let last_words = async {
        stream.flush(session.outbox()).await?;
        stream.part().await?;
        Ok::<(), StreamError>(())
    };
    if !matches!(timeout(CLOSE_TIMEOUT, last_words).await, Ok(Ok(()))) {
        tracing::debug!("the sender did not accept the last message");
    }
}

/// Queues the next batch of the stream for delivery.
fn push(guard: &mut StreamGuard, pending: PendingBatch) {
    match guard.active.as_mut() {
        Some(active) => active.delivery.push(pending),
        // The batch is not acknowledged, so the sender keeps it.
        None => note_internal_error("received a batch before its stream had a delivery"),
    }
}

/// Queues a resent batch for the collectors that lack it.
fn push_resent(guard: &mut StreamGuard, pending: PendingBatch) {
    match guard.active.as_mut() {
        Some(active) => active.delivery.push_resent(pending),
        None => note_internal_error("received a resent batch before its stream had a delivery"),
    }
}

/// Delivers queued batches; never returns without a delivery.
async fn deliver(delivery: Option<&mut Delivery>) {
    match delivery {
        Some(delivery) => delivery.run().await,
        None => core::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
