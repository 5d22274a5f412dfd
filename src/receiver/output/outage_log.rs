//! What the log says about a collector that takes nothing: one line when it begins and one when it is over, and
//! no more than one trouble in each [`LOG_INTERVAL`] however often it comes and goes.

use core::net::{IpAddr, SocketAddr};

use tokio::time::Instant;

use crate::config::WhenDown;
use crate::host::systemd::messages::receiver;
use crate::limits::LOG_INTERVAL;
use crate::status::count_of;

/// The trouble with one collector.
#[derive(Debug)]
pub(super) struct Trouble {
    /// What becomes of the datagrams.
    consequence: &'static str,
    /// What the log says is wrong now.
    told: Option<String>,
    /// When the log last said that something is wrong.
    when: Option<Instant>,
    /// Datagrams that were lost in the collector's own socket and are not told yet: dropped, and left unread.
    lost: (u64, u64),
    /// When the log last told of such.
    lost_when: Option<Instant>,
    /// Datagrams that the kernel refused to send and that are not logged yet.
    refused: u64,
    /// When the log last named such.
    refused_when: Option<Instant>,
}

impl Trouble {
    /// No trouble yet.
    pub(super) fn new(when_down: WhenDown) -> Self {
        let consequence = match when_down {
            WhenDown::Hold => "datagrams are held until it does",
            WhenDown::Skip => "datagrams are passed over until it does",
        };
        Self {
            consequence,
            told: None,
            when: None,
            lost: (0, 0),
            lost_when: None,
            refused: 0,
            refused_when: None,
        }
    }

    /// Nothing can be delivered to the collector, because of `reason`.
    pub(super) fn persists(&mut self, collector: SocketAddr, reason: &str) {
        let recently = self.when.is_some_and(|when| when.elapsed() < LOG_INTERVAL);
        if recently || self.told.as_deref() == Some(reason) {
            return;
        }
        tracing::warn!(
            message_id = receiver::COLLECTOR_DOWN,
            %collector,
            reason,
            "the collector {collector} takes nothing ({reason}): {}",
            self.consequence
        );
        self.told = Some(reason.to_owned());
        self.when = Some(Instant::now());
    }

    /// Of what the collector's socket was handed, `dropped` datagrams found its queue full, and up to `unread` were not read
    /// before it went away.
    pub(super) fn lost(&mut self, collector: SocketAddr, dropped: u64, unread: u64) {
        self.lost = (self.lost.0 + dropped, self.lost.1 + unread);
        if self.lost == (0, 0) || self.lost_when.is_some_and(|when| when.elapsed() < LOG_INTERVAL) {
            return;
        }
        let (dropped, unread) = core::mem::take(&mut self.lost);
        self.lost_when = Some(Instant::now());
        tracing::warn!(
            message_id = receiver::COLLECTOR_LOST,
            %collector,
            dropped,
            unread,
            "the collector {collector} lost what lay in its own socket: {} dropped as its queue was full, up to {} unread \
             when it went away",
            count_of(dropped, "datagram"),
            count_of(unread, "datagram")
        );
    }

    /// The kernel refuses to send datagrams of `exporter`, and one more of them was dropped.
    pub(super) fn refused(&mut self, collector: SocketAddr, exporter: IpAddr, reason: &str) {
        self.refused += 1;
        if self.refused_when.is_some_and(|when| when.elapsed() < LOG_INTERVAL) {
            return;
        }
        let refused = core::mem::take(&mut self.refused);
        self.refused_when = Some(Instant::now());
        tracing::warn!(
            message_id = receiver::DATAGRAMS_REFUSED,
            %collector,
            %exporter,
            refused,
            reason,
            "dropped {} for the collector {collector}, the last of exporter {exporter}: the kernel refused to send them \
             ({reason}): look at nft list ruleset, iptables-save and ip xfrm policy",
            count_of(refused, "datagram"),
        );
    }

    /// The collector takes datagrams.
    pub(super) fn over(&mut self, collector: SocketAddr) {
        if self.told.take().is_some() {
            tracing::info!(
                message_id = receiver::COLLECTOR_BACK,
                %collector,
                "the collector {collector} takes datagrams again"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn losses_are_told_at_once_and_then_summed_up_for_an_interval() {
        let collector = "192.0.2.1:9995".parse().unwrap();
        let mut trouble = Trouble::new(WhenDown::Hold);
        trouble.lost(collector, 0, 0);
        assert_eq!(trouble.lost_when, None);
        trouble.lost(collector, 3, 0);
        assert_eq!(trouble.lost, (0, 0));
        trouble.lost(collector, 1, 5);
        trouble.lost(collector, 2, 0);
        assert_eq!(trouble.lost, (3, 5));
        tokio::time::advance(LOG_INTERVAL).await;
        trouble.lost(collector, 0, 0);
        assert_eq!(trouble.lost, (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_trouble_is_told_once_and_another_one_not_before_the_interval_is_over() {
        let collector = "192.0.2.1:9995".parse().unwrap();
        let mut trouble = Trouble::new(WhenDown::Hold);
        trouble.persists(collector, "one");
        assert_eq!(trouble.told.as_deref(), Some("one"));
        trouble.over(collector);
        trouble.persists(collector, "two");
        assert_eq!(trouble.told, None);
        tokio::time::advance(LOG_INTERVAL / 2).await;
        trouble.persists(collector, "two");
        assert_eq!(trouble.told, None);
        tokio::time::advance(LOG_INTERVAL / 2).await;
        trouble.persists(collector, "two");
        assert_eq!(trouble.told.as_deref(), Some("two"));
    }
}
