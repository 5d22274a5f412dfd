//! The state that the uplink task shares: its settings, its handles, and its part of the status.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use nf_transport_core::sequence::SenderId;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::config::{HostPort, Reconnect};
use crate::host::{Pulse, Shutdown, locked};
use crate::sender::queue::Queue;
use crate::sender::uplink::connection::SharedConnection;
use crate::sender::uplink::dial::ChannelMode;

/// The task that keeps a session with one of the receivers.
#[derive(Debug)]
pub(crate) struct Uplink {
    pub(crate) queue: Arc<Queue>,
    /// The connection of an agreed session, for ingest.
    pub(crate) connection: Arc<SharedConnection>,
    pub(crate) settings: watch::Receiver<UplinkSettings>,
    pub(crate) view: Arc<Mutex<UplinkView>>,
    /// Changes when the next attempt must be made at once, unless there is a session.
    pub(crate) retry: watch::Receiver<()>,
    /// Changes when a session must end and the receivers be tried again, in order.
    pub(crate) redial: watch::Receiver<()>,
    /// Why the last session did not work. Until a session works, the status does not show the uplink as
    /// connected.
    pub(crate) failure: Option<String>,
    /// Beats as long as the task makes progress.
    pub(crate) pulse: Pulse,
    /// Receives the shutdown signal.
    pub(crate) stop: Shutdown,
}

impl Uplink {
    pub(crate) fn view(&self) -> MutexGuard<'_, UplinkView> {
        locked(&self.view)
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stop.is_requested()
    }
}

/// The settings of the uplink. A reload may change all of them.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct UplinkSettings {
    /// The name by which receivers know this sender.
    pub(crate) id: SenderId,
    pub(crate) receivers: Vec<HostPort>,
    pub(crate) channel_mode: ChannelMode,
    pub(crate) heartbeat: Duration,
    pub(crate) reconnect: Reconnect,
}

/// The uplink's part of the status.
#[derive(Clone, Debug)]
pub(crate) struct UplinkView {
    pub(crate) state: UplinkState,
    /// The receiver that is connected, or was tried last.
    pub(crate) receiver: Option<String>,
    /// Why the uplink is not connected.
    pub(crate) reason: Option<String>,
    /// The cipher of the connection, while there is one; `none` for clear text.
    pub(crate) cipher: Option<&'static str>,
    /// The largest TCP segment in bytes, where full ones were lost on the path.
    pub(crate) segment_bytes: Option<u16>,
    /// Since when no session works; `None` while one does.
    pub(crate) disconnected_since: Option<Instant>,
}

impl UplinkView {
    /// The view before the first attempt, which goes to the first of `receivers`.
    pub(crate) fn new(receivers: &[HostPort]) -> Arc<Mutex<Self>> {
        let receiver = receivers.first().map(ToString::to_string);
        let state = if receiver.is_some() { UplinkState::Connecting } else { UplinkState::Waiting(None) };
        Arc::new(Mutex::new(Self {
            state,
            receiver,
            reason: None,
            cipher: None,
            segment_bytes: None,
            disconnected_since: Some(Instant::now()),
        }))
    }

    /// Enters `state` without a connection to `receiver`, for `reason`.
    pub(crate) fn disconnect(
        &mut self,
        state: UplinkState,
        receiver: Option<String>,
        reason: Option<String>,
    ) {
        (self.state, self.receiver, self.reason) = (state, receiver, reason);
        (self.cipher, self.segment_bytes) = (None, None);
        self.disconnected_since.get_or_insert_with(Instant::now);
    }

    /// Names the receiver that is not connected, and for how long, if that is a second or more.
    pub(crate) fn not_connected(&self) -> String {
        let receiver = self.receiver.as_deref().unwrap_or("a receiver");
        match self.disconnected_since.map_or(0, |since| since.elapsed().as_secs()) {
            0 => format!("not connected to {receiver}"),
            seconds => format!("not connected to {receiver} for {seconds} s"),
        }
    }
}

/// The connection state of the uplink.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum UplinkState {
    /// A session is agreed.
    Connected,
    /// A receiver is being tried.
    Connecting,
    /// The next attempt is at the given time; `None` without a receiver to try.
    Waiting(Option<Instant>),
    /// As `Waiting`, and the last receiver rejected the session.
    Refused(Instant),
}
