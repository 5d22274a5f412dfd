//! State files of nf-receiver: positions of streams, and templates that collectors have seen.

pub(crate) mod json_file;
pub(crate) mod positions;
pub(crate) mod templates;
