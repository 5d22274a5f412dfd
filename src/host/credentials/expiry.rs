//! Warns before certificates and revocation lists expire.

use std::collections::HashMap;
use std::time::Duration;

use nf_transport_core::datagram::Timestamp;
use nf_transport_core::secure::{Certificate, RevocationList};
use tokio::time::Instant;

use crate::host::wall_clock;
use crate::limits::{CERTIFICATE_WARNING, REVOCATION_WARNING_PART};

/// Interval between warnings about the same expiry.
const WARN_EVERY: Duration = Duration::from_secs(86_400);

/// The expiry of a certificate or of a revocation list.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Expiry {
    subject: String,
    /// The moment in seconds since 1970-01-01.
    at: i64,
    /// Seconds before the expiry in which it is warned of.
    warn_before: i64,
    consequence: &'static str,
}

impl Expiry {
    /// Returns the expiry of this side's certificate.
    pub fn of_certificate(certificate: &Certificate) -> Self {
        Self {
            subject: "the certificate of this machine".to_owned(),
            at: certificate.not_after,
            warn_before: seconds(CERTIFICATE_WARNING),
            consequence: "nothing is delivered from then on: renew it and reload (systemctl reload)",
        }
    }

    /// Returns the expiry of a revocation list; `None` if its authority names none.
    pub fn of_list(list: &RevocationList) -> Option<Self> {
        let at = list.next_update?;
        let part = at.saturating_sub(list.this_update) / REVOCATION_WARNING_PART;
        Some(Self {
            subject: format!("the list of revoked certificates {}", list.path.display()),
            at,
            warn_before: part.clamp(0, seconds(CERTIFICATE_WARNING)),
            consequence: "certificates that were revoked since it was issued are accepted: install the \
                          authority's next list and reload (systemctl reload)",
        })
    }

    /// Returns the warning that is due at `now`, if any.
    pub fn warning(&self, now: Timestamp) -> Option<String> {
        let left = self.at.saturating_sub(now.seconds());
        (left <= self.warn_before).then(|| self.sentence(left))
    }

    fn sentence(&self, left: i64) -> String {
        let days = left / 86_400;
        let Self { subject, consequence, .. } = self;
        match left {
            ..=0 => format!("{subject} has expired: {consequence}"),
            1..86_400 => format!("{subject} expires within a day: {consequence}"),
            _ => {
                format!("{subject} expires in {days} day{}: {consequence}", if days == 1 { "" } else { "s" })
            }
        }
    }
}

fn seconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_secs()).unwrap_or(i64::MAX)
}

/// Warns of each expiry once a day.
#[derive(Debug, Default)]
pub struct ExpiryWatch {
    /// The expiries that were warned of within [`WARN_EVERY`].
    warned: HashMap<Expiry, Instant>,
}

impl ExpiryWatch {
    /// Logs a warning about `expiry` under `message_id` if it is due. Callers repeat this regularly.
    pub fn look_at(&mut self, message_id: &'static str, expiry: &Expiry) {
        if let Some(warning) = self.due(expiry, wall_clock()) {
            tracing::warn!(message_id, "{warning}");
        }
    }

    fn due(&mut self, expiry: &Expiry, now: Timestamp) -> Option<String> {
        let warning = expiry.warning(now)?;
        self.warned.retain(|_, at| at.elapsed() < WARN_EVERY);
        if self.warned.contains_key(expiry) {
            return None;
        }
        self.warned.insert(expiry.clone(), Instant::now());
        Some(warning)
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    const DAY: i64 = 86_400;

    fn at(seconds: i64) -> Timestamp {
        Timestamp(u64::try_from(seconds).unwrap() * 1_000_000_000)
    }

    fn certificate(not_after: i64) -> Expiry {
        Expiry::of_certificate(&Certificate { name: None, not_after })
    }

    fn list(this_update: i64, next_update: i64) -> Expiry {
        let next_update = Some(next_update);
        Expiry::of_list(&RevocationList { path: "/crl".into(), this_update, next_update }).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn certificates_are_warned_of_daily_for_14_days() {
        let mut watch = ExpiryWatch::default();
        let end = certificate(1000 * DAY);
        assert_eq!(watch.due(&end, at(985 * DAY)), None);
        for now in [987, 1001] {
            assert!(watch.due(&end, at(now * DAY)).is_some());
            assert_eq!(watch.due(&end, at(now * DAY)), None);
            advance(WARN_EVERY).await;
            assert!(watch.due(&end, at(now * DAY)).is_some());
            advance(WARN_EVERY).await;
        }
        assert!(watch.due(&end, at(1001 * DAY)).is_some());
        assert!(watch.due(&certificate(1002 * DAY), at(1001 * DAY)).is_some(), "another certificate");
    }

    #[tokio::test(start_paused = true)]
    async fn lists_and_certificates_warn_separately() {
        let mut watch = ExpiryWatch::default();
        let (certificate, list) = (certificate(5 * DAY), list(0, 5 * DAY));
        for _ in 0..2 {
            assert!(watch.due(&certificate, at(5 * DAY)).is_some());
            assert!(watch.due(&list, at(5 * DAY)).is_some());
            assert_eq!((watch.due(&certificate, at(5 * DAY)), watch.due(&list, at(5 * DAY))), (None, None));
            advance(WARN_EVERY).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn each_list_of_a_file_is_warned_of_once() {
        let mut watch = ExpiryWatch::default();
        let lists = [list(0, 5 * DAY), list(0, 6 * DAY)];
        let warnings = |watch: &mut ExpiryWatch| {
            lists
                .each_ref()
                .map(|list| usize::from(watch.due(list, at(6 * DAY)).is_some()))
                .iter()
                .sum::<usize>()
        };
        assert_eq!([(); 3].map(|()| warnings(&mut watch)), [2, 0, 0]);
        advance(WARN_EVERY).await;
        assert_eq!(warnings(&mut watch), 2);
    }

    #[test]
    fn lists_are_warned_of_in_their_last_tenth() {
        for (end, first) in [(1, 86_400 - 8_640), (7, 544_320), (3000, 2986 * DAY)] {
            let end = list(0, end * DAY);
            assert_eq!(end.warning(at(first - 1)), None);
            assert!(end.warning(at(first)).is_some());
        }
        let expired = list(0, DAY).warning(at(2 * DAY)).unwrap();
        assert!(
            expired.starts_with("the list of revoked certificates /crl has expired: certificates that"),
            "{expired}"
        );
    }

    #[test]
    fn warnings_state_the_remaining_days() {
        let warning = |left| certificate(1000 * DAY).warning(at(1000 * DAY - left)).unwrap();
        assert!(
            warning(3 * DAY + 5).starts_with("the certificate of this machine expires in 3 days: nothing")
        );
        assert!(warning(DAY).starts_with("the certificate of this machine expires in 1 day: nothing"));
        assert!(warning(60).starts_with("the certificate of this machine expires within a day: nothing"));
        assert!(warning(-60).starts_with("the certificate of this machine has expired: nothing"));
    }
}
