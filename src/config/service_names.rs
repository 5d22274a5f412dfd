//! Names of the services, which their files and directories have as well.

/// The service of the sender.
pub const SENDER: &str = "nf-sender";

/// The service of the receiver.
pub const RECEIVER: &str = "nf-receiver";
