//! Takes up changed settings while nf-sender runs: its id, where to connect, with which key, and when to try again.
//! What else changed is taken up by the next start.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{Notify, watch};

use crate::config::{ConfigError, Loaded, SenderSettings};
use crate::sender::dial::Speech;
use crate::sender::link::LinkSettings;
use crate::service::{DaemonError, KeyReader, TlsTrouble};

/// Reads the settings again, from where they came at the start.
pub(crate) type Load = Box<dyn Fn() -> Result<Loaded<SenderSettings>, ConfigError> + Send + Sync>;

/// What a reload needs.
pub(crate) struct Reloader {
    load: Load,
    keys: Mutex<KeyReader>,
    settings: watch::Sender<LinkSettings>,
    retry: Arc<Notify>,
}

impl Reloader {
    /// Begins with `settings`, which `load` gave.
    pub(crate) fn new(load: Load, settings: &SenderSettings) -> Result<Self, TlsTrouble> {
        let mut keys = KeyReader::default();
        let link = link_settings(settings, &mut keys)?;
        Ok(Self { load, keys: Mutex::new(keys), settings: watch::Sender::new(link), retry: Arc::default() })
    }

    /// What the link follows.
    pub(crate) fn settings(&self) -> watch::Receiver<LinkSettings> {
        self.settings.subscribe()
    }

    /// Notified when the next attempt to connect is to be made at once.
    pub(crate) fn retry(&self) -> &Arc<Notify> {
        &self.retry
    }

    /// Takes up what changed, and connects at once where there is no connection. A connection ends only if something
    /// that it depends on changed. If anything is wrong, nothing changes.
    pub(crate) fn reload(&self) -> Result<(), DaemonError> {
        let outcome = self.read();
        match &outcome {
            Ok(link) => {
                let changed = self.settings.send_if_modified(|current| {
                    let changed = current != link;
                    current.clone_from(link);
                    changed
                });
                tracing::info!(changed, "reloaded: receivers, keys and times of the link");
                self.retry.notify_waiters();
            }
            Err(error) => tracing::error!("not reloaded, everything stays as it was: {error}"),
        }
        outcome.map(drop)
    }

    fn read(&self) -> Result<LinkSettings, DaemonError> {
        let loaded = (self.load)()?;
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(link_settings(&loaded.settings, &mut keys)?)
    }
}

fn link_settings(settings: &SenderSettings, keys: &mut KeyReader) -> Result<LinkSettings, TlsTrouble> {
    Ok(LinkSettings {
        id: settings.id.clone(),
        receivers: settings.receivers.clone(),
        speech: Speech::prepare(&settings.protection, keys)?,
        heartbeat: settings.heartbeat,
        reconnect: settings.reconnect,
    })
}
