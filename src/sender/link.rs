//! The link: a task that keeps a session with a receiver, and sends what the queue holds.
//!
//! Owns the schedule of attempts and what the status shows of them.

use core::pin::pin;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use crate::config::{HostPort, Reconnect};
use crate::secure::ChannelError;
use crate::sender::conversation::{Conversation, Ended};
use crate::sender::dial::{DialError, Speech, dial};
use crate::sender::line::Lent;
use crate::sender::queue::Queue;
use crate::sender::recovery::new_stream_id;
use crate::sender::schedule::Schedule;
use crate::sequence::{Position, SenderId};
use crate::service::messages::sender;
use crate::service::stream::{Stream, StreamError};
use crate::service::{LogLimit, More, Pulse, ROUND, Stop};
use crate::spool::Divergence;

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

/// Why an attempt ended, for the schedule and the status.
struct Attempt {
    was_agreed: bool,
    is_refusal: bool,
    /// Whether the next attempt is to be made at once.
    is_renewed: bool,
    reason: String,
}

/// The link of one sender.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) queue: Arc<Queue>,
    /// Where the line of an agreed session lies, for ingest.
    pub(crate) lent: Arc<Lent>,
    pub(crate) settings: watch::Receiver<LinkSettings>,
    pub(crate) view: Arc<Mutex<LinkView>>,
    /// Changes when the next attempt is to be made at once.
    pub(crate) retry: watch::Receiver<()>,
    /// Beats as the link goes round.
    pub(crate) pulse: Pulse,
    /// True once the link is to end.
    pub(crate) stop: Stop,
}

impl LinkView {
    /// The link before its first attempt, which goes to the first of these.
    pub(crate) fn new(receivers: &[HostPort]) -> Arc<Mutex<Self>> {
        let receiver = receivers.first().map(ToString::to_string);
        let state = if receiver.is_some() { LinkState::Connecting } else { LinkState::Waiting(None) };
        Arc::new(Mutex::new(Self { state, receiver, reason: None, cipher: None }))
    }
}

