//! The figures of the status as metrics, in the text format of OpenMetrics
//! (<https://prometheus.io/docs/specs/om/open_metrics_spec/>). Labels are few: reasons of drops, and collectors.

mod exporters;
pub(crate) mod http;

use core::fmt;
use std::collections::BTreeMap;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use crate::status::{
    CertificateStatus, CollectorState, CollectorStatus, LateStatus, LinkState, PeerState, ReceiverStatus,
    RevocationStatus, SenderStatus, SocketStatus,
};

/// The metrics of nf-sender.
pub fn sender_metrics(status: SenderStatus) -> String {
    text("nf_sender", status)
}

/// The metrics of nf-receiver.
pub fn receiver_metrics(status: ReceiverStatus) -> String {
    text("nf_receiver", status)
}

fn text(prefix: &str, status: impl Collector) -> String {
    let mut registry = Registry::with_prefix(prefix);
    registry.register_collector(Box::new(status));
    let mut text = String::new();
    // Writing to a string never fails.
    encode(&mut text, &registry).map_or_else(|_| String::new(), |()| text)
}

impl Collector for SenderStatus {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut metrics = Metrics(encoder);
        metrics.counter("received_datagrams", "Datagrams taken from the sockets", self.received.datagrams)?;
        metrics.counter("received_bytes", "Payload bytes taken from the sockets", self.received.bytes)?;
        metrics.counter(
            "recovered_datagrams",
            "Datagrams that the spool held at the start",
            self.recovered.datagrams,
        )?;
        metrics.counter(
            "acknowledged_datagrams",
            "Datagrams that the receiver acknowledged",
            self.acknowledged.datagrams,
        )?;
        metrics.counter(
            "acknowledged_bytes",
            "Payload bytes that the receiver acknowledged",
            self.acknowledged.bytes,
        )?;
        metrics.gauge("queued_datagrams", "Datagrams that wait", signed(self.queued.datagrams))?;
        metrics.gauge("queued_bytes", "Bytes that the queue occupies", signed(self.queued.bytes))?;
        metrics.gauge(
            "queue_age_seconds",
            "Age of the oldest datagram that waits",
            signed(self.queued.oldest_s),
        )?;
        metrics.gauge(
            "damaged_bytes",
            "Bytes of copies of damaged pieces of the spool",
            signed(self.damaged.bytes),
        )?;
        metrics.gauge(
            "newer_bytes",
            "Bytes that a newer version left and this one cannot read",
            signed(self.newer.bytes),
        )?;
        metrics.gauge(
            "intake_in_memory",
            "1 while the intake is in memory only, so that kill -9 would lose datagrams",
            i64::from(self.intake.in_memory),
        )?;
        let dropped = self.dropped;
        metrics.counters(
            ("dropped_datagrams", "Datagrams lost, by reason"),
            "reason",
            [
                ("kernel", dropped.kernel),
                ("denied", dropped.denied),
                ("spool-full", dropped.spool_full),
                ("too-old", dropped.too_old),
                ("corrupt", dropped.corrupt),
            ],
        )?;
        let rows = self.dropped_exporters.iter().map(|row| (row.address.to_string(), row.datagrams));
        let rest = [("others", self.dropped_of_others), ("unknown", self.dropped_of_unknown)];
        let rest = rest.into_iter().filter(|(_, count)| *count > 0);
        let exporters: Vec<(String, u64)> =
            rows.chain(rest.map(|(name, count)| (name.to_owned(), count))).collect();
        metrics.counters(
            ("exporter_dropped_datagrams", "Queued datagrams that the spool's limits dropped, by exporter"),
            "exporter",
            exporters.iter().map(|(exporter, count)| (exporter.as_str(), *count)),
        )?;
        for (name, help, count) in SOCKET_FIGURES {
            // systemd can pass two sockets with one address (ReusePort=), and a label must not occur twice.
            let mut sockets = BTreeMap::new();
            for socket in &self.sockets {
                let sum = sockets.entry(socket.address.to_string()).or_insert(0_u64);
                *sum = sum.saturating_add(count(socket));
            }
            metrics.counters(
                (name, help),
                "socket",
                sockets.iter().map(|(socket, count)| (socket.as_str(), *count)),
            )?;
        }
        metrics.counter(
            "possible_repeats",
            "Queued datagrams that may arrive twice, as the spool was restored from a backup or cloned",
            self.possible_repeats,
        )?;
        metrics.exporters(&self.exporters)?;
        metrics.counter("internal_errors", INTERNAL_ERRORS, self.internal_errors)?;
        let connected = i64::from(self.state == LinkState::Connected);
        metrics.gauge("connected", "1 while a session with a receiver is agreed", connected)?;
        metrics.certificate(self.certificate.as_ref())
    }
}

