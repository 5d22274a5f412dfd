//! The link: a task that keeps a session with a receiver, and sends what the queue holds.
//!
//! Owns the schedule of attempts and what the status shows of them.

pub(crate) mod attempt;
pub(crate) mod backoff;
pub(crate) mod closing;
pub(crate) mod connection;
pub(crate) mod dial;
pub(crate) mod dialer;
pub(crate) mod ended;
pub(crate) mod read_ahead;
pub(crate) mod replacement;
pub(crate) mod segment_sizes;
pub(crate) mod segment_source;
pub(crate) mod session_loop;
pub(crate) mod stall;
pub(crate) mod unacknowledged;

use core::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nf_transport_core::secure::StreamKey;
use nf_transport_core::sequence::{Position, SenderId};
use nf_transport_core::spool::Divergence;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use crate::config::{HostPort, Reconnect};
use crate::host::{LogLimit, Pulse, ROUND, Shutdown, Suppressed};
use crate::sender::queue::Queue;
use crate::sender::uplink::attempt::{Attempt, Follows, remedy};
use crate::sender::uplink::backoff::Schedule;
use crate::sender::uplink::connection::Lent;
use crate::sender::uplink::dial::Speech;
use crate::sender::uplink::dialer::{Answer, Dialler};
use crate::sender::uplink::ended::Ended;
use crate::sender::uplink::session_loop::{Conversation, Watched};

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
    /// What encrypts the connection, while there is one; `none` for clear text.
    pub(crate) cipher: Option<&'static str>,
    /// The most bytes of a TCP segment, where full ones were lost on the way.
    pub(crate) segment_bytes: Option<u16>,
}

/// Who this is, where to connect, how to speak there, and when. A reload may change all of it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct LinkSettings {
    /// The name by which receivers know this sender.
    pub(crate) id: SenderId,
    pub(crate) receivers: Vec<HostPort>,
    pub(crate) speech: Speech,
    pub(crate) heartbeat: Duration,
    pub(crate) reconnect: Reconnect,
}

/// What ended the wait for the next attempt.
enum Woken {
    Time,
    Asked,
    Settings,
    /// A receiver that had been silent.
    Answered(Answer),
}

/// The link of one sender.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) queue: Arc<Queue>,
    /// Where the line of an agreed session lies, for ingest.
    pub(crate) lent: Arc<Lent>,
    pub(crate) settings: watch::Receiver<LinkSettings>,
    pub(crate) view: Arc<Mutex<LinkView>>,
    /// Changes when the next attempt must be made at once, unless there is a session.
    pub(crate) retry: watch::Receiver<()>,
    /// Changes when a session must end and the receivers be tried again, in order.
    pub(crate) redial: watch::Receiver<()>,
    /// Why the last session did not work. Until the next one does it does not count as connected.
    pub(crate) doubt: Option<String>,
    /// Beats as the link goes round.
    pub(crate) pulse: Pulse,
    /// True once the link is to end.
    pub(crate) stop: Shutdown,
}

impl LinkView {
    /// The link before its first attempt, which goes to the first of these.
    pub(crate) fn new(receivers: &[HostPort]) -> Arc<Mutex<Self>> {
        let receiver = receivers.first().map(ToString::to_string);
        let state = if receiver.is_some() { LinkState::Connecting } else { LinkState::Waiting(None) };
        Arc::new(Mutex::new(Self { state, receiver, reason: None, cipher: None, segment_bytes: None }))
    }
}

impl Link {
    pub(crate) fn view(&self) -> MutexGuard<'_, LinkView> {
        self.view.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_stopping(&self) -> bool {
        self.stop.is_requested()
    }

    /// Connects, sends, and connects again, until told to stop.
    pub(crate) async fn run(mut self) {
        let mut complaints = LogLimit::default();
        while !self.is_stopping() {
            let settings = self.settings.borrow_and_update().clone();
            if settings.receivers.is_empty() {
                self.idle().await;
            } else {
                self.follow(&settings, &mut complaints).await;
            }
        }
    }

