//! One connection of a sender: checks, orders, drops repeats, delivers, stores the position, acknowledges.
//!
//! Holds one read of input and what the lanes of the delivery hold. While that is held by a collector nothing more is read,
//! so that what waits, waits in the sender's spool.

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
use crate::receiver::session::senders::{Counters, Current, Seats, Turn, Unseated};
use crate::receiver::state::positions::{Owner, Positions, PositionsError, StreamInUse};
use crate::receiver::state::templates::Templates;
use crate::status::{RefusedStatus, count_of};

/// Bytes read from a connection at once.
const READ_SIZE: usize = 256 * 1024;

thread_local! {
    /// What is read goes through here: thousands of idle connections have no buffer of their own.
    static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; READ_SIZE]);
}

/// How long the last words to a sender may take.
pub(crate) const FAREWELL: Duration = Duration::from_secs(1);

/// What all connections share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) seats: Seats,
    pub(crate) positions: Positions,
    /// The collectors, as of now.
    pub(crate) outputs: watch::Receiver<Arc<Outputs>>,
    pub(crate) ahead: CollectorOffsets,
    pub(crate) templates: Arc<Templates>,
    pub(crate) complaints: Mutex<LogLimit<IpAddr>>,
    pub(crate) sender_log: SenderLog,
    pub(crate) refused: Mutex<RejectedPeers>,
    pub(crate) known_sources: Arc<KnownSources>,
    pub(crate) waiting: WaitingForSession,
    pub(crate) confusion: Confusion,
}

impl Shared {
    /// The collectors, as of now.
    pub(crate) fn outputs(&self) -> Arc<Outputs> {
        self.outputs.borrow().clone()
    }

    /// The stored position of a stream, opened where a slow disk holds up nothing else. Where nobody waits for it any more, its
    /// use ends as soon as it is open. Fails without a trace on disk if another sender has the id.
    async fn position_of(
        self: &Arc<Self>,
        owner: Owner,
        peer: SocketAddr,
        stream: StreamId,
    ) -> Result<StreamInUse, Ended> {
        let turn = self.positions.turn().await;
        let shared = self.clone();
        let opening = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            let begun = shared.positions.begun(&owner.sender, stream);
            shared.seats.check(&owner.sender, peer, stream, begun)?;
            Ok(shared.open_position(&owner, stream)?)
        });
        opening.await.unwrap_or_else(|error| Err(self.positions.not_opened(error.into()).into()))
    }

    /// The stored position of a stream. Where files run short, sockets for exporters are closed for it.
    fn open_position(&self, owner: &Owner, stream: StreamId) -> Result<StreamInUse, PositionsError> {
        let now = Instant::now().into_std();
        self.positions.stream(owner, stream, now).or_else(|error| {
            if !error.is_out_of_files() {
                return Err(error);
            }
            self.outputs().shed_sockets();
            self.positions.stream(owner, stream, now)
        })
    }

    /// Whether to log a complaint about `peer` now; with how many were held back since the last one.
    pub(crate) fn may_complain(&self, peer: IpAddr) -> Option<u64> {
        let mut complaints = self.complaints.lock().unwrap_or_else(PoisonError::into_inner);
        complaints.admit(peer, Instant::now().into_std())
    }

    /// Notes for the status that a connection of `peer` was rejected.
    pub(crate) fn note_rejected(&self, peer: SocketAddr, reason: String) {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner).note(peer, reason);
    }

    /// How many connections were rejected, and the latest peers.
    pub(crate) fn refused(&self) -> (u64, Vec<RefusedStatus>) {
        let refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        (refused.count(), refused.status())
    }
}

