//! Message types with their numbers, names and payload lengths.

use core::ops::RangeInclusive;

use crate::framing::FramingError;
use crate::limits::{MESSAGE_MAX, REFUSAL_TEXT_MAX};

/// Length in bytes of the longest HELLO of any version, with room for fields of later versions.
const HELLO_MAX: usize = 1024;

/// Type of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MessageType {
    Hello,
    Welcome,
    Data,
    Ack,
    Gap,
    Ping,
    Refuse,
    Goodbye,
    Received,
    Resend,
}

impl MessageType {
    /// All types, each with its number on the wire and its name.
    const ALL: [(Self, u8, &'static str); 10] = [
        (Self::Hello, 1, "HELLO"),
        (Self::Welcome, 2, "WELCOME"),
        (Self::Data, 3, "DATA"),
        (Self::Ack, 4, "ACK"),
        (Self::Gap, 5, "GAP"),
        (Self::Ping, 6, "PING"),
        (Self::Refuse, 7, "REFUSE"),
        (Self::Goodbye, 8, "GOODBYE"),
        (Self::Received, 9, "RECEIVED"),
        (Self::Resend, 10, "RESEND"),
    ];

    pub(super) fn code(self) -> u8 {
        Self::ALL.iter().find(|row| row.0 == self).map_or(0, |row| row.1)
    }

    pub(super) fn from_code(code: u8) -> Result<Self, FramingError> {
        Self::ALL.iter().find(|row| row.1 == code).map(|row| row.0).ok_or(FramingError::UnknownType(code))
    }

    pub(super) fn name(self) -> &'static str {
        Self::ALL.iter().find(|row| row.0 == self).map_or("", |row| row.2)
    }

    /// Allowed lengths in bytes of a payload of this type, at most `MESSAGE_MAX`.
    fn lengths(self) -> RangeInclusive<usize> {
        match self {
            Self::Hello => 2..=HELLO_MAX,
            Self::Welcome => 36..=36,
            Self::Resend => 12..=12,
            Self::Data => 1..=MESSAGE_MAX,
            Self::Ack | Self::Received => 8..=8,
            Self::Gap => 25..=25,
            Self::Ping | Self::Goodbye => 0..=0,
            Self::Refuse => 1..=1 + REFUSAL_TEXT_MAX,
        }
    }

    /// Converts the `length` of a header, if a payload of this type may have it.
    pub(super) fn check_length(self, length: u32) -> Result<usize, FramingError> {
        let (length, allowed) = (usize::try_from(length).unwrap_or(usize::MAX), self.lengths());
        if allowed.contains(&length) { Ok(length) } else { Err(self.wrong_length(length, &allowed)) }
    }

    /// Error for a payload of this type with a `length` that is not `allowed`.
    pub(super) fn wrong_length(self, length: usize, allowed: &RangeInclusive<usize>) -> FramingError {
        let (shortest, longest) = (*allowed.start(), *allowed.end());
        FramingError::Length { name: self.name(), length, shortest, longest }
    }
}
