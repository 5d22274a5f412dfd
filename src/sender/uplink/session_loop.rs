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

use crate::host::secure_stream::{Received, Stream, StreamError, protection};
use crate::host::systemd::messages::sender;
use crate::host::{ExpiredCertificate, LogLimit, More, ROUND, SessionExpiry, TcpProgress};
use crate::limits::CHANNEL_AGE_MAX;
use crate::sender::uplink::closing::{CloseReason, Closing};
use crate::sender::uplink::connection::{Connection, SendProgress};
use crate::sender::uplink::ended::SessionEnd;
use crate::sender::uplink::read_ahead::ReadAhead;
use crate::sender::uplink::segment_source::SegmentSourceError;
use crate::sender::uplink::stall::StallDetector;
use crate::sender::uplink::state::{Uplink, UplinkSettings, UplinkState};
use crate::status::count_of;

/// How long the last words to a receiver may take.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// Bytes read from the connection at once: acknowledgements and heartbeats are small.
const READ_SIZE: usize = 4096;

/// One session.
pub(crate) struct SessionLoop<'a> {
    uplink: &'a Uplink,
    connection: Arc<Mutex<Connection>>,
    /// Whether the receiver has welcomed this sender.
    pub(crate) is_agreed: bool,
    read_ahead: ReadAhead,
    /// When the channel is too old to go on.
    renew_at: Instant,
    expiry: SessionExpiry,
    signals: SessionSignals,
    read_errors: LogLimit<()>,
    stall: StallDetector,
    /// Whether the receiver has acknowledged something, or had nothing to acknowledge.
    has_progressed: bool,
    /// The most bytes of a TCP segment; `None` if TCP decides.
    segment_bytes: Option<u16>,
}

/// What a session follows while it lasts.
#[derive(Debug)]
pub(crate) struct SessionSignals {
    /// Changes when there are other settings to go on with.
    pub(crate) settings: watch::Receiver<UplinkSettings>,
    /// Changes when somebody asks to connect again.
    pub(crate) redial: watch::Receiver<()>,
}

/// What ended a wait.
enum Wakeup {
    Socket(io::Result<Ready>),
    ReadAhead(Result<(), SegmentSourceError>),
    Arrived,
    Time,
    Close(CloseReason),
    Expired(ExpiredCertificate),
}

impl<'a> SessionLoop<'a> {
    /// A session over `stream`.
    pub(crate) fn new(
        link: &'a Uplink,
        stream: Stream,
        segment_bytes: Option<u16>,
        watched: SessionSignals,
    ) -> Result<Self, StreamError> {
        let heartbeat = Heartbeat::nearest(watched.settings.borrow().heartbeat);
        let hello = link.queue.hello(heartbeat, stream.channel().binding()?);
        let now = Instant::now().into_std();
        let session = SenderSession::new(hello, now);
        let expiry = SessionExpiry::of(stream.channel());
        Ok(Self {
            uplink: link,
            connection: Arc::new(Mutex::new(Connection::new(session, stream, hello.stream))),
            is_agreed: false,
            read_ahead: ReadAhead::new(&link.queue),
            renew_at: Instant::now() + CHANNEL_AGE_MAX,
            expiry,
            signals: watched,
            read_errors: LogLimit::default(),
            stall: StallDetector::new(heartbeat.duration(), now),
            has_progressed: false,
            segment_bytes,
        })
    }

    /// Whether the session was of use: the receiver acknowledged something, unless there was nothing to acknowledge.
    pub(crate) fn has_worked(&self) -> bool {
        self.has_progressed || self.is_all_acknowledged()
    }

