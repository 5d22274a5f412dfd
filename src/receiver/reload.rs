//! Takes up changed settings while nf-receiver runs: whom it lets in. Senders that are still let in stay connected;
//! those that are not are told so. What else changed is taken up by the next start.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use crate::config::{ConfigError, KeyPair, Loaded, ReceiverProtection, ReceiverSettings};
use crate::secure::{Admission, Key};
use crate::service::{DaemonError, KeyReader, KeyTrouble, TlsTrouble, read_receiver_tls};

/// Reads the settings again, from where they came at the start.
pub(crate) type Load = Box<dyn Fn() -> Result<Loaded<ReceiverSettings>, ConfigError> + Send + Sync>;

/// What a reload needs.
pub(crate) struct Reloader {
    load: Load,
    keys: Mutex<KeyReader>,
    admission: watch::Sender<Arc<Admission>>,
}

impl Reloader {
    /// Begins with `settings`, which `load` gave.
    pub(crate) fn new(load: Load, settings: &ReceiverSettings) -> Result<Self, TlsTrouble> {
        let mut keys = KeyReader::default();
        let admission = admission(&settings.protection, &mut keys)?;
        Ok(Self { load, keys: Mutex::new(keys), admission: watch::Sender::new(Arc::new(admission)) })
    }

    /// Whom to let in.
    pub(crate) fn admission(&self) -> watch::Receiver<Arc<Admission>> {
        self.admission.subscribe()
    }

    /// Takes up what changed. If anything is wrong, nothing changes.
    pub(crate) fn reload(&self) -> Result<(), DaemonError> {
        let outcome = self.read();
        match outcome {
            Ok(admission) => {
                let senders = admission.senders.len();
                self.admission.send_replace(Arc::new(admission));
                tracing::info!(senders, "reloaded: keys and ciphers, and whom they let in");
                Ok(())
            }
            Err(error) => {
                tracing::error!("not reloaded, everything stays as it was: {error}");
                Err(error)
            }
        }
    }

    fn read(&self) -> Result<Admission, DaemonError> {
        let loaded = (self.load)()?;
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(admission(&loaded.settings.protection, &mut keys)?)
    }
}

fn admission(protection: &ReceiverProtection, keys: &mut KeyReader) -> Result<Admission, TlsTrouble> {
    let shared = protection.shared.as_ref().map(|pair| read_pair(pair, keys)).transpose()?;
    let senders = protection
        .senders
        .iter()
        .map(|sender| Ok((sender.id.clone(), read_pair(&sender.keys, keys)?)))
        .collect::<Result<_, KeyTrouble>>()?;
    Ok(Admission {
        plaintext: protection.plaintext,
        suites: protection.suites.clone(),
        shared: shared.unwrap_or_default(),
        senders,
        tls: protection.tls.as_ref().map(read_receiver_tls).transpose()?,
    })
}

fn read_pair(pair: &KeyPair, keys: &mut KeyReader) -> Result<Vec<Key>, KeyTrouble> {
    [Some(&pair.current), pair.previous.as_ref()]
        .into_iter()
        .flatten()
        .map(|source| keys.read(source))
        .collect()
}
