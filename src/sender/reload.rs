//! Takes up changed settings while nf-sender runs: all but those that belong to its start, such as its sockets and
//! directories, for which the log tells that a restart is needed.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use nf_transport_core::secure::SpoolKeys;
use tokio::sync::watch;

use crate::config::{ConfigError, KeySource, Loaded, SenderSettings, SpoolEncryption};
use crate::host::systemd::messages::sender;
use crate::host::systemd::notify;
use crate::host::{
    DaemonError, Expiry, KeyReader, KeyTrouble, TlsTrouble, needs_restart, read_key, wall_clock,
};
use crate::sender::ingest::IngestSettings;
use crate::sender::queue::flusher::FlusherSettings;
use crate::sender::uplink::dial::ChannelMode;
use crate::sender::uplink::state::UplinkSettings;

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
    flusher: watch::Sender<FlusherSettings>,
    uplink: watch::Sender<UplinkSettings>,
    retry: watch::Sender<()>,
    redial: watch::Sender<()>,
}

impl Reloader {
    /// Begins with `settings`, which `load` gave, of the configuration `file`.
    pub(crate) fn new(load: Load, file: PathBuf, settings: SenderSettings) -> Result<Self, TlsTrouble> {
        let mut keys = KeyReader::default();
        let link = uplink_settings(&settings, &mut keys)?;
        Ok(Self {
            load,
            file,
            keys: Mutex::new(keys),
            ingest: watch::Sender::new(ingest_settings(&settings)),
            flusher: watch::Sender::new(flusher_settings(&settings)),
            uplink: watch::Sender::new(link),
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
    pub(crate) fn flusher(&self) -> watch::Receiver<FlusherSettings> {
        self.flusher.subscribe()
    }

    /// What the link follows.
    pub(crate) fn uplink(&self) -> watch::Receiver<UplinkSettings> {
        self.uplink.subscribe()
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
        if self.uplink.borrow().receivers.is_empty() {
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
            Ok((settings, link)) => self.apply(settings, link),
            Err(error) => tracing::error!(
                message_id = sender::NOT_RELOADED,
                "not reloaded, everything stays as it was: {error}"
            ),
        }
        notify::ready();
        outcome.map(drop)
    }

    fn read(&self) -> Result<(SenderSettings, UplinkSettings), DaemonError> {
        let settings = (self.load)()?.settings;
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        let link = uplink_settings(&settings, &mut keys)?;
        Ok((settings, link))
    }

    fn apply(&self, settings: &SenderSettings, link: &UplinkSettings) {
        let changed = [
            ("allow, compression", follow(&self.ingest, &ingest_settings(settings))),
            ("limits of the spool", follow(&self.flusher, &flusher_settings(settings))),
            ("receivers, keys and times of the link", follow(&self.uplink, link)),
        ];
        let changed: Vec<&str> =
            changed.iter().filter(|(_, changed)| *changed).map(|(what, _)| *what).collect();
        let changed = if changed.is_empty() { "nothing has changed".to_owned() } else { changed.join("; ") };
        tracing::info!(message_id = sender::RELOADED, changed, "reloaded: {changed}");
        needs_restart(&self.begun_with.differs_at_start(settings));
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

fn flusher_settings(settings: &SenderSettings) -> FlusherSettings {
    FlusherSettings { policy: settings.spool.policy, sync_after: settings.spool.sync_after }
}

/// Whether nf-sender can start with `settings`, or take them up, as far as files can tell: their keys and certificates can
/// be read. Returns a warning of a certificate that expires.
pub(crate) fn check(settings: &SenderSettings) -> Result<Option<String>, DaemonError> {
    let link = uplink_settings(settings, &mut KeyReader::default())?;
    spool_keys(&settings.spool.encryption)?;
    Ok(link.channel_mode.certificate().and_then(|own| Expiry::of_certificate(own).warning(wall_clock())))
}

/// The keys of the spool, from where the settings say that they are.
pub(crate) fn spool_keys(encryption: &SpoolEncryption) -> Result<SpoolKeys, KeyTrouble> {
    let read = |source: &Option<KeySource>| source.as_ref().map(read_key).transpose();
    let (current, previous) = (read(&encryption.current)?, read(&encryption.previous)?);
    Ok(match current {
        Some(current) if encryption.encrypt => SpoolKeys::sealing(current, previous),
        current => SpoolKeys::opening(current.into_iter().chain(previous)),
    })
}

fn uplink_settings(settings: &SenderSettings, keys: &mut KeyReader) -> Result<UplinkSettings, TlsTrouble> {
    Ok(UplinkSettings {
        id: settings.id.clone(),
        receivers: settings.receivers.clone(),
        channel_mode: ChannelMode::from_protection(&settings.protection, keys)?,
        heartbeat: settings.heartbeat,
        reconnect: settings.reconnect,
    })
}