    /// Keeps the session until it ends.
    pub(crate) async fn run(&mut self, peer: &str) -> SessionEnd {
        let shared = self.connection.clone();
        let ended = self.run_until_end(&shared, peer).await;
        let ended = self.explain_end(ended);
        self.uplink.connection.set(None);
        let mut line = shared.lock().await;
        match ended {
            // The receiver has had its say.
            SessionEnd::Closed | SessionEnd::Stream(_) => {}
            // A goodbye would not get through either.
            SessionEnd::Stalled(_) => {
                if let Err(error) = line.stream.abort() {
                    tracing::debug!(%error, "cannot reset the connection: {error}");
                }
            }
            SessionEnd::Renewed | SessionEnd::Asked | SessionEnd::Stopped => {
                self.uplink.view().state = UplinkState::Connecting;
                line.session.goodbye();
                close(&mut line).await;
            }
            SessionEnd::Goodbye
            | SessionEnd::Refused(_)
            | SessionEnd::RefusedForNow(_)
            | SessionEnd::Session(_)
            | SessionEnd::Superseded(_)
            | SessionEnd::Diverged { .. }
            | SessionEnd::BehindUs(..) => close(&mut line).await,
        }
        ended
    }

    /// Speaks with the receiver until there is nothing more to say.
    async fn run_until_end(&mut self, shared: &Mutex<Connection>, peer: &str) -> SessionEnd {
        let mut closing: Option<Closing> = None;
        loop {
            self.uplink.pulse.beat();
            let mut line = shared.lock().await;
            if let Err(ended) = self.handle_events(&mut line, peer) {
                return ended;
            }
            let waits_for_more = match self.send(&mut line, closing) {
                Ok(offered) => offered == SendProgress::All,
                Err(error) => return error.into(),
            };
            if let Err(ended) = self.check_for_stall(&line) {
                return ended;
            }
            if let Some(closing) = closing
                && self.is_closed(&line, closing)
            {
                return closing.ended();
            }
            if closing.is_none() && self.needs_new_keys(&line.stream) {
                tracing::info!(
                    peer,
                    "connecting to {peer} again: the keys of this connection have served their time"
                );
                closing = Some(self.begin_close(CloseReason::Renew));
                continue;
            }
            match self.wait(line, waits_for_more, closing).await {
                Wakeup::Socket(Ok(ready)) => match self.transfer(&mut *shared.lock().await, ready) {
                    Ok(Received::Bytes | Received::Nothing) => {}
                    Ok(Received::End) => return SessionEnd::Closed,
                    Err(error) => return error.into(),
                },
                Wakeup::Socket(Err(error)) => return SessionEnd::Stream(error.into()),
                Wakeup::ReadAhead(outcome) => self.report_read(outcome),
                Wakeup::Arrived => {}
                Wakeup::Close(why) => closing = Some(self.begin_close(why)),
                Wakeup::Expired(whose) => {
                    let whose = match whose {
                        ExpiredCertificate::Own => "the own certificate",
                        ExpiredCertificate::Peer => "its certificate",
                    };
                    tracing::warn!(peer, "connecting to {peer} again: {whose} has expired");
                    closing = Some(self.begin_close(CloseReason::Renew));
                }
                Wakeup::Time => {
                    if let Some(closing) = closing.filter(|closing| closing.until <= Instant::now()) {
                        return closing.ended();
                    }
                    if let Err(ended) = self.handle_timeout(&mut *shared.lock().await) {
                        return ended;
                    }
                }
            }
        }
    }

    /// Hands the socket what it takes: of what is queued too, unless the session closes for another.
    fn send(&mut self, line: &mut Connection, closing: Option<Closing>) -> Result<SendProgress, StreamError> {
        if closing.is_some_and(|closing| closing.reason != CloseReason::Stop) {
            line.stream.send_at_once(line.session.outbox())?;
            return Ok(SendProgress::Enough);
        }
        let read = |position, to_all| self.read_ahead.take(position, to_all);
        line.send_pending(&self.uplink.queue, read)
    }

    /// Begins to close the session.
    fn begin_close(&self, why: CloseReason) -> Closing {
        if why != CloseReason::Stop {
            self.uplink.connection.set(None);
        }
        Closing::new(why)
    }

    /// Whether nothing is waited for any more.
    fn is_closed(&self, line: &Connection, closing: Closing) -> bool {
        match closing.reason {
            CloseReason::Stop => self.is_all_acknowledged(),
            CloseReason::Renew | CloseReason::Asked => !line.session.has_unacknowledged(),
        }
    }

