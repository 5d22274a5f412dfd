//! The lineage of a spool: the runs of nf-sender that sent its stream, and the first position of each.
//!
//! A spool that is restored from a backup, or used by a second machine, continues from an earlier point than
//! its receiver knows. Positions alone do not show that: the copy numbers new datagrams with positions that
//! the receiver has delivered other datagrams for. So every run draws an id, and the receiver remembers with
//! each position which run sent it. Datagrams at the receiver count as delivered only if a run of this
//! lineage can have sent them.
//!
//! Pure: uses no disk and no clock. [`super::identity`] stores it.

use core::fmt;

use zeroize::Zeroizing;

use crate::limits::RUNS_MAX;
use crate::sequence::{Position, RunId, StreamId};

/// The secret that only the sender of a stream has. The spool does not interpret it.
#[derive(Clone, PartialEq, Eq)]
pub struct StreamSecret(pub Zeroizing<[u8; 32]>);

/// A stream that no other spool has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnStream {
    /// Its id.
    pub id: StreamId,
    /// The secret behind the id.
    pub secret: StreamSecret,
}

/// One run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LineageRun {
    /// Its id.
    pub id: RunId,
    /// The position of its first datagram.
    pub start: Position,
}

/// Datagrams at the receiver that this spool never sent: its stream was continued elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Divergence {
    /// Everything below was numbered before the two lives parted, so that the receiver has it from the other
    /// one. `None` if that cannot be known.
    pub common: Option<Position>,
}

/// The stream that a spool is sent as, and its runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lineage {
    sent_as: StreamId,
    /// `None` until [`Self::abandon`], where the secret was lost or never recorded.
    secret: Option<StreamSecret>,
    replaced: Option<StreamId>,
    /// Oldest first; the last one is the present run. At most `RUNS_MAX`.
    runs: Vec<LineageRun>,
}

impl Lineage {
    /// The lineage of a stream that no run has sent yet.
    pub fn new(stream: OwnStream) -> Self {
        Self::restored(stream.id, Some(stream.secret), None, Vec::new())
    }

    /// The lineage of a stream of which nothing but the id is known.
    pub(super) fn unknown(sent_as: StreamId) -> Self {
        Self::restored(sent_as, None, None, Vec::new())
    }

    pub(super) fn restored(
        sent_as: StreamId,
        secret: Option<StreamSecret>,
        replaced: Option<StreamId>,
        runs: Vec<LineageRun>,
    ) -> Self {
        Self { sent_as, secret, replaced, runs }
    }

    /// The stream id under which receivers know this spool.
    pub fn sent_as(&self) -> StreamId {
        self.sent_as
    }

    /// The secret behind that id, if it is known.
    pub fn secret(&self) -> Option<&StreamSecret> {
        self.secret.as_ref()
    }

    /// The stream that it was sent as before it was rolled back or cloned.
    pub fn replaced(&self) -> Option<StreamId> {
        self.replaced
    }

    /// The runs, oldest first.
    pub fn runs(&self) -> &[LineageRun] {
        &self.runs
    }

    /// The present run.
    pub fn run(&self) -> RunId {
        self.runs.last().map_or(RunId::NONE, |run| run.id)
    }

    /// Begins a run that numbers datagrams from `start` on. Positions below `acknowledged` are acknowledged.
    pub fn begin(&mut self, id: RunId, start: Position, acknowledged: Position) {
        self.runs.push(LineageRun { id, start });
        self.forget(acknowledged);
    }

    /// Removes runs whose datagrams are all acknowledged.
    pub fn forget(&mut self, acknowledged: Position) {
        let is_needed = |next: &LineageRun| next.start > acknowledged;
        let successors = self.runs.get(1..).unwrap_or_default();
        let ended = successors.iter().position(is_needed).unwrap_or(successors.len());
        let excess = self.runs.len().saturating_sub(RUNS_MAX);
        self.runs.drain(..ended.max(excess));
    }

    /// Checks that this lineage can have sent everything below `received`, the latest of it by `run`. The
    /// present run has sent nothing from `highest_sent` on.
    pub fn check(&self, received: Position, run: RunId, highest_sent: Position) -> Result<(), Divergence> {
        let Some(index) = self.runs.iter().position(|known| known.id == run) else {
            return Err(Divergence { common: None });
        };
        match self.runs.get(index + 1) {
            Some(next) if received <= next.start => Ok(()),
            Some(next) => Err(Divergence { common: Some(next.start) }),
            None if received <= highest_sent => Ok(()),
            None => Err(Divergence { common: None }),
        }
    }

