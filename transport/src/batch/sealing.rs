//! Sealing (encryption at rest) of the body of a batch.

/// Sealing of the body of a batch.
///
/// Only the spool holds sealed batches. They are never sent. [`crate::secure::at_rest`] describes a sealed
/// body.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sealing {
    /// Not sealed: the body is the records, compressed or not.
    #[default]
    None,
    /// Sealed with AES-256-GCM, with a separate key for each batch.
    Aes256Gcm,
}

impl Sealing {
    pub(super) fn code(self) -> u8 {
        match self {
            Self::None => 0,
            Self::Aes256Gcm => 1,
        }
    }

    pub(super) fn from_code(code: u8) -> Option<Self> {
        match code {
            0 => Some(Self::None),
            1 => Some(Self::Aes256Gcm),
            _ => None,
        }
    }
}
