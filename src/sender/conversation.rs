//! One session with a receiver: sends what the queue holds, and frees what is acknowledged.
//!
//! Never holds more than twice `READ_AHEAD`, and `OUTBOX_MAX`, bytes of the backlog.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::Ready;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until, timeout};

use crate::batch::Batch;
use crate::framing::{Heartbeat, Hello};
use crate::limits::{CHANNEL_AGE_MAX, STOP_GRACE};
use crate::sender::backlog::{Backlog, BacklogError};
use crate::sender::link::{Link, LinkSettings, LinkState};
use crate::sender::queue::{Next, Queue};
use crate::sender::unacknowledged::Unacknowledged;
use crate::sequence::Position;
use crate::service::messages::sender;
use crate::service::stream::{Received, Stream, StreamError, protection};
use crate::service::{LogLimit, More, ROUND};
use crate::session::{SenderEvent, SenderSession, SessionError};
use crate::status::count_of;

/// How long the last words to a receiver may take.
const FAREWELL: Duration = Duration::from_secs(1);

/// How long after a failed read of the spool the link tries again.
const READ_AGAIN: Duration = Duration::from_secs(1);

/// Batches read ahead with which it is time to read more: half of `READ_AHEAD`, where they are full.
const READ_ON: usize = 4;

/// Bytes read from the connection at once: acknowledgements and heartbeats are small.
const READ_SIZE: usize = 4096;

/// How a session ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Ended {
    #[error("the receiver closed the connection")]
    Closed,
    #[error("the receiver ended the session")]
    Goodbye,
    #[error("{0}")]
    Stream(#[from] StreamError),
    #[error("the receiver refuses: {0}")]
    Refused(String),
    #[error("{0}")]
    Session(#[from] SessionError),
    #[error(
        "the receiver has positions of this stream that this spool never gave out ({0} of {1}): \
         was the spool restored from a copy? Move its files away to begin a new stream"
    )]
    AheadOfUs(Position, Position),
    #[error("the receiver asks for positions from {0} on, which it has acknowledged up to {1}")]
    BehindUs(Position, Position),
    #[error("connecting anew")]
    Renewed,
    #[error("stopping")]
    Stopped,
}

/// One session.
pub(crate) struct Conversation<'a> {
    link: &'a Link,
    session: SenderSession,
    /// Whether the receiver has welcomed this sender.
    pub(crate) is_agreed: bool,
    /// Ends and payload bytes of batches sent and not acknowledged.
    sent: Unacknowledged,
    /// The receiver has everything below, but acknowledges it later.
    taken: Position,
    /// Batches read ahead from the spool.
    ahead: VecDeque<Batch>,
    backlog: Reading,
    /// When the channel is too old to go on.
    renew_at: Instant,
    /// Changes when there are other settings to go on with.
    settings: watch::Receiver<LinkSettings>,
    complaints: LogLimit<()>,
}

/// Who has the spool's reader.
enum Reading {
    Idle(Backlog),
    Busy(JoinHandle<(Backlog, Result<Vec<Batch>, BacklogError>)>),
    /// A read failed: not before this time again.
    Resting(Backlog, Instant),
}

/// How much the session was handed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Offered {
    /// As much as it takes now.
    Enough,
    /// All that was read from the spool.
    AllRead,
    /// All that there is.
    All,
}

/// What ended a wait.
enum Happened {
    Socket(io::Result<Ready>),
    ReadAhead(Backlog, Result<Vec<Batch>, BacklogError>),
    Arrived,
    Time,
    Settings,
    Stop,
}

impl<'a> Conversation<'a> {
    pub(crate) fn new(link: &'a Link, settings: watch::Receiver<LinkSettings>) -> Self {
        let heartbeat = Heartbeat::nearest(settings.borrow().heartbeat);
        let hello = Hello { stream: link.stream, first: link.queue.acknowledged(), heartbeat };
        Self {
            link,
            session: SenderSession::new(hello, Instant::now().into_std()),
            is_agreed: false,
            sent: Unacknowledged::default(),
            taken: Position::default(),
            ahead: VecDeque::new(),
            backlog: Reading::Idle(Backlog::new(link.queue.clone())),
            renew_at: Instant::now() + CHANNEL_AGE_MAX,
            settings,
            complaints: LogLimit::default(),
        }
    }

