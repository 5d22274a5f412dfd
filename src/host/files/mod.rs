//! Files and directories of a daemon: atomic replacement, locks and permissions.

pub mod atomic_file;
pub(crate) mod directory_lock;
pub(crate) mod private_directory;
