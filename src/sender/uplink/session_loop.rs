//! One session with a receiver: sends the queue and removes acknowledged datagrams from it.
//!
//! Holds at most twice `READ_AHEAD` plus `OUTBOX_MAX` bytes of the spool in memory. Lends its connection to
//! ingest while it waits.

use std::io;

use nf_transport_core::framing::Heartbeat;
use nf_transport_core::internal_error::note_internal_error;
use tokio::io::Ready;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use crate::host::connection::transfer;
use crate::host::secure_stream::{Received, SecureStream, StreamError};
use crate::host::{ExpiredCertificate, LogLimit, ROUND, SessionExpiry, Suppressed, TcpProgress};
use crate::limits::CHANNEL_AGE_MAX;
use crate::sender::uplink::closing::{CloseReason, Closing, close};
use crate::sender::uplink::connection::{Connection, SendProgress};
use crate::sender::uplink::ended::SessionEnd;
use crate::sender::uplink::read_ahead::ReadAhead;
use crate::sender::uplink::segment_source::SegmentSourceError;
use crate::sender::uplink::stall::StallDetector;
use crate::sender::uplink::state::{Uplink, UplinkSettings, UplinkState};

/// Bytes per read from the connection. Acknowledgements and heartbeats are small.
const READ_SIZE: usize = 4096;

/// The event loop of one session.
pub(crate) struct SessionLoop<'a> {
    pub(super) uplink: &'a Uplink,
    /// The receiver has sent WELCOME and the streams agree.
    pub(crate) is_agreed: bool,
    /// The session is being closed in order.
    closing: Option<Closing>,
    read_ahead: ReadAhead,
    /// The time at which the channel is too old and a new handshake is due.
    renew_at: Instant,
    expiry: SessionExpiry,
    signals: SessionSignals,
    read_errors: LogLimit<()>,
    pub(super) stall: StallDetector,
    /// The receiver has acknowledged something, or nothing was queued.
    pub(super) has_progressed: bool,
    /// The largest TCP segment in bytes; `None` if TCP decides.
    pub(super) segment_bytes: Option<u16>,
}

/// The signals that end a session early.
#[derive(Debug)]
pub(crate) struct SessionSignals {
    /// Changes when the settings were reloaded.
    pub(crate) settings: watch::Receiver<UplinkSettings>,
    /// Changes on a reconnect request.
    pub(crate) redial: watch::Receiver<()>,
}

/// The event that ended a wait.
enum Wakeup {
    Socket(io::Result<Ready>),
    ReadAhead(Result<(), SegmentSourceError>),
    Arrived,
    Time,
    Close(CloseReason),
    Expired(ExpiredCertificate),
}

impl<'a> SessionLoop<'a> {
    /// Prepares the loop for the session of `connection`, which has just begun.
    pub(crate) fn new(
        uplink: &'a Uplink,
        connection: &Connection,
        heartbeat: Heartbeat,
        segment_bytes: Option<u16>,
        signals: SessionSignals,
    ) -> Self {
        let now = Instant::now();
        Self {
            uplink,
            is_agreed: false,
            closing: None,
            read_ahead: ReadAhead::new(&uplink.queue),
            renew_at: now + CHANNEL_AGE_MAX,
            expiry: SessionExpiry::of(connection.stream.channel()),
            signals,
            read_errors: LogLimit::default(),
            stall: StallDetector::new(heartbeat.duration(), now.into_std()),
            has_progressed: false,
            segment_bytes,
        }
    }

    /// Returns `true` if the receiver acknowledged something, or everything was acknowledged already.
    pub(crate) fn has_worked(&self) -> bool {
        self.has_progressed || self.is_all_acknowledged()
    }

    /// Runs the session until it ends, and closes the connection.
    pub(crate) async fn run(&mut self, mut connection: Box<Connection>, peer: &str) -> SessionEnd {
        let ended = loop {
            self.uplink.pulse.beat();
            let progress = match self.proceed(&mut connection, peer) {
                Ok(progress) => progress,
                Err(ended) => break ended,
            };
            let (returned, wakeup) = self.wait(connection, progress).await;
            let Some(returned) = returned else {
                note_internal_error("the connection lent to ingest is gone");
                return SessionEnd::Closed;
            };
            connection = returned;
            if let Err(ended) = self.handle_wakeup(&mut connection, wakeup, peer) {
                break ended;
            }
        };
        let ended = self.explain_end(ended);
        if ended.is_by_us() {
            self.uplink.view().state = UplinkState::Connecting;
        }
        close(&mut connection, &ended).await;
        ended
    }

