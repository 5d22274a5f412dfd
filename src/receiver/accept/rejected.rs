//! The peers whose connections were rejected, for the status. An operator finds there why a sender does not
//! connect.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use tokio::time::Instant;

use crate::limits::REJECTED_SHOWN;
use crate::status::RefusedStatus;

/// The last rejection of each peer. The peer whose last one is oldest makes room.
#[derive(Debug, Default)]
pub(crate) struct RejectedPeers {
    peers: HashMap<IpAddr, RejectedPeer>,
    count: u64,
}

#[derive(Debug)]
struct RejectedPeer {
    reason: String,
    count: u64,
    last: Instant,
}

impl RejectedPeers {
    /// Notes that a connection of `peer` was rejected.
    pub(crate) fn add(&mut self, peer: SocketAddr, reason: String) {
        let last = Instant::now();
        self.count += 1;
        if let Some(entry) = self.peers.get_mut(&peer.ip()) {
            *entry = RejectedPeer { reason, count: entry.count + 1, last };
            return;
        }
        if self.peers.len() >= REJECTED_SHOWN
            && let Some(oldest) = self.peers.iter().min_by_key(|(_, entry)| entry.last).map(|(peer, _)| *peer)
        {
            self.peers.remove(&oldest);
        }
        self.peers.insert(peer.ip(), RejectedPeer { reason, count: 1, last });
    }

    /// Returns the number of rejected connections.
    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    /// Returns the rows of the status, latest first.
    pub(crate) fn status(&self) -> Vec<RefusedStatus> {
        let row = |(peer, entry): (&IpAddr, &RejectedPeer)| RefusedStatus {
            peer: *peer,
            count: entry.count,
            last_s: entry.last.elapsed().as_secs(),
            reason: entry.reason.clone(),
        };
        let mut rows: Vec<RefusedStatus> = self.peers.iter().map(row).collect();
        rows.sort_by_key(|row| (row.last_s, row.peer));
        rows
    }
}

#[cfg(test)]
mod tests {
    use core::time::Duration;

    use tokio::time::advance;

    use super::*;

    fn peer(number: u8) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, number], 40_000))
    }

    #[tokio::test(start_paused = true)]
    async fn each_peer_has_one_row_latest_first() {
        let mut refused = RejectedPeers::default();
        refused.add(peer(1), "first".to_owned());
        refused.add(peer(2), "other".to_owned());
        advance(Duration::from_secs(5)).await;
        refused.add(peer(1), "second".to_owned());
        let rows = refused.status();
        let seen: Vec<_> = rows.iter().map(|row| (row.reason.as_str(), row.count, row.last_s)).collect();
        assert_eq!(seen, [("second", 2, 0), ("other", 1, 5)]);
    }

    #[tokio::test(start_paused = true)]
    async fn the_number_of_peers_is_bounded() {
        let mut refused = RejectedPeers::default();
        for number in 0..=u8::MAX {
            refused.add(peer(number), String::new());
            advance(Duration::from_secs(1)).await;
        }
        let rows = refused.status();
        assert_eq!((rows.len(), rows[0].peer), (REJECTED_SHOWN, peer(255).ip()));
    }
}
