//! Configuration: files, variables and options become settings that are valid by construction.
//!
//! Every layer becomes a table of values with their origins. Later layers override earlier ones. One reader
//! turns the merged table into settings, or reports all problems, each with its place, the value found and
//! the values allowed. The module reads the files that it is given, and nothing else.

mod changed_keys;
mod collector;
mod environment;
mod error;
mod files;
mod host_port;
mod loaded;
mod parsers;
mod protection;
mod reader;
mod receiver;
mod reconnect;
mod report;
mod sender;
mod service_names;
mod value;

pub use collector::{CollectorSettings, LateSettings, Limit, SourceAddress, WhenDown};
pub use environment::Environment;
pub use error::{ConfigError, Problem};
pub use files::{Revision, drop_in_directory, other_file_naming};
pub use host_port::{HostPort, HostPortError};
pub use loaded::{
    Loaded, Overrides, control_path, file_path, load_receiver, load_revised_receiver, load_revised_sender,
    load_sender,
};
pub use protection::{
    KeyPair, KeySource, ReceiverProtection, ReceiverTlsSettings, SenderKeys, SenderProtection,
    SpoolEncryption, TlsFiles,
};
pub use receiver::ReceiverSettings;
pub use reconnect::Reconnect;
pub use report::Report;
pub use sender::{SenderSettings, SpoolSettings};
pub use service_names::{RECEIVER, SENDER};
pub use value::Origin;

#[cfg(test)]
mod tests;
