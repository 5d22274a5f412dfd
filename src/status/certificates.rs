//! The status of the own certificate and of revocation lists.

use nf_transport_core::datagram::Timestamp;
use nf_transport_core::secure::{Certificate, RevocationList};
use serde::{Deserialize, Serialize};

/// The service's own certificate, with TLS.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertificateStatus {
    /// The name in it, if that is a valid sender id.
    pub name: Option<String>,
    /// Expiry, in seconds since 1970-01-01.
    pub not_after: i64,
    /// Seconds until it expires; negative once it has expired.
    pub expires_s: i64,
}

impl CertificateStatus {
    /// The status of `certificate` at `now`.
    pub fn of(certificate: &Certificate, now: Timestamp) -> Self {
        Self {
            name: certificate.name.as_ref().map(ToString::to_string),
            not_after: certificate.not_after,
            expires_s: certificate.not_after.saturating_sub(now.seconds()),
        }
    }
}

/// A list of revoked certificates (CRL).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevocationStatus {
    /// The file that holds it.
    pub file: String,
    /// Time at which its authority issued it, in seconds since 1970-01-01.
    pub this_update: i64,
    /// Seconds since then; negative if that is in the future.
    pub age_s: i64,
    /// Time by which its authority issues the next one, in seconds since 1970-01-01; `None` if the list names
    /// none.
    pub next_update: Option<i64>,
    /// Seconds until then; negative once it has expired.
    pub expires_s: Option<i64>,
}

impl RevocationStatus {
    /// The status of `list` at `now`.
    pub fn of(list: &RevocationList, now: Timestamp) -> Self {
        Self {
            file: list.path.display().to_string(),
            this_update: list.this_update,
            age_s: now.seconds().saturating_sub(list.this_update),
            next_update: list.next_update,
            expires_s: list.next_update.map(|next| next.saturating_sub(now.seconds())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_revocation_list_has_age_and_expiry() {
        let list = |next_update| RevocationList { path: "/crl".into(), this_update: 1000, next_update };
        let now = Timestamp::from_unix(core::time::Duration::from_secs(1600));
        let status = RevocationStatus::of(&list(Some(1500)), now);
        assert_eq!((status.age_s, status.next_update, status.expires_s), (600, Some(1500), Some(-100)));
        assert_eq!(RevocationStatus::of(&list(None), now).expires_s, None);
    }
}
