//! The link: a task that keeps a session with a receiver, and sends what the queue holds.
//!
//! Owns the connection and the schedule of attempts. Never holds more than `READ_AHEAD` and `OUTBOX_MAX` bytes
//! of the backlog.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until, timeout};

use crate::batch::Batch;
use crate::config::{HostPort, Reconnect};
use crate::framing::{Heartbeat, Hello};
use crate::limits::STOP_GRACE;
use crate::sender::backlog::Backlog;
use crate::sender::dial::{DialError, dial};
use crate::sender::queue::{Next, Queue};
use crate::sequence::{Position, SenderId, StreamId};
use crate::service::Stop;
use crate::session::{SenderEvent, SenderSession, SessionError};

/// How long the last words to a receiver may take.
const FAREWELL: Duration = Duration::from_secs(1);

/// How long after a failed read of the spool the link tries again.
const READ_AGAIN: Duration = Duration::from_secs(1);

/// Bytes read from the connection at once: acknowledgements and heartbeats are small.
const READ_SIZE: usize = 4096;

/// What the link does at the moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum LinkState {
    /// A session is agreed.
    Connected,
    /// A receiver is being tried.
    Connecting,
    /// The next attempt is at the time given; none if there is no receiver to try.
    Waiting(Option<Instant>),
    /// As `Waiting`, and the last receiver said no.
    Refused(Instant),
}

/// What the status shows of the link.
#[derive(Clone, Debug)]
pub(crate) struct LinkView {
    pub(crate) state: LinkState,
    /// The receiver that is connected, or tried last.
    pub(crate) receiver: Option<String>,
    /// Why the link is not connected.
    pub(crate) reason: Option<String>,
}

/// How a session ended.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("the receiver closed the connection")]
    Closed,
    #[error("the receiver ended the session")]
    Goodbye,
    #[error("connection lost: {0}")]
    Lost(#[from] io::Error),
    #[error("the receiver refuses: {0}")]
    Refused(String),
    #[error("{0}")]
    Session(#[from] SessionError),
    #[error(
        "the receiver has positions of this stream that this spool never gave out ({0} of {1}): \
         was the spool restored from a copy? Move its files away to begin a new stream"
    )]
    AheadOfUs(Position, Position),
    #[error("stopping")]
    Stopped,
}

/// Why an attempt ended, for the schedule and the status.
struct Attempt {
    was_agreed: bool,
    is_refusal: bool,
    reason: String,
}

/// The link of one sender.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) queue: Arc<Queue>,
    pub(crate) stream: StreamId,
    pub(crate) id: SenderId,
    pub(crate) receivers: Vec<HostPort>,
    pub(crate) plaintext: bool,
    pub(crate) heartbeat: Duration,
    pub(crate) reconnect: Reconnect,
    pub(crate) view: Arc<Mutex<LinkView>>,
    /// Notified when the next attempt is to be made at once.
    pub(crate) retry: Arc<Notify>,
    /// True once the link is to end.
    pub(crate) stop: Stop,
}

impl LinkView {
    pub(crate) fn new() -> Arc<Mutex<Self>> {
        Arc::new(Mutex::new(Self { state: LinkState::Waiting(None), receiver: None, reason: None }))
    }
}

impl Link {
    fn view(&self) -> MutexGuard<'_, LinkView> {
        self.view.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_stopping(&self) -> bool {
        self.stop.is_told()
    }

    /// Connects, sends, and connects again, until told to stop.
    pub(crate) async fn run(mut self) {
        if self.receivers.is_empty() {
            let reason = "no receiver is configured: datagrams are spooled only; \
                          set 'receivers' in the configuration or give --receiver";
            tracing::warn!("{reason}");
            self.view().reason = Some(reason.to_owned());
            self.stop.told().await;
            return;
        }
        let mut failures = 0;
        while !self.is_stopping() {
            let attempt = self.attempt().await;
            if self.is_stopping() {
                break;
            }
            if attempt.was_agreed {
                failures = 0;
            }
            self.wait(&attempt, failures).await;
            failures = failures.saturating_add(1);
        }
    }

