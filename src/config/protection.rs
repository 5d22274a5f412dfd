//! Settings for authentication and encryption. They contain the place of a key, never the key itself.

use core::fmt;
use std::path::{Path, PathBuf};

use nf_transport_core::prefixes::Prefixes;
use nf_transport_core::secure::Suite;
use nf_transport_core::sequence::SenderId;

use crate::config::environment::Environment;
use crate::config::host_port::HostPort;
use crate::config::parsers;
use crate::config::reader::{Checked, Reader};
use crate::limits;

/// Name of the systemd credential with the shared key.
const KEY_CREDENTIAL: &str = "key";

/// Name of the systemd credential with the key of the spool.
const SPOOL_KEY_CREDENTIAL: &str = "spool-key";

/// The place of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeySource {
    /// Standard input, up to its end.
    StandardInput,
    /// A file that only its owner may read.
    File(PathBuf),
    /// A file that systemd passed in `$CREDENTIALS_DIRECTORY`.
    Credential(PathBuf),
}

impl KeySource {
    /// Returns the file that the service itself opens. systemd reads credentials for it.
    fn file(&self) -> Option<&Path> {
        match self {
            Self::File(path) => Some(path),
            Self::StandardInput | Self::Credential(_) => None,
        }
    }
}

impl fmt::Display for KeySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::StandardInput => f.write_str("the key on standard input"),
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Credential(path) => write!(f, "the credential {}", path.display()),
        }
    }
}

/// Protection of the connection from nf-sender to nf-receiver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SenderProtection {
    /// Plaintext, and to this machine only: the default without any setting.
    LoopbackOnly,
    /// Plaintext, as the operator requested it.
    Plaintext,
    /// Encryption with a shared key.
    Key {
        /// The place of the key.
        source: KeySource,
        /// The cipher.
        suite: Suite,
    },
    /// TLS.
    Tls {
        /// The PEM files.
        files: TlsFiles,
        /// The name in the receiver's certificate, if it differs from the receiver's host name.
        server_name: Option<String>,
    },
}

impl SenderProtection {
    /// Returns the files of keys and certificates.
    pub(super) fn files(&self) -> Vec<&Path> {
        match self {
            Self::LoopbackOnly | Self::Plaintext => Vec::new(),
            Self::Key { source, .. } => source.file().into_iter().collect(),
            Self::Tls { files, .. } => files.all().into(),
        }
    }
}

/// PEM files of one side of TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// Certificates of the authorities that sign the peer's certificate.
    pub authority: PathBuf,
    /// This side's certificate.
    pub certificate: PathBuf,
    /// This side's private key.
    pub key: PathBuf,
}

impl TlsFiles {
    fn all(&self) -> [&Path; 3] {
        [&self.authority, &self.certificate, &self.key]
    }
}

/// The TLS settings of nf-receiver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReceiverTlsSettings {
    /// The PEM files.
    pub files: TlsFiles,
    /// PEM files with lists of revoked certificates.
    pub revoked: Vec<PathBuf>,
    /// Accepted names; empty accepts all that the authority signed.
    pub senders: Vec<SenderId>,
}

/// Credentials that nf-receiver accepts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReceiverProtection {
    /// Accept senders in clear text on any machine.
    pub plaintext: bool,
    /// Ciphers that senders may use; at least one.
    pub suites: Vec<Suite>,
    /// The shared key of all senders without a key of their own.
    pub shared: Option<KeyPair>,
    /// Senders with tables of their own, with unique ids.
    pub senders: Vec<SenderKeys>,
    /// TLS settings, if senders with certificates are accepted.
    pub tls: Option<ReceiverTlsSettings>,
}

impl ReceiverProtection {
    /// Returns whether any sender can authenticate.
    pub fn can_authenticate(&self) -> bool {
        self.shared.is_some() || !self.senders.is_empty() || self.tls.is_some()
    }

    /// Returns whether senders without a certificate can use the ids of those with one.
    pub(super) fn leaves_certificate_ids_open(&self) -> bool {
        let names_none = self.tls.as_ref().is_some_and(|tls| tls.senders.is_empty());
        names_none && (self.shared.is_some() || self.plaintext)
    }

    /// Returns the files of keys and certificates.
    pub(super) fn files(&self) -> Vec<&Path> {
        let pairs = self.shared.iter().chain(self.senders.iter().filter_map(|sender| sender.keys.as_ref()));
        let keys =
            pairs.flat_map(|pair| [pair.current.file(), pair.previous.as_ref().and_then(KeySource::file)]);
        let tls = self.tls.iter().flat_map(|tls| {
            let revoked = tls.revoked.iter().map(PathBuf::as_path);
            tls.files.all().into_iter().chain(revoked)
        });
        keys.flatten().chain(tls).collect()
    }
}

