//! Whether a batch's body can be read by everyone.

/// How the body of a batch is sealed. Only the spool holds sealed batches; none ever travels. What a seal is made
/// of stands in [`crate::secure::at_rest`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sealing {
    /// The body is the records, compressed or not.
    #[default]
    None,
    /// The body is sealed with AES-256-GCM, under a key of its own.
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
