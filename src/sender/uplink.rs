//! The uplink: a task that keeps a session with a receiver and sends the queue over it.
//!
//! Owns the reconnect backoff and the order in which receivers are tried.

pub(crate) mod attempt;
pub(crate) mod backoff;
pub(crate) mod closing;
pub(crate) mod connection;
pub(crate) mod dial;
pub(crate) mod dialer;
pub(crate) mod ended;
pub(crate) mod read_ahead;
pub(crate) mod segment_sizes;
pub(crate) mod segment_source;
mod session_events;
pub(crate) mod session_loop;
pub(crate) mod stall;
pub(crate) mod state;

use core::pin::pin;
use std::time::Duration;

use nf_transport_core::framing::Heartbeat;
use nf_transport_core::secure::StreamKey;
use nf_transport_core::sequence::Position;
use nf_transport_core::spool::Divergence;
use tokio::time::{Instant, sleep_until};

use crate::config::HostPort;
use crate::host::{LogLimit, Suppressed};
use crate::sender::uplink::attempt::{AttemptOutcome, NextStep, segment_size_advice};
use crate::sender::uplink::backoff::Backoff;
use crate::sender::uplink::connection::Connection;
use crate::sender::uplink::dialer::{Dialer, EstablishedChannel};
use crate::sender::uplink::ended::SessionEnd;
use crate::sender::uplink::session_loop::{SessionLoop, SessionSignals};
use crate::sender::uplink::state::{Uplink, UplinkSettings, UplinkState};

/// The event that ended the wait for the next attempt.
enum RetryTrigger {
    Time,
    /// A reload or `nf-sender reconnect`.
    Asked,
    Settings,
    /// A receiver answered after its attempt had timed out.
    Answered(EstablishedChannel),
}

impl Uplink {
    /// Connects, sends and reconnects until the shutdown signal.
    pub(crate) async fn run(mut self) {
        let mut complaints = LogLimit::default();
        while !self.is_stopping() {
            let settings = self.settings.borrow_and_update().clone();
            if settings.receivers.is_empty() {
                self.wait_for_receivers().await;
            } else {
                self.connect_by(&settings, &mut complaints).await;
            }
        }
    }

    /// Waits until the settings change, as no receiver is configured.
    async fn wait_for_receivers(&mut self) {
        let reason = "no receiver is configured: datagrams are spooled only; \
                      set 'receivers' in the configuration or give --receiver";
        tracing::warn!("{reason}");
        self.view().disconnect(UplinkState::Waiting(None), None, Some(reason.to_owned()));
        let mut settings = self.settings.clone();
        self.while_waiting(async { settings.changed().await.unwrap_or_default() }).await;
    }

    /// Connects and reconnects with these settings until they change.
    async fn connect_by(&mut self, settings: &UplinkSettings, complaints: &mut LogLimit<String>) {
        let mut backoff = Backoff::new(settings.reconnect);
        let mut dialer = Dialer::default();
        let mut answered = None;
        while !self.is_stopping() && !self.settings.has_changed().unwrap_or(false) {
            let attempt = match answered.take() {
                Some(answer) => self.run_session(answer, &mut dialer).await,
                None => self.attempt(settings, &mut dialer, complaints).await,
            };
            if self.is_stopping() {
                break;
            }
            if attempt.next_step == NextStep::Attempt {
                if attempt.has_worked {
                    backoff.reset();
                }
                continue;
            }
            let delay = backoff.delay_after(attempt.has_worked).min(attempt.delay_max);
            self.report_failure(&attempt, delay, complaints);
            answered = self.wait(delay, &mut dialer).await;
        }
    }