/// The places of a key and of the previous one, which is accepted as well while senders change over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyPair {
    /// The current key.
    pub current: KeySource,
    /// The previous key.
    pub previous: Option<KeySource>,
}

/// A sender with a table of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SenderKeys {
    /// The sender's id, which no other key authenticates.
    pub id: SenderId,
    /// The sender's key; `None` if only a certificate authenticates it.
    pub keys: Option<KeyPair>,
    /// The receiver address in the sender's tokens; `None` if `invite` guesses it.
    pub address: Option<HostPort>,
    /// Exporters whose datagrams the sender may deliver.
    pub exporters: Prefixes,
}

/// Encryption of the spool. The keys decrypt existing data even if new data is not encrypted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpoolEncryption {
    /// Encrypt data written to disk; requires a `current` key.
    pub encrypt: bool,
    /// The current key.
    pub current: Option<KeySource>,
    /// The previous key.
    pub previous: Option<KeySource>,
}

impl SpoolEncryption {
    /// Returns the files of the keys.
    pub(super) fn files(&self) -> impl Iterator<Item = &Path> {
        self.current.iter().chain(&self.previous).filter_map(KeySource::file)
    }
}

pub(super) fn read_spool(reader: &mut Reader<'_>, environment: &Environment) -> Option<SpoolEncryption> {
    let encrypt = reader.read("encrypt", false, parsers::boolean);
    let file = reader.optional("key-file", parsers::path);
    let previous = previous_key(reader);
    let credential = || environment.credential(SPOOL_KEY_CREDENTIAL).map(KeySource::Credential);
    let (encrypt, current) = (encrypt?, file?.map(KeySource::File).or_else(credential));
    if encrypt && current.is_none() {
        reader.reject_without(
            "encrypt",
            "key-file (nf-sender keygen makes keys) or the systemd credential spool-key",
        );
    }
    Some(SpoolEncryption { encrypt, current, previous: previous? })
}

/// Returns the place of the key of either side, if any: of -k and `key-file` the one that takes precedence,
/// else the credential.
fn key_source(reader: &mut Reader<'_>, environment: &Environment) -> Checked<Option<KeySource>> {
    // Both are read before either is judged, so that an error in one does not make the other unknown.
    let typed = reader.optional_secret("key", parsers::standard_input);
    let file = reader.optional("key-file", parsers::path);
    let typed = typed?.map(|()| KeySource::StandardInput);
    let file = file?.map(KeySource::File);
    Some(match (typed, file) {
        (Some(typed), Some(file)) => {
            Some(if reader.takes_precedence("key", "key-file")? { typed } else { file })
        }
        (typed, file) => typed.or(file).or_else(|| credential(environment)),
    })
}

fn credential(environment: &Environment) -> Option<KeySource> {
    environment.credential(KEY_CREDENTIAL).map(KeySource::Credential)
}

pub(super) fn read_sender(reader: &mut Reader<'_>, environment: &Environment) -> Option<SenderProtection> {
    let plaintext = reader.read("plaintext", false, parsers::boolean);
    let source = key_source(reader, environment);
    let suite = reader.read("cipher", Suite::Blowfish.name(), parsers::one_of(Suite::NAMED));
    let tls = reader.section("tls", |reader| {
        let files = tls_files(reader);
        let server_name = reader.optional("server-name", parsers::any_text);
        Some((files?, server_name?))
    });
    let (plaintext, source, suite, (tls, server_name)) = (plaintext?, source?, suite?, tls?);
    // Each alternative with the key that selects it. A credential applies only if no other setting does.
    let mut alternatives: Vec<(&str, SenderProtection)> = Vec::new();
    if plaintext {
        alternatives.push(("plaintext", SenderProtection::Plaintext));
    }
    if let Some(files) = tls {
        alternatives.push(("tls.certificate", SenderProtection::Tls { files, server_name }));
    }
    match source {
        Some(source @ KeySource::StandardInput) => {
            alternatives.push(("key", SenderProtection::Key { source, suite }));
        }
        Some(source @ KeySource::File(_)) => {
            alternatives.push(("key-file", SenderProtection::Key { source, suite }));
        }
        Some(source @ KeySource::Credential(_)) if alternatives.is_empty() => {
            return Some(SenderProtection::Key { source, suite });
        }
        _ => {}
    }
    let mut alternatives = alternatives.into_iter();
    let Some(mut chosen) = alternatives.next() else { return Some(SenderProtection::LoopbackOnly) };
    for other in alternatives {
        if !reader.takes_precedence(chosen.0, other.0)? {
            chosen = other;
        }
    }
    Some(chosen.1)
}