    /// Keeps the session over `stream` until it ends.
    pub(crate) async fn run(&mut self, mut stream: Stream, peer: &str) -> Ended {
        let mut stopping_at = None;
        loop {
            self.link.pulse.beat();
            if let Err(ended) = self.take_events(&stream, peer) {
                self.farewell(&mut stream).await;
                return ended;
            }
            let waits_for_more = match self.speak(&mut stream) {
                Ok(offered) => offered == Offered::All,
                Err(error) => return error.into(),
            };
            if stopping_at.is_some() && self.is_done() {
                break;
            }
            if self.is_worn(&stream) {
                tracing::info!(
                    peer,
                    "connecting to {peer} anew: the keys of this connection have served their time"
                );
                return self.renew(&mut stream).await;
            }
            match self.happens(&stream, waits_for_more, stopping_at).await {
                Happened::Socket(Ok(ready)) => match self.transfer(&mut stream, ready) {
                    Ok(Received::Bytes | Received::Nothing) => {}
                    Ok(Received::End) => return Ended::Closed,
                    Err(error) => return error.into(),
                },
                Happened::Socket(Err(error)) => return Ended::Stream(error.into()),
                Happened::ReadAhead(backlog, outcome) => self.take_read_ahead(backlog, outcome),
                Happened::Arrived => {}
                Happened::Settings => return self.renew(&mut stream).await,
                Happened::Time if stopping_at.is_some_and(|at| at <= Instant::now()) => break,
                Happened::Time => {
                    self.end_rest();
                    self.session.handle_timeout(Instant::now().into_std());
                }
                Happened::Stop => stopping_at = Some(Instant::now() + STOP_GRACE),
            }
        }
        self.session.goodbye();
        self.farewell(&mut stream).await;
        Ended::Stopped
    }

    /// Whether the connection is too old to go on, or has carried too much for its keys.
    fn is_worn(&self, stream: &Stream) -> bool {
        let channel = stream.channel();
        !channel.is_plain() && (channel.is_worn() || self.renew_at <= Instant::now())
    }

    /// Ends this session in good order, for another to go on where it stands.
    async fn renew(&mut self, stream: &mut Stream) -> Ended {
        self.session.goodbye();
        self.farewell(stream).await;
        Ended::Renewed
    }

    /// Reads what the socket has, or else writes what it takes: a last word that lies there tells why nothing can be
    /// written any more.
    fn transfer(&mut self, stream: &mut Stream, ready: Ready) -> Result<Received, StreamError> {
        if ready.is_readable() {
            let now = Instant::now().into_std();
            let take = |bytes: &[u8]| self.session.handle_bytes(bytes, now);
            match stream.receive(&mut [0; READ_SIZE], take)? {
                Received::Nothing => {}
                received => return Ok(received),
            }
        }
        if ready.is_writable() {
            stream.send(self.session.outbox())?;
        }
        Ok(Received::Nothing)
    }

    /// Waits for whatever comes first.
    async fn happens(
        &mut self,
        stream: &Stream,
        waits_for_more: bool,
        stopping_at: Option<Instant>,
    ) -> Happened {
        let resting_until = match self.backlog {
            Reading::Resting(_, until) => Some(until),
            Reading::Idle(_) | Reading::Busy(_) => None,
        };
        let session_timeout = self.session.poll_timeout().map(Instant::from_std);
        let renew_at = Some(self.renew_at).filter(|_| !stream.channel().is_plain());
        let round = Some(Instant::now() + ROUND);
        let wake_at =
            [round, session_timeout, resting_until, stopping_at, renew_at].into_iter().flatten().min();
        let has_output = !self.session.outbox().is_empty();
        let mut stop = self.link.stop.clone();
        tokio::select! {
            ready = stream.ready(true, has_output) => Happened::Socket(ready),
            (backlog, outcome) = read_ahead(&mut self.backlog, &self.link.queue) => Happened::ReadAhead(backlog, outcome),
            () = self.link.queue.arrived(), if waits_for_more => Happened::Arrived,
            () = sleep_until(wake_at.unwrap_or_else(Instant::now)), if wake_at.is_some() => Happened::Time,
            Ok(()) = self.settings.changed(), if stopping_at.is_none() => Happened::Settings,
            () = stop.told(), if stopping_at.is_none() => Happened::Stop,
        }
    }

