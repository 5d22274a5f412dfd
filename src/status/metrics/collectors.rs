//! Metrics of collectors and of their addresses for late datagrams.

use core::fmt;

use crate::status::metrics::encoder::Metrics;
use crate::status::{CollectorState, CollectorStatus, LateStatus};

/// Help text of `collector_up`.
const UP: &str = "0 while the collector is down: no socket listens at its address, the network reports it \
                  unreachable, or its name is not resolved; else 1";

/// A metric of addresses for late datagrams: name, help, and figure.
type LateFigure = (&'static str, &'static str, fn(&LateStatus) -> u64);

impl Metrics<'_> {
    pub(super) fn collectors(&mut self, collectors: &[CollectorStatus]) -> fmt::Result {
        let by_collector = |count: fn(&CollectorStatus) -> u64| {
            collectors.iter().map(move |collector| (collector.address.as_str(), count(collector)))
        };
        self.counters(
            ("delivered_datagrams", "Datagrams sent to the collector"),
            "collector",
            by_collector(|collector| collector.delivered.datagrams),
        )?;
        self.counters(
            ("delivered_bytes", "Payload bytes sent to the collector"),
            "collector",
            by_collector(|collector| collector.delivered.bytes),
        )?;
        self.counters(
            (
                "collector_socket_drops",
                "Datagrams that the kernel dropped at the collector's socket on this machine during delivery",
            ),
            "collector",
            by_collector(|collector| collector.socket_drops),
        )?;
        self.counters(
            (
                "collector_unread",
                "Datagrams lost unread in the collector's socket when it stopped (upper bound)",
            ),
            "collector",
            by_collector(|collector| collector.unread),
        )?;
        self.counters(
            (
                "skipped_datagrams",
                "Datagrams skipped because the collector was down or too slow (when-down = skip)",
            ),
            "collector",
            by_collector(|collector| collector.skipped),
        )?;
        self.counters(
            (
                "refused_datagrams",
                "Datagrams dropped because the kernel refused to send them to the collector",
            ),
            "collector",
            by_collector(|collector| collector.refused),
        )?;
        self.gauges(
            ("collector_up", UP),
            "collector",
            collectors.iter().map(|collector| (collector.address.as_str(), i64::from(collector.is_up()))),
        )
    }

    pub(super) fn late_addresses(&mut self, collectors: &[CollectorStatus]) -> fmt::Result {
        let figures: [LateFigure; 5] = [
            ("late_datagrams", "Datagrams sent to the collector's late-address", |late| {
                late.delivered.datagrams
            }),
            (
                "late_skipped_datagrams",
                "Datagrams for the collector's late-address that were skipped",
                |late| late.skipped,
            ),
            (
                "late_refused_datagrams",
                "Datagrams that the kernel refused to send to the collector's late-address",
                |late| late.refused,
            ),
            (
                "late_socket_drops",
                "Datagrams that the kernel dropped at the socket of the collector's late-address",
                |late| late.socket_drops,
            ),
            (
                "late_unread",
                "Datagrams lost unread in the socket of the collector's late-address (upper bound)",
                |late| late.unread,
            ),
        ];
        for (name, help, figure) in figures {
            let with_late = collectors.iter().filter_map(|collector| {
                collector.late.as_ref().map(|late| (collector.address.as_str(), figure(late)))
            });
            self.counters((name, help), "collector", with_late)?;
        }
        let late_up = |late: &LateStatus| i64::from(late.state != CollectorState::Down);
        self.gauges(
            ("late_up", "0 while the collector's late-address is down; else 1"),
            "collector",
            collectors.iter().filter_map(|collector| {
                collector.late.as_ref().map(|late| (collector.address.as_str(), late_up(late)))
            }),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::receiver_metrics;
    use crate::status::samples::receiver;

    #[test]
    fn a_collector_is_up_unless_known_to_be_down() {
        for (state, resolved, up) in [
            (CollectorState::Up, true, 1),
            (CollectorState::Unknown, true, 1),
            (CollectorState::Down, true, 0),
            (CollectorState::Unknown, false, 0),
        ] {
            let mut status = receiver();
            (status.collectors[0].state, status.collectors[0].resolved) = (state, resolved);
            status.collectors[0].late.as_mut().unwrap().state = state;
            let text = receiver_metrics(status);
            let line = format!("nf_receiver_collector_up{{collector=\"127.0.0.1:9995\"}} {up}\n");
            assert!(text.contains(&line), "{state:?}, {resolved}:\n{text}");
            let late = i64::from(state != CollectorState::Down);
            let line = format!("nf_receiver_late_up{{collector=\"127.0.0.1:9995\"}} {late}\n");
            assert!(text.contains(&line), "{state:?}:\n{text}");
        }
    }
}
