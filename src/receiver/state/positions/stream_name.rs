//! Names of position files.

use core::fmt;

use nf_transport_core::sequence::{SenderId, StreamId};

/// Separates sender id and stream id in a file name; no sender id contains it.
const SEPARATOR: char = '@';

/// A stream of one sender. Its text is the name of its file.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct StreamName {
    pub(super) sender: SenderId,
    pub(super) stream: StreamId,
}

impl StreamName {
    /// Returns the stream whose file has this name.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (sender, stream) = text.rsplit_once(SEPARATOR)?;
        let stream = StreamId(u128::from_str_radix(stream, 16).ok()?.to_be_bytes());
        let name = Self { sender: sender.parse().ok()?, stream };
        (name.to_string() == text).then_some(name)
    }
}

impl fmt::Display for StreamName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{SEPARATOR}{}", self.sender, self.stream)
    }
}
