//! What protects the way between the two sides: a key, or nothing. Settings say where a key is to be found, and
//! never hold it.

use core::fmt;
use std::path::{Path, PathBuf};

use nf_transport_core::prefixes::Prefixes;
use nf_transport_core::secure::Suite;
use nf_transport_core::sequence::SenderId;

use crate::config::reader::{Noted, Reader};
use crate::config::{HostPort, Surroundings, parsers};
use crate::limits;

/// Name of the systemd credential that holds the shared key.
const KEY_CREDENTIAL: &str = "key";

/// Name of the systemd credential that holds the key of the spool.
const SPOOL_KEY_CREDENTIAL: &str = "spool-key";

/// Where a key is to be found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeySource {
    /// On standard input, up to its end.
    StandardInput,
    /// In a file that nobody else may read.
    File(PathBuf),
    /// In a file that systemd passed in `$CREDENTIALS_DIRECTORY`.
    Credential(PathBuf),
}

impl KeySource {
    /// The file that the service itself opens; credentials are read for it.
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

/// How nf-sender protects what it sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SenderProtection {
    /// Nothing was said: in clear text, and to this machine only.
    LoopbackOnly,
    /// In clear text, as the operator wants it.
    Plaintext,
    /// By a shared key.
    Key {
        /// Where the key is.
        source: KeySource,
        /// What it is used with.
        suite: Suite,
    },
    /// By TLS.
    Tls {
        /// The PEM files.
        files: TlsFiles,
        /// What the receiver's certificate must be called, if not like the receiver.
        server_name: Option<String>,
    },
}

impl SenderProtection {
    /// The files of keys and certificates.
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
    /// Certificates of those who sign the other side's.
    pub authority: PathBuf,
    /// The own certificate.
    pub certificate: PathBuf,
    /// The own private key.
    pub key: PathBuf,
}

impl TlsFiles {
    fn all(&self) -> [&Path; 3] {
        [&self.authority, &self.certificate, &self.key]
    }
}

/// How nf-receiver speaks TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReceiverTlsSettings {
    /// The PEM files.
    pub files: TlsFiles,
    /// PEM files with lists of certificates that were revoked.
    pub revoked: Vec<PathBuf>,
    /// Names that are let in; empty: all that the authority signed.
    pub senders: Vec<SenderId>,
}

/// Whom nf-receiver lets in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReceiverProtection {
    /// Whether senders on any machine are let in in clear text.
    pub plaintext: bool,
    /// Ciphers that senders may use; at least one.
    pub suites: Vec<Suite>,
    /// The key of all senders that have none of their own.
    pub shared: Option<KeyPair>,
    /// Senders with tables of their own; no two have one id.
    pub senders: Vec<SenderKeys>,
    /// How senders with certificates are let in, if they are.
    pub tls: Option<ReceiverTlsSettings>,
}

impl ReceiverProtection {
    /// Whether any sender can prove who it is.
    pub fn has_proofs(&self) -> bool {
        self.shared.is_some() || !self.senders.is_empty() || self.tls.is_some()
    }

    /// Whether senders without a certificate can take the ids of those with one.
    pub(super) fn takes_unreserved_ids(&self) -> bool {
        let names_none = self.tls.as_ref().is_some_and(|tls| tls.senders.is_empty());
        names_none && (self.shared.is_some() || self.plaintext)
    }

    /// The files of keys and certificates.
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

/// Where a key is to be found, and the one before it, which is let in as well while senders change over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyPair {
    /// The key.
    pub current: KeySource,
    /// The key before it.
    pub previous: Option<KeySource>,
}

/// A sender with a table of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SenderKeys {
    /// Its id, which no other key authenticates.
    pub id: SenderId,
    /// Its key; `None` if only a certificate authenticates it.
    pub keys: Option<KeyPair>,
    /// The address that its tokens name; `None` if that is guessed.
    pub address: Option<HostPort>,
    /// Exporters whose datagrams it may deliver.
    pub exporters: Prefixes,
}

/// Whether the spool is encrypted, and where its keys are. Keys open what is there, whether more is encrypted or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpoolEncryption {
    /// Whether what goes to disk is encrypted; only with a `current` key.
    pub encrypt: bool,
    /// The key.
    pub current: Option<KeySource>,
    /// The key before it.
    pub previous: Option<KeySource>,
}

impl SpoolEncryption {
    /// The files of its keys.
    pub(super) fn files(&self) -> impl Iterator<Item = &Path> {
        self.current.iter().chain(&self.previous).filter_map(KeySource::file)
    }
}

pub(super) fn read_spool(reader: &mut Reader<'_>, surroundings: &Surroundings) -> Option<SpoolEncryption> {
    let encrypt = reader.take("encrypt", false, parsers::boolean);
    let file = reader.optional("key-file", parsers::path);
    let previous = previous_key(reader);
    let credential = || surroundings.credential(SPOOL_KEY_CREDENTIAL).map(KeySource::Credential);
    let (encrypt, current) = (encrypt?, file?.map(KeySource::File).or_else(credential));
    if encrypt && current.is_none() {
        reader.refuse_alone(
            "encrypt",
            "key-file (nf-sender keygen makes keys) or the systemd credential spool-key",
        );
    }
    Some(SpoolEncryption { encrypt, current, previous: previous? })
}

