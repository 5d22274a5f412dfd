//! Compression of the body of a batch.

use core::cell::RefCell;
use core::fmt;

use zstd::bulk::{Compressor as Zstd, Decompressor};

use crate::batch::BatchError;
use crate::batch::columnar::{self, FlowRows};

/// Compression of the body of a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compression {
    /// The uncompressed records.
    #[default]
    None,
    /// One zstd frame (RFC 8878).
    Zstd,
    /// One zstd frame of the records in columnar form (module `columnar`).
    Columnar,
}

/// Level 1 is the fastest one. Higher levels make flow data only a little smaller.
const ZSTD_LEVEL: i32 = 1;

impl Compression {
    pub(super) fn code(self) -> u8 {
        match self {
            Self::None => 0,
            Self::Zstd => 1,
            Self::Columnar => 2,
        }
    }

    pub(super) fn from_code(code: u8) -> Option<Self> {
        match code {
            0 => Some(Self::None),
            1 => Some(Self::Zstd),
            2 => Some(Self::Columnar),
            _ => None,
        }
    }
}

/// Compresses one batch after another and reuses its memory.
#[derive(Default)]
pub(super) struct Compressor {
    /// `None` until the first batch.
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
    /// Compresses `records`, in columnar form if most of them are flow records (`flows`).
    ///
    /// Returns the compression and the frame; `None` if the frame is not shorter than the records or zstd
    /// fails.
    pub(super) fn compress(&mut self, records: &[u8], flows: &FlowRows) -> Option<(Compression, &[u8])> {
        let (compression, form) = if columnar::encode(records, flows, &mut self.form) {
            (Compression::Columnar, self.form.as_slice())
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
    /// One decompressor for each thread, because creating one for each batch is slow.
    static DECOMPRESSOR: RefCell<Option<Decompressor<'static>>> = const { RefCell::new(None) };
}

/// Decompresses `frame` to exactly `records_len` bytes.
pub(super) fn decompress(frame: &[u8], records_len: usize) -> Result<Vec<u8>, BatchError> {
    let records = decompress_up_to(frame, records_len)?;
    if records.len() == records_len { Ok(records) } else { Err(BatchError::Records) }
}

/// Decompresses `frame` and decodes its columnar form to exactly `records_len` bytes.
pub(super) fn decompress_columnar(frame: &[u8], records_len: usize) -> Result<Vec<u8>, BatchError> {
    columnar::decode(&decompress_up_to(frame, columnar::max_len(records_len))?, records_len)
}

/// Decompresses `frame`. Never allocates more than `most` bytes, even if the frame states a greater length.
fn decompress_up_to(frame: &[u8], most: usize) -> Result<Vec<u8>, BatchError> {
    DECOMPRESSOR
        .with_borrow_mut(|decompressor| match decompressor {
            Some(decompressor) => decompressor.decompress(frame, most),
            none => none.insert(Decompressor::new()?).decompress(frame, most),
        })
        .map_err(|_| BatchError::Records)
}
