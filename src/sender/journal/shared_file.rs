//! The journal's file as its parts share it.

use std::fs::File;
use std::sync::Arc;

/// The open file. Its lock lasts as long as any part of the journal.
pub(super) type SharedFile = Arc<File>;
