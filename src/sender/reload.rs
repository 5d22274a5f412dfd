//! Applies changed settings while nf-sender runs. Settings of the start, such as sockets and directories,
//! need a restart, which the log states.

use std::path::{Path, PathBuf};
use std::sync::Mutex;

use nf_transport_core::secure::SpoolKeys;
use tokio::sync::watch;

use crate::config::{ConfigError, KeySource, Loaded, SENDER, SenderSettings, SpoolEncryption};
use crate::host::systemd::messages::sender;
use crate::host::{
    DaemonError, Expiry, KeyFileError, KeyReader, TlsFileError, locked, read_key, run_reload, wall_clock,
    warn_restart_needed,
};
use crate::sender::ingest::IngestSettings;
use crate::sender::queue::flusher::FlusherSettings;
use crate::sender::uplink::dial::ChannelMode;
use crate::sender::uplink::state::UplinkSettings;

/// Reads the settings again from their original sources.
pub(crate) type LoadSettings = Box<dyn Fn() -> Result<Loaded<SenderSettings>, ConfigError> + Send + Sync>;

/// Reloads the settings and passes them to ingest, flusher and uplink.
pub(crate) struct SenderReloader {
    load: LoadSettings,
    /// The configuration file.
    file: PathBuf,
    keys: Mutex<KeyReader>,
    /// The settings at the start of the daemon.
    started_with: SenderSettings,
    ingest: watch::Sender<IngestSettings>,
    flusher: watch::Sender<FlusherSettings>,
    uplink: watch::Sender<UplinkSettings>,
    retry: watch::Sender<()>,
    redial: watch::Sender<()>,
}

impl SenderReloader {
    /// Begins with `settings`, as read by `load` from the configuration `file`.
    pub(crate) fn new(
        load: LoadSettings,
        file: PathBuf,
        settings: SenderSettings,
    ) -> Result<Self, TlsFileError> {
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
            started_with: settings,
        })
    }

    /// The configuration file.
    pub(crate) fn file(&self) -> &Path {
        &self.file
    }

    /// The settings of ingest.
    pub(crate) fn ingest(&self) -> watch::Receiver<IngestSettings> {
        self.ingest.subscribe()
    }

    /// The settings of the flusher.
    pub(crate) fn flusher(&self) -> watch::Receiver<FlusherSettings> {
        self.flusher.subscribe()
    }

    /// The settings of the uplink.
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

    /// Ends the session in order and tries the receivers again. Fails if no receiver is configured.
    pub(crate) fn reconnect(&self) -> Result<(), String> {
        if self.uplink.borrow().receivers.is_empty() {
            return Err("no receiver is configured: set 'receivers' in the configuration".to_owned());
        }
        self.redial.send_replace(());
        self.retry.send_replace(());
        Ok(())
    }

    /// Applies changed settings and connects at once if there is no connection. A connection ends only if a
    /// setting that it depends on changed. On an error nothing changes.
    pub(crate) fn reload(&self) -> Result<(), DaemonError> {
        run_reload(sender::NOT_RELOADED, || {
            let (settings, link) = self.read()?;
            self.apply(&settings, &link);
            Ok(())
        })
    }

    fn read(&self) -> Result<(SenderSettings, UplinkSettings), DaemonError> {
        let settings = (self.load)()?.settings;
        let mut keys = locked(&self.keys);
        let link = uplink_settings(&settings, &mut keys)?;
        Ok((settings, link))
    }

    fn apply(&self, settings: &SenderSettings, link: &UplinkSettings) {
        let changed = [
            ("allow, compression, max-delay", update(&self.ingest, &ingest_settings(settings))),
            ("limits of the spool", update(&self.flusher, &flusher_settings(settings))),
            ("receivers, keys and timing of the uplink", update(&self.uplink, link)),
        ];
        let changed: Vec<&str> =
            changed.iter().filter(|(_, changed)| *changed).map(|(name, _)| *name).collect();
        let changed = if changed.is_empty() { "nothing has changed".to_owned() } else { changed.join("; ") };
        tracing::info!(message_id = sender::RELOADED, changed, "reloaded: {changed}");
        warn_restart_needed(SENDER, &self.started_with.changes_needing_restart(settings));
        self.retry.send_replace(());
    }
}

/// Publishes `now`. Returns `true` if it differs from the previous settings.
fn update<T: Clone + PartialEq>(settings: &watch::Sender<T>, now: &T) -> bool {
    settings.send_if_modified(|current| {
        let changed = current != now;
        current.clone_from(now);
        changed
    })
}

fn ingest_settings(settings: &SenderSettings) -> IngestSettings {
    IngestSettings {
        allow: settings.allow.clone(),
        compression: settings.spool.compression,
        max_delay: settings.max_delay,
    }
}

fn flusher_settings(settings: &SenderSettings) -> FlusherSettings {
    FlusherSettings { policy: settings.spool.policy, sync_after: settings.spool.sync_after }
}

/// Checks that nf-sender can start with `settings` or reload them: all keys and certificates are readable.
/// Returns a warning for a certificate that expires soon.
pub(crate) fn check(settings: &SenderSettings) -> Result<Option<String>, DaemonError> {
    let link = uplink_settings(settings, &mut KeyReader::default())?;
    spool_keys(&settings.spool.encryption)?;
    Ok(link.channel_mode.certificate().and_then(|own| Expiry::of_certificate(own).warning(wall_clock())))
}

/// Reads the keys of the spool from their configured sources.
pub(crate) fn spool_keys(encryption: &SpoolEncryption) -> Result<SpoolKeys, KeyFileError> {
    let read = |source: &Option<KeySource>| source.as_ref().map(read_key).transpose();
    let (current, previous) = (read(&encryption.current)?, read(&encryption.previous)?);
    Ok(match current {
        Some(current) if encryption.encrypt => SpoolKeys::sealing(current, previous),
        current => SpoolKeys::opening(current.into_iter().chain(previous)),
    })
}

fn uplink_settings(settings: &SenderSettings, keys: &mut KeyReader) -> Result<UplinkSettings, TlsFileError> {
    Ok(UplinkSettings {
        id: settings.id.clone(),
        receivers: settings.receivers.clone(),
        channel_mode: ChannelMode::from_protection(&settings.protection, keys)?,
        heartbeat: settings.heartbeat,
        reconnect: settings.reconnect,
    })
}
