//! Lines about certificates and internal errors, which both services have.

use crate::status::show::units::{grouped, span};
use crate::status::{CertificateStatus, RevocationStatus};

/// The line about internal errors; empty if there were none.
pub(super) fn internal_errors(count: u64) -> String {
    if count == 0 {
        return String::new();
    }
    format!("\ninternal errors: {}: report them, with the messages in the journal\n", grouped(count))
}

/// The line about the service's own certificate; empty without one.
pub(super) fn certificate(certificate: Option<&CertificateStatus>) -> String {
    let Some(certificate) = certificate else { return String::new() };
    match u64::try_from(certificate.expires_s) {
        Ok(left) => format!("\ncertificate: expires in {}\n", span(left)),
        Err(_) => "\ncertificate: EXPIRED: nothing is delivered; renew it and reload\n".to_owned(),
    }
}

/// The age and the expiry of each list of revoked certificates.
pub(super) fn revocation_lists(lists: &[RevocationStatus]) -> String {
    let line = |list: &RevocationStatus| {
        let age = span(u64::try_from(list.age_s).unwrap_or_default());
        let end = match list.expires_s.map(u64::try_from) {
            None => String::new(),
            Some(Ok(left)) => format!(", expires in {}", span(left)),
            Some(Err(_)) => {
                ", EXPIRED: certificates revoked since then are accepted; install the next list and reload"
                    .to_owned()
            }
        };
        format!("revoked certificates {}: issued {age} ago{end}\n", list.file)
    };
    let lines: String = lists.iter().map(line).collect();
    if lines.is_empty() { lines } else { format!("\n{lines}") }
}