/// How a connection ended.
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
    Unseated(#[from] Unseated),
    #[error("it is not let in any more as it was, since the configuration was reloaded")]
    Expelled,
    #[error(
        "{0}; nothing came from the sender since the session was agreed, not even a heartbeat: if its host is up, large packets \
         are probably lost on the way (path MTU black hole). Let ICMP \"fragmentation needed\" and \"packet too big\" pass, or \
         lower the MTU of the route there"
    )]
    Unheard(Box<Self>),
    #[error(
        "it names the stream {stream}{}, and did not prove that the stream is its own: somebody else may use this id, or the \
         connection was changed on the way; nothing was delivered or acknowledged; find out who it is, and give each sender a \
         key of its own (nf-receiver invite NAME)",
        held_by(*.holder)
    )]
    NotProven {
        stream: StreamId,
        /// The address of the sender that has the stream, if that was here.
        holder: Option<SocketAddr>,
    },
    #[error("the certificate of nf-receiver has expired: renew it and reload nf-receiver")]
    OwnExpired,
    #[error("the certificate of this sender has expired: renew it and reload nf-sender")]
    Expired,
    #[error("no HELLO in time")]
    NoHello,
    #[error(
        "sender {0} opened more than {WAITING_PER_SENDER} connections without a session: if it is one machine alone, somebody else \
         has its key (nf-receiver invite --renew {0})"
    )]
    Crowded(SenderId),
    #[error("{0}")]
    Storage(#[from] PositionsError),
    #[error("stopping")]
    Stopping,
}

impl Ended {
    /// Whether something failed, rather than that a side ended the connection on purpose.
    fn is_failure(&self) -> bool {
        match self {
            Self::Closed
            | Self::Goodbye
            | Self::Unseated(Unseated::Newer(_) | Unseated::KnownLonger(_))
            | Self::Expelled
            | Self::Stopping => false,
            Self::Stream(_)
            | Self::Session(_)
            | Self::OwnExpired
            | Self::Expired
            | Self::Unheard(_)
            | Self::NotProven { .. }
            | Self::Unseated(Unseated::InUse(_))
            | Self::NoHello
            | Self::Crowded(_)
            | Self::Storage(_) => true,
        }
    }
}

fn held_by(holder: Option<SocketAddr>) -> String {
    holder.map_or_else(String::new, |holder| format!(", which is that of the sender at {holder}"))
}

/// Serves `stream` until it ends. A session must be agreed before `greeted_by`.
pub(crate) async fn serve(
    shared: &Arc<Shared>,
    mut stream: Stream,
    peer: SocketAddr,
    known: AuthenticatedSender,
    greeted_by: Instant,
    stop: Stop,
) {
    let mut stopping = stop.clone();
    let id = known.sender.clone();
    let outputs = shared.outputs.clone();
    let mut connection = Connection {
        shared,
        session: ReceiverSession::new(),
        outputs,
        known,
        stop,
        run: RunId::NONE,
        was_told: false,
        ends_by: None,
        expiry: SessionExpiry::of(stream.channel()),
    };
    let mut place = shared.waiting.enter(&id);
    let greeting = timeout_at(greeted_by, connection.greet(&mut stream, peer, &id));
    let greeted = tokio::select! {
        greeted = greeting => greeted.unwrap_or(Err(Ended::NoHello)),
        () = place.lost() => Err(Ended::Crowded(id.clone())),
        () = stopping.told() => Err(Ended::Stopping),
    };
    drop(place);
    let ended = match greeted {
        Ok(mut turn) => {
            let ended = connection.run(&mut stream, &mut turn).await;
            let ended = connection.explained(ended);
            turn.seat.note_ended(ended.to_string());
            ended
        }
        Err(ended) => {
            if ended.is_failure() {
                shared.note_rejected(peer, format!("session of {id} was not agreed: {ended}"));
            }
            ended
        }
    };
    connection.log_end(peer, &ended);
    if matches!(ended, Ended::Crowded(_)) {
        return connection.part(&mut stream, &ended).await;
    }
    let mut place = shared.waiting.enter(&id);
    tokio::select! {
        () = connection.part(&mut stream, &ended) => {}
        () = place.lost() => tracing::debug!("no time for the last words: newer connections of the sender wait"),
    }
}

/// Tells a sender that was let in that there is no place for it, and why.
pub(crate) async fn turn_back(mut stream: Stream, reason: &str) {
    let mut session = ReceiverSession::new();
    session.refuse(RefusalCode::TooManyConnections, reason);
    farewell(&mut stream, &mut session).await;
}