    /// Does what is due by now.
    fn handle_timeout(&mut self, line: &mut Connection) -> Result<(), SessionEnd> {
        self.read_ahead.end_rest();
        // What has come already is heard before anybody counts as silent: this process may have been stopped, too.
        if self.transfer(line, Ready::READABLE)? == Received::End {
            return Err(SessionEnd::Closed);
        }
        line.session.handle_timeout(Instant::now().into_std());
        if self.is_all_acknowledged() {
            self.note_progress(line);
        }
        Ok(())
    }

    /// Looks from time to time whether TCP brings what was sent to the receiver.
    fn check_for_stall(&mut self, line: &Connection) -> Result<(), SessionEnd> {
        let now = Instant::now().into_std();
        if now < self.stall.look_at() || !line.session.has_unacknowledged() {
            return Ok(());
        }
        match line.stream.tcp_progress() {
            Ok(tcp) => {
                self.stall.observe(tcp, now);
                // All has reached the receiver: if nothing is acknowledged, a collector holds it up.
                if self.uplink.failure.is_some() && tcp.is_idle() {
                    self.show_connected(line);
                }
            }
            // Not before the next look.
            Err(error) => {
                tracing::debug!(%error, "the kernel does not report on the connection: {error}");
                self.stall.observe(TcpProgress::default(), now);
            }
        }
        if self.stall.is_stalled(now) { Err(SessionEnd::Stalled(self.stall.patience())) } else { Ok(()) }
    }

    /// What has ended the session, where the receiver ended it because it heard nothing.
    fn explain_end(&mut self, ended: SessionEnd) -> SessionEnd {
        let now = Instant::now().into_std();
        match ended {
            SessionEnd::Closed | SessionEnd::Goodbye | SessionEnd::Stream(StreamError::Lost(_)) => {
                self.stall.explains_end(now).map_or(ended, SessionEnd::Stalled)
            }
            ended => ended,
        }
    }

    /// Whether the connection is too old to go on, or has carried too much for its keys.
    fn needs_new_keys(&self, stream: &Stream) -> bool {
        let channel = stream.channel();
        !channel.is_plain() && (channel.is_worn() || self.renew_at <= Instant::now())
    }

    /// Waits for whatever comes first. Meanwhile others may have the line.
    async fn wait(
        &mut self,
        mut line: MutexGuard<'_, Connection>,
        waits_for_more: bool,
        closing: Option<Closing>,
    ) -> Wakeup {
        let session_timeout = line.session.poll_timeout().map(Instant::from_std);
        let renew_at = Some(self.renew_at).filter(|_| closing.is_none() && !line.stream.channel().is_plain());
        let has_output = !line.session.outbox().is_empty();
        let ready = line.stream.ready(true, has_output);
        let look_at = line.session.has_unacknowledged().then(|| Instant::from_std(self.stall.look_at()));
        drop(line);
        let round = Some(Instant::now() + ROUND);
        let close_at = closing.map(|closing| closing.until);
        let wake_at = [round, session_timeout, self.read_ahead.resting_until(), close_at, renew_at, look_at]
            .into_iter()
            .flatten()
            .min();
        let mut stop = self.uplink.stop.clone();
        let is_stopping = closing.is_some_and(|closing| closing.reason == CloseReason::Stop);
        tokio::select! {
            ready = ready => Wakeup::Socket(ready),
            outcome = self.read_ahead.finished() => Wakeup::ReadAhead(outcome),
            () = self.uplink.queue.arrived(), if waits_for_more => Wakeup::Arrived,
            () = sleep_until(wake_at.unwrap_or_else(Instant::now)), if wake_at.is_some() => Wakeup::Time,
            Ok(()) = self.signals.settings.changed(), if closing.is_none() => Wakeup::Close(CloseReason::Renew),
            Ok(()) = self.signals.redial.changed(), if closing.is_none() => Wakeup::Close(CloseReason::Asked),
            whose = self.expiry.expired(), if closing.is_none() => Wakeup::Expired(whose),
            () = stop.told(), if !is_stopping => Wakeup::Close(CloseReason::Stop),
        }
    }

