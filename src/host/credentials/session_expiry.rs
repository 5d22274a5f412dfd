//! Ends sessions whose certificates expire: the handshake checks certificates only once.

use core::future::pending;
use std::time::Duration;

use nf_transport_core::secure::{CertificateExpiry, Channel};
use tokio::time::sleep;

use crate::host::wall_clock;
use crate::limits::CERTIFICATE_CHECK;

/// The side whose certificate has expired.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExpiredCertificate {
    /// This side.
    Own,
    /// The peer.
    Peer,
}

/// The first expiry of the certificates of one connection.
///
/// A certificate that had expired when the session began does not end it: the peer accepted it, so the clocks
/// differ. Otherwise both sides would connect and disconnect repeatedly.
#[derive(Clone, Copy, Debug)]
pub struct SessionExpiry {
    /// The last second, since 1970-01-01, of the certificate that expires first, and its side.
    first: Option<(i64, ExpiredCertificate)>,
}

impl SessionExpiry {
    /// Returns the first expiry of the certificates of `channel`, over which a session begins now.
    pub fn of(channel: &Channel) -> Self {
        Self::at(channel.certificates(), wall_clock().seconds())
    }

    fn at(ends: Option<CertificateExpiry>, now: i64) -> Self {
        let both =
            ends.map(|ends| [(ends.peer, ExpiredCertificate::Peer), (ends.own, ExpiredCertificate::Own)]);
        let valid = both.into_iter().flatten().filter(|(until, _)| *until >= now);
        Self { first: valid.min_by_key(|(until, _)| *until) }
    }

    /// Waits until a certificate has expired.
    pub async fn expired(self) -> ExpiredCertificate {
        self.expired_by(|| wall_clock().seconds()).await
    }

    async fn expired_by(self, clock: impl Fn() -> i64) -> ExpiredCertificate {
        let Some((until, whose)) = self.first else { return pending().await };
        loop {
            let left = until.saturating_sub(clock());
            let Ok(left) = u64::try_from(left) else { return whose };
            // RFC 5280, section 4.1.2.5: valid through that second.
            sleep(Duration::from_secs(left.saturating_add(1)).min(CERTIFICATE_CHECK)).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{Instant, timeout};

    use super::*;

    const NOW: i64 = 1_900_000_000;
    const HOUR: Duration = Duration::from_secs(3600);

    /// Returns a correct clock for a test that began at `NOW`.
    fn right_clock() -> impl Fn() -> i64 {
        let began = Instant::now();
        move || NOW + i64::try_from(began.elapsed().as_secs()).unwrap()
    }

    fn ends(own: i64, peer: i64) -> SessionExpiry {
        SessionExpiry::at(Some(CertificateExpiry { own: NOW + own, peer: NOW + peer }), NOW)
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_ends_with_its_first_certificate() {
        for (own, peer, whose) in
            [(3600, 100, ExpiredCertificate::Peer), (100, 3600, ExpiredCertificate::Own)]
        {
            let began = Instant::now();
            assert_eq!(ends(own, peer).expired_by(right_clock()).await, whose);
            assert_eq!(began.elapsed().as_secs(), 101);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_clock_that_is_set_forward_ends_a_session() {
        let (began, clock) = (Instant::now(), right_clock());
        let set = move || if began.elapsed().as_secs() > 60 { clock() + 86_400 } else { clock() };
        assert_eq!(ends(7200, 3600).expired_by(set).await, ExpiredCertificate::Peer);
        assert!(began.elapsed() <= Duration::from_secs(60) + CERTIFICATE_CHECK);
    }

    #[tokio::test(start_paused = true)]
    async fn an_expired_certificate_ends_no_new_session() {
        let own_expired = timeout(HOUR, ends(-1, 86_400).expired_by(right_clock())).await;
        assert!(own_expired.is_err());
        let without = timeout(HOUR, SessionExpiry::at(None, NOW).expired_by(right_clock())).await;
        assert!(without.is_err());
    }
}
