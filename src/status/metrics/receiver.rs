//! The metrics of nf-receiver.

use core::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;

use crate::status::metrics::encoder::{INTERNAL_ERRORS, Metrics, amount};
use crate::status::{PeerState, ReceiverStatus};

impl Collector for ReceiverStatus {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut metrics = Metrics(encoder);
        let all = self.all_senders;
        let connected = self.senders.iter().filter(|sender| sender.state == PeerState::Connected).count();
        metrics.gauge("senders_connected", "Connected senders", amount(connected))?;
        metrics.counter(
            "received_datagrams",
            "Datagrams of all senders that were acknowledged",
            all.delivered.datagrams,
        )?;
        metrics.counter(
            "repeated_datagrams",
            "Datagrams received again and not delivered again",
            all.duplicates,
        )?;
        metrics.counter("lost_datagrams", "Datagrams that senders reported as lost", all.gaps)?;
        metrics.counter(
            "unmatched_datagrams",
            "Datagrams that match no collector: acknowledged, not delivered",
            self.unmatched,
        )?;
        metrics.counter("internal_errors", INTERNAL_ERRORS, self.internal_errors)?;
        // Only senders with a table have a label of their own: with a shared key, a peer can use any number
        // of ids.
        let restricted =
            self.senders.iter().filter(|sender| !sender.exporters.is_empty() || sender.denied > 0);
        metrics.counters(
            ("denied_datagrams", "Datagrams denied because the sender may not deliver their exporter"),
            "sender",
            restricted.map(|sender| (sender.id.as_str(), sender.denied)),
        )?;
        metrics.collectors(&self.collectors)?;
        metrics.late_addresses(&self.collectors)?;
        metrics.counter(
            "refused_connections",
            "Connections rejected before a session began",
            self.refusals,
        )?;
        metrics.certificate(self.certificate.as_ref())?;
        metrics.revocation_lists(&self.revocation_lists)
    }
}

#[cfg(test)]
mod tests {
    use crate::status::receiver_metrics;
    use crate::status::samples::receiver;

    #[test]
    fn denied_datagrams_are_labelled_by_sender() {
        let mut status = receiver();
        assert!(!receiver_metrics(status.clone()).contains("denied"));
        (status.senders[0].denied, status.senders[0].exporters) = (7, vec!["10.0.0.0/8".to_owned()]);
        let line = "nf_receiver_denied_datagrams_total{sender=\"brno-edge\"} 7\n";
        assert!(receiver_metrics(status).contains(line));
    }

    #[test]
    fn metrics_of_a_receiver_equal_its_status() {
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
}
