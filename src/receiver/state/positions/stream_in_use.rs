//! The use of a stream's position by one session.

use std::sync::Arc;
use std::time::SystemTime;

use crate::receiver::state::positions::error::PositionsError;
use crate::receiver::state::positions::file::StreamPosition;

/// The use of a stream by one session, until dropped.
#[derive(Debug)]
pub(crate) struct StreamInUse {
    position: Arc<StreamPosition>,
    begun: SystemTime,
}

impl StreamInUse {
    /// Uses `stream`, which began at `begun`. Opens its file if needed.
    pub(super) fn begin(stream: Arc<StreamPosition>, begun: SystemTime) -> Result<Self, PositionsError> {
        stream.begin_use()?;
        Ok(Self { position: stream, begun })
    }

    /// Returns the stream, which may outlive its use.
    pub(crate) fn position(&self) -> &Arc<StreamPosition> {
        &self.position
    }

    /// Returns the time at which the stream began.
    pub(crate) fn begun(&self) -> SystemTime {
        self.begun
    }
}

impl core::ops::Deref for StreamInUse {
    type Target = StreamPosition;

    fn deref(&self) -> &StreamPosition {
        &self.position
    }
}

impl Drop for StreamInUse {
    fn drop(&mut self) {
        self.position.end_use();
    }
}