    /// Without a receiver there is nothing to do until the settings change.
    async fn idle(&mut self) {
        let reason = "no receiver is configured: datagrams are spooled only; \
                      set 'receivers' in the configuration or give --receiver";
        tracing::warn!("{reason}");
        *self.view() = LinkView {
            state: LinkState::Waiting(None),
            receiver: None,
            reason: Some(reason.to_owned()),
            cipher: None,
            segment_bytes: None,
        };
        let mut settings = self.settings.clone();
        self.while_waiting(async { settings.changed().await.unwrap_or_default() }).await;
    }

    /// Connects by these settings, again and again, until they change.
    async fn follow(&mut self, settings: &LinkSettings, complaints: &mut LogLimit<String>) {
        let mut schedule = Schedule::new(settings.reconnect);
        let mut dialler = Dialler::default();
        let mut answered = None;
        while !self.is_stopping() && !self.settings.has_changed().unwrap_or(false) {
            let attempt = match answered.take() {
                Some(answer) => self.converse(answer, &mut dialler).await,
                None => self.attempt(settings, &mut dialler, complaints).await,
            };
            if self.is_stopping() {
                break;
            }
            if attempt.follows == Follows::Attempt {
                if attempt.has_worked {
                    schedule.reset();
                }
                continue;
            }
            let delay = schedule.after(attempt.has_worked).min(attempt.delay_max);
            self.announce(&attempt, delay, complaints);
            answered = self.wait(delay, &mut dialler).await;
        }
    }

    /// Shows in status and log why there is no session and when the next attempt is made. The same reason is
    /// logged once in a while only.
    fn announce(&self, attempt: &Attempt, delay: Duration, complaints: &mut LogLimit<String>) {
        let at = Instant::now() + delay;
        let mut view = self.view();
        view.state = if attempt.is_refusal { LinkState::Refused(at) } else { LinkState::Waiting(Some(at)) };
        view.reason = Some(attempt.reason.clone());
        view.cipher = None;
        view.segment_bytes = None;
        if let Some(held_back) = complaints.admit(attempt.reason.clone(), Instant::now().into_std()) {
            let (receiver, retry_in_s) = (view.receiver.as_deref(), delay.as_secs_f64());
            let message_id = attempt.message_id;
            tracing::warn!(
                message_id,
                receiver,
                retry_in_s,
                held_back,
                "not connected to {}: {}; trying again in {} s{}",
                receiver.unwrap_or("a receiver"),
                attempt.reason,
                delay.as_secs_f64().ceil(),
                Suppressed(held_back)
            );
        }
    }

    /// Waits for the next attempt, unless somebody asks for it at once or a receiver that was silent answers. Returns the
    /// connection to that one.
    async fn wait(&mut self, delay: Duration, dialler: &mut Dialler) -> Option<Answer> {
        // That they changed is seen again by whoever follows the settings.
        let mut settings = self.settings.clone();
        let mut retry = self.retry.clone();
        self.retry.mark_unchanged();
        let next_attempt = async {
            tokio::select! {
                () = sleep_until(Instant::now() + delay) => Woken::Time,
                Ok(()) = retry.changed() => Woken::Asked,
                Ok(()) = settings.changed() => Woken::Settings,
                answer = dialler.answered() => Woken::Answered(answer),
            }
        };
        match self.while_waiting(next_attempt).await? {
            Woken::Time | Woken::Settings => None,
            Woken::Asked => {
                tracing::info!("trying again at once");
                dialler.sizes.forget();
                None
            }
            Woken::Answered(answer) => {
                tracing::info!("a receiver that was silent answers: using it at once");
                Some(answer)
            }
        }
    }

    /// Waits until `event` happens and beats the pulse meanwhile; returns `None` if the link is stopping.
    async fn while_waiting<T>(&mut self, event: impl Future<Output = T>) -> Option<T> {
        let mut event = pin!(event);
        loop {
            self.pulse.beat();
            tokio::select! {
                event = &mut event => return Some(event),
                () = self.stop.requested() => return None,
                () = sleep(ROUND) => {}
            }
        }
    }