    /// Waits until the schedule says to try again, or somebody asks for it.
    async fn wait(&mut self, attempt: &Attempt, failures: u32) {
        let delay = self.reconnect.delay(failures, chance());
        let at = Instant::now() + delay;
        {
            let mut view = self.view();
            view.state =
                if attempt.is_refusal { LinkState::Refused(at) } else { LinkState::Waiting(Some(at)) };
            view.reason = Some(attempt.reason.clone());
            tracing::warn!(
                receiver = view.receiver,
                retry_in_s = delay.as_secs_f64(),
                "not connected: {}",
                attempt.reason
            );
        }
        tokio::select! {
            () = sleep_until(at) => {}
            () = self.retry.notified() => tracing::info!("trying again at once"),
            () = self.stop.told() => {}
        }
    }

    /// Tries the receivers in turn; keeps a session with the first that answers.
    async fn attempt(&mut self) -> Attempt {
        let mut last = None;
        for receiver in self.receivers.clone() {
            *self.view() =
                LinkView { state: LinkState::Connecting, receiver: Some(receiver.to_string()), reason: None };
            let dialled = tokio::select! {
                dialled = dial(&receiver, &self.id, self.plaintext) => dialled,
                () = self.stop.told() => break,
            };
            match dialled {
                Ok((stream, address)) => {
                    return self.converse(stream, &format!("{receiver} ({address})")).await;
                }
                Err(error) => last = Some((receiver, error)),
            }
        }
        match last {
            Some((receiver, error)) => self.failed(&receiver, &error),
            None => Attempt { was_agreed: false, is_refusal: false, reason: "stopping".to_owned() },
        }
    }

    fn failed(&self, receiver: &HostPort, error: &DialError) -> Attempt {
        let mut reason = error.to_string();
        if self.receivers.len() > 1 {
            reason =
                format!("none of {} receivers answers; the last, {receiver}: {reason}", self.receivers.len());
        }
        Attempt { was_agreed: false, is_refusal: error.is_refusal(), reason }
    }

    /// Keeps a session over `stream` until it ends.
    async fn converse(&mut self, stream: TcpStream, peer: &str) -> Attempt {
        let mut conversation = Conversation::new(self);
        let ended = conversation.run(stream, peer).await;
        let was_agreed = conversation.is_agreed;
        self.queue.set_in_flight(self.queue.acknowledged());
        if !matches!(ended, Ended::Stopped) && was_agreed {
            tracing::warn!(peer, "link lost: {ended}");
        }
        let is_refusal = matches!(ended, Ended::Refused(_) | Ended::AheadOfUs(..));
        Attempt { was_agreed, is_refusal, reason: ended.to_string() }
    }
}

/// One session.
struct Conversation<'a> {
    link: &'a Link,
    session: SenderSession,
    is_agreed: bool,
    /// Ends and payload bytes of batches sent and not acknowledged, in order.
    sent: VecDeque<(Position, u64)>,
    /// Batches read ahead from the spool.
    ahead: VecDeque<Batch>,
    backlog: Reading,
}

/// Who has the spool's reader.
enum Reading {
    Idle(Backlog),
    Busy(JoinHandle<(Backlog, io::Result<Vec<Batch>>)>),
    /// A read failed: not before this time again.
    Resting(Backlog, Instant),
}

/// What ended a wait.
enum Happened {
    Read(io::Result<usize>),
    Wrote(io::Result<usize>),
    ReadAhead(Backlog, io::Result<Vec<Batch>>),
    Arrived,
    Time,
    Stop,
}

