//! Ingest in a thread of its own.

use std::net::UdpSocket;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread::JoinHandle;

use nf_transport_core::batch::Compression;
use rustix::event::{EventfdFlags, eventfd};
use tokio::sync::watch;

use crate::host::Pulse;
use crate::sender::ingest::counters::IngestCounters;
use crate::sender::ingest::listener::Listener;
use crate::sender::ingest::{Ingest, IngestSettings};
use crate::sender::queue::recovery::RecoveredRun;

pub(super) struct RunningIngest {
    pub(super) counters: Arc<IngestCounters>,
    stop: OwnedFd,
    thread: JoinHandle<()>,
}

impl RunningIngest {
    /// Starts ingest from these sockets, which stay open after it, for exporters in the prefixes `allow`.
    pub(super) fn start(run: RecoveredRun, sockets: Vec<UdpSocket>, allow: &[&str]) -> Self {
        let allow = allow.iter().map(|prefix| prefix.parse().unwrap()).collect();
        let settings = watch::channel(IngestSettings { allow, compression: Compression::None }).1;
        let listeners: Vec<Listener> =
            sockets.into_iter().map(|socket| Listener::new(socket, true).unwrap()).collect();
        let counters = Arc::new(IngestCounters::new(listeners.iter().map(Listener::address)));
        let stop = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
        let stopped = stop.try_clone().unwrap();
        let ingest = Ingest::new(
            listeners,
            stopped,
            run,
            Arc::default(),
            counters.clone(),
            settings,
            Pulse::default(),
        );
        Self { counters, stop, thread: std::thread::spawn(move || ingest.run()) }
    }

    /// Ends ingest and waits for its end.
    pub(super) fn stop(self) -> Arc<IngestCounters> {
        rustix::io::write(&self.stop, &1_u64.to_ne_bytes()).unwrap();
        self.thread.join().unwrap();
        self.counters
    }
}