    /// Reports in status and log why no session works and when the next attempt follows. A repeated reason is
    /// logged only once per log interval.
    fn report_failure(&self, attempt: &AttemptOutcome, delay: Duration, complaints: &mut LogLimit<String>) {
        let at = Instant::now() + delay;
        let mut view = self.view();
        let state =
            if attempt.is_refusal { UplinkState::Refused(at) } else { UplinkState::Waiting(Some(at)) };
        let receiver = view.receiver.take();
        view.disconnect(state, receiver, Some(attempt.reason.clone()));
        if let Some(held_back) = complaints.admit(attempt.reason.clone(), Instant::now().into_std()) {
            let (receiver, retry_in_s) = (view.receiver.as_deref(), delay.as_secs_f64());
            let message_id = attempt.message_id;
            tracing::warn!(
                message_id,
                receiver,
                retry_in_s,
                held_back,
                "{}: {}; retry in {} s{}",
                view.not_connected(),
                attempt.reason,
                delay.as_secs_f64().ceil(),
                Suppressed(held_back)
            );
        }
    }

    /// Waits until the next attempt is due. A reload, a reconnect request or a late answer of a receiver ends
    /// the wait early. Returns the channel of the receiver that answered late.
    async fn wait(&mut self, delay: Duration, dialer: &mut Dialer) -> Option<EstablishedChannel> {
        // A clone, so that `connect_by` still sees the change.
        let mut settings = self.settings.clone();
        let mut retry = self.retry.clone();
        self.retry.mark_unchanged();
        let next_attempt = async {
            tokio::select! {
                () = sleep_until(Instant::now() + delay) => RetryTrigger::Time,
                Ok(()) = retry.changed() => RetryTrigger::Asked,
                Ok(()) = settings.changed() => RetryTrigger::Settings,
                answer = dialer.late_answer() => RetryTrigger::Answered(answer),
            }
        };
        match self.while_waiting(next_attempt).await? {
            RetryTrigger::Time | RetryTrigger::Settings => None,
            RetryTrigger::Asked => {
                tracing::info!("connecting now, without waiting for the next retry");
                dialer.sizes.forget();
                None
            }
            RetryTrigger::Answered(answer) => {
                tracing::info!("{} answered late: using this connection", answer.receiver);
                Some(answer)
            }
        }
    }

    /// Waits for `event` and beats the pulse meanwhile. Returns `None` on shutdown.
    async fn while_waiting<T>(&mut self, event: impl Future<Output = T>) -> Option<T> {
        let mut event = pin!(event);
        loop {
            self.pulse.beat();
            tokio::select! {
                event = &mut event => return Some(event),
                () = self.stop.requested() => return None,
                () = sleep_until(self.pulse.idle_until()) => {}
            }
        }
    }

    /// Tries the receivers in order and keeps a session with the first that answers.
    async fn attempt(
        &mut self,
        settings: &UplinkSettings,
        dialer: &mut Dialer,
        complaints: &mut LogLimit<String>,
    ) -> AttemptOutcome {
        self.retry.mark_unchanged();
        let count = settings.receivers.len();
        let mut last = AttemptOutcome::abandoned();
        for (number, receiver) in (1..).zip(&settings.receivers) {
            self.show_connecting(receiver);
            let network = self.pulse.away();
            let answer = tokio::select! {
                answer = dialer.dial(receiver, &settings.id, &settings.channel_mode) => answer,
                is_asked = self.interrupted() => {
                    if is_asked {
                        dialer.sizes.forget();
                    }
                    return AttemptOutcome::abandoned();
                }
            };
            drop(network);
            let (one_has_worked, delay_max) = (last.has_worked, last.delay_max);
            last = match answer {
                Ok(answer) => self.run_session(answer, dialer).await,
                Err(error) => AttemptOutcome::dial_failed(if number == count { count } else { 1 }, &error),
            };
            last.has_worked |= one_has_worked;
            last.delay_max = last.delay_max.min(delay_max);
            if last.next_step != NextStep::NextReceiver {
                break;
            }
            if number < count {
                last.log_fail_over(receiver, complaints);
            }
        }
        last
    }

