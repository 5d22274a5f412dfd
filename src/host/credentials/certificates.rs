//! Reads the certificates that the settings name.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use nf_transport_core::secure::{Pem, ReceiverTls, RevocationFile, SenderTls, TlsError};
use zeroize::Zeroizing;

use crate::config::{ReceiverTlsSettings, TlsFiles};
use crate::host::KeyFileError;
use crate::host::credentials::keys;
use crate::limits::PEM_MAX;

/// Errors in the files of TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsFileError {
    /// The file of the private key is unusable.
    #[error("{0}")]
    Key(#[from] KeyFileError),
    /// A file cannot be read.
    #[error("{}: cannot be read: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The content of the files is invalid.
    #[error("[tls] {error} ({})", names(files))]
    Invalid {
        /// The problem.
        error: TlsError,
        /// The files.
        files: Vec<PathBuf>,
    },
}

/// Lists `files` for a message.
fn names(files: &[PathBuf]) -> String {
    files.iter().map(|file| file.display().to_string()).collect::<Vec<_>>().join(", ")
}

/// Reads the TLS credentials of a sender.
pub fn read_sender_tls(files: &TlsFiles, server_name: Option<&str>) -> Result<SenderTls, TlsFileError> {
    let texts = Texts::read(files)?;
    SenderTls::new(texts.pem(), server_name).map_err(invalid(files, &[]))
}

/// Reads the TLS credentials of a receiver.
pub fn read_receiver_tls(settings: &ReceiverTlsSettings) -> Result<ReceiverTls, TlsFileError> {
    let texts = Texts::read(&settings.files)?;
    let file = |path: &PathBuf| Ok(RevocationFile { path: path.clone(), text: read(path)? });
    let revoked = settings.revoked.iter().map(file).collect::<Result<Vec<_>, TlsFileError>>()?;
    ReceiverTls::new(texts.pem(), &revoked, settings.senders.clone())
        .map_err(invalid(&settings.files, &settings.revoked))
}

fn invalid(files: &TlsFiles, more: &[PathBuf]) -> impl FnOnce(TlsError) -> TlsFileError {
    let files = [&files.authority, &files.certificate, &files.key].into_iter().chain(more).cloned().collect();
    |error| TlsFileError::Invalid { error, files }
}

/// The contents of the PEM files of one side.
struct Texts {
    authority: Vec<u8>,
    certificate: Vec<u8>,
    key: Zeroizing<Vec<u8>>,
}

impl Texts {
    fn read(files: &TlsFiles) -> Result<Self, TlsFileError> {
        Ok(Self {
            authority: read(&files.authority)?,
            certificate: read(&files.certificate)?,
            key: keys::read_private(&files.key, PEM_MAX)?,
        })
    }

    fn pem(&self) -> Pem<'_> {
        Pem { authority: &self.authority, certificate: &self.certificate, key: &self.key }
    }
}

fn read(path: &Path) -> Result<Vec<u8>, TlsFileError> {
    let mut bytes = Vec::new();
    let most = u64::try_from(PEM_MAX).unwrap_or(u64::MAX);
    let outcome = File::open(path).and_then(|file| file.take(most).read_to_end(&mut bytes));
    outcome.map_err(|source| TlsFileError::Unreadable { path: path.to_owned(), source })?;
    Ok(bytes)
}
