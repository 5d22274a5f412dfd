//! The runs of nf-sender in the file `stream`: begin, end and change of the stream.

use std::io;

use crate::sequence::{Position, RunId};
use crate::spool::disk::Disk;
use crate::spool::identity::{Identity, LastRun};
use crate::spool::lineage::OwnStream;
use crate::spool::state::Spool;

impl<D: Disk> Spool<D> {
    /// Begins the run `run`, which assigns positions from `start` on, and records that. A run that cannot be
    /// recorded loses nothing: a later run treats its datagrams as those of another life of the spool and
    /// sends the queue again.
    pub fn begin_run(&mut self, run: RunId, start: Position) -> io::Result<()> {
        self.lineage.begin(run, start, self.acknowledged);
        self.write_identity(LastRun::CutShort { start })
    }

    /// Records the end of an orderly run. Callers do this once everything else is on disk.
    pub fn end_run(&mut self, acknowledged: Position, next: Position) -> io::Result<()> {
        self.lineage.forget(acknowledged);
        self.write_identity(LastRun::Orderly { acknowledged, next })
    }

    /// Sends the spool as the stream `new` from the next run on, because the secret of the present one is
    /// lost. The next run records that.
    pub fn abandon_stream(&mut self, new: OwnStream) {
        self.lineage.abandon(new);
    }

    /// Sends the spool as the stream `new` from now on, and records that. The present run continues.
    pub fn replace_stream(&mut self, new: OwnStream) -> io::Result<()> {
        self.lineage.replace_stream(new);
        let start = self.lineage.runs().last().map_or(Position(0), |run| run.start);
        self.write_identity(LastRun::CutShort { start })
    }

    /// True if the file `stream` has the state of the run.
    pub fn is_run_recorded(&self) -> bool {
        self.unrecorded.is_none()
    }

    /// Writes the file `stream`. If that fails, [`Self::enforce_limits`] retries it.
    pub(super) fn write_identity(&mut self, last_run: LastRun) -> io::Result<()> {
        if self.is_identity_newer {
            return Ok(());
        }
        self.unrecorded = Some(last_run);
        Identity { stream: self.stream, last_run, lineage: self.lineage.clone() }.write(&self.disk)?;
        self.unrecorded = None;
        Ok(())
    }
}
