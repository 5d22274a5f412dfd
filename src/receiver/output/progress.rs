//! Progress of one stream at one collector.

use nf_transport_core::datagram::Datagram;
use nf_transport_core::netflow::Recipient;
use nf_transport_core::sequence::Position;

use crate::receiver::output::lateness::Lateness;
use crate::receiver::output::pace::CatchUp;
use crate::receiver::state::templates::TemplateLearner;

/// Progress of one stream at one collector.
#[derive(Clone, Debug)]
pub(crate) struct DeliveryProgress {
    /// The collector has all datagrams below this position, or they were skipped for it.
    pub(crate) position: Position,
    /// Position after the last datagram that was sent to the collector.
    pub(crate) sent: Position,
    pub(super) catch_up: CatchUp,
    pub(super) lateness: Lateness,
}

impl DeliveryProgress {
    /// Progress of a stream of which the collector has all datagrams below `position`.
    pub(crate) fn at(position: Position) -> Self {
        Self {
            position,
            sent: Position::default(),
            catch_up: CatchUp::default(),
            lateness: Lateness::default(),
        }
    }

    /// Advances past `datagrams`, which were sent to `recipient`, or skipped if that is `None`.
    pub(super) fn advance(
        &mut self,
        datagrams: &[Datagram<'_>],
        learner: &TemplateLearner,
        recipient: Option<&Recipient>,
    ) {
        learner.learn(datagrams, recipient);
        self.position = self.position.plus(u64::try_from(datagrams.len()).unwrap_or(u64::MAX));
    }
}