impl Collector for ReceiverStatus {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut metrics = Metrics(encoder);
        let all = self.all_senders;
        let connected = self.senders.iter().filter(|sender| sender.state == PeerState::Connected).count();
        metrics.gauge("senders_connected", "Senders that are connected", amount(connected))?;
        metrics.counter(
            "received_datagrams",
            "Datagrams of all senders that were acknowledged",
            all.delivered.datagrams,
        )?;
        metrics.counter(
            "repeated_datagrams",
            "Datagrams that came again and were not delivered again",
            all.duplicates,
        )?;
        metrics.counter("lost_datagrams", "Datagrams that senders reported as lost", all.gaps)?;
        metrics.counter(
            "unmatched_datagrams",
            "Datagrams that match no collector: acknowledged and not delivered",
            self.unmatched,
        )?;
        metrics.counter("internal_errors", INTERNAL_ERRORS, self.internal_errors)?;
        // Only senders with a table have a label of their own: with a shared key a peer can take any number of ids.
        let restricted =
            self.senders.iter().filter(|sender| !sender.exporters.is_empty() || sender.denied > 0);
        metrics.counters(
            ("denied_datagrams", "Datagrams of exporters that the sender may not deliver"),
            "sender",
            restricted.map(|sender| (sender.id.as_str(), sender.denied)),
        )?;
        metrics.collectors(&self.collectors)?;
        metrics.late_addresses(&self.collectors)?;
        metrics.counter(
            "refused_connections",
            "Connections that were rejected before a session was agreed",
            self.refusals,
        )?;
        metrics.certificate(self.certificate.as_ref())?;
        metrics.revocation_lists(&self.revocation_lists)
    }
}

/// Help text of `internal_errors`.
const INTERNAL_ERRORS: &str = "Impossible states that the program met; each is a bug to report";

/// What `collector_up` says.
const UP: &str = "0 while the collector takes nothing, as far as can be seen: nothing listens at its address, the network says \
                  that it is unreachable, or its name is not resolved; else 1";

/// A metric of sockets: name, help, and the figure.
type SocketFigure = (&'static str, &'static str, fn(&SocketStatus) -> u64);

const SOCKET_FIGURES: [SocketFigure; 2] = [
    ("socket_kernel_drops", "Datagrams that the kernel had no room for, by socket", |socket| {
        socket.kernel_drops
    }),
    ("socket_denied", "Datagrams from exporters that are not allowed, by socket", |socket| socket.denied),
];

/// A metric of addresses for late datagrams: name, help, and the figure.
type LateFigure = (&'static str, &'static str, fn(&LateStatus) -> u64);

/// Where metrics go, each with its sentence.
struct Metrics<'e>(DescriptorEncoder<'e>);

