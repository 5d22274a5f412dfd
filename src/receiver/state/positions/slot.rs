//! The format of one slot of a position file.

use bytes::{Buf, BufMut};
use nf_transport_core::sequence::{Position, RunId, StreamId};

/// Bytes of a slot.
pub(super) const SLOT_LEN: usize = 32;

/// First bytes of a slot of any version. The version follows as a digit.
const MAGIC: [u8; 3] = *b"NFP";

/// Version that is written.
const VERSION: u8 = b'2';

/// Previous version, whose slots have 16 bytes and no run.
const VERSION_1: u8 = b'1';

/// Content of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Slot {
    /// Never written.
    Empty,
    /// A position of this stream.
    Valid(StoredProgress),
    /// Written by a newer version of nf-receiver.
    Newer,
    /// None of these.
    Damaged,
}

/// Position of a stream, and the run of its sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StoredProgress {
    /// Everything below was delivered.
    pub(crate) position: Position,
    /// Run that sent the latest of it; [`RunId::NONE`] in a slot of version 1.
    pub(crate) run: RunId,
}

impl Slot {
    /// Parses a slot of `stream`. The file may end before the slot does.
    pub(super) fn parse(stream: StreamId, bytes: &[u8]) -> Self {
        if bytes.iter().all(|byte| *byte == 0) {
            return Self::Empty;
        }
        let Some(([version], rest)) = bytes.strip_prefix(&MAGIC).and_then(|rest| rest.split_first_chunk())
        else {
            return Self::Damaged;
        };
        match *version {
            VERSION => parse_progress(stream, rest),
            VERSION_1 => parse_progress(stream, rest.get(..12).unwrap_or_default()),
            newer if (VERSION..=b'9').contains(&newer) => return Self::Newer,
            _ => None,
        }
        .map_or(Self::Damaged, Self::Valid)
    }

    /// Encodes a slot with `progress`.
    pub(super) fn encode(stream: StreamId, progress: StoredProgress) -> [u8; SLOT_LEN] {
        let mut slot = [0; SLOT_LEN];
        let (head, body) = slot.split_at_mut(8);
        let mut rest: &mut [u8] = body;
        rest.put_u64(progress.position.0);
        rest.put_slice(&progress.run.0);
        let mut rest: &mut [u8] = head;
        rest.put_slice(&MAGIC);
        rest.put_u8(VERSION);
        rest.put_u32(checksum(stream, body));
        slot
    }

    /// Returns the content of the slot, if it is valid.
    pub(super) fn progress(self) -> Option<StoredProgress> {
        match self {
            Self::Valid(progress) => Some(progress),
            Self::Empty | Self::Newer | Self::Damaged => None,
        }
    }
}

/// Parses the bytes after the version: a checksum, a position and, from version 2 on, a run.
fn parse_progress(stream: StreamId, bytes: &[u8]) -> Option<StoredProgress> {
    let (mut head, body) = bytes.split_at_checked(4)?;
    if head.try_get_u32().ok()? != checksum(stream, body) {
        return None;
    }
    let mut rest = body;
    let position = Position(rest.try_get_u64().ok()?);
    let mut run = RunId::NONE;
    if !rest.is_empty() {
        rest.try_copy_to_slice(&mut run.0).ok()?;
    }
    Some(StoredProgress { position, run })
}

/// Returns the checksum of bytes of this stream.
pub(super) fn checksum(stream: StreamId, body: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&stream.0), body)
}
