//! The spool.

mod policy;

pub use policy::{Policy, WhenFull};
