//! The receiver.

pub mod positions;