struct Connection<'a> {
    shared: &'a Arc<Shared>,
    session: ReceiverSession,
    outputs: watch::Receiver<Arc<Outputs>>,
    known: AuthenticatedSender,
    stop: Stop,
    /// The run that the sender named in HELLO.
    run: RunId,
    /// Whether the log tells that this session began; then it tells that it ended, too.
    was_told: bool,
    /// When the session ends at the latest, once the sender has closed its connection.
    ends_by: Option<Instant>,
    expiry: SessionExpiry,
}

/// What ended a wait.
enum Happened {
    Socket(io::Result<Ready>),
    HungUp,
    Overdue,
    Delivered,
    Time,
    Collectors,
    Wanted,
    Expelled,
    Expired(ExpiredCertificate),
    Stop,
}

impl Connection<'_> {
    /// Waits for HELLO, takes the sender's seat, and says where to go on.
    async fn greet(&mut self, stream: &mut Stream, peer: SocketAddr, id: &SenderId) -> Result<Turn, Ended> {
        let hello = self.hello(stream).await?;
        self.check_proof(stream, &hello)?;
        // A stream that is refused ends no session of the same sender.
        let in_use = self.shared.position_of(self.known.owner_at(peer.ip()), peer, hello.stream).await?;
        let seat = self.shared.seats.seat(id, peer, hello.stream);
        let cipher = stream.channel().cipher();
        let mut turn = seat.take(peer, &hello, in_use.begun(), cipher).await?;
        let (place, is_new) = self.find_place(&mut turn, in_use, id, &hello);
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
                "{id} at {peer} began a new stream, because its spool was restored from a backup, is used by another machine \
                 too, or lost its file 'stream'; datagrams that were on their way may arrive twice, none is lost{}",
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
                "session of {id} at {peer} agreed, {}; its stream goes on at {resume}{}",
                protection(cipher),
                More(held_back)
            );
            self.was_told = true;
        }
        Ok(turn)
    }

    /// Fails unless the sender holds the secret of its stream. Runs before anything changes for the sender that has the stream.
    fn check_proof(&self, stream: &Stream, hello: &Hello) -> Result<(), Ended> {
        let binding = stream.channel().binding().map_err(StreamError::from)?;
        if is_proven(hello.stream, &hello.proof, binding) {
            return Ok(());
        }
        let holder = self.shared.seats.peer_of(&self.known.sender, hello.stream);
        Err(Ended::NotProven { stream: hello.stream, holder })
    }

    /// How far the stream of `hello` has come, and whether it is new here.
    fn find_place(
        &mut self,
        turn: &mut Turn,
        in_use: StreamInUse,
        id: &SenderId,
        hello: &Hello,
    ) -> (Place, bool) {
        if let Some(current) = turn.current.as_mut().filter(|current| current.stream == hello.stream) {
            current.in_use = Some(in_use);
            let delivered = current.delivery.position();
            current.delivery.resume(delivered.max(hello.first));
            current.delivery.change(&self.outputs.borrow_and_update());
            return (
                Place { delivered, received: current.delivery.highest_position(), run: current.run },
                false,
            );
        }
        let stored = in_use.position().clone();
        let (known, run) = (stored.get(), stored.run());
        let delivered = known.unwrap_or_default();
        let (ahead, run_ahead) = self.shared.ahead.take(id, hello.stream);
        let furthest = ahead.values().copied().max().filter(|position| *position > delivered);
        let run = run_ahead.filter(|_| furthest > stored.further()).unwrap_or(run);
        let position = delivered.max(hello.first);
        let outputs = self.outputs.borrow_and_update();
        let delivery = Delivery::new(id.clone(), position, stored.further(), &outputs, &ahead);
        let place = Place { delivered, received: delivery.highest_position(), run };
        let in_use = Some(in_use);
        *turn.current = Some(Current { stream: hello.stream, stored, in_use, delivery, run });
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

    /// Takes in what is there.
    fn read(&mut self, stream: &mut Stream) -> Result<Received, Ended> {
        let now = Instant::now().into_std();
        let take = |bytes: &[u8]| self.session.handle_bytes(bytes, now);
        match BUFFER.with_borrow_mut(|buffer| stream.receive(buffer, take))? {
            Received::End => Err(Ended::Closed),
            received => Ok(received),
        }
    }

    /// Reads what the socket has, or else writes what it takes: a last word that lies there tells why nothing can be
    /// written any more.
    fn transfer(&mut self, stream: &mut Stream, ready: Ready) -> Result<(), Ended> {
        if ready.is_readable() && self.read(stream)? == Received::Bytes {
            return Ok(());
        }
        if ready.is_writable() {
            stream.send(self.session.outbox())?;
        }
        Ok(())
    }

    async fn run(&mut self, stream: &mut Stream, turn: &mut Turn) -> Ended {
        loop {
            // What has come already is not waited for.
            loop {
                match self.take_events(turn).and_then(|()| Ok(self.settle(turn)?)) {
                    Ok(true) => {}
                    Ok(false) => break,
                    Err(ended) => return ended,
                }
            }
            if let Err(error) = stream.send_at_once(self.session.outbox()) {
                return error.into();
            }
            match self.happens(stream, turn).await {
                Happened::Socket(Ok(ready)) => {
                    if let Err(ended) = self.transfer(stream, ready) {
                        return ended;
                    }
                }
                Happened::Socket(Err(error)) => return Ended::Stream(error.into()),
                Happened::HungUp => self.ends_by = Some(Instant::now() + HANG_UP_GRACE),
                Happened::Overdue => return Ended::Closed,
                Happened::Delivered => {}
                Happened::Time => {
                    // What has come already is heard before the sender counts as silent: this process may have been stopped.
                    if self.session.wants_bytes()
                        && let Err(ended) = self.read(stream)
                    {
                        return ended;
                    }
                    self.session.handle_timeout(Instant::now().into_std());
                }
                Happened::Collectors => self.follow_collectors(turn),
                Happened::Wanted => return turn.superseded().into(),
                Happened::Expelled => return Ended::Expelled,
                Happened::Expired(ExpiredCertificate::Own) => return Ended::OwnExpired,
                Happened::Expired(ExpiredCertificate::Peer) => return Ended::Expired,
                Happened::Stop => return Ended::Stopping,
            }
        }
    }

    /// Waits for whatever comes first.
    async fn happens(&mut self, stream: &Stream, turn: &mut Turn) -> Happened {
        let wake_at = self.session.poll_timeout().map(Instant::from_std);
        let wants_bytes = self.session.wants_bytes();
        let has_output = !self.session.outbox().is_empty();
        let Turn { current, holder, .. } = turn;
        let delivery = current.as_mut().map(|current| &mut current.delivery);
        let delivery = delivery.filter(|delivery| delivery.is_under_way());
        let is_delivering = delivery.is_some();
        let ends_by = self.ends_by;
        tokio::select! {
            ready = stream.ready(wants_bytes, has_output) => Happened::Socket(ready),
            // While bytes are wanted, a read finds the end.
            () = stream.hung_up(), if ends_by.is_none() && !wants_bytes => Happened::HungUp,
            () = sleep_until(ends_by.unwrap_or_else(Instant::now)), if ends_by.is_some() => Happened::Overdue,
            () = deliver(delivery), if is_delivering => Happened::Delivered,
            () = sleep_until(wake_at.unwrap_or_else(Instant::now)), if wake_at.is_some() => Happened::Time,
            Ok(()) = self.outputs.changed() => Happened::Collectors,
            Ok(()) = holder.changed() => Happened::Wanted,
            () = self.known.access_revoked() => Happened::Expelled,
            whose = self.expiry.expired() => Happened::Expired(whose),
            () = self.stop.told() => Happened::Stop,
        }
    }

    fn take_events(&mut self, turn: &mut Turn) -> Result<(), Ended> {
        while let Some(event) = self.session.poll_event()? {
            match event {
                ReceiverEvent::Hello(_) => {}
                ReceiverEvent::Batch { batch, skip } => {
                    self.adopt_run(turn);
                    self.begin(turn, &batch, skip);
                }
                ReceiverEvent::Gap(gap) => {
                    self.adopt_run(turn);
                    push(turn, PendingBatch::of_gap(gap));
                }
                ReceiverEvent::Again(batch) => {
                    self.adopt_run(turn);
                    push_again(turn, self.parcel(&batch, batch.first()));
                }
                ReceiverEvent::GapAgain(gap) => {
                    self.adopt_run(turn);
                    push_again(turn, PendingBatch::of_gap(gap));
                }
                ReceiverEvent::Repeat { datagrams } => {
                    Counters::add(&turn.seat.counters.duplicates, u64::from(datagrams));
                }
                ReceiverEvent::Goodbye => return Err(Ended::Goodbye),
            }
        }
        Ok(())
    }

    /// From now on the stream is that of this run: by sending, the sender has accepted what WELCOME said of its stream.
    fn adopt_run(&self, turn: &mut Turn) {
        if let Some(current) = turn.current.as_mut() {
            current.run = self.run;
        }
    }

    /// The batches under way go to the collectors as they are now.
    fn follow_collectors(&mut self, turn: &mut Turn) {
        let outputs = self.outputs.borrow_and_update();
        if let Some(current) = turn.current.as_mut() {
            current.delivery.change(&outputs);
        }
    }

    /// Begins to deliver `batch`, of which `skip` datagrams were delivered before.
    fn begin(&self, turn: &mut Turn, batch: &Batch, skip: usize) {
        let skipped = u64::try_from(skip).unwrap_or(u64::MAX);
        let parcel = self.parcel(batch, batch.first().plus(skipped));
        let dropped_before = parcel.records.as_ref().map_or(0, |records| records.dropped_in(..skip));
        Counters::add(&turn.seat.counters.duplicates, skipped.saturating_sub(dropped_before));
        push(turn, parcel);
    }

    /// The datagrams of `batch`, of which those from `news` on are new.
    fn parcel(&self, batch: &Batch, news: Position) -> PendingBatch {
        let (first, end, exporters) = (batch.first(), batch.end(), self.known.exporters());
        PendingBatch {
            first,
            end,
            first_new: news,
            records: batch.records().map_err(LossCause::Unreadable),
            exporters,
        }
    }

    /// Logs datagrams that were lost; with them the sender has lost `in_all`.
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
            "{sender} lost {}, {in_all} since nf-receiver started: {reason}{}",
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
            "lost {} of {sender}, {in_all} since nf-receiver started: a batch cannot be read: {error}{}",
            count_of(lost.datagrams, "datagram"),
            More(held_back)
        );
    }

    /// Stores how far the stream is delivered, tells the sender, and lets more come if there is room. Says whether more may
    /// come that could not before.
    fn settle(&mut self, turn: &mut Turn) -> Result<bool, PositionsError> {
        let Some(current) = turn.current.as_mut() else { return Ok(false) };
        let settled = current.delivery.settle();
        turn.seat.counters.settled(&settled);
        for loss in &settled.losses {
            self.log_loss(loss, turn.seat.counters.gaps.load(Ordering::Relaxed));
        }
        let position = current.delivery.settled();
        if current.stored.get().is_none_or(|stored| stored < position) {
            current.stored.store(position, current.run)?;
        }
        self.session.acknowledge(position, Instant::now().into_std());
        if let Some(further) = current.delivery.skip_position() {
            current.stored.store_further(further, current.run)?;
        }
        if current.delivery.is_behind() {
            self.session.take(current.delivery.received_up_to());
            if let Some((first, bytes)) =
                current.delivery.wanted_resend().filter(|_| !self.session.is_asking())
            {
                self.session.ask_again(first, bytes);
            }
        }
        Ok(current.delivery.may_take_more() && self.session.go_on(Instant::now().into_std()))
    }

    /// Adds the likely cause to an end that the sender's silence explains.
    fn explained(&self, ended: Ended) -> Ended {
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

    /// Logs how the connection ended.
    fn log_end(&self, peer: SocketAddr, ended: &Ended) {
        let id = &self.known.sender;
        let sentence = |held_back| format!("session of {id} at {peer} ended: {ended}{}", More(held_back));
        if ended.is_failure() {
            let (message_id, line) = match ended {
                Ended::Unheard(_) => (receiver::SENDER_UNHEARD, SenderLine::Failed),
                Ended::NotProven { .. } => (receiver::STREAM_NOT_PROVEN, SenderLine::NotProven),
                Ended::Unseated(_) => (receiver::ID_IN_USE, SenderLine::InUse),
                _ => (receiver::SESSION_ENDED, SenderLine::Failed),
            };
            if let Some(held_back) = self.shared.sender_log.admit(id, line) {
                tracing::warn!(message_id, %peer, sender = %id, held_back, "{}", sentence(held_back));
            }
            return;
        }
        let held_back =
            if self.was_told { Some(0) } else { self.shared.sender_log.admit(id, SenderLine::Session) };
        if let Some(held_back) = held_back {
            let message_id = receiver::SESSION_ENDED;
            tracing::info!(message_id, %peer, sender = %id, held_back, "{}", sentence(held_back));
        }
    }

    /// Says the last words that fit the end, and closes.
    async fn part(&mut self, stream: &mut Stream, ended: &Ended) {
        match ended {
            Ended::Expelled => {
                self.session.refuse(
                    RefusalCode::NotAdmitted,
                    "this sender is not let in any more as it was: the configuration was reloaded",
                );
            }
            Ended::NotProven { .. } => self.session.refuse(
                RefusalCode::StreamNotProven,
                "this sender did not prove that the stream is its own: something on the way changes the connection, or the \
                 two sides disagree on the protocol; everything stays queued",
            ),
            Ended::OwnExpired | Ended::Expired => {
                self.session.refuse(RefusalCode::NotAdmitted, &ended.to_string());
            }
            Ended::Unseated(unseated) => {
                self.session.refuse(refusal_code(*unseated), &format!("sender {}: {ended}", self.known.sender));
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
                // Others wait for this place: the sender gets what the socket takes at once.
                if let Err(error) = stream.send(self.session.outbox()) {
                    tracing::debug!(%error, "the sender did not take the last words");
                }
                return;
            }
        }
        farewell(stream, &mut self.session).await;
    }
}