impl<'a> Conversation<'a> {
    fn new(link: &'a Link) -> Self {
        let hello = Hello {
            stream: link.stream,
            first: link.queue.acknowledged(),
            heartbeat: Heartbeat::nearest(link.heartbeat),
        };
        Self {
            link,
            session: SenderSession::new(hello, Instant::now().into_std()),
            is_agreed: false,
            sent: VecDeque::new(),
            ahead: VecDeque::new(),
            backlog: Reading::Idle(Backlog::new(link.queue.clone())),
        }
    }

    async fn run(&mut self, mut stream: TcpStream, peer: &str) -> Ended {
        let mut stopping_at = None;
        let mut input = [0; READ_SIZE];
        loop {
            if let Err(ended) = self.take_events(peer) {
                self.farewell(&mut stream).await;
                return ended;
            }
            let waits_for_more = self.offer();
            if stopping_at.is_some() && self.is_done() {
                break;
            }
            match self.happens(&mut stream, &mut input, waits_for_more, stopping_at).await {
                Happened::Read(Ok(0)) => return Ended::Closed,
                Happened::Read(Ok(count)) => {
                    let bytes = input.get(..count).unwrap_or_default();
                    self.session.handle_bytes(bytes, Instant::now().into_std());
                }
                Happened::Read(Err(error)) | Happened::Wrote(Err(error)) => return error.into(),
                Happened::ReadAhead(backlog, outcome) => self.take_read_ahead(backlog, outcome),
                Happened::Wrote(Ok(_)) | Happened::Arrived => {}
                Happened::Time if stopping_at.is_some_and(|at| at <= Instant::now()) => break,
                Happened::Time => self.session.handle_timeout(Instant::now().into_std()),
                Happened::Stop => stopping_at = Some(Instant::now() + STOP_GRACE),
            }
        }
        self.session.goodbye();
        self.farewell(&mut stream).await;
        Ended::Stopped
    }

    /// Waits for whatever comes first.
    async fn happens(
        &mut self,
        stream: &mut TcpStream,
        input: &mut [u8],
        waits_for_more: bool,
        stopping_at: Option<Instant>,
    ) -> Happened {
        let (mut reader, mut writer) = stream.split();
        let resting_until = match self.backlog {
            Reading::Resting(_, until) => Some(until),
            Reading::Idle(_) | Reading::Busy(_) => None,
        };
        let session_timeout = self.session.poll_timeout().map(Instant::from_std);
        let wake_at = [session_timeout, resting_until, stopping_at].into_iter().flatten().min();
        let has_output = !self.session.outbox().is_empty();
        let mut stop = self.link.stop.clone();
        tokio::select! {
            read = reader.read(input) => Happened::Read(read),
            wrote = writer.write_buf(self.session.outbox()), if has_output => Happened::Wrote(wrote),
            (backlog, outcome) = read_ahead(&mut self.backlog) => Happened::ReadAhead(backlog, outcome),
            () = self.link.queue.arrived(), if waits_for_more => Happened::Arrived,
            () = sleep_until(wake_at.unwrap_or_else(Instant::now)), if wake_at.is_some() => Happened::Time,
            () = stop.told(), if stopping_at.is_none() => Happened::Stop,
        }
    }

    fn take_events(&mut self, peer: &str) -> Result<(), Ended> {
        while let Some(event) = self.session.poll_event()? {
            match event {
                SenderEvent::Welcomed { resume } => self.welcomed(resume, peer)?,
                SenderEvent::Acknowledged(position) => self.acknowledged(position),
                SenderEvent::Refused(refusal) => return Err(Ended::Refused(refusal.text().to_owned())),
                SenderEvent::Goodbye => return Err(Ended::Goodbye),
            }
        }
        Ok(())
    }

    fn welcomed(&mut self, resume: Position, peer: &str) -> Result<(), Ended> {
        let next = self.link.queue.next_position();
        if resume > next {
            return Err(Ended::AheadOfUs(resume, next));
        }
        self.is_agreed = true;
        self.acknowledged(resume);
        self.link.queue.set_in_flight(resume);
        let queued = self.link.queue.figures().queued;
        tracing::info!(peer, resume = resume.0, queued, "connected");
        let mut view = self.link.view();
        view.state = LinkState::Connected;
        view.reason = None;
        Ok(())
    }