    fn take_events(&mut self, stream: &Stream, peer: &str) -> Result<(), Ended> {
        while let Some(event) = self.session.poll_event()? {
            match event {
                SenderEvent::Welcomed { resume } => self.welcomed(resume, stream.channel().cipher(), peer)?,
                SenderEvent::Acknowledged(position) => self.acknowledged(position),
                SenderEvent::Taken(position) => self.taken(position)?,
                SenderEvent::Refused(refusal) => return Err(Ended::Refused(refusal.text().to_owned())),
                SenderEvent::Goodbye => return Err(Ended::Goodbye),
            }
        }
        Ok(())
    }

    fn welcomed(&mut self, resume: Position, cipher: &'static str, peer: &str) -> Result<(), Ended> {
        let reach = self.link.queue.reach();
        if resume > reach {
            return Err(Ended::AheadOfUs(resume, reach));
        }
        let acknowledged = self.link.queue.acknowledged();
        if resume < acknowledged {
            return Err(Ended::BehindUs(resume, acknowledged));
        }
        self.is_agreed = true;
        self.acknowledged(resume);
        self.link.queue.set_in_flight(resume);
        self.link.queue.set_reach(resume);
        let queued = self.link.queue.figures().queued;
        tracing::info!(
            message_id = sender::CONNECTED,
            peer,
            cipher,
            resume = resume.0,
            queued,
            "connected to {peer}, {}; {} queued",
            protection(cipher),
            count_of(queued, "datagram")
        );
        let mut view = self.link.view();
        view.state = LinkState::Connected;
        view.reason = None;
        view.cipher = Some(cipher);
        Ok(())
    }

    fn acknowledged(&mut self, position: Position) {
        let bytes = self.sent.acknowledge(position);
        self.link.queue.acknowledge(position, bytes);
    }

    /// The receiver is ahead with some of its collectors. What others still lack, and what of that is under way to them, only
    /// it knows: it asks for it.
    fn taken(&mut self, position: Position) -> Result<(), Ended> {
        let reach = self.link.queue.reach();
        if position > reach {
            return Err(Ended::AheadOfUs(position, reach));
        }
        self.taken = self.taken.max(position);
        self.link.queue.set_in_flight(self.link.queue.acknowledged());
        Ok(())
    }

    /// Hands the session, and the socket, all that they take now.
    fn speak(&mut self, stream: &mut Stream) -> Result<Offered, StreamError> {
        loop {
            let offered = self.offer();
            stream.send_at_once(self.session.outbox())?;
            if offered != Offered::Enough || self.session.wants().is_none() {
                return Ok(offered);
            }
        }
    }

    /// Hands the session all that it takes now.
    fn offer(&mut self) -> Offered {
        while let Some(position) = self.session.wants() {
            match self.next_to_send(position) {
                Next::Batch(batch) => self.send(&batch),
                Next::Gap(gap) => {
                    self.link.queue.set_reach(gap.end);
                    if let Err(error) = self.session.send_gap(gap) {
                        tracing::error!(%error, "a gap was offered out of turn: {error}");
                    }
                }
                Next::InSpool => {
                    if let Some(batch) = self.take_ahead(position) {
                        self.send(&batch);
                        self.read_on();
                    } else {
                        self.start_reading(position);
                        return Offered::AllRead;
                    }
                }
                Next::Nothing => return Offered::All,
            }
        }
        Offered::Enough
    }