fn refusal_code(unseated: Unseated) -> RefusalCode {
    match unseated {
        Unseated::Newer(_) | Unseated::KnownLonger(_) => RefusalCode::Superseded,
        Unseated::InUse(_) => RefusalCode::IdInUse,
    }
}

/// Writes what `session` still has to say, and closes.
async fn farewell(stream: &mut Stream, session: &mut ReceiverSession) {
    let last_words = async {
        stream.flush(session.outbox()).await?;
        stream.part().await?;
        Ok::<(), StreamError>(())
    };
    if !matches!(timeout(FAREWELL, last_words).await, Ok(Ok(()))) {
        tracing::debug!("the sender did not take the last words");
    }
}

/// The next of the stream goes to the collectors.
fn push(turn: &mut Turn, parcel: PendingBatch) {
    match turn.current.as_mut() {
        Some(current) => current.delivery.push(parcel),
        // It is not acknowledged, so the sender keeps it.
        None => note_internal_error("a batch came before its stream had a delivery"),
    }
}

/// What was asked for once more goes to the collectors that lack it.
fn push_again(turn: &mut Turn, parcel: PendingBatch) {
    match turn.current.as_mut() {
        Some(current) => current.delivery.push_resent(parcel),
        None => note_internal_error("a batch came again before its stream had a delivery"),
    }
}

/// Delivers what is under way.
async fn deliver(delivery: Option<&mut Delivery>) {
    match delivery {
        Some(delivery) => delivery.run().await,
        None => core::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
