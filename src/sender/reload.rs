//! Takes up changed settings while nf-sender runs: all but those that belong to its start, such as its sockets and
//! directories, for which the log tells that a restart is needed.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use nf_transport_core::secure::SpoolKeys;
use tokio::sync::watch;

use crate::config::{ConfigError, KeySource, Loaded, SENDER, SenderSettings, SpoolEncryption};
use crate::host::systemd::messages::sender;
use crate::host::systemd::notify;
use crate::host::{
    DaemonError, Expiry, KeyFileError, KeyReader, TlsFileError, read_key, wall_clock, warn_restart_needed,
};
use crate::sender::ingest::IngestSettings;
use crate::sender::queue::flusher::KeeperSettings;
use crate::sender::uplink::LinkSettings;
use crate::sender::uplink::dial::Speech;

/// Reads the settings again, from where they came at the start.
pub(crate) type Load = Box<dyn Fn() -> Result<Loaded<SenderSettings>, ConfigError> + Send + Sync>;

/// What a reload needs.
pub(crate) struct Reloader {
    load: Load,
    /// The configuration file.
    file: PathBuf,
    keys: Mutex<KeyReader>,
    /// The settings that the daemon began with.
    begun_with: SenderSettings,
    ingest: watch::Sender<IngestSettings>,
    keeper: watch::Sender<KeeperSettings>,
    link: watch::Sender<LinkSettings>,
    retry: watch::Sender<()>,
    redial: watch::Sender<()>,
}

impl Reloader {
    /// Begins with `settings`, which `load` gave, of the configuration `file`.
    pub(crate) fn new(load: Load, file: PathBuf, settings: SenderSettings) -> Result<Self, TlsFileError> {
        let mut keys = KeyReader::default();
        let link = link_settings(&settings, &mut keys)?;
        Ok(Self {
            load,
            file,
            keys: Mutex::new(keys),
            ingest: watch::Sender::new(ingest_settings(&settings)),
            keeper: watch::Sender::new(keeper_settings(&settings)),
            link: watch::Sender::new(link),
            retry: watch::Sender::new(()),
            redial: watch::Sender::new(()),
            begun_with: settings,
        })
    }

    /// The configuration file.
    pub(crate) fn file(&self) -> &Path {
        &self.file
    }

    /// What ingest follows.
    pub(crate) fn ingest(&self) -> watch::Receiver<IngestSettings> {
        self.ingest.subscribe()
    }

    /// What the keeper follows.
    pub(crate) fn keeper(&self) -> watch::Receiver<KeeperSettings> {
        self.keeper.subscribe()
    }

    /// What the link follows.
    pub(crate) fn link(&self) -> watch::Receiver<LinkSettings> {
        self.link.subscribe()
    }

    /// Changes when the next attempt to connect must be made at once, unless there is a session.
    pub(crate) fn retry(&self) -> watch::Receiver<()> {
        self.retry.subscribe()
    }

    /// Changes when a session must end and the receivers be tried again.
    pub(crate) fn redial(&self) -> watch::Receiver<()> {
        self.redial.subscribe()
    }

    /// Tries the receivers at once, in order. A session ends in good order before. Fails if there is no receiver.
    pub(crate) fn reconnect(&self) -> Result<(), String> {
        if self.link.borrow().receivers.is_empty() {
            return Err("no receiver is configured: set 'receivers' in the configuration".to_owned());
        }
        self.redial.send_replace(());
        self.retry.send_replace(());
        Ok(())
    }

    /// Takes up what changed, and connects at once where there is no connection. A connection ends only if something
    /// that it depends on changed. If anything is wrong, nothing changes.
    pub(crate) fn reload(&self) -> Result<(), DaemonError> {
        notify::reloading();
        let outcome = self.read();
        match &outcome {
            Ok((settings, link)) => self.take_up(settings, link),
            Err(error) => tracing::error!(
                message_id = sender::NOT_RELOADED,
                "not reloaded, everything stays as it was: {error}"
            ),
        }
        notify::ready();
        outcome.map(drop)
    }

    fn read(&self) -> Result<(SenderSettings, LinkSettings), DaemonError> {
        let settings = (self.load)()?.settings;
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        let link = link_settings(&settings, &mut keys)?;
        Ok((settings, link))
    }

    fn take_up(&self, settings: &SenderSettings, link: &LinkSettings) {
        let changed = [
            ("allow, compression", follow(&self.ingest, &ingest_settings(settings))),
            ("limits of the spool", follow(&self.keeper, &keeper_settings(settings))),
            ("receivers, keys and times of the link", follow(&self.link, link)),
        ];
        let changed: Vec<&str> =
            changed.iter().filter(|(_, changed)| *changed).map(|(what, _)| *what).collect();
        let changed = if changed.is_empty() { "nothing has changed".to_owned() } else { changed.join("; ") };
        tracing::info!(message_id = sender::RELOADED, changed, "reloaded: {changed}");
        warn_restart_needed(SENDER, &self.begun_with.changes_needing_restart(settings));
        self.retry.send_replace(());
    }
}

/// Shows `now` to whoever follows, and says whether it is new.
fn follow<T: Clone + PartialEq>(settings: &watch::Sender<T>, now: &T) -> bool {
    settings.send_if_modified(|current| {
        let changed = current != now;
        current.clone_from(now);
        changed
    })
}

fn ingest_settings(settings: &SenderSettings) -> IngestSettings {
    IngestSettings { allow: settings.allow.clone(), compression: settings.spool.compression }
}

fn keeper_settings(settings: &SenderSettings) -> KeeperSettings {
    KeeperSettings { policy: settings.spool.policy, sync_after: settings.spool.sync_after }
}

/// Whether nf-sender can start with `settings`, or take them up, as far as files can tell: their keys and certificates can
/// be read. Returns a warning of a certificate that expires.
pub(crate) fn check(settings: &SenderSettings) -> Result<Option<String>, DaemonError> {
    let link = link_settings(settings, &mut KeyReader::default())?;
    spool_keys(&settings.spool.encryption)?;
    Ok(link.speech.certificate().and_then(|own| Expiry::of_certificate(own).warning(wall_clock())))
}

/// The keys of the spool, from where the settings say that they are.
pub(crate) fn spool_keys(encryption: &SpoolEncryption) -> Result<SpoolKeys, KeyFileError> {
    let read = |source: &Option<KeySource>| source.as_ref().map(read_key).transpose();
    let (current, previous) = (read(&encryption.current)?, read(&encryption.previous)?);
    Ok(match current {
        Some(current) if encryption.encrypt => SpoolKeys::sealing(current, previous),
        current => SpoolKeys::opening(current.into_iter().chain(previous)),
    })
}

fn link_settings(settings: &SenderSettings, keys: &mut KeyReader) -> Result<LinkSettings, TlsFileError> {
    Ok(LinkSettings {
        id: settings.id.clone(),
        receivers: settings.receivers.clone(),
        speech: Speech::prepare(&settings.protection, keys)?,
        heartbeat: settings.heartbeat,
        reconnect: settings.reconnect,
    })
}