    fn handle_events(&mut self, line: &mut Connection, peer: &str) -> Result<(), SessionEnd> {
        while let Some(event) = line.session.poll_event()? {
            match event {
                SenderEvent::Welcomed(welcome) => self.welcomed(line, &welcome, peer)?,
                SenderEvent::Acknowledged(position) => {
                    self.acknowledged(line, position);
                    self.note_progress(line);
                }
                SenderEvent::Taken(_) => {
                    self.taken(line);
                    self.note_progress(line);
                }
                SenderEvent::Refused(refusal) => return Err(SessionEnd::refused(&refusal)),
                SenderEvent::Goodbye => return Err(SessionEnd::Goodbye),
            }
        }
        Ok(())
    }

    fn welcomed(&mut self, line: &mut Connection, welcome: &Welcome, peer: &str) -> Result<(), SessionEnd> {
        let resume = welcome.resume;
        if let Err(divergence) = self.uplink.queue.check_lineage(welcome) {
            return Err(SessionEnd::Diverged { divergence, delivered: resume });
        }
        let acknowledged = self.uplink.queue.acknowledged();
        if resume < acknowledged {
            return Err(SessionEnd::BehindUs(resume, acknowledged));
        }
        self.is_agreed = true;
        self.acknowledged(line, resume);
        self.uplink.queue.set_in_flight(resume);
        self.uplink.queue.note_sent(resume);
        self.uplink.connection.set(Some(self.connection.clone()));
        let cipher = line.stream.channel().cipher();
        let queued = self.uplink.queue.figures().queued;
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
        if self.uplink.failure.is_none() || queued == 0 {
            self.show_connected(line);
        }
        Ok(())
    }

    fn show_connected(&self, line: &Connection) {
        let mut view = self.uplink.view();
        view.state = UplinkState::Connected;
        view.reason = None;
        view.cipher = Some(line.stream.channel().cipher());
        view.segment_bytes = self.segment_bytes;
    }

    /// The session works: the receiver has taken what was sent, or there is nothing to send.
    fn note_progress(&mut self, line: &Connection) {
        self.stall.acknowledged();
        if !self.has_progressed {
            self.has_progressed = true;
            if self.uplink.failure.is_some() {
                self.show_connected(line);
            }
        }
    }

    fn acknowledged(&self, line: &mut Connection, position: Position) {
        let bytes = line.acknowledge(position);
        self.uplink.queue.acknowledge(position, bytes);
        if line.session.resent().is_none() {
            self.uplink.queue.raise_in_flight(line.session.sent());
        }
    }

    /// The receiver is ahead with some of its collectors. It asks for what others lack. Until then that is not on its way, but for
    /// what it holds for them.
    fn taken(&self, line: &Connection) {
        if let Some(end) = line.in_flight_end() {
            self.uplink.queue.bound_in_flight(end);
        }
    }

    /// A read of the spool has ended like this.
    fn report_read(&mut self, outcome: Result<(), SegmentSourceError>) {
        if let Err(error) = &outcome
            && let Some(held_back) = self.read_errors.admit((), Instant::now().into_std())
        {
            tracing::error!(
                %error,
                held_back,
                "cannot read the spool: {error}; trying again{}",
                More(held_back)
            );
        }
        if outcome.is_ok() && self.uplink.failure.is_some() {
            return;
        }
        self.uplink.view().reason = outcome.err().map(|error| format!("cannot read the spool: {error}"));
    }

    /// Reads what the socket has, or else writes what it takes: a last word that lies there tells why nothing can be written
    /// any more.
    fn transfer(&mut self, line: &mut Connection, ready: Ready) -> Result<Received, StreamError> {
        let Connection { session, stream, .. } = line;
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
    fn is_all_acknowledged(&self) -> bool {
        self.is_agreed && self.uplink.queue.figures().queued == 0
    }
}

/// Writes what the outbox still holds, and waits for the receiver to end its side, for a moment at most.
async fn close(line: &mut Connection) {
    let last_words = async {
        line.stream.flush(line.session.outbox()).await?;
        line.stream.part().await?;
        Ok::<(), StreamError>(())
    };
    if !matches!(timeout(CLOSE_TIMEOUT, last_words).await, Ok(Ok(()))) {
        tracing::debug!("the receiver did not take the last words");
    }
}
