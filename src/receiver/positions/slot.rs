//! The bytes of one slot of a position file.

use bytes::{Buf, BufMut};

use crate::sequence::{Position, StreamId};

/// Bytes of a slot.
pub(super) const SLOT_LEN: usize = 16;

/// The four bytes that a slot starts with.
const MAGIC: [u8; 4] = *b"NFP1";

/// What the bytes in the place of a slot are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Slot {
    /// Never written.
    Empty,
    /// A position of this stream.
    Valid(Position),
    /// Neither.
    Damaged,
}

impl Slot {
    /// Reads a slot of `stream` from the bytes in its place, which may be fewer than a slot has.
    pub(super) fn parse(stream: StreamId, bytes: &[u8]) -> Self {
        if bytes.iter().all(|byte| *byte == 0) {
            return Self::Empty;
        }
        Self::parse_valid(stream, bytes).map_or(Self::Damaged, Self::Valid)
    }

    fn parse_valid(stream: StreamId, bytes: &[u8]) -> Option<Position> {
        let mut rest = bytes.strip_prefix(&MAGIC)?;
        let checksum_as_told = rest.try_get_u32().ok()?;
        let position = Position(rest.try_get_u64().ok()?);
        let valid = rest.is_empty() && checksum_as_told == checksum(stream, position);
        valid.then_some(position)
    }

    /// The bytes of a slot that holds `position`.
    pub(super) fn encode(stream: StreamId, position: Position) -> [u8; SLOT_LEN] {
        let mut slot = [0; SLOT_LEN];
        let mut rest: &mut [u8] = &mut slot;
        rest.put_slice(&MAGIC);
        rest.put_u32(checksum(stream, position));
        rest.put_u64(position.0);
        slot
    }

    /// The position, if the slot is valid.
    pub(super) fn position(self) -> Option<Position> {
        match self {
            Self::Valid(position) => Some(position),
            Self::Empty | Self::Damaged => None,
        }
    }
}

fn checksum(stream: StreamId, position: Position) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&stream.0), &position.0.to_be_bytes())
}