/// Reads the PEM files of a `[tls]` table: all three, or none.
fn tls_files(reader: &mut Reader<'_>) -> Checked<Option<TlsFiles>> {
    let authority = reader.optional("authority", parsers::path)?;
    let certificate = reader.optional("certificate", parsers::path)?;
    let key = reader.optional("key", parsers::path)?;
    match (authority, certificate, key) {
        (None, None, None) => Some(None),
        (Some(authority), Some(certificate), Some(key)) => {
            Some(Some(TlsFiles { authority, certificate, key }))
        }
        (authority, certificate, key) => {
            let missing = [("authority", authority), ("certificate", certificate), ("key", key)];
            for (name, _) in missing.into_iter().filter(|(_, path)| path.is_none()) {
                reader.reject_missing(name);
            }
            None
        }
    }
}

pub(super) fn read_receiver(
    reader: &mut Reader<'_>,
    environment: &Environment,
) -> Option<ReceiverProtection> {
    let plaintext = reader.read("plaintext", false, parsers::boolean);
    let current = key_source(reader, environment);
    let previous = previous_key(reader);
    let names = Suite::NAMED.map(|(name, _)| name);
    let suites = reader.list("ciphers", names, 1..=names.len(), parsers::one_of(Suite::NAMED));
    let tls = reader.section("tls", |reader| {
        let Some(files) = tls_files(reader)? else { return Some(None) };
        let revoked = reader.list("revoked", [], 0..=limits::REVOKED_MAX, parsers::path);
        let senders = reader.list("senders", [], 0..=limits::SENDERS_MAX, parsers::sender_id);
        Some(Some(ReceiverTlsSettings { files, revoked: revoked?, senders: senders? }))
    });
    // Tables without a key are not judged if [tls] is invalid.
    let needs_key = matches!(tls, Some(None));
    let read = |reader: &mut Reader<'_>| read_sender_keys(reader, needs_key);
    let senders = reader.tables("sender", "id", [], 0..=limits::SENDERS_MAX, read);
    let (current, previous) = (current?, previous?);
    if current.is_none() && previous.is_some() {
        reader.reject_without("previous-key-file", "key-file");
    }
    let senders = senders?;
    reader.reject_duplicates("sender", "id", senders.iter().map(|sender| sender.id.as_str()));
    if let Some(Some(tls)) = &tls {
        reject_unlisted(reader, &senders, &tls.senders);
    }
    Some(ReceiverProtection {
        plaintext: plaintext?,
        suites: suites?,
        shared: current.map(|current| KeyPair { current, previous }),
        senders,
        tls: tls?,
    })
}

fn previous_key(reader: &mut Reader<'_>) -> Checked<Option<KeySource>> {
    Some(reader.optional("previous-key-file", parsers::path)?.map(KeySource::File))
}

fn read_sender_keys(reader: &mut Reader<'_>, needs_key: bool) -> Option<SenderKeys> {
    let id = reader.required("id", parsers::sender_id);
    let current = if needs_key {
        reader.required("key-file", parsers::path).map(Some)
    } else {
        reader.optional("key-file", parsers::path)
    };
    let previous = previous_key(reader);
    let address = reader.optional("address", parsers::host_port);
    let exporters = reader.list("exporters", [], 0..=limits::PREFIXES_MAX, parsers::prefix);
    let (current, previous) = (current?, previous?);
    if current.is_none() && previous.is_some() {
        reader.reject_without("previous-key-file", "key-file");
    }
    let keys = current.map(|current| KeyPair { current: KeySource::File(current), previous });
    Some(SenderKeys { id: id?, keys, address: address?, exporters: exporters?.into() })
}

/// Rejects tables without a key whose id no certificate can have. `listed` are the names in the `tls`
/// section; if it is empty, every id is possible.
fn reject_unlisted(reader: &mut Reader<'_>, senders: &[SenderKeys], listed: &[SenderId]) {
    let unlisted = senders.iter().filter(|sender| sender.keys.is_none() && !listed.contains(&sender.id));
    for sender in unlisted.filter(|_| !listed.is_empty()) {
        let expected = "an id of tls.senders, or key-file next to it".to_owned();
        reader.reject_last("sender", "id", sender.id.as_str(), expected);
    }
}

#[cfg(test)]
mod tests;