    fn send(&mut self, batch: &Batch) {
        self.link.queue.set_reach(batch.end());
        match self.session.send_batch(batch) {
            Ok(()) => self.sent.add(batch.first(), batch.end(), u64::from(batch.payload_bytes())),
            Err(error) => tracing::error!(%error, "a batch was offered out of turn: {error}"),
        }
    }

    /// What follows at `position`. What those who are waited for lack of what was taken they ask for: until then it is not on
    /// its way to them.
    fn next_to_send(&self, position: Position) -> Next {
        let queue = &self.link.queue;
        let is_beyond = position >= self.taken && self.taken > queue.acknowledged();
        if is_beyond { queue.next(position) } else { queue.next_to_send(position) }
    }

    /// The batch read ahead that holds `position`.
    fn take_ahead(&mut self, position: Position) -> Option<Batch> {
        while self.ahead.front().is_some_and(|batch| batch.end() <= position) {
            self.ahead.pop_front();
        }
        if self.ahead.front().is_some_and(|batch| batch.first() <= position) {
            return self.ahead.pop_front();
        }
        self.ahead.clear();
        None
    }

    /// The next batches are read while the last ones are sent.
    fn read_on(&mut self) {
        let next = self.ahead.back().map(Batch::end).filter(|_| self.ahead.len() <= READ_ON);
        if let Some(next) = next
            && matches!(self.backlog, Reading::Idle(_))
            && matches!(self.next_to_send(next), Next::InSpool)
        {
            self.start_reading(next);
        }
    }

    fn start_reading(&mut self, position: Position) {
        if !matches!(self.backlog, Reading::Idle(_)) {
            return;
        }
        let empty = Reading::Idle(Backlog::new(self.link.queue.clone()));
        if let Reading::Idle(mut backlog) = core::mem::replace(&mut self.backlog, empty) {
            self.backlog = Reading::Busy(tokio::task::spawn_blocking(move || {
                let outcome = backlog.read(position);
                (backlog, outcome)
            }));
        }
    }

    /// After its time of rest the reader is idle, whether or not it is wanted at once.
    fn end_rest(&mut self) {
        let empty = Reading::Idle(Backlog::new(self.link.queue.clone()));
        self.backlog = match core::mem::replace(&mut self.backlog, empty) {
            Reading::Resting(backlog, until) if until <= Instant::now() => Reading::Idle(backlog),
            other => other,
        };
    }

    fn take_read_ahead(&mut self, backlog: Backlog, outcome: Result<Vec<Batch>, BacklogError>) {
        self.backlog = match outcome {
            Ok(batches) => {
                self.ahead.extend(batches);
                self.link.view().reason = None;
                Reading::Idle(backlog)
            }
            Err(error) => {
                if let Some(held_back) = self.complaints.admit((), Instant::now().into_std()) {
                    tracing::error!(
                        %error,
                        held_back,
                        "cannot read the spool: {error}; trying again{}",
                        More(held_back)
                    );
                }
                self.link.view().reason = Some(format!("cannot read the spool: {error}"));
                Reading::Resting(backlog, Instant::now() + READ_AGAIN)
            }
        };
    }

    /// Whether everything is acknowledged.
    fn is_done(&self) -> bool {
        self.is_agreed && self.link.queue.figures().queued == 0
    }

    /// Writes what the outbox still holds, for a moment at the most.
    async fn farewell(&mut self, stream: &mut Stream) {
        let last_words = async {
            stream.flush(self.session.outbox()).await?;
            stream.end().await?;
            Ok::<(), StreamError>(())
        };
        if !matches!(timeout(FAREWELL, last_words).await, Ok(Ok(()))) {
            tracing::debug!("the receiver did not take the last words");
        }
    }
}

/// Waits for a read under way; for ever if there is none.
async fn read_ahead(
    reading: &mut Reading,
    queue: &Arc<Queue>,
) -> (Backlog, Result<Vec<Batch>, BacklogError>) {
    match reading {
        Reading::Busy(task) => {
            let failed = |error| (Backlog::new(queue.clone()), Err(io::Error::other(error).into()));
            task.await.unwrap_or_else(failed)
        }
        Reading::Idle(_) | Reading::Resting(..) => core::future::pending().await,
    }
}
