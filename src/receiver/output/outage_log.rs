//! Log lines about a collector that is down: one when the outage begins and one when it ends. At most one
//! outage is logged in each `LOG_INTERVAL`.

use core::net::{IpAddr, SocketAddr};

use tokio::time::Instant;

use crate::config::WhenDown;
use crate::host::systemd::messages::receiver;
use crate::host::{LogInterval, LoggedCount};
use crate::receiver::output::down_reason::DownReason;
use crate::receiver::output::system_error::SystemError;
use crate::status::count_of;

/// Outage state of one collector, for the log.
#[derive(Debug)]
pub(super) struct OutageLog {
    /// Consequence for the datagrams, as the log states it.
    consequence: &'static str,
    /// Reason of the current outage, if it was logged.
    logged_reason: Option<DownReason>,
    outages: LogInterval,
    /// Datagrams lost in the collector's own socket that are not logged yet: dropped, and left unread.
    lost: (u64, u64),
    losses: LogInterval,
    /// Datagrams that the kernel refused to send.
    refused: u64,
    refused_logged: LoggedCount,
}

impl OutageLog {
    pub(super) fn new(when_down: WhenDown) -> Self {
        let consequence = match when_down {
            WhenDown::Hold => "holding datagrams until it is back",
            WhenDown::Skip => "skipping datagrams until it is back",
        };
        Self {
            consequence,
            logged_reason: None,
            outages: LogInterval::default(),
            lost: (0, 0),
            losses: LogInterval::default(),
            refused: 0,
            refused_logged: LoggedCount::default(),
        }
    }

    /// Notes that nothing can be delivered to the collector, because of `reason`.
    pub(super) fn note_down(&mut self, collector: SocketAddr, reason: &DownReason) {
        let now = Instant::now().into_std();
        if !self.outages.is_over(now) || self.logged_reason.as_ref() == Some(reason) {
            return;
        }
        tracing::warn!(
            message_id = receiver::COLLECTOR_DOWN,
            %collector,
            %reason,
            "collector {collector} is down ({reason}); {}",
            self.consequence
        );
        self.logged_reason = Some(reason.clone());
        self.outages.begin(now);
    }

    /// Notes losses in the collector's socket: `dropped` datagrams found its queue full, and up to `unread`
    /// were not read before it closed.
    pub(super) fn note_lost(&mut self, collector: SocketAddr, dropped: u64, unread: u64) {
        self.lost = (self.lost.0 + dropped, self.lost.1 + unread);
        let now = Instant::now().into_std();
        if self.lost == (0, 0) || !self.losses.is_over(now) {
            return;
        }
        let (dropped, unread) = core::mem::take(&mut self.lost);
        self.losses.begin(now);
        tracing::warn!(
            message_id = receiver::COLLECTOR_LOST,
            %collector,
            dropped,
            unread,
            "collector {collector} lost datagrams in its own socket: {} dropped because its queue was full, \
             up to {} unread when the socket closed; they are not sent again",
            count_of(dropped, "datagram"),
            count_of(unread, "datagram")
        );
    }

    /// Notes that the kernel refused a datagram of `exporter`, which was dropped.
    pub(super) fn note_refused(&mut self, collector: SocketAddr, exporter: IpAddr, reason: SystemError) {
        self.refused += 1;
        let now = Instant::now().into_std();
        let Some(refused) = self.refused_logged.due(self.refused, now) else { return };
        tracing::warn!(
            message_id = receiver::DATAGRAMS_REFUSED,
            %collector,
            %exporter,
            refused,
            %reason,
            "dropped {} for collector {collector}, the last of exporter {exporter}: the kernel refused to \
             send them ({reason}); check nft list ruleset, iptables-save and ip xfrm policy",
            count_of(refused, "datagram"),
        );
    }

    /// Notes that the collector accepts datagrams.
    pub(super) fn note_up(&mut self, collector: SocketAddr) {
        if self.logged_reason.take().is_some() {
            tracing::info!(
                message_id = receiver::COLLECTOR_BACK,
                %collector,
                "collector {collector} is up again"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use rustix::io::Errno;

    use super::*;
    use crate::limits::LOG_INTERVAL;

    #[tokio::test(start_paused = true)]
    async fn losses_are_logged_at_once_then_summed() {
        let collector = "192.0.2.1:9995".parse().unwrap();
        let mut outage_log = OutageLog::new(WhenDown::Hold);
        outage_log.note_lost(collector, 0, 0);
        assert_eq!(outage_log.losses, LogInterval::default());
        outage_log.note_lost(collector, 3, 0);
        assert_eq!(outage_log.lost, (0, 0));
        outage_log.note_lost(collector, 1, 5);
        outage_log.note_lost(collector, 2, 0);
        assert_eq!(outage_log.lost, (3, 5));
        tokio::time::advance(LOG_INTERVAL).await;
        outage_log.note_lost(collector, 0, 0);
        assert_eq!(outage_log.lost, (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn an_outage_is_logged_once_per_interval() {
        let collector = "192.0.2.1:9995".parse().unwrap();
        let mut outage_log = OutageLog::new(WhenDown::Hold);
        let [one, two] = [Errno::CONNREFUSED, Errno::HOSTUNREACH]
            .map(|errno| DownReason::Unreachable(SystemError::Number(errno)));
        outage_log.note_down(collector, &one);
        assert_eq!(outage_log.logged_reason, Some(one));
        outage_log.note_up(collector);
        outage_log.note_down(collector, &two);
        assert_eq!(outage_log.logged_reason, None);
        tokio::time::advance(LOG_INTERVAL / 2).await;
        outage_log.note_down(collector, &two);
        assert_eq!(outage_log.logged_reason, None);
        tokio::time::advance(LOG_INTERVAL / 2).await;
        outage_log.note_down(collector, &two);
        assert_eq!(outage_log.logged_reason, Some(two));
    }
}