impl Metrics<'_> {
    fn counter(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        let metric = ConstCounter::new(value);
        metric.encode(self.0.encode_descriptor(name, help, None, metric.metric_type())?)
    }

    fn gauge(&mut self, name: &str, help: &str, value: i64) -> fmt::Result {
        let metric = ConstGauge::new(value);
        metric.encode(self.0.encode_descriptor(name, help, None, metric.metric_type())?)
    }

    fn counters<'v>(
        &mut self,
        (name, help): (&str, &str),
        label: &str,
        values: impl IntoIterator<Item = (&'v str, u64)>,
    ) -> fmt::Result {
        let metrics = values.into_iter().map(|(value, count)| (value, ConstCounter::new(count)));
        self.family(name, help, label, metrics)
    }

    fn gauges<'v>(
        &mut self,
        (name, help): (&str, &str),
        label: &str,
        values: impl IntoIterator<Item = (&'v str, i64)>,
    ) -> fmt::Result {
        let metrics = values.into_iter().map(|(value, level)| (value, ConstGauge::new(level)));
        self.family(name, help, label, metrics)
    }

    fn family<'v, M: EncodeMetric>(
        &mut self,
        name: &str,
        help: &str,
        label: &str,
        metrics: impl Iterator<Item = (&'v str, M)>,
    ) -> fmt::Result {
        let mut metrics = metrics.peekable();
        let Some((_, first)) = metrics.peek() else { return Ok(()) };
        let mut family = self.0.encode_descriptor(name, help, None, first.metric_type())?;
        for (value, metric) in metrics {
            metric.encode(family.encode_family(&[(label, value)])?)?;
        }
        Ok(())
    }

    fn collectors(&mut self, collectors: &[CollectorStatus]) -> fmt::Result {
        let by_collector = |count: fn(&CollectorStatus) -> u64| {
            collectors.iter().map(move |collector| (collector.address.as_str(), count(collector)))
        };
        self.counters(
            ("delivered_datagrams", "Datagrams handed to each collector"),
            "collector",
            by_collector(|collector| collector.delivered.datagrams),
        )?;
        self.counters(
            ("delivered_bytes", "Payload bytes handed to each collector"),
            "collector",
            by_collector(|collector| collector.delivered.bytes),
        )?;
        self.counters(
            ("collector_socket_drops", "Datagrams dropped at each collector's own socket during delivery"),
            "collector",
            by_collector(|collector| collector.socket_drops),
        )?;
        self.counters(
            (
                "collector_unread",
                "Datagrams, at most, that lay unread in each collector's socket when it went away",
            ),
            "collector",
            by_collector(|collector| collector.unread),
        )?;
        self.counters(
            ("skipped_datagrams", "Datagrams skipped, as the collector is set to when-down = skip"),
            "collector",
            by_collector(|collector| collector.skipped),
        )?;
        self.counters(
            ("refused_datagrams", "Datagrams dropped as the kernel refused to send them to the collector"),
            "collector",
            by_collector(|collector| collector.refused),
        )?;
        self.gauges(
            ("collector_up", UP),
            "collector",
            collectors.iter().map(|collector| (collector.address.as_str(), i64::from(collector.is_up()))),
        )
    }

    fn late_addresses(&mut self, collectors: &[CollectorStatus]) -> fmt::Result {
        let figures: [LateFigure; 5] = [
            ("late_datagrams", "Datagrams handed to each collector's address for late ones", |late| {
                late.delivered.datagrams
            }),
            ("late_skipped_datagrams", "Datagrams for that address that were skipped", |late| late.skipped),
            ("late_refused_datagrams", "Datagrams that the kernel refused to send there", |late| {
                late.refused
            }),
            ("late_socket_drops", "Datagrams dropped at the socket there during delivery", |late| {
                late.socket_drops
            }),
            (
                "late_unread",
                "Datagrams, at most, that lay unread in the socket there when it went away",
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
            ("late_up", "The same for each collector's address for late datagrams"),
            "collector",
            collectors.iter().filter_map(|collector| {
                collector.late.as_ref().map(|late| (collector.address.as_str(), late_up(late)))
            }),
        )
    }

    fn certificate(&mut self, certificate: Option<&CertificateStatus>) -> fmt::Result {
        let Some(certificate) = certificate else { return Ok(()) };
        let help = "When the own certificate ends, in seconds since 1970-01-01";
        self.gauge("certificate_not_after_seconds", help, certificate.not_after)
    }

    /// A file may hold several lists: the one that expires first counts.
    fn revocation_lists(&mut self, lists: &[RevocationStatus]) -> fmt::Result {
        let (mut ages, mut ends) = (BTreeMap::new(), BTreeMap::new());
        for list in lists {
            let age = ages.entry(list.file.as_str()).or_insert(list.age_s);
            *age = list.age_s.max(*age);
            if let Some(expires_s) = list.expires_s {
                let end = ends.entry(list.file.as_str()).or_insert(expires_s);
                *end = expires_s.min(*end);
            }
        }
        let help = "Seconds since the list of revoked certificates was issued, by file";
        self.gauges(("revocation_list_age_seconds", help), "file", ages)?;
        let help =
            "Seconds until the list of revoked certificates expires, by file; below 0 if it has expired";
        self.gauges(("revocation_list_expires_in_seconds", help), "file", ends)
    }
}

