//! Ingest in a thread of its own.

use std::net::UdpSocket;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use nf_transport_core::batch::Compression;
use rustix::event::{EventfdFlags, eventfd};
use tokio::sync::watch;

use crate::host::Pulse;
use crate::limits::RECEIVE_BUFFER;
use crate::sender::ingest::counters::IngestCounters;
use crate::sender::ingest::listener::Listener;
use crate::sender::ingest::{Ingest, IngestSettings};
use crate::sender::queue::recovery::RecoveredRun;

pub(super) struct RunningIngest {
    pub(super) counters: Arc<IngestCounters>,
    settings: watch::Sender<IngestSettings>,
    stop: OwnedFd,
    thread: JoinHandle<()>,
}

impl RunningIngest {
    /// Starts ingest from these sockets, which stay open after it, for exporters in the prefixes `allow`.
    pub(super) fn start(run: RecoveredRun, sockets: Vec<UdpSocket>, allow: &[&str]) -> Self {
        let allow = allow.iter().map(|prefix| prefix.parse().unwrap()).collect();
        let listeners = sockets.into_iter().map(|socket| Listener::new(socket, true).unwrap()).collect();
        Self::with(run, listeners, IngestSettings { allow, ..settings(Duration::from_millis(10)) })
    }

    /// Starts ingest from `socket`, which stays open after it, as if it had the buffer of the socket unit.
    pub(super) fn with_max_delay(run: RecoveredRun, socket: UdpSocket, max_delay: Duration) -> Self {
        let mut listener = Listener::new(socket, true).unwrap();
        listener.capacity = 2 * RECEIVE_BUFFER;
        Self::with(run, vec![listener], settings(max_delay))
    }

    fn with(run: RecoveredRun, listeners: Vec<Listener>, settings: IngestSettings) -> Self {
        let (settings, reloaded) = watch::channel(settings);
        let counters = Arc::new(IngestCounters::new(listeners.iter().map(Listener::address)));
        let stop = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
        let stopped = stop.try_clone().unwrap();
        let ingest = Ingest::new(
            listeners,
            stopped,
            run,
            Arc::default(),
            counters.clone(),
            reloaded,
            Pulse::default(),
        );
        Self { counters, settings, stop, thread: std::thread::spawn(move || ingest.run()) }
    }

    /// Reloads `max-delay`.
    pub(super) fn set_max_delay(&self, max_delay: Duration) {
        self.settings.send_modify(|settings| settings.max_delay = max_delay);
    }

    /// Ends ingest and waits for its end.
    pub(super) fn stop(self) -> Arc<IngestCounters> {
        rustix::io::write(&self.stop, &1_u64.to_ne_bytes()).unwrap();
        self.thread.join().unwrap();
        self.counters
    }
}

fn settings(max_delay: Duration) -> IngestSettings {
    IngestSettings { allow: Vec::new(), compression: Compression::None, max_delay }
}
