//! One session with a receiver: sends what the queue holds, and frees what is acknowledged.
//!
//! Never holds more than twice `READ_AHEAD`, and `OUTBOX_MAX`, bytes of the backlog. Lends its line to ingest.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use nf_transport_core::framing::{Heartbeat, Welcome};
use nf_transport_core::sequence::Position;
use nf_transport_core::session::{SenderEvent, SenderSession};
use tokio::io::Ready;
use tokio::sync::{Mutex, MutexGuard, watch};
use tokio::time::{Instant, sleep_until, timeout};

use crate::host::secure_stream::{Received, SecureStream, StreamError, protection};
use crate::host::systemd::messages::sender;
use crate::host::{ExpiredCertificate, LogLimit, ROUND, SessionExpiry, Suppressed, TcpProgress};
use crate::limits::CHANNEL_AGE_MAX;
use crate::sender::uplink::closing::{Closing, Why};
use crate::sender::uplink::connection::{Line, Offered};
use crate::sender::uplink::ended::Ended;
use crate::sender::uplink::read_ahead::ReadAhead;
use crate::sender::uplink::segment_source::BacklogError;
use crate::sender::uplink::stall::StallDetector;
use crate::sender::uplink::{Link, LinkSettings, LinkState};
use crate::status::count_of;

/// How long the last words to a receiver may take.
const FAREWELL: Duration = Duration::from_secs(1);

/// Bytes read from the connection at once: acknowledgements and heartbeats are small.
const READ_SIZE: usize = 4096;

/// One session.
pub(crate) struct Conversation<'a> {
    link: &'a Link,
    line: Arc<Mutex<Line>>,
    /// Whether the receiver has welcomed this sender.
    pub(crate) is_agreed: bool,
    ahead: ReadAhead,
    /// When the channel is too old to go on.
    renew_at: Instant,
    expiry: SessionExpiry,
    watched: Watched,
    complaints: LogLimit<()>,
    stall: StallDetector,
    /// Whether the receiver has acknowledged something, or had nothing to acknowledge.
    has_progressed: bool,
    /// The most bytes of a TCP segment; `None` if TCP decides.
    segment_bytes: Option<u16>,
}

/// What a session follows while it lasts.
#[derive(Debug)]
pub(crate) struct Watched {
    /// Changes when there are other settings to go on with.
    pub(crate) settings: watch::Receiver<LinkSettings>,
    /// Changes when somebody asks to connect again.
    pub(crate) redial: watch::Receiver<()>,
}

/// What ended a wait.
enum Happened {
    Socket(io::Result<Ready>),
    ReadAhead(Result<(), BacklogError>),
    Arrived,
    Time,
    Close(Why),
    Expired(ExpiredCertificate),
}

impl<'a> Conversation<'a> {
    /// A session over `stream`.
    pub(crate) fn new(
        link: &'a Link,
        stream: SecureStream,
        segment_bytes: Option<u16>,
        watched: Watched,
    ) -> Result<Self, StreamError> {
        let heartbeat = Heartbeat::nearest(watched.settings.borrow().heartbeat);
        let hello = link.queue.hello(heartbeat, stream.channel().binding()?);
        let now = Instant::now().into_std();
        let session = SenderSession::new(hello, now);
        let expiry = SessionExpiry::of(stream.channel());
        Ok(Self {
            link,
            line: Arc::new(Mutex::new(Line::new(session, stream, hello.stream))),
            is_agreed: false,
            ahead: ReadAhead::new(&link.queue),
            renew_at: Instant::now() + CHANNEL_AGE_MAX,
            expiry,
            watched,
            complaints: LogLimit::default(),
            stall: StallDetector::new(heartbeat.duration(), now),
            has_progressed: false,
            segment_bytes,
        })
    }

    /// Whether the session was of use: the receiver acknowledged something, unless there was nothing to acknowledge.
    pub(crate) fn has_worked(&self) -> bool {
        self.has_progressed || self.is_done()
    }

    /// Keeps the session until it ends.
    pub(crate) async fn run(&mut self, peer: &str) -> Ended {
        let shared = self.line.clone();
        let ended = self.speak(&shared, peer).await;
        let ended = self.explained(ended);
        self.link.lent.set(None);
        let mut line = shared.lock().await;
        match ended {
            // The receiver has had its say.
            Ended::Closed | Ended::Stream(_) => {}
            // A goodbye would not get through either.
            Ended::Stalled(_) => {
                if let Err(error) = line.stream.abort() {
                    tracing::debug!(%error, "cannot reset the connection: {error}");
                }
            }
            Ended::Renewed | Ended::Asked | Ended::Stopped => {
                self.link.view().state = LinkState::Connecting;
                line.session.goodbye();
                farewell(&mut line).await;
            }
            Ended::Goodbye
            | Ended::Refused(_)
            | Ended::RefusedForNow(_)
            | Ended::Session(_)
            | Ended::Superseded(_)
            | Ended::Diverged { .. }
            | Ended::BehindUs(..) => farewell(&mut line).await,
        }
        ended
    }