impl Link {
    pub(crate) fn view(&self) -> MutexGuard<'_, LinkView> {
        self.view.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_stopping(&self) -> bool {
        self.stop.is_told()
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
        };
        let mut settings = self.settings.clone();
        self.while_waiting(async { settings.changed().await.unwrap_or_default() }).await;
    }

    /// Connects by these settings, again and again, until they change.
    async fn follow(&mut self, settings: &LinkSettings, complaints: &mut LogLimit<String>) {
        let mut schedule = Schedule::new(settings.reconnect);
        while !self.is_stopping() && !self.settings.has_changed().unwrap_or(false) {
            let attempt = self.attempt(settings).await;
            if self.is_stopping() {
                break;
            }
            let delay = schedule.after(attempt.was_agreed);
            if !attempt.is_renewed {
                self.announce(&attempt, delay, complaints);
                self.wait(delay).await;
            }
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
        if let Some(held_back) = complaints.admit(attempt.reason.clone(), Instant::now().into_std()) {
            let (receiver, retry_in_s) = (view.receiver.as_deref(), delay.as_secs_f64());
            let message_id = if attempt.is_refusal { sender::REFUSED } else { sender::NOT_CONNECTED };
            tracing::warn!(
                message_id,
                receiver,
                retry_in_s,
                held_back,
                "not connected to {}: {}; trying again in {} s{}",
                receiver.unwrap_or("a receiver"),
                attempt.reason,
                delay.as_secs_f64().ceil(),
                More(held_back)
            );
        }
    }

    /// Waits for the next attempt, unless somebody asks for it at once.
    async fn wait(&mut self, delay: Duration) {
        // That they changed is seen again by whoever follows the settings.
        let mut settings = self.settings.clone();
        let mut retry = self.retry.clone();
        self.retry.mark_unchanged();
        let next_attempt = async {
            tokio::select! {
                () = sleep_until(Instant::now() + delay) => {}
                Ok(()) = retry.changed() => tracing::info!("trying again at once"),
                Ok(()) = settings.changed() => {}
            }
        };
        self.while_waiting(next_attempt).await;
    }

    /// Waits until `event` happens or the link is to end, and goes round meanwhile.
    async fn while_waiting(&mut self, event: impl Future<Output = ()>) {
        let mut event = pin!(event);
        loop {
            self.pulse.beat();
            tokio::select! {
                () = &mut event => break,
                () = self.stop.told() => break,
                () = sleep(ROUND) => {}
            }
        }
    }

    /// Tries the receivers in turn; keeps a session with the first that answers.
    async fn attempt(&mut self, settings: &LinkSettings) -> Attempt {
        let mut last = None;
        for receiver in &settings.receivers {
            *self.view() = LinkView {
                state: LinkState::Connecting,
                receiver: Some(receiver.to_string()),
                reason: None,
                cipher: None,
            };
            let network = self.pulse.away();
            let dialled = tokio::select! {
                dialled = dial(receiver, &settings.id, &settings.speech) => dialled,
                () = self.stop.told() => break,
            };
            drop(network);
            match dialled {
                Ok((stream, address)) => {
                    return self.converse(stream, &peer_name(receiver, address)).await;
                }
                Err(error) => last = Some(error),
            }
        }
        match last {
            Some(error) => failed(settings.receivers.len(), &error),
            None => Attempt {
                was_agreed: false,
                is_refusal: false,
                is_renewed: false,
                reason: "stopping".to_owned(),
            },
        }
    }

    /// Keeps a session over `stream` until it ends.
    async fn converse(&mut self, stream: Stream, peer: &str) -> Attempt {
        let mut conversation = Conversation::new(self, stream, self.settings.clone());
        let ended = conversation.run(peer).await;
        // One that another connection of the same id took over from comes back later each time.
        let was_agreed = conversation.is_agreed && !matches!(ended, Ended::Superseded(_));
        // Who asked to connect while there was a connection has had what was asked for.
        self.retry.mark_unchanged();
        // Nothing is on its way any more.
        self.queue.set_in_flight(self.queue.acknowledged());
        let is_refusal = matches!(
            ended,
            Ended::Refused(_)
                | Ended::Superseded(_)
                | Ended::Stream(StreamError::Channel(ChannelError::Tls(_)))
        );
        let is_renewed = matches!(ended, Ended::Renewed);
        if let Ended::Diverged { divergence, delivered } = ended {
            self.replace_stream(divergence, delivered, peer).await;
        }
        Attempt { was_agreed, is_refusal, is_renewed, reason: ended.to_string() }
    }
}

impl Link {
    /// Gives the queue a new stream. The next attempt sends it as that.
    async fn replace_stream(&self, divergence: Divergence, delivered: Position, peer: &str) {
        let (queue, peer) = (self.queue.clone(), peer.to_owned());
        let _disk = self.pulse.away();
        let replacing = tokio::task::spawn_blocking(move || {
            queue.replace_stream(new_stream_id(), divergence, delivered, &peer);
        });
        if let Err(error) = replacing.await {
            tracing::error!(%error, "cannot begin a new stream: {error}");
        }
    }
}

/// None of `count` receivers could be spoken to; this is what the last one came to.
fn failed(count: usize, error: &DialError) -> Attempt {
    let mut reason = error.to_string();
    if count > 1 {
        reason = format!("none of {count} receivers answers; the last: {reason}");
    }
    Attempt { was_agreed: false, is_refusal: error.is_refusal(), is_renewed: false, reason }
}

/// The receiver as it was named, and its address if the name does not show it.
fn peer_name(receiver: &HostPort, address: SocketAddr) -> String {
    let (name, address) = (receiver.to_string(), address.to_string());
    if name == address { name } else { format!("{name} ({address})") }
}

#[cfg(test)]
mod tests;