    /// Waits for an event that makes the current attempt obsolete: a request for another one, changed
    /// settings or shutdown. Returns `true` for a request.
    async fn interrupted(&self) -> bool {
        let (mut retry, mut settings, mut stop) =
            (self.retry.clone(), self.settings.clone(), self.stop.clone());
        tokio::select! {
            Ok(()) = retry.changed() => true,
            Ok(()) = settings.changed() => false,
            () = stop.requested() => false,
        }
    }

    fn show_connecting(&self, receiver: &HostPort) {
        let (receiver, reason) = (Some(receiver.to_string()), self.failure.clone());
        self.view().disconnect(UplinkState::Connecting, receiver, reason);
    }

    /// Runs a session until it ends.
    async fn run_session(&mut self, answer: EstablishedChannel, dialer: &mut Dialer) -> AttemptOutcome {
        // The receiver keeps one connection per sender: a second authenticated one would end this one.
        dialer.clear();
        self.show_connecting(&answer.receiver);
        self.redial.mark_unchanged();
        let peer = peer_name(&answer);
        let EstablishedChannel { address, segment_bytes, stream, .. } = answer;
        let heartbeat = Heartbeat::nearest(self.settings.borrow().heartbeat);
        let connection = match Connection::begin(&self.queue, stream, heartbeat) {
            Ok(connection) => Box::new(connection),
            Err(error) => return AttemptOutcome::session_ended(&error.into(), false, false, ""),
        };
        let signals = SessionSignals { settings: self.settings.clone(), redial: self.redial.clone() };
        let mut session = SessionLoop::new(self, &connection, heartbeat, segment_bytes, signals);
        let ended = session.run(connection, &peer).await;
        let is_agreed = session.is_agreed;
        // A superseded session counts as failed, so that two senders with one id back off.
        let has_worked = session.has_worked() && !matches!(ended, SessionEnd::Superseded(_));
        // Requests to connect that came during the session are fulfilled by it.
        self.retry.mark_unchanged();
        // Nothing is in flight any more.
        self.queue.set_in_flight(self.queue.acknowledged());
        let now = Instant::now().into_std();
        let remedy = match &ended {
            SessionEnd::Stalled(_) => segment_size_advice(dialer.sizes.reduce(address, segment_bytes, now)),
            _ => String::new(),
        };
        if matches!(ended, SessionEnd::Asked) {
            dialer.sizes.forget();
        }
        if let SessionEnd::Diverged { divergence, delivered } = ended {
            self.replace_stream(divergence, delivered, &peer).await;
        }
        let attempt = AttemptOutcome::session_ended(&ended, is_agreed, has_worked, &remedy);
        self.note_failure(&ended, &attempt);
        attempt
    }

    /// Remembers why a session stalled until one works.
    fn note_failure(&mut self, ended: &SessionEnd, attempt: &AttemptOutcome) {
        if matches!(ended, SessionEnd::Stalled(_)) {
            self.failure = Some(attempt.reason.clone());
        } else if attempt.has_worked {
            self.failure = None;
        }
    }
}

impl Uplink {
    /// Gives the queue a new stream, which the next attempt uses.
    async fn replace_stream(&self, divergence: Divergence, delivered: Position, peer: &str) {
        let (queue, peer) = (self.queue.clone(), peer.to_owned());
        let _disk = self.pulse.away();
        let replacing = tokio::task::spawn_blocking(move || {
            let new = StreamKey::generate().map_err(|error| error.to_string())?;
            queue.replace_stream(new, divergence, delivered, &peer);
            Ok(())
        });
        if let Err(error) = replacing.await.unwrap_or_else(|error| Err(error.to_string())) {
            tracing::error!(
                error,
                "cannot begin a new stream: {error}; trying again with the next connection"
            );
        }
    }
}

/// The receiver as configured, followed by its address if the two differ.
fn peer_name(answer: &EstablishedChannel) -> String {
    let (name, address) = (answer.receiver.to_string(), answer.address.to_string());
    if name == address { name } else { format!("{name} ({address})") }
}

#[cfg(test)]
mod tests;
