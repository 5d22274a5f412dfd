//! The figures of the status as metrics, in the text format of OpenMetrics
//! (<https://prometheus.io/docs/specs/om/open_metrics_spec/>). Labels have few values: reasons of drops,
//! collectors, sockets, files, senders with a table of their own, and a bounded number of exporters.

mod certificates;
mod collectors;
mod encoder;
mod exporters;
pub(super) mod http;
mod receiver;
mod sender;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;

use crate::status::receiver::ReceiverStatus;
use crate::status::sender::SenderStatus;

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
