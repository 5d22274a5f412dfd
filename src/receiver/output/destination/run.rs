//! Runs of datagrams to one destination.

use nf_transport_core::datagram::Datagram;
use nf_transport_core::netflow::Recipient;

use crate::receiver::output::system_error::SystemError;
use crate::receiver::state::templates::TemplateLearner;

/// Result of delivering the front of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::receiver::output) struct RunOutcome {
    /// Datagrams completed from the front of the run.
    pub(in crate::receiver::output) count: usize,
    /// Recipient of these datagrams; `None` if they were skipped.
    pub(in crate::receiver::output) recipient: Option<Recipient>,
}

/// Datagrams of one exporter for one destination.
#[derive(Clone, Copy, Debug)]
pub(in crate::receiver::output) struct ExporterRun<'a> {
    pub(in crate::receiver::output) first: &'a Datagram<'a>,
    /// All of them, from `first` on.
    pub(in crate::receiver::output) datagrams: &'a [Datagram<'a>],
    /// True if they arrived at the sender at least `LATE` ago.
    pub(in crate::receiver::output) is_late: bool,
    /// Index of the destination among the collector's addresses.
    pub(in crate::receiver::output) place: usize,
    /// Templates that the collector has seen of their sender's exporters.
    pub(in crate::receiver::output) learner: &'a TemplateLearner,
}

/// Datagrams from the front of a run that were sent.
#[derive(Debug)]
pub(super) enum SentRun {
    /// This many, at least one, arrive at this recipient, as far as the kernel knows.
    Accepted(usize, Recipient),
    /// One was sent to a collector that is down for this reason. Whether it arrived is known later.
    AsProbe(SystemError),
}
