//! The link: a task that keeps a session with a receiver, and sends what the queue holds.
//!
//! Owns the schedule of attempts and what the status shows of them.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use crate::config::{HostPort, Reconnect};
use crate::sender::conversation::{Conversation, Ended};
use crate::sender::dial::{DialError, dial};
use crate::sender::queue::Queue;
use crate::sender::schedule::Schedule;
use crate::sequence::{SenderId, StreamId};
use crate::service::{LogLimit, Stop, counted};

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
    /// Why the link is not connected, or sends nothing though it is.
    pub(crate) reason: Option<String>,
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
    /// The link before its first attempt, which goes to the first of these.
    pub(crate) fn new(receivers: &[HostPort]) -> Arc<Mutex<Self>> {
        let receiver = receivers.first().map(ToString::to_string);
        let state = if receiver.is_some() { LinkState::Connecting } else { LinkState::Waiting(None) };
        Arc::new(Mutex::new(Self { state, receiver, reason: None }))
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
        if self.receivers.is_empty() {
            let reason = "no receiver is configured: datagrams are spooled only; \
                          set 'receivers' in the configuration or give --receiver";
            tracing::warn!("{reason}");
            self.view().reason = Some(reason.to_owned());
            self.stop.told().await;
            return;
        }
        let mut schedule = Schedule::new(self.reconnect);
        let mut complaints = LogLimit::default();
        while !self.is_stopping() {
            let attempt = self.attempt().await;
            if self.is_stopping() {
                break;
            }
            let delay = schedule.after(attempt.was_agreed);
            self.announce(&attempt, delay, &mut complaints);
            self.wait(delay).await;
        }
    }

    /// Shows in status and log why there is no session and when the next attempt is made. The same reason is
    /// logged once in a while only.
    fn announce(&self, attempt: &Attempt, delay: Duration, complaints: &mut LogLimit<String>) {
        let at = Instant::now() + delay;
        let mut view = self.view();
        view.state = if attempt.is_refusal { LinkState::Refused(at) } else { LinkState::Waiting(Some(at)) };
        view.reason = Some(attempt.reason.clone());
        if let Some(held_back) = complaints.admit(attempt.reason.clone(), Instant::now().into_std()) {
            let (receiver, retry_in_s) = (view.receiver.as_deref(), delay.as_secs_f64());
            tracing::warn!(
                receiver,
                retry_in_s,
                held_back = counted(held_back),
                "not connected: {}",
                attempt.reason
            );
        }
    }

    /// Waits for the next attempt, unless somebody asks for it at once.
    async fn wait(&mut self, delay: Duration) {
        tokio::select! {
            () = sleep_until(Instant::now() + delay) => {}
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
                    return self.converse(stream, &peer_name(&receiver, address)).await;
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
        // Nothing is on its way any more.
        self.queue.set_in_flight(self.queue.acknowledged());
        let is_refusal = matches!(ended, Ended::Refused(_) | Ended::AheadOfUs(..));
        Attempt { was_agreed, is_refusal, reason: ended.to_string() }
    }
}

/// The receiver as it was named, and its address if the name does not show it.
fn peer_name(receiver: &HostPort, address: SocketAddr) -> String {
    let (name, address) = (receiver.to_string(), address.to_string());
    if name == address { name } else { format!("{name} ({address})") }
}