/// Where the key of either side is, if it has one: what was said last of -k and `key-file`, else the credential.
fn key_source(reader: &mut Reader<'_>, surroundings: &Surroundings) -> Noted<Option<KeySource>> {
    // Both are read before either is judged, so that a mistake in one does not make the other unknown.
    let typed = reader.optional_secret("key", parsers::standard_input);
    let file = reader.optional("key-file", parsers::path);
    let typed = typed?.map(|()| KeySource::StandardInput);
    let file = file?.map(KeySource::File);
    Some(match (typed, file) {
        (Some(typed), Some(file)) => Some(if reader.chosen("key", "key-file")? { typed } else { file }),
        (typed, file) => typed.or(file).or_else(|| credential(surroundings)),
    })
}

fn credential(surroundings: &Surroundings) -> Option<KeySource> {
    surroundings.credential(KEY_CREDENTIAL).map(KeySource::Credential)
}

pub(super) fn read_sender(reader: &mut Reader<'_>, surroundings: &Surroundings) -> Option<SenderProtection> {
    let plaintext = reader.take("plaintext", false, parsers::boolean);
    let source = key_source(reader, surroundings);
    let suite = reader.take("cipher", Suite::Blowfish.name(), parsers::one_of(Suite::NAMED));
    let tls = reader.section("tls", |reader| {
        let files = tls_files(reader);
        let server_name = reader.optional("server-name", parsers::text_of_any_kind);
        Some((files?, server_name?))
    });
    let (plaintext, source, suite, (tls, server_name)) = (plaintext?, source?, suite?, tls?);
    // Each alternative with the key that asks for it; a credential gives way to all that was said.
    let mut said: Vec<(&str, SenderProtection)> = Vec::new();
    if plaintext {
        said.push(("plaintext", SenderProtection::Plaintext));
    }
    if let Some(files) = tls {
        said.push(("tls.certificate", SenderProtection::Tls { files, server_name }));
    }
    match source {
        Some(source @ KeySource::StandardInput) => {
            said.push(("key", SenderProtection::Key { source, suite }));
        }
        Some(source @ KeySource::File(_)) => said.push(("key-file", SenderProtection::Key { source, suite })),
        Some(source @ KeySource::Credential(_)) if said.is_empty() => {
            return Some(SenderProtection::Key { source, suite });
        }
        _ => {}
    }
    let mut said = said.into_iter();
    let Some(mut chosen) = said.next() else { return Some(SenderProtection::LoopbackOnly) };
    for other in said {
        if !reader.chosen(chosen.0, other.0)? {
            chosen = other;
        }
    }
    Some(chosen.1)
}

/// The PEM files of a `[tls]` table: all three, or none.
fn tls_files(reader: &mut Reader<'_>) -> Noted<Option<TlsFiles>> {
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
                reader.note_missing(name);
            }
            None
        }
    }
}

pub(super) fn read_receiver(
    reader: &mut Reader<'_>,
    surroundings: &Surroundings,
) -> Option<ReceiverProtection> {
    let plaintext = reader.take("plaintext", false, parsers::boolean);
    let current = key_source(reader, surroundings);
    let previous = previous_key(reader);
    let names = Suite::NAMED.map(|(name, _)| name);
    let suites = reader.list("ciphers", names, 1..=names.len(), parsers::one_of(Suite::NAMED));
    let tls = reader.section("tls", |reader| {
        let Some(files) = tls_files(reader)? else { return Some(None) };
        let revoked = reader.list("revoked", [], 0..=limits::REVOKED_MAX, parsers::path);
        let senders = reader.list("senders", [], 0..=limits::SENDERS_MAX, parsers::sender_id);
        Some(Some(ReceiverTlsSettings { files, revoked: revoked?, senders: senders? }))
    });
    // Tables without a key are not judged if [tls] cannot be read.
    let needs_key = matches!(tls, Some(None));
    let read = |reader: &mut Reader<'_>| read_sender_keys(reader, needs_key);
    let senders = reader.tables("sender", "id", [], 0..=limits::SENDERS_MAX, read);
    let (current, previous) = (current?, previous?);
    if current.is_none() && previous.is_some() {
        reader.refuse_alone("previous-key-file", "key-file");
    }
    let senders = senders?;
    reader.refuse_twice("sender", "id", senders.iter().map(|sender| sender.id.as_str()));
    if let Some(Some(tls)) = &tls {
        refuse_unlisted(reader, &senders, &tls.senders);
    }
    Some(ReceiverProtection {
        plaintext: plaintext?,
        suites: suites?,
        shared: current.map(|current| KeyPair { current, previous }),
        senders,
        tls: tls?,
    })
}

fn previous_key(reader: &mut Reader<'_>) -> Noted<Option<KeySource>> {
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
        reader.refuse_alone("previous-key-file", "key-file");
    }
    let keys = current.map(|current| KeyPair { current: KeySource::File(current), previous });
    Some(SenderKeys { id: id?, keys, address: address?, exporters: exporters?.into() })
}

/// Refuses tables without a key whose id no certificate can have: `listed` are those of the `tls` section, all if it is empty.
fn refuse_unlisted(reader: &mut Reader<'_>, senders: &[SenderKeys], listed: &[SenderId]) {
    let unlisted = senders.iter().filter(|sender| sender.keys.is_none() && !listed.contains(&sender.id));
    for sender in unlisted.filter(|_| !listed.is_empty()) {
        let expected = "an id of tls.senders, or key-file next to it".to_owned();
        reader.refuse_last("sender", "id", sender.id.as_str(), expected);
    }
}

#[cfg(test)]
mod tests;