    /// Speaks with the receiver until there is nothing more to say.
    async fn speak(&mut self, shared: &Mutex<Line>, peer: &str) -> Ended {
        let mut closing: Option<Closing> = None;
        loop {
            self.link.pulse.beat();
            let mut line = shared.lock().await;
            if let Err(ended) = self.take_events(&mut line, peer) {
                return ended;
            }
            let waits_for_more = match self.send(&mut line, closing) {
                Ok(offered) => offered == Offered::All,
                Err(error) => return error.into(),
            };
            if let Err(ended) = self.watch_tcp(&line) {
                return ended;
            }
            if let Some(closing) = closing
                && self.is_closed(&line, closing)
            {
                return closing.ended();
            }
            if closing.is_none() && self.is_worn(&line.stream) {
                tracing::info!(
                    peer,
                    "connecting to {peer} again: the keys of this connection have served their time"
                );
                closing = Some(self.close(Why::Renew));
                continue;
            }
            match self.happens(line, waits_for_more, closing).await {
                Happened::Socket(Ok(ready)) => match self.transfer(&mut *shared.lock().await, ready) {
                    Ok(Received::Bytes | Received::Nothing) => {}
                    Ok(Received::End) => return Ended::Closed,
                    Err(error) => return error.into(),
                },
                Happened::Socket(Err(error)) => return Ended::Stream(error.into()),
                Happened::ReadAhead(outcome) => self.note_read(outcome),
                Happened::Arrived => {}
                Happened::Close(why) => closing = Some(self.close(why)),
                Happened::Expired(whose) => {
                    let whose = match whose {
                        ExpiredCertificate::Own => "the own certificate",
                        ExpiredCertificate::Peer => "its certificate",
                    };
                    tracing::warn!(peer, "connecting to {peer} again: {whose} has expired");
                    closing = Some(self.close(Why::Renew));
                }
                Happened::Time => {
                    if let Some(closing) = closing.filter(|closing| closing.until <= Instant::now()) {
                        return closing.ended();
                    }
                    if let Err(ended) = self.look_at_clock(&mut *shared.lock().await) {
                        return ended;
                    }
                }
            }
        }
    }

    /// Hands the socket what it takes: of what is queued too, unless the session closes for another.
    fn send(&mut self, line: &mut Line, closing: Option<Closing>) -> Result<Offered, StreamError> {
        if closing.is_some_and(|closing| closing.why != Why::Stop) {
            line.stream.send_at_once(line.session.outbox())?;
            return Ok(Offered::Enough);
        }
        let read = |position, to_all| self.ahead.take(position, to_all);
        line.speak(&self.link.queue, read)
    }

    /// Begins to close the session.
    fn close(&self, why: Why) -> Closing {
        if why != Why::Stop {
            self.link.lent.set(None);
        }
        Closing::new(why)
    }

    /// Whether nothing is waited for any more.
    fn is_closed(&self, line: &Line, closing: Closing) -> bool {
        match closing.why {
            Why::Stop => self.is_done(),
            Why::Renew | Why::Asked => !line.session.has_unacknowledged(),
        }
    }

    /// Does what is due by now.
    fn look_at_clock(&mut self, line: &mut Line) -> Result<(), Ended> {
        self.ahead.end_rest();
        // What has come already is heard before anybody counts as silent: this process may have been stopped, too.
        if self.transfer(line, Ready::READABLE)? == Received::End {
            return Err(Ended::Closed);
        }
        line.session.handle_timeout(Instant::now().into_std());
        if self.is_done() {
            self.progressed(line);
        }
        Ok(())
    }

    /// Looks from time to time whether TCP brings what was sent to the receiver.
    fn watch_tcp(&mut self, line: &Line) -> Result<(), Ended> {
        let now = Instant::now().into_std();
        if now < self.stall.look_at() || !line.session.has_unacknowledged() {
            return Ok(());
        }
        match line.stream.tcp_progress() {
            Ok(tcp) => {
                self.stall.observe(tcp, now);
                // All has reached the receiver: if nothing is acknowledged, a collector holds it up.
                if self.link.doubt.is_some() && tcp.is_idle() {
                    self.show_connected(line);
                }
            }
            // Not before the next look.
            Err(error) => {
                tracing::debug!(%error, "the kernel does not report on the connection: {error}");
                self.stall.observe(TcpProgress::default(), now);
            }
        }
        if self.stall.is_stalled(now) { Err(Ended::Stalled(self.stall.patience())) } else { Ok(()) }
    }

    /// What has ended the session, where the receiver ended it because it heard nothing.
    fn explained(&mut self, ended: Ended) -> Ended {
        let now = Instant::now().into_std();
        match ended {
            Ended::Closed | Ended::Goodbye | Ended::Stream(StreamError::Lost(_)) => {
                self.stall.explains_end(now).map_or(ended, Ended::Stalled)
            }
            ended => ended,
        }
    }

    /// Whether the connection is too old to go on, or has carried too much for its keys.
    fn is_worn(&self, stream: &SecureStream) -> bool {
        let channel = stream.channel();
        !channel.is_plain() && (channel.is_exhausted() || self.renew_at <= Instant::now())
    }

