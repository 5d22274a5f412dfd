//! The metrics of nf-sender.

use core::fmt;
use std::collections::BTreeMap;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;

use crate::status::metrics::encoder::{INTERNAL_ERRORS, Metrics, signed};
use crate::status::{LinkState, SenderStatus, SocketStatus};

/// A metric of sockets: name, help, and figure.
type SocketFigure = (&'static str, &'static str, fn(&SocketStatus) -> u64);

const SOCKET_FIGURES: [SocketFigure; 2] = [
    (
        "socket_kernel_drops",
        "Datagrams that the kernel dropped because the receive buffer was full, by socket",
        |socket| socket.kernel_drops,
    ),
    ("socket_denied", "Datagrams denied because their exporter is not allowed, by socket", |socket| {
        socket.denied
    }),
];

impl Collector for SenderStatus {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut metrics = Metrics(encoder);
        metrics.counter(
            "received_datagrams",
            "Datagrams received from exporters",
            self.received.datagrams,
        )?;
        metrics.counter("received_bytes", "Payload bytes received from exporters", self.received.bytes)?;
        metrics.counter(
            "recovered_datagrams",
            "Datagrams recovered from the previous run at the start",
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
        metrics.gauge("queued_datagrams", "Datagrams queued in the spool", signed(self.queued.datagrams))?;
        metrics.gauge("queued_bytes", "Bytes queued in the spool", signed(self.queued.bytes))?;
        metrics.gauge(
            "queue_age_seconds",
            "Age of the oldest queued datagram",
            signed(self.queued.oldest_s),
        )?;
        metrics.gauge(
            "damaged_bytes",
            "Bytes of copies of damaged pieces of the spool",
            signed(self.damaged.bytes),
        )?;
        metrics.gauge(
            "newer_bytes",
            "Bytes of spool files that a newer version wrote and this one cannot read",
            signed(self.newer.bytes),
        )?;
        metrics.gauge(
            "intake_in_memory",
            "1 while the receive journal is in memory only, so kill -9 would lose datagrams; else 0",
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
            (
                "exporter_dropped_datagrams",
                "Queued datagrams dropped by the limits of the spool, by exporter",
            ),
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
            "Queued datagrams that may arrive twice because the spool was restored from a backup or cloned",
            self.possible_repeats,
        )?;
        metrics.exporters(&self.exporters)?;
        metrics.counter("internal_errors", INTERNAL_ERRORS, self.internal_errors)?;
        let connected = i64::from(self.state == LinkState::Connected);
        metrics.gauge("connected", "1 while connected to a receiver; else 0", connected)?;
        metrics.certificate(self.certificate.as_ref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::samples::sender;
    use crate::status::{CertificateStatus, sender_metrics};

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
    fn metrics_of_a_sender_equal_its_status() {
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
}
