//! How a batch's body is stored.

use core::cell::RefCell;
use core::fmt;

use zstd::bulk::{Compressor as Zstd, Decompressor};

use crate::batch::BatchError;
use crate::batch::transposed::{self, Flows};

/// The compression of a batch's body.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compression {
    /// The records as they are.
    #[default]
    None,
    /// One zstd frame (RFC 8878).
    Zstd,
    /// One zstd frame of the records' transposed form (`transposed`).
    Transposed,
}

/// Level 1: the fastest; flow data gains little from higher ones.
const ZSTD_LEVEL: i32 = 1;

impl Compression {
    pub(super) fn code(self) -> u8 {
        match self {
            Self::None => 0,
            Self::Zstd => 1,
            Self::Transposed => 2,
        }
    }

    pub(super) fn from_code(code: u8) -> Option<Self> {
        match code {
            0 => Some(Self::None),
            1 => Some(Self::Zstd),
            2 => Some(Self::Transposed),
            _ => None,
        }
    }
}

/// Compresses one batch after the other with the same memory.
#[derive(Default)]
pub(super) struct Compressor {
    /// None until the first batch.
    zstd: Option<Zstd<'static>>,
    form: Vec<u8>,
    frame: Vec<u8>,
}

impl fmt::Debug for Compressor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Compressor").finish_non_exhaustive()
    }
}

impl Compressor {
    /// `records` in fewer bytes, and how; `None` if there is no such way. Transposed if `flows` are most of them.
    pub(super) fn compress(&mut self, records: &[u8], flows: &Flows) -> Option<(Compression, &[u8])> {
        let (compression, form) = if transposed::transpose(records, flows, &mut self.form) {
            (Compression::Transposed, self.form.as_slice())
        } else {
            (Compression::Zstd, records)
        };
        let zstd = match &mut self.zstd {
            Some(zstd) => zstd,
            none => none.insert(Zstd::new(ZSTD_LEVEL).ok()?),
        };
        self.frame.clear();
        self.frame.reserve(zstd::zstd_safe::compress_bound(form.len()));
        zstd.compress_to_buffer(form, &mut self.frame).ok()?;
        (self.frame.len() < records.len()).then_some((compression, self.frame.as_slice()))
    }
}

thread_local! {
    /// Made once for a thread, not for each batch.
    static DECOMPRESSOR: RefCell<Option<Decompressor<'static>>> = const { RefCell::new(None) };
}

/// The `records_len` bytes that `frame` holds.
pub(super) fn decompress(frame: &[u8], records_len: usize) -> Result<Vec<u8>, BatchError> {
    let records = unpack(frame, records_len)?;
    if records.len() == records_len { Ok(records) } else { Err(BatchError::Records) }
}

/// The `records_len` bytes whose transposed form `frame` holds.
pub(super) fn decompress_transposed(frame: &[u8], records_len: usize) -> Result<Vec<u8>, BatchError> {
    transposed::restore(&unpack(frame, transposed::longest(records_len))?, records_len)
}

/// What `frame` holds; never takes memory for more than `most` bytes, whatever the frame says.
fn unpack(frame: &[u8], most: usize) -> Result<Vec<u8>, BatchError> {
    DECOMPRESSOR
        .with_borrow_mut(|decompressor| match decompressor {
            Some(decompressor) => decompressor.decompress(frame, most),
            none => none.insert(Decompressor::new()?).decompress(frame, most),
        })
        .map_err(|_| BatchError::Records)
}
