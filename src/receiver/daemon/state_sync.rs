//! The sync of the state of nf-receiver: in each second in which something changed, and at a stop.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use tokio::task::JoinHandle;

use crate::receiver::accept::known_sources::KnownSources;
use crate::receiver::session::Shared;
use crate::receiver::state::positions::{Positions, PositionsError};
use crate::receiver::state::templates::Templates;

/// Functions that store templates, known sources and positions.
#[derive(Clone, Copy)]
struct StoreState {
    templates: fn(&Templates, &Path) -> io::Result<()>,
    known_sources: fn(&KnownSources, &Path) -> io::Result<()>,
    positions: fn(&Positions) -> Result<(), PositionsError>,
}

const EACH_SECOND: StoreState = StoreState {
    templates: Templates::keep_at_times,
    known_sources: KnownSources::keep_at_times,
    positions: Positions::sync,
};

const AT_A_STOP: StoreState = StoreState {
    templates: Templates::keep,
    known_sources: KnownSources::keep,
    positions: Positions::finish,
};

/// The sync of each second.
#[derive(Debug, Default)]
pub(super) struct StateSync {
    /// The current or last one.
    syncing: Option<JoinHandle<()>>,
    /// True if anything changed since the last scan for confused exporters.
    is_scan_needed: bool,
}

impl StateSync {
    /// Starts a sync if something changed and none runs. An idle daemon starts none.
    pub(super) fn tick(&mut self, shared: &Arc<Shared>, state: &Path) {
        if self.syncing.as_ref().is_some_and(|syncing| !syncing.is_finished()) {
            return;
        }
        let now = Instant::now();
        let is_due =
            shared.positions.is_sync_due(now) || shared.templates.is_due() || shared.known_sources.is_due();
        let is_scan_needed = self.is_scan_needed || is_due;
        let is_scan = is_scan_needed && shared.confusion.is_due(now);
        self.is_scan_needed = is_scan_needed && !is_scan;
        if is_due || is_scan {
            self.syncing = Some(tokio::spawn(sync(shared.clone(), state.to_owned(), EACH_SECOND)));
        }
    }
}

/// Stores everything at a stop.
pub(super) async fn finish(shared: Arc<Shared>, state: PathBuf) {
    sync(shared, state, AT_A_STOP).await;
}

async fn sync(shared: Arc<Shared>, state: PathBuf, store: StoreState) {
    let outcome = tokio::task::spawn_blocking(move || {
        if let Err(error) = (store.templates)(&shared.templates, &state) {
            let place = state.display();
            tracing::error!(%error, "cannot store the templates of exporters in {place}: {error}");
        }
        shared.confusion.look(&shared.templates, &shared.outputs(), Instant::now());
        if let Err(error) = (store.known_sources)(&shared.known_sources, &state) {
            tracing::error!(%error, "cannot store the addresses of authenticated senders: {error}");
        }
        (store.positions)(&shared.positions)
    });
    if let Ok(Err(error)) = outcome.await {
        tracing::error!(%error, "{error}; a power loss now would repeat more datagrams");
    }
}
