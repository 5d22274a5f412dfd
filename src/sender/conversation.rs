//! One session with a receiver: sends what the queue holds, and frees what is acknowledged.
//!
//! Never holds more than twice `READ_AHEAD`, and `OUTBOX_MAX`, bytes of the backlog. Lends its line to ingest.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::Ready;
use tokio::sync::{Mutex, MutexGuard, watch};
use tokio::time::{Instant, sleep_until, timeout};

use crate::framing::{Heartbeat, RefusalCode, Welcome};
use crate::limits::{CHANNEL_AGE_MAX, STOP_GRACE};
use crate::sender::backlog::BacklogError;
use crate::sender::line::{Line, Offered};
use crate::sender::link::{Link, LinkSettings, LinkState};
use crate::sender::read_ahead::ReadAhead;
use crate::sequence::Position;
use crate::service::messages::sender;
use crate::service::stream::{Received, Stream, StreamError, protection};
use crate::service::{LogLimit, More, ROUND};
use crate::session::{SenderEvent, SenderSession, SessionError};
use crate::spool::Divergence;
use crate::status::count_of;

/// How long the last words to a receiver may take.
const FAREWELL: Duration = Duration::from_secs(1);

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
    #[error("the receiver refuses: {0}")]
    Superseded(String),
    #[error(
        "the receiver has datagrams of this stream that this spool never sent: it was restored from a backup, or \
         another machine uses a copy of it; sending all that is queued as a new stream"
    )]
    Diverged {
        divergence: Divergence,
        /// What the receiver has delivered of the stream.
        delivered: Position,
    },
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
    line: Arc<Mutex<Line>>,
    /// Whether the receiver has welcomed this sender.
    pub(crate) is_agreed: bool,
    ahead: ReadAhead,
    /// When the channel is too old to go on.
    renew_at: Instant,
    /// Changes when there are other settings to go on with.
    settings: watch::Receiver<LinkSettings>,
    complaints: LogLimit<()>,
}

/// What ended a wait.
enum Happened {
    Socket(io::Result<Ready>),
    ReadAhead(Result<(), BacklogError>),
    Arrived,
    Time,
    Settings,
    Stop,
}

impl<'a> Conversation<'a> {
    /// A session over `stream`.
    pub(crate) fn new(link: &'a Link, stream: Stream, settings: watch::Receiver<LinkSettings>) -> Self {
        let heartbeat = Heartbeat::nearest(settings.borrow().heartbeat);
        let hello = link.queue.hello(heartbeat);
        let session = SenderSession::new(hello, Instant::now().into_std());
        Self {
            link,
            line: Arc::new(Mutex::new(Line::new(session, stream, hello.stream))),
            is_agreed: false,
            ahead: ReadAhead::new(&link.queue),
            renew_at: Instant::now() + CHANNEL_AGE_MAX,
            settings,
            complaints: LogLimit::default(),
        }
    }

    /// Keeps the session until it ends.
    pub(crate) async fn run(&mut self, peer: &str) -> Ended {
        let shared = self.line.clone();
        let ended = self.speak(&shared, peer).await;
        self.link.lent.set(None);
        let mut line = shared.lock().await;
        match ended {
            // The receiver has had its say.
            Ended::Closed | Ended::Stream(_) => {}
            Ended::Renewed | Ended::Stopped => {
                line.session.goodbye();
                farewell(&mut line).await;
            }
            Ended::Goodbye
            | Ended::Refused(_)
            | Ended::Session(_)
            | Ended::Superseded(_)
            | Ended::Diverged { .. }
            | Ended::BehindUs(..) => farewell(&mut line).await,
        }
        ended
    }

    /// Speaks with the receiver until there is nothing more to say.
    async fn speak(&mut self, shared: &Mutex<Line>, peer: &str) -> Ended {
        let mut stopping_at = None;
        loop {
            self.link.pulse.beat();
            let mut line = shared.lock().await;
            if let Err(ended) = self.take_events(&mut line, peer) {
                return ended;
            }
            let read = |position, taken| self.ahead.take(position, taken);
            let waits_for_more = match line.speak(&self.link.queue, read) {
                Ok(offered) => offered == Offered::All,
                Err(error) => return error.into(),
            };
            if stopping_at.is_some() && self.is_done() {
                return Ended::Stopped;
            }
            if self.is_worn(&line.stream) {
                tracing::info!(
                    peer,
                    "connecting to {peer} anew: the keys of this connection have served their time"
                );
                return Ended::Renewed;
            }
            match self.happens(line, waits_for_more, stopping_at).await {
                Happened::Socket(Ok(ready)) => match transfer(&mut *shared.lock().await, ready) {
                    Ok(Received::Bytes | Received::Nothing) => {}
                    Ok(Received::End) => return Ended::Closed,
                    Err(error) => return error.into(),
                },
                Happened::Socket(Err(error)) => return Ended::Stream(error.into()),
                Happened::ReadAhead(outcome) => self.note_read(outcome),
                Happened::Arrived => {}
                Happened::Settings => return Ended::Renewed,
                Happened::Time if stopping_at.is_some_and(|at| at <= Instant::now()) => {
                    return Ended::Stopped;
                }
                Happened::Time => {
                    self.ahead.end_rest();
                    shared.lock().await.session.handle_timeout(Instant::now().into_std());
                }
                Happened::Stop => stopping_at = Some(Instant::now() + STOP_GRACE),
            }
        }
    }