    fn acknowledged(&mut self, position: Position) {
        let mut bytes = 0;
        while let Some((_, length)) = self.sent.front().filter(|(end, _)| *end <= position) {
            bytes += length;
            self.sent.pop_front();
        }
        self.link.queue.acknowledge(position, bytes);
    }

    /// Hands the session all that it takes now. Says whether it would take more that has yet to arrive.
    fn offer(&mut self) -> bool {
        while let Some(position) = self.session.wants() {
            match self.link.queue.next(position) {
                Next::Batch(batch) => self.send(&batch),
                Next::Gap(gap) => {
                    if let Err(error) = self.session.send_gap(gap) {
                        tracing::error!(%error, "a gap was offered out of turn");
                    }
                }
                Next::InSpool => {
                    if let Some(batch) = self.take_ahead(position) {
                        self.send(&batch);
                    } else {
                        self.start_reading(position);
                        return false;
                    }
                }
                Next::Nothing => return true,
            }
        }
        false
    }

    fn send(&mut self, batch: &Batch) {
        self.link.queue.set_in_flight(batch.end());
        match self.session.send_batch(batch) {
            Ok(()) => self.sent.push_back((batch.end(), u64::from(batch.payload_bytes()))),
            Err(error) => tracing::error!(%error, "a batch was offered out of turn"),
        }
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

    fn start_reading(&mut self, position: Position) {
        let ready = match &self.backlog {
            Reading::Idle(_) => true,
            Reading::Resting(_, until) => *until <= Instant::now(),
            Reading::Busy(_) => false,
        };
        if !ready {
            return;
        }
        let empty = Reading::Idle(Backlog::new(self.link.queue.clone()));
        if let Reading::Idle(mut backlog) | Reading::Resting(mut backlog, _) =
            core::mem::replace(&mut self.backlog, empty)
        {
            self.backlog = Reading::Busy(tokio::task::spawn_blocking(move || {
                let outcome = backlog.read(position);
                (backlog, outcome)
            }));
        }
    }

    fn take_read_ahead(&mut self, backlog: Backlog, outcome: io::Result<Vec<Batch>>) {
        self.backlog = match outcome {
            Ok(batches) => {
                self.ahead.extend(batches);
                Reading::Idle(backlog)
            }
            Err(error) => {
                tracing::error!(%error, "cannot read the spool; trying again");
                Reading::Resting(backlog, Instant::now() + READ_AGAIN)
            }
        };
    }

    /// Whether everything is acknowledged.
    fn is_done(&self) -> bool {
        self.is_agreed && self.link.queue.figures().queued == 0
    }

    /// Writes what the outbox still holds, for a moment at the most.
    async fn farewell(&mut self, stream: &mut TcpStream) {
        let last_words = async {
            while !self.session.outbox().is_empty() {
                stream.write_buf(self.session.outbox()).await?;
            }
            stream.shutdown().await
        };
        if !matches!(timeout(FAREWELL, last_words).await, Ok(Ok(()))) {
            tracing::debug!("the receiver did not take the last words");
        }
    }
}

/// Waits for a read under way; for ever if there is none.
async fn read_ahead(reading: &mut Reading) -> (Backlog, io::Result<Vec<Batch>>) {
    match reading {
        Reading::Busy(task) => match task.await {
            Ok(done) => done,
            Err(_) => core::future::pending().await,
        },
        Reading::Idle(_) | Reading::Resting(..) => core::future::pending().await,
    }
}

/// A number drawn by chance, at least 0 and below 1.
fn chance() -> f64 {
    getrandom::u32().map_or(0.0, |drawn| f64::from(drawn) / (f64::from(u32::MAX) + 1.0))
}
