//! Logs datagrams that are lost before the queue: dropped by the kernel, or denied.

use std::time::Instant;

use crate::host::LoggedCount;
use crate::host::systemd::messages::sender;
use crate::sender::ingest::counters::{ExporterAddress, IngestCounters, SocketCounters};
use crate::status::{count_of, name_first};

/// The part of each counter that is in the log already.
#[derive(Debug)]
pub(crate) struct LossLog {
    sockets: Vec<SocketLog>,
}

#[derive(Debug, Default)]
struct SocketLog {
    kernel_drops: LoggedCount,
    denied: LoggedCount,
}

impl LossLog {
    pub(crate) fn new(counters: &IngestCounters) -> Self {
        Self { sockets: counters.sockets().iter().map(|_| SocketLog::default()).collect() }
    }

    /// Logs new losses. The caller calls it once a second.
    pub(crate) fn poll(&mut self, counters: &IngestCounters) {
        self.log(counters, LoggedCount::due);
    }

    /// Logs the rest at the end of the run.
    pub(crate) fn finish(mut self, counters: &IngestCounters) {
        self.log(counters, LoggedCount::rest);
    }

    fn log(&mut self, counters: &IngestCounters, due: fn(&mut LoggedCount, u64, Instant) -> Option<u64>) {
        let now = Instant::now();
        for (place, (socket, log)) in counters.sockets().iter().zip(&mut self.sockets).enumerate() {
            if let Some(count) = due(&mut log.kernel_drops, socket.kernel_drops(), now) {
                log_kernel_drops(socket, count);
            }
            if let Some(count) = due(&mut log.denied, socket.denied(), now) {
                let denied = counters.denied_exporters().take_unlogged(|(_, at)| *at == place);
                log_denied(socket, count, denied.into_iter().map(|((exporter, _), count)| (exporter, count)));
            }
        }
    }
}

fn log_kernel_drops(socket: &SocketCounters, count: u64) {
    let address = socket.address;
    tracing::warn!(
        message_id = sender::KERNEL_DROPS,
        socket = %address,
        datagrams = count,
        "the kernel dropped {} at {address}: the receive buffer was full; they are lost. Give nf-sender \
         more processor time, or raise ReceiveBuffer= of nf-sender.socket",
        count_of(count, "datagram")
    );
}

fn log_denied(socket: &SocketCounters, count: u64, exporters: impl Iterator<Item = (ExporterAddress, u64)>) {
    let (address, exporters) = (socket.address, name_first(exporters));
    tracing::warn!(
        message_id = sender::DENIED,
        socket = %address,
        datagrams = count,
        exporters,
        "denied {} at {address}, from {exporters}: the exporter is not in 'allow', or the datagram is longer \
         than 65,507 bytes; they are lost. Add the exporters to 'allow' if they are yours",
        count_of(count, "datagram")
    );
}