fn amount(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::show::render::tests::{receiver, sender};

    #[test]
    fn sockets_with_one_address_have_one_sample() {
        let mut status = sender();
        status.sockets.push(status.sockets[0]);
        let text = sender_metrics(status);
        let samples: Vec<_> = text.lines().filter(|line| line.starts_with("nf_sender_socket_")).collect();
        let expected = [
            "nf_sender_socket_kernel_drops_total{socket=\"[::]:2055\"} 24",
            "nf_sender_socket_denied_total{socket=\"[::]:2055\"} 2662",
        ];
        assert_eq!(samples, expected);
    }

    #[test]
    fn the_metrics_of_a_sender_are_the_figures_of_its_status() {
        let certificate = CertificateStatus { name: None, not_after: 1_800_000_000, expires_s: 5 };
        let text = sender_metrics(SenderStatus { certificate: Some(certificate), ..sender() });
        for line in [
            "nf_sender_received_datagrams_total 1234567",
            "nf_sender_queued_datagrams 34",
            "nf_sender_dropped_datagrams_total{reason=\"kernel\"} 12",
            "nf_sender_socket_kernel_drops_total{socket=\"[::]:2055\"} 12",
            "nf_sender_socket_denied_total{socket=\"[::]:2055\"} 1331",
            "nf_sender_exporter_dropped_datagrams_total{exporter=\"192.0.2.1\"} 40",
            "nf_sender_connected 1",
            "nf_sender_exporters 2",
            "nf_sender_exporters_unusable 0",
            "nf_sender_exporters_missing{unit=\"datagrams\"} 2",
            "nf_sender_exporters_duplicate_datagrams 0",
            "nf_sender_internal_errors_total 0",
            "nf_sender_certificate_not_after_seconds 1800000000",
            "# TYPE nf_sender_acknowledged_bytes counter",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in:\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
        assert!(!sender_metrics(sender()).contains("certificate"));
    }

    #[test]
    fn the_list_of_a_file_that_expires_first_counts() {
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

    #[test]
    fn denied_datagrams_have_the_label_of_their_sender() {
        let mut status = receiver();
        assert!(!receiver_metrics(status.clone()).contains("denied"));
        (status.senders[0].denied, status.senders[0].exporters) = (7, vec!["10.0.0.0/8".to_owned()]);
        let line = "nf_receiver_denied_datagrams_total{sender=\"brno-edge\"} 7\n";
        assert!(receiver_metrics(status).contains(line));
    }

    #[test]
    fn the_metrics_of_a_receiver_are_the_figures_of_its_status() {
        let text = receiver_metrics(receiver());
        for line in [
            "nf_receiver_senders_connected 1",
            "nf_receiver_delivered_datagrams_total{collector=\"127.0.0.1:9995\"} 12000",
            "nf_receiver_collector_up{collector=\"127.0.0.1:9995\"} 0",
            "nf_receiver_late_datagrams_total{collector=\"127.0.0.1:9995\"} 5",
            "nf_receiver_refused_connections_total 1200",
            "nf_receiver_unmatched_datagrams_total 44",
            "nf_receiver_internal_errors_total 0",
            "nf_receiver_certificate_not_after_seconds 1800000000",
            "nf_receiver_revocation_list_age_seconds{file=\"/etc/crl\"} 90000",
            "nf_receiver_revocation_list_expires_in_seconds{file=\"/etc/crl\"} 183600",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in:\n{text}");
        }
    }

    #[test]
    fn a_collector_is_up_unless_it_is_known_to_be_down() {
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
