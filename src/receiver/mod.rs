//! The receiver.

pub mod delivery;
pub mod output;
pub mod positions;
