//! Brings certificates from where settings say that they are.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use nf_transport_core::secure::{Pem, ReceiverTls, RevocationFile, SenderTls, TlsError};
use zeroize::Zeroizing;

use crate::config::{ReceiverTlsSettings, TlsFiles};
use crate::host::KeyTrouble;
use crate::host::credentials::keys;
use crate::limits::PEM_MAX;

/// Why there is no certificate to speak TLS with.
#[derive(Debug, thiserror::Error)]
pub enum TlsTrouble {
    /// The private key's file is no good.
    #[error("{0}")]
    Key(#[from] KeyTrouble),
    /// A file cannot be read.
    #[error("{}: cannot be read: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// What is in the files is no good.
    #[error("[tls] {error} ({})", files.iter().map(|file| file.display().to_string()).collect::<Vec<_>>().join(", "))]
    Useless {
        /// What is wrong.
        error: TlsError,
        /// The files.
        files: Vec<PathBuf>,
    },
}

/// What a sender brings to TLS.
pub fn read_sender_tls(files: &TlsFiles, server_name: Option<&str>) -> Result<SenderTls, TlsTrouble> {
    let texts = Texts::read(files)?;
    SenderTls::new(texts.pem(), server_name).map_err(useless(files, &[]))
}

/// What a receiver brings to TLS.
pub fn read_receiver_tls(settings: &ReceiverTlsSettings) -> Result<ReceiverTls, TlsTrouble> {
    let texts = Texts::read(&settings.files)?;
    let file = |path: &PathBuf| Ok(RevocationFile { path: path.clone(), text: read(path)? });
    let revoked = settings.revoked.iter().map(file).collect::<Result<Vec<_>, TlsTrouble>>()?;
    ReceiverTls::new(texts.pem(), &revoked, settings.senders.clone())
        .map_err(useless(&settings.files, &settings.revoked))
}

fn useless(files: &TlsFiles, more: &[PathBuf]) -> impl FnOnce(TlsError) -> TlsTrouble {
    let files = [&files.authority, &files.certificate, &files.key].into_iter().chain(more).cloned().collect();
    |error| TlsTrouble::Useless { error, files }
}

/// What the PEM files of one side hold.
struct Texts {
    authority: Vec<u8>,
    certificate: Vec<u8>,
    key: Zeroizing<Vec<u8>>,
}

impl Texts {
    fn read(files: &TlsFiles) -> Result<Self, TlsTrouble> {
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

fn read(path: &Path) -> Result<Vec<u8>, TlsTrouble> {
    let mut bytes = Vec::new();
    let most = u64::try_from(PEM_MAX).unwrap_or(u64::MAX);
    let outcome = File::open(path).and_then(|file| file.take(most).read_to_end(&mut bytes));
    outcome.map_err(|source| TlsTrouble::Unreadable { path: path.to_owned(), source })?;
    Ok(bytes)
}
