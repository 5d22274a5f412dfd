//! Metrics of the own certificate and of revocation lists.

use core::fmt;
use std::collections::BTreeMap;

use crate::status::metrics::encoder::Metrics;
use crate::status::{CertificateStatus, RevocationStatus};

impl Metrics<'_> {
    pub(super) fn certificate(&mut self, certificate: Option<&CertificateStatus>) -> fmt::Result {
        let Some(certificate) = certificate else { return Ok(()) };
        let help = "Expiry of the own certificate, in seconds since 1970-01-01";
        self.gauge("certificate_not_after_seconds", help, certificate.not_after)
    }

    /// Age and expiry of the revocation lists. Of several lists in one file, the oldest and the first to
    /// expire count.
    pub(super) fn revocation_lists(&mut self, lists: &[RevocationStatus]) -> fmt::Result {
        let (mut ages, mut ends) = (BTreeMap::new(), BTreeMap::new());
        for list in lists {
            let age = ages.entry(list.file.as_str()).or_insert(list.age_s);
            *age = list.age_s.max(*age);
            if let Some(expires_s) = list.expires_s {
                let end = ends.entry(list.file.as_str()).or_insert(expires_s);
                *end = expires_s.min(*end);
            }
        }
        let help = "Seconds since the revocation list was issued, by file";
        self.gauges(("revocation_list_age_seconds", help), "file", ages)?;
        let help = "Seconds until the revocation list expires, by file; negative once it has expired";
        self.gauges(("revocation_list_expires_in_seconds", help), "file", ends)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::receiver_metrics;
    use crate::status::samples::receiver;

    #[test]
    fn the_first_list_to_expire_counts() {
        let mut status = receiver();
        let list = status.revocation_lists[0].clone();
        status.revocation_lists.push(RevocationStatus { expires_s: Some(-60), ..list.clone() });
        status.revocation_lists.push(RevocationStatus { expires_s: None, age_s: 7, ..list });
        let text = receiver_metrics(status);
        let samples: Vec<_> =
            text.lines().filter(|line| line.starts_with("nf_receiver_revocation_list_")).collect();
        let expected = [
            "nf_receiver_revocation_list_age_seconds{file=\"/etc/crl\"} 90000",
            "nf_receiver_revocation_list_expires_in_seconds{file=\"/etc/crl\"} -60",
        ];
        assert_eq!(samples, expected);
    }
}
