//! Warns before certificates, and lists of revoked ones, expire.

use std::collections::HashMap;
use std::time::Duration;

use nf_transport_core::datagram::Timestamp;
use nf_transport_core::secure::{Certificate, RevocationList};
use tokio::time::Instant;

use crate::host::wall_clock;
use crate::limits::{CERTIFICATE_WARNING, REVOCATION_WARNING_PART};

/// How often the same end is warned of.
const WARN_EVERY: Duration = Duration::from_secs(86_400);

/// The end of a certificate or of a list of revoked ones.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Expiry {
    subject: String,
    /// In seconds since 1970-01-01.
    at: i64,
    /// Seconds before the end from which on it is warned of.
    warn_before: i64,
    consequence: &'static str,
}

impl Expiry {
    /// The end of the own certificate.
    pub fn of_certificate(certificate: &Certificate) -> Self {
        Self {
            subject: "the own certificate".to_owned(),
            at: certificate.not_after,
            warn_before: seconds(CERTIFICATE_WARNING),
            consequence: "nothing is delivered from then on: renew it and reload (systemctl reload)",
        }
    }

    /// The time by which the next list is due; `None` if its authority does not say.
    pub fn of_list(list: &RevocationList) -> Option<Self> {
        let at = list.next_update?;
        let part = at.saturating_sub(list.this_update) / REVOCATION_WARNING_PART;
        Some(Self {
            subject: format!("the list of revoked certificates {}", list.path.display()),
            at,
            warn_before: part.clamp(0, seconds(CERTIFICATE_WARNING)),
            consequence: "certificates that were revoked since it was issued are accepted: put the authority's next list \
                          there and reload (systemctl reload)",
        })
    }

    /// The warning that is due at `now`, if any is.
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

/// Warns of each end once a day.
#[derive(Debug, Default)]
pub struct ExpiryWatch {
    /// The ends that were warned of in the last [`WARN_EVERY`].
    warned: HashMap<Expiry, Instant>,
}

impl ExpiryWatch {
    /// Logs under `message_id` that `expiry` is near, if that is due. To be called now and then.
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
    async fn a_certificate_is_warned_of_once_a_day_in_its_last_14_days_and_after() {
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
    async fn a_list_is_warned_of_beside_the_certificate() {
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
    fn a_list_is_warned_of_in_the_last_tenth_of_its_time() {
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
    fn the_time_that_is_left_is_said_in_days() {
        let said = |left| certificate(1000 * DAY).warning(at(1000 * DAY - left)).unwrap();
        assert!(said(3 * DAY + 5).starts_with("the own certificate expires in 3 days: nothing"));
        assert!(said(DAY).starts_with("the own certificate expires in 1 day: nothing"));
        assert!(said(60).starts_with("the own certificate expires within a day: nothing"));
        assert!(said(-60).starts_with("the own certificate has expired: nothing"));
    }
}
