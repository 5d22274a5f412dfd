//! What the log says about a collector that takes nothing: one line when it begins and one when it is over, and
//! no more than one trouble in each [`LOG_INTERVAL`] however often it comes and goes.

use core::net::SocketAddr;

use tokio::time::Instant;

use crate::config::WhenDown;
use crate::limits::LOG_INTERVAL;
use crate::service::messages::receiver;

/// The trouble with one collector.
#[derive(Debug)]
pub(super) struct Trouble {
    /// What becomes of the datagrams.
    consequence: &'static str,
    /// What the log says is wrong now.
    told: Option<String>,
    /// When the log last said that something is wrong.
    when: Option<Instant>,
}

impl Trouble {
    /// No trouble yet.
    pub(super) fn new(when_down: WhenDown) -> Self {
        let consequence = match when_down {
            WhenDown::Hold => "datagrams are held until it does",
            WhenDown::Skip => "datagrams are passed over until it does",
        };
        Self { consequence, told: None, when: None }
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
