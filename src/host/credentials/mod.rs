//! Keys and certificates of both daemons: their places, reading and expiry.

pub(crate) mod argv_key;
pub(crate) mod certificates;
pub(crate) mod expiry;
pub(crate) mod keys;
pub mod pairing;
pub(crate) mod secret_prompt;
pub(crate) mod session_expiry;