    /// Tries the receivers in turn; keeps a session with the first that answers.
    async fn attempt(
        &mut self,
        settings: &LinkSettings,
        dialler: &mut Dialler,
        complaints: &mut LogLimit<String>,
    ) -> Attempt {
        self.retry.mark_unchanged();
        let count = settings.receivers.len();
        let mut last = Attempt::abandoned();
        for (number, receiver) in (1..).zip(&settings.receivers) {
            self.show_connecting(receiver);
            let network = self.pulse.away();
            let answer = tokio::select! {
                answer = dialler.dial(receiver, &settings.id, &settings.speech) => answer,
                is_asked = self.interrupted() => {
                    if is_asked {
                        dialler.sizes.forget();
                    }
                    return Attempt::abandoned();
                }
            };
            drop(network);
            let (one_has_worked, delay_max) = (last.has_worked, last.delay_max);
            last = match answer {
                Ok(answer) => self.converse(answer, dialler).await,
                Err(error) => Attempt::at_dialling(if number == count { count } else { 1 }, &error),
            };
            last.has_worked |= one_has_worked;
            last.delay_max = last.delay_max.min(delay_max);
            if last.follows != Follows::NextReceiver {
                break;
            }
            if number < count {
                last.log_fail_over(receiver, complaints);
            }
        }
        last
    }

    /// Waits until an attempt is of no more use: somebody asks for another, the settings change or the link is to end. Returns
    /// whether somebody asked.
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
        *self.view() = LinkView {
            state: LinkState::Connecting,
            receiver: Some(receiver.to_string()),
            reason: self.doubt.clone(),
            cipher: None,
            segment_bytes: None,
        };
    }

    /// Keeps a session until it ends.
    async fn converse(&mut self, answer: Answer, dialler: &mut Dialler) -> Attempt {
        // Only one connection may prove who this is: the receiver would drop the others.
        dialler.clear();
        self.show_connecting(&answer.receiver);
        self.redial.mark_unchanged();
        let peer = peer_name(&answer);
        let Answer { address, segment_bytes, stream, .. } = answer;
        let watched = Watched { settings: self.settings.clone(), redial: self.redial.clone() };
        let mut conversation = match Conversation::new(self, stream, segment_bytes, watched) {
            Ok(conversation) => conversation,
            Err(error) => return Attempt::at_session(&error.into(), false, false, ""),
        };
        let ended = conversation.run(&peer).await;
        let is_agreed = conversation.is_agreed;
        // One that another connection of the same id took over from comes back later each time.
        let has_worked = conversation.has_worked() && !matches!(ended, Ended::Superseded(_));
        // Who asked to connect while there was a connection has had what was asked for.
        self.retry.mark_unchanged();
        // Nothing is on its way any more.
        self.queue.set_in_flight(self.queue.acknowledged());
        let now = Instant::now().into_std();
        let remedy = match &ended {
            Ended::Stalled(_) => remedy(dialler.sizes.reduce(address, segment_bytes, now)),
            _ => String::new(),
        };
        if matches!(ended, Ended::Asked) {
            dialler.sizes.forget();
        }
        if let Ended::Diverged { divergence, delivered } = ended {
            self.replace_stream(divergence, delivered, &peer).await;
        }
        let attempt = Attempt::at_session(&ended, is_agreed, has_worked, &remedy);
        self.note_doubt(&ended, &attempt);
        attempt
    }

    /// Remembers why a session did not work, until one does.
    fn note_doubt(&mut self, ended: &Ended, attempt: &Attempt) {
        if matches!(ended, Ended::Stalled(_)) {
            self.doubt = Some(attempt.reason.clone());
        } else if attempt.has_worked {
            self.doubt = None;
        }
    }
}

impl Link {
    /// Gives the queue a new stream. The next attempt sends it as that.
    async fn replace_stream(&self, divergence: Divergence, delivered: Position, peer: &str) {
        let (queue, peer) = (self.queue.clone(), peer.to_owned());
        let _disk = self.pulse.away();
        let replacing = tokio::task::spawn_blocking(move || {
            let new = StreamKey::generate().map_err(|error| error.to_string())?;
            queue.replace_stream(new, divergence, delivered, &peer);
            Ok(())
        });
        if let Err(error) = replacing.await.unwrap_or_else(|error| Err(error.to_string())) {
            tracing::error!(error, "cannot begin a new stream: {error}");
        }
    }
}

/// The receiver as it was named, and its address if the name does not show it.
fn peer_name(answer: &Answer) -> String {
    let (name, address) = (answer.receiver.to_string(), answer.address.to_string());
    if name == address { name } else { format!("{name} ({address})") }
}

#[cfg(test)]
mod tests;
