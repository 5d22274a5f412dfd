//! How a batch's body is stored.

use crate::batch::BatchError;

/// The compression of a batch's body.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compression {
    /// The records as they are.
    #[default]
    None,
    /// One zstd frame (RFC 8878).
    Zstd,
}

/// Level 1: the fastest; flow data gains little from higher ones.
const ZSTD_LEVEL: i32 = 1;

impl Compression {
    pub(super) fn code(self) -> u8 {
        match self {
            Self::None => 0,
            Self::Zstd => 1,
        }
    }

    pub(super) fn from_code(code: u8) -> Option<Self> {
        match code {
            0 => Some(Self::None),
            1 => Some(Self::Zstd),
            _ => None,
        }
    }
}

/// `records` as a zstd frame, if that is shorter.
pub(super) fn compress(records: &[u8]) -> Option<Vec<u8>> {
    let frame = zstd::bulk::compress(records, ZSTD_LEVEL).ok()?;
    (frame.len() < records.len()).then_some(frame)
}

/// The `records_len` bytes that `frame` holds; never takes memory for more, whatever the frame says.
pub(super) fn decompress(frame: &[u8], records_len: usize) -> Result<Vec<u8>, BatchError> {
    let records = zstd::bulk::decompress(frame, records_len).map_err(|_| BatchError::Records)?;
    if records.len() == records_len { Ok(records) } else { Err(BatchError::Records) }
}