    /// Whether the connection is too old to go on, or has carried too much for its keys.
    fn is_worn(&self, stream: &Stream) -> bool {
        let channel = stream.channel();
        !channel.is_plain() && (channel.is_worn() || self.renew_at <= Instant::now())
    }

    /// Waits for whatever comes first. Meanwhile others may have the line.
    async fn happens(
        &mut self,
        mut line: MutexGuard<'_, Line>,
        waits_for_more: bool,
        stopping_at: Option<Instant>,
    ) -> Happened {
        let session_timeout = line.session.poll_timeout().map(Instant::from_std);
        let renew_at = Some(self.renew_at).filter(|_| !line.stream.channel().is_plain());
        let has_output = !line.session.outbox().is_empty();
        let ready = line.stream.ready(true, has_output);
        drop(line);
        let round = Some(Instant::now() + ROUND);
        let wake_at = [round, session_timeout, self.ahead.resting_until(), stopping_at, renew_at]
            .into_iter()
            .flatten()
            .min();
        let mut stop = self.link.stop.clone();
        tokio::select! {
            ready = ready => Happened::Socket(ready),
            outcome = self.ahead.finished() => Happened::ReadAhead(outcome),
            () = self.link.queue.arrived(), if waits_for_more => Happened::Arrived,
            () = sleep_until(wake_at.unwrap_or_else(Instant::now)), if wake_at.is_some() => Happened::Time,
            Ok(()) = self.settings.changed(), if stopping_at.is_none() => Happened::Settings,
            () = stop.told(), if stopping_at.is_none() => Happened::Stop,
        }
    }

    fn take_events(&mut self, line: &mut Line, peer: &str) -> Result<(), Ended> {
        while let Some(event) = line.session.poll_event()? {
            match event {
                SenderEvent::Welcomed(welcome) => self.welcomed(line, &welcome, peer)?,
                SenderEvent::Acknowledged(position) => self.acknowledged(line, position),
                SenderEvent::Taken(position) => self.taken(line, position),
                SenderEvent::Refused(refusal) if refusal.code() == RefusalCode::Superseded => {
                    return Err(Ended::Superseded(refusal.text().to_owned()));
                }
                SenderEvent::Refused(refusal) => return Err(Ended::Refused(refusal.text().to_owned())),
                SenderEvent::Goodbye => return Err(Ended::Goodbye),
            }
        }
        Ok(())
    }

    fn welcomed(&mut self, line: &mut Line, welcome: &Welcome, peer: &str) -> Result<(), Ended> {
        let resume = welcome.resume;
        if let Err(divergence) = self.link.queue.check_lineage(welcome) {
            return Err(Ended::Diverged { divergence, delivered: resume });
        }
        let acknowledged = self.link.queue.acknowledged();
        if resume < acknowledged {
            return Err(Ended::BehindUs(resume, acknowledged));
        }
        self.is_agreed = true;
        self.acknowledged(line, resume);
        self.link.queue.set_in_flight(resume);
        self.link.queue.note_sent(resume);
        self.link.lent.set(Some(self.line.clone()));
        let cipher = line.stream.channel().cipher();
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

    fn acknowledged(&self, line: &mut Line, position: Position) {
        let bytes = line.acknowledge(position);
        self.link.queue.acknowledge(position, bytes);
    }

    /// The receiver is ahead with some of its collectors. What others still lack, and what of that is under way to them, only
    /// it knows: it asks for it.
    fn taken(&self, line: &mut Line, position: Position) {
        line.take(position);
        self.link.queue.set_in_flight(self.link.queue.acknowledged());
    }

    /// A read of the spool has ended like this.
    fn note_read(&mut self, outcome: Result<(), BacklogError>) {
        if let Err(error) = &outcome
            && let Some(held_back) = self.complaints.admit((), Instant::now().into_std())
        {
            tracing::error!(
                %error,
                held_back,
                "cannot read the spool: {error}; trying again{}",
                More(held_back)
            );
        }
        self.link.view().reason = outcome.err().map(|error| format!("cannot read the spool: {error}"));
    }

    /// Whether everything is acknowledged.
    fn is_done(&self) -> bool {
        self.is_agreed && self.link.queue.figures().queued == 0
    }
}

/// Reads what the socket has, or else writes what it takes: a last word that lies there tells why nothing can be written any
/// more.
fn transfer(line: &mut Line, ready: Ready) -> Result<Received, StreamError> {
    let Line { session, stream, .. } = line;
    if ready.is_readable() {
        let now = Instant::now().into_std();
        let take = |bytes: &[u8]| session.handle_bytes(bytes, now);
        match stream.receive(&mut [0; READ_SIZE], take)? {
            Received::Nothing => {}
            received => return Ok(received),
        }
    }
    if ready.is_writable() {
        stream.send(session.outbox())?;
    }
    Ok(Received::Nothing)
}

/// Writes what the outbox still holds, for a moment at the most.
async fn farewell(line: &mut Line) {
    let last_words = async {
        line.stream.flush(line.session.outbox()).await?;
        line.stream.end()?;
        Ok::<(), StreamError>(())
    };
    if !matches!(timeout(FAREWELL, last_words).await, Ok(Ok(()))) {
        tracing::debug!("the receiver did not take the last words");
    }
}