    /// Handles received messages and sends as much as the socket accepts. Returns an error at the end of the
    /// session.
    fn proceed(&mut self, connection: &mut Connection, peer: &str) -> Result<SendProgress, SessionEnd> {
        self.handle_events(connection, peer)?;
        let progress = self.send(connection)?;
        self.check_for_stall(connection)?;
        if self.closing.is_none() && self.needs_new_keys(&connection.stream) {
            tracing::info!(
                peer,
                "reconnecting to {peer}: the keys of this connection have reached their maximum age or volume"
            );
            self.begin_close(CloseReason::Renew);
        }
        match self.closing {
            Some(closing) if self.is_closed(connection, closing) => Err(closing.ended()),
            _ => Ok(progress),
        }
    }

    /// Handles the event that ended a wait.
    fn handle_wakeup(
        &mut self,
        connection: &mut Connection,
        wakeup: Wakeup,
        peer: &str,
    ) -> Result<(), SessionEnd> {
        match wakeup {
            Wakeup::Socket(Ok(ready)) => self.transfer(connection, ready)?,
            Wakeup::Socket(Err(error)) => return Err(SessionEnd::Stream(error.into())),
            Wakeup::ReadAhead(outcome) => self.report_read(outcome),
            Wakeup::Arrived => {}
            Wakeup::Close(why) => self.begin_close(why),
            Wakeup::Expired(whose) => {
                let whose = match whose {
                    ExpiredCertificate::Own => "the certificate of this sender",
                    ExpiredCertificate::Peer => "the certificate of the receiver",
                };
                tracing::warn!(peer, "reconnecting to {peer}: {whose} has expired");
                self.begin_close(CloseReason::Renew);
            }
            Wakeup::Time => {
                if let Some(closing) = self.closing.filter(|closing| closing.until <= Instant::now()) {
                    return Err(closing.ended());
                }
                self.handle_timeout(connection)?;
            }
        }
        Ok(())
    }

    /// Sends as much as the socket accepts. Sends no queued datagrams if another connection follows this one.
    fn send(&mut self, connection: &mut Connection) -> Result<SendProgress, StreamError> {
        if self.is_replaced() {
            connection.stream.send_at_once(connection.session.outbox())?;
            return Ok(SendProgress::Enough);
        }
        let read = |position, to_all| self.read_ahead.get_or_read(position, to_all);
        connection.send_pending(&self.uplink.queue, read)
    }

    fn begin_close(&mut self, why: CloseReason) {
        self.closing = Some(Closing::new(why));
    }

    /// Returns `true` if the session is being closed and another connection follows.
    fn is_replaced(&self) -> bool {
        self.closing.is_some_and(|closing| closing.reason != CloseReason::Shutdown)
    }

    /// Returns `true` if everything that the close waits for is done.
    fn is_closed(&self, connection: &Connection, closing: Closing) -> bool {
        match closing.reason {
            CloseReason::Shutdown => self.is_all_acknowledged(),
            CloseReason::Renew | CloseReason::Asked => !connection.session.has_unacknowledged(),
        }
    }

    /// Handles time-outs that have passed.
    fn handle_timeout(&mut self, connection: &mut Connection) -> Result<(), SessionEnd> {
        self.read_ahead.end_delay();
        // Read before the time-out check: after a pause of this process, heartbeats may wait unread in the
        // socket.
        self.transfer(connection, Ready::READABLE)?;
        connection.session.handle_timeout(Instant::now().into_std());
        if self.is_all_acknowledged() {
            self.note_progress(connection);
        }
        Ok(())
    }

    /// Checks at intervals that TCP delivers the sent data.
    fn check_for_stall(&mut self, connection: &Connection) -> Result<(), SessionEnd> {
        let now = Instant::now().into_std();
        if now < self.stall.next_check() || !connection.session.has_unacknowledged() {
            return Ok(());
        }
        match connection.stream.tcp_progress() {
            Ok(tcp) => {
                self.stall.observe(tcp, now);
                // The path works. If nothing is acknowledged, a collector blocks the receiver.
                if self.uplink.failure.is_some() && tcp.is_idle() {
                    self.show_connected(connection);
                }
            }
            // Try again at the next check.
            Err(error) => {
                tracing::debug!(%error, "cannot read TCP_INFO of the connection: {error}");
                self.stall.observe(TcpProgress::default(), now);
            }
        }
        if self.stall.is_stalled(now) { Err(SessionEnd::Stalled(self.stall.patience())) } else { Ok(()) }
    }