    /// Waits for whatever comes first. Meanwhile others may have the line.
    async fn happens(
        &mut self,
        mut line: MutexGuard<'_, Line>,
        waits_for_more: bool,
        closing: Option<Closing>,
    ) -> Happened {
        let session_timeout = line.session.poll_timeout().map(Instant::from_std);
        let renew_at = Some(self.renew_at).filter(|_| closing.is_none() && !line.stream.channel().is_plain());
        let has_output = !line.session.outbox().is_empty();
        let ready = line.stream.ready(true, has_output);
        let look_at = line.session.has_unacknowledged().then(|| Instant::from_std(self.stall.look_at()));
        drop(line);
        let round = Some(Instant::now() + ROUND);
        let close_at = closing.map(|closing| closing.until);
        let wake_at = [round, session_timeout, self.ahead.resting_until(), close_at, renew_at, look_at]
            .into_iter()
            .flatten()
            .min();
        let mut stop = self.link.stop.clone();
        let is_stopping = closing.is_some_and(|closing| closing.why == Why::Stop);
        tokio::select! {
            ready = ready => Happened::Socket(ready),
            outcome = self.ahead.finished() => Happened::ReadAhead(outcome),
            () = self.link.queue.arrived(), if waits_for_more => Happened::Arrived,
            () = sleep_until(wake_at.unwrap_or_else(Instant::now)), if wake_at.is_some() => Happened::Time,
            Ok(()) = self.watched.settings.changed(), if closing.is_none() => Happened::Close(Why::Renew),
            Ok(()) = self.watched.redial.changed(), if closing.is_none() => Happened::Close(Why::Asked),
            whose = self.expiry.expired(), if closing.is_none() => Happened::Expired(whose),
            () = stop.requested(), if !is_stopping => Happened::Close(Why::Stop),
        }
    }

    fn take_events(&mut self, line: &mut Line, peer: &str) -> Result<(), Ended> {
        while let Some(event) = line.session.poll_event()? {
            match event {
                SenderEvent::Welcomed(welcome) => self.welcomed(line, &welcome, peer)?,
                SenderEvent::Acknowledged(position) => {
                    self.acknowledged(line, position);
                    self.progressed(line);
                }
                SenderEvent::Received(_) => {
                    self.taken(line);
                    self.progressed(line);
                }
                SenderEvent::Rejected(refusal) => return Err(Ended::refused(&refusal)),
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
        if self.link.doubt.is_none() || queued == 0 {
            self.show_connected(line);
        }
        Ok(())
    }

    fn show_connected(&self, line: &Line) {
        let mut view = self.link.view();
        view.state = LinkState::Connected;
        view.reason = None;
        view.cipher = Some(line.stream.channel().cipher());
        view.segment_bytes = self.segment_bytes;
    }

    /// The session works: the receiver has taken what was sent, or there is nothing to send.
    fn progressed(&mut self, line: &Line) {
        self.stall.acknowledged();
        if !self.has_progressed {
            self.has_progressed = true;
            if self.link.doubt.is_some() {
                self.show_connected(line);
            }
        }
    }

    fn acknowledged(&self, line: &mut Line, position: Position) {
        let bytes = line.acknowledge(position);
        self.link.queue.acknowledge(position, bytes);
        if line.session.resent().is_none() {
            self.link.queue.raise_in_flight(line.session.sent());
        }
    }

    /// The receiver is ahead with some of its collectors. It asks for what others lack. Until then that is not on its way, but for
    /// what it holds for them.
    fn taken(&self, line: &Line) {
        if let Some(end) = line.on_its_way() {
            self.link.queue.bound_in_flight(end);
        }
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
                Suppressed(held_back)
            );
        }
        if outcome.is_ok() && self.link.doubt.is_some() {
            return;
        }
        self.link.view().reason = outcome.err().map(|error| format!("cannot read the spool: {error}"));
    }

    /// Reads what the socket has, or else writes what it takes: a last word that lies there tells why nothing can be written
    /// any more.
    fn transfer(&mut self, line: &mut Line, ready: Ready) -> Result<Received, StreamError> {
        let Line { session, stream, .. } = line;
        if ready.is_readable() {
            let now = Instant::now().into_std();
            let take = |bytes: &[u8]| session.handle_bytes(bytes, now);
            match stream.receive(&mut [0; READ_SIZE], take)? {
                Received::Nothing => {}
                received => {
                    self.stall.heard(now);
                    return Ok(received);
                }
            }
        }
        if ready.is_writable() {
            stream.send(session.outbox())?;
        }
        Ok(Received::Nothing)
    }

    /// Whether everything is acknowledged.
    fn is_done(&self) -> bool {
        self.is_agreed && self.link.queue.figures().queued == 0
    }
}

/// Writes what the outbox still holds, and waits for the receiver to end its side, for a moment at most.
async fn farewell(line: &mut Line) {
    let last_words = async {
        line.stream.flush(line.session.outbox()).await?;
        line.stream.close_gracefully().await?;
        Ok::<(), StreamError>(())
    };
    if !matches!(timeout(FAREWELL, last_words).await, Ok(Ok(()))) {
        tracing::debug!("the receiver did not take the last words");
    }
}
