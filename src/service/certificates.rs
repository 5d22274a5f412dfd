//! Brings certificates from where settings say that they are, and warns before they end.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::Instant;
use zeroize::Zeroizing;

use crate::config::{ReceiverTlsSettings, TlsFiles};
use crate::limits::{CERTIFICATE_WARNING, PEM_MAX};
use crate::secure::{Certificate, Pem, ReceiverTls, SenderTls, TlsError};
use crate::service::{KeyTrouble, keys, wall_clock};

/// How often the end of a certificate is warned of.
const WARN_EVERY: Duration = Duration::from_secs(86_400);

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
    let revoked = settings.revoked.iter().map(|path| read(path)).collect::<Result<Vec<_>, _>>()?;
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

fn now() -> i64 {
    wall_clock().seconds()
}

/// Warns, once a day, of a certificate that ends soon.
#[derive(Debug)]
pub struct ExpiryWatch {
    message_id: &'static str,
    /// When which certificate was warned of.
    warned: Option<(Instant, Certificate)>,
}

impl ExpiryWatch {
    /// A watch that warns under this number.
    pub fn new(message_id: &'static str) -> Self {
        Self { message_id, warned: None }
    }

    /// To be called now and then with the own certificate, if there is one.
    pub fn look_at(&mut self, certificate: Option<&Certificate>) {
        if let Some(left) = certificate.and_then(|certificate| self.is_due(certificate)) {
            tracing::warn!(
                message_id = self.message_id,
                "{}: nothing is delivered from then on: renew it and reload (systemctl reload)",
                sentence(left)
            );
        }
    }

    /// Seconds left to a certificate that is to be warned of now.
    fn is_due(&mut self, certificate: &Certificate) -> Option<i64> {
        let left = certificate.not_after.saturating_sub(now());
        let is_soon = u64::try_from(left).unwrap_or(0) <= CERTIFICATE_WARNING.as_secs();
        let was_warned =
            self.warned.as_ref().is_some_and(|(at, of)| of == certificate && at.elapsed() < WARN_EVERY);
        if !is_soon || was_warned {
            return None;
        }
        self.warned = Some((Instant::now(), certificate.clone()));
        Some(left)
    }
}

fn sentence(left: i64) -> String {
    let days = left / 86_400;
    match left {
        ..=0 => "the own certificate has expired".to_owned(),
        1..86_400 => "the own certificate expires within a day".to_owned(),
        _ => format!("the own certificate expires in {days} day{}", if days == 1 { "" } else { "s" }),
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    fn ending_in(seconds: i64) -> Certificate {
        Certificate { name: None, not_after: now() + seconds }
    }

    #[tokio::test(start_paused = true)]
    async fn a_certificate_is_warned_of_once_a_day_in_its_last_14_days_and_after() {
        let mut watch = ExpiryWatch::new("");
        assert_eq!(watch.is_due(&ending_in(15 * 86_400)), None);
        for left in [13 * 86_400, -5] {
            let certificate = ending_in(left);
            assert!(watch.is_due(&certificate).is_some());
            assert_eq!(watch.is_due(&certificate), None);
            advance(WARN_EVERY).await;
            assert!(watch.is_due(&certificate).is_some());
        }
        assert!(watch.is_due(&ending_in(7)).is_some(), "another certificate");
    }

    #[test]
    fn the_time_that_is_left_is_said_in_days() {
        assert_eq!(sentence(3 * 86_400 + 5), "the own certificate expires in 3 days");
        assert_eq!(sentence(86_400), "the own certificate expires in 1 day");
        assert_eq!(sentence(60), "the own certificate expires within a day");
        assert_eq!(sentence(-60), "the own certificate has expired");
    }
}
