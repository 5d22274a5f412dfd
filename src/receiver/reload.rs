//! Applies changed settings at run time: the access policy and the collectors. Senders that are still
//! accepted stay connected; others get the reason and are disconnected. Settings that apply at the start
//! only, such as sockets and directories, are logged as needing a restart.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use nf_transport_core::secure::{AccessPolicy, Key, Salt};
use tokio::sync::watch;

use crate::config::{
    CollectorSettings, ConfigError, KeyPair, Loaded, RECEIVER, ReceiverProtection, ReceiverSettings,
};
use crate::host::systemd::messages::receiver;
use crate::host::{
    DaemonError, Expiry, KeyFileError, KeyReader, TlsFileError, locked, read_receiver_tls, run_reload,
    wall_clock, warn_restart_needed,
};
use crate::status::count_of;

/// Loads the settings again from their original sources.
pub(crate) type Load = Box<dyn Fn() -> Result<Loaded<ReceiverSettings>, ConfigError> + Send + Sync>;

/// State for reloads.
pub(crate) struct Reloader {
    load: Load,
    /// The configuration file.
    file: PathBuf,
    keys: Mutex<KeyReader>,
    /// The salt of keys that are derived from passphrases.
    salt: Salt,
    /// The settings at the start.
    started_with: ReceiverSettings,
    policy: watch::Sender<Arc<AccessPolicy>>,
    collectors: watch::Sender<Vec<CollectorSettings>>,
}

impl Reloader {
    /// Returns a reloader that starts with `settings`, which `load` returned for the configuration `file`.
    pub(crate) fn new(load: Load, file: PathBuf, settings: ReceiverSettings) -> Result<Self, TlsFileError> {
        let mut keys = KeyReader::default();
        let salt = Salt::generate().map_err(KeyFileError::System)?;
        let policy = access_policy(&settings.protection, &mut keys, salt)?;
        Ok(Self {
            load,
            file,
            keys: Mutex::new(keys),
            salt,
            policy: watch::Sender::new(Arc::new(policy)),
            collectors: watch::Sender::new(settings.collectors.clone()),
            started_with: settings,
        })
    }

    /// The configuration file.
    pub(crate) fn file(&self) -> &Path {
        &self.file
    }

    /// Returns the current access policy.
    pub(crate) fn policy(&self) -> watch::Receiver<Arc<AccessPolicy>> {
        self.policy.subscribe()
    }

    /// Returns the current collectors.
    pub(crate) fn collectors(&self) -> watch::Receiver<Vec<CollectorSettings>> {
        self.collectors.subscribe()
    }

    /// Loads and applies the settings. If any part of them is invalid, nothing changes.
    pub(crate) fn reload(&self) -> Result<(), DaemonError> {
        run_reload(receiver::NOT_RELOADED, || {
            let (settings, policy) = self.read()?;
            self.apply(&settings, policy);
            Ok(())
        })
    }

    fn read(&self) -> Result<(ReceiverSettings, AccessPolicy), DaemonError> {
        let settings = (self.load)()?.settings;
        let mut keys = locked(&self.keys);
        let policy = access_policy(&settings.protection, &mut keys, self.salt)?;
        Ok((settings, policy))
    }

    fn apply(&self, settings: &ReceiverSettings, policy: AccessPolicy) {
        let senders = policy.senders.len();
        let count = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
        self.policy.send_replace(Arc::new(policy));
        self.collectors.send_if_modified(|current| {
            let changed = *current != settings.collectors;
            current.clone_from(&settings.collectors);
            changed
        });
        tracing::info!(
            message_id = receiver::RELOADED,
            senders,
            collectors = settings.collectors.len(),
            "reloaded: keys and ciphers, {} with keys of their own, {}",
            count_of(count(senders), "sender"),
            count_of(count(settings.collectors.len()), "collector")
        );
        warn_restart_needed(RECEIVER, &self.started_with.changes_needing_restart(settings));
    }
}

/// Checks that nf-receiver can start with `settings`, or apply them, as far as files show: keys and
/// certificates are readable. Returns warnings about those that expire.
pub(crate) fn check(settings: &ReceiverSettings) -> Result<Vec<String>, DaemonError> {
    let salt = Salt::generate().map_err(KeyFileError::System)?;
    let policy = access_policy(&settings.protection, &mut KeyReader::default(), salt)?;
    let Some(tls) = policy.tls else { return Ok(Vec::new()) };
    let lists = tls.revoked.iter().filter_map(Expiry::of_list);
    let ends = core::iter::once(Expiry::of_certificate(&tls.certificate)).chain(lists);
    Ok(ends.filter_map(|end| end.warning(wall_clock())).collect())
}

fn access_policy(
    protection: &ReceiverProtection,
    keys: &mut KeyReader,
    salt: Salt,
) -> Result<AccessPolicy, TlsFileError> {
    let mut read = |pair: &KeyPair| {
        let sources = [Some(&pair.current), pair.previous.as_ref()].into_iter().flatten();
        let read = |source| {
            let secret = keys.read(source, &protection.suites)?;
            secret.derive(salt).map_err(|error| KeyFileError::Invalid { place: source.clone(), error })
        };
        sources.map(read).collect::<Result<Vec<Key>, KeyFileError>>()
    };
    let shared = protection.shared.as_ref().map(&mut read).transpose()?;
    let senders = protection
        .senders
        .iter()
        .map(|sender| {
            let own = sender.keys.as_ref().map(&mut read).transpose()?;
            Ok((sender.id.clone(), own.unwrap_or_default()))
        })
        .collect::<Result<_, KeyFileError>>()?;
    let exporters = protection.senders.iter().filter(|sender| !sender.exporters.has_all());
    let exporters = exporters.map(|sender| (sender.id.clone(), sender.exporters.clone())).collect();
    Ok(AccessPolicy {
        plaintext: protection.plaintext,
        salt,
        suites: protection.suites.clone(),
        shared: shared.unwrap_or_default(),
        senders,
        exporters,
        tls: protection.tls.as_ref().map(read_receiver_tls).transpose()?,
    })
}