    /// Returns the stall as the reason if the receiver ended the session because it received nothing.
    fn explain_end(&mut self, ended: SessionEnd) -> SessionEnd {
        let now = Instant::now().into_std();
        match ended {
            SessionEnd::Closed | SessionEnd::Goodbye | SessionEnd::Stream(StreamError::Lost(_)) => {
                self.stall.explains_end(now).map_or(ended, SessionEnd::Stalled)
            }
            ended => ended,
        }
    }

    /// Returns `true` if the channel is too old, or its keys have encrypted too much.
    fn needs_new_keys(&self, stream: &SecureStream) -> bool {
        let channel = stream.channel();
        !channel.is_plain() && (channel.is_exhausted() || self.renew_at <= Instant::now())
    }

    /// Waits for the next event and lends the connection to ingest meanwhile. Returns the connection with the
    /// event.
    async fn wait(
        &mut self,
        mut connection: Box<Connection>,
        progress: SendProgress,
    ) -> (Option<Box<Connection>>, Wakeup) {
        let closing = self.closing;
        let session_timeout = connection.session.poll_timeout().map(Instant::from_std);
        let renew_at =
            Some(self.renew_at).filter(|_| closing.is_none() && !connection.stream.channel().is_plain());
        let has_output = !connection.session.outbox().is_empty();
        let ready = connection.stream.ready(true, has_output);
        let next_check =
            connection.session.has_unacknowledged().then(|| Instant::from_std(self.stall.next_check()));
        // Each round looks for progress until there is some.
        let idle = self.uplink.pulse.idle_until();
        let round = Some(if self.has_progressed { idle } else { idle.min(Instant::now() + ROUND) });
        let close_at = closing.map(|closing| closing.until);
        let wake_at = [round, session_timeout, self.read_ahead.retry_at(), close_at, renew_at, next_check]
            .into_iter()
            .flatten()
            .min();
        let mut stop = self.uplink.stop.clone();
        let is_stopping = closing.is_some_and(|closing| closing.reason == CloseReason::Shutdown);
        let is_lent = self.is_agreed && !self.is_replaced();
        let event = async {
            tokio::select! {
                ready = ready => Wakeup::Socket(ready),
                outcome = self.read_ahead.finished() => Wakeup::ReadAhead(outcome),
                () = self.uplink.queue.arrived(), if progress == SendProgress::All => Wakeup::Arrived,
                () = sleep_until(wake_at.unwrap_or_else(Instant::now)), if wake_at.is_some() => Wakeup::Time,
                Ok(()) = self.signals.settings.changed(), if closing.is_none() => {
                    Wakeup::Close(CloseReason::Renew)
                }
                Ok(()) = self.signals.redial.changed(), if closing.is_none() => {
                    Wakeup::Close(CloseReason::Asked)
                }
                whose = self.expiry.expired(), if closing.is_none() => Wakeup::Expired(whose),
                () = stop.requested(), if !is_stopping => Wakeup::Close(CloseReason::Shutdown),
            }
        };
        if !is_lent {
            return (Some(connection), event.await);
        }
        self.uplink.connection.lend(connection);
        let wakeup = event.await;
        (self.uplink.connection.take_back(), wakeup)
    }

    /// Reports the outcome of a read of the spool.
    fn report_read(&mut self, outcome: Result<(), SegmentSourceError>) {
        if let Err(error) = &outcome
            && let Some(held_back) = self.read_errors.admit((), Instant::now().into_std())
        {
            tracing::error!(
                %error,
                held_back,
                "cannot read the spool: {error}; trying again{}",
                Suppressed(held_back)
            );
        }
        if outcome.is_ok() && self.uplink.failure.is_some() {
            return;
        }
        self.uplink.view().reason = outcome.err().map(|error| format!("cannot read the spool: {error}"));
    }

    /// Exchanges bytes with the receiver, as far as the socket is `ready`.
    fn transfer(&mut self, connection: &mut Connection, ready: Ready) -> Result<(), SessionEnd> {
        let Connection { session, stream, .. } = connection;
        let received = transfer(session, stream, ready, &mut [0; READ_SIZE])?;
        if received != Received::Nothing {
            self.stall.note_bytes(Instant::now().into_std());
        }
        if received == Received::End { Err(SessionEnd::Closed) } else { Ok(()) }
    }

    /// Returns `true` if everything queued is acknowledged.
    fn is_all_acknowledged(&self) -> bool {
        self.is_agreed && self.uplink.queue.figures().queued == 0
    }
}
