//! The modes: each measures one thing and notes it in the results.

pub(crate) mod cost;
pub(crate) mod rate;