    /// Sends the spool as the stream `new` from now on, which no run has sent yet.
    pub fn abandon(&mut self, new: OwnStream) {
        let replaced = Some(self.sent_as);
        *self = Self { replaced, ..Self::new(new) };
    }

    /// Sends the spool as the stream `new` from now on, which no other life of it shares. The present run
    /// continues.
    pub fn replace_stream(&mut self, new: OwnStream) {
        self.replaced = Some(self.sent_as);
        (self.sent_as, self.secret) = (new.id, Some(new.secret));
        let present = self.runs.len().saturating_sub(1);
        self.runs.drain(..present);
    }
}

impl fmt::Debug for StreamSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StreamSecret")
    }
}

/// A stream whose id and secret are made of `byte`.
#[cfg(test)]
pub(crate) fn own_stream(byte: u8) -> OwnStream {
    OwnStream { id: StreamId([byte; 16]), secret: StreamSecret(Zeroizing::new([byte; 32])) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: StreamId = StreamId([7; 16]);

    fn run(number: u8) -> RunId {
        RunId([number; 16])
    }

    /// Runs 1, 2 and 3, which began at positions 0, 100 and 200.
    fn three_runs() -> Lineage {
        let mut lineage = Lineage::new(own_stream(7));
        for (number, start) in [(1, 0), (2, 100), (3, 200)] {
            lineage.begin(run(number), Position(start), Position(0));
        }
        lineage
    }

    fn check(received: u64, by: u8) -> Result<(), Divergence> {
        three_runs().check(Position(received), run(by), Position(250))
    }

    #[test]
    fn a_run_ends_where_the_next_one_starts() {
        assert_eq!(check(100, 1), Ok(()));
        assert_eq!(check(200, 2), Ok(()));
        assert_eq!(check(250, 3), Ok(()));
    }

    #[test]
    fn a_run_that_went_on_elsewhere_shows_where() {
        assert_eq!(check(101, 1), Err(Divergence { common: Some(Position(100)) }));
        assert_eq!(check(9000, 2), Err(Divergence { common: Some(Position(200)) }));
    }

    #[test]
    fn an_unknown_run_is_another_life_of_the_spool() {
        assert_eq!(check(1, 9), Err(Divergence { common: None }));
        assert_eq!(
            three_runs().check(Position(1), RunId::NONE, Position(250)),
            Err(Divergence { common: None })
        );
    }

    #[test]
    fn more_than_this_run_sent_is_another_life() {
        assert_eq!(check(251, 3), Err(Divergence { common: None }));
    }

    #[test]
    fn runs_below_the_acknowledged_are_forgotten() {
        let starts = |acknowledged| {
            let mut lineage = three_runs();
            lineage.forget(Position(acknowledged));
            lineage.runs().iter().map(|run| run.start.0).collect::<Vec<_>>()
        };
        assert_eq!(starts(99), [0, 100, 200]);
        assert_eq!(starts(100), [100, 200]);
        assert_eq!(starts(5000), [200]);
    }

    #[test]
    fn the_number_of_runs_is_bounded() {
        let mut lineage = Lineage::new(own_stream(7));
        for number in 0..1000_u64 {
            lineage.begin(RunId(u128::from(number).to_be_bytes()), Position(number + 1), Position(0));
        }
        assert_eq!(lineage.runs().len(), RUNS_MAX);
        assert_eq!(lineage.run(), RunId(999_u128.to_be_bytes()));
    }

    #[test]
    fn a_new_stream_keeps_the_present_run_only() {
        let mut lineage = three_runs();
        lineage.replace_stream(own_stream(8));
        assert_eq!((lineage.sent_as(), lineage.replaced()), (StreamId([8; 16]), Some(STREAM)));
        assert_eq!(lineage.secret(), Some(&own_stream(8).secret));
        assert_eq!(lineage.runs(), [LineageRun { id: run(3), start: Position(200) }]);
    }

    #[test]
    fn an_abandoned_stream_leaves_no_runs() {
        let mut lineage = three_runs();
        lineage.abandon(own_stream(8));
        assert_eq!((lineage.sent_as(), lineage.replaced()), (StreamId([8; 16]), Some(STREAM)));
        assert_eq!((lineage.secret(), lineage.runs()), (Some(&own_stream(8).secret), [].as_slice()));
    }

    #[test]
    fn a_secret_is_not_shown() {
        assert_eq!(format!("{:?}", own_stream(7).secret), "StreamSecret");
    }
}
