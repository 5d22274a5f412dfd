//! The two daemons of nf-transport, nf-sender and nf-receiver.
//!
//! Formats, encryption and the spool are in the shared crate `nf_transport_core`. The modules here form floors above it; each imports
//! only from floors below its own:
//!
//! | floor | modules | may touch |
//! |---|---|---|
//! | 3 settings | [`config`], [`cli`], [`limits`] | the files they are told to read |
//! | 4 the host | [`service`] | sockets, clock, runtime |
//! | 5 figures | [`status`] | sockets, clock, runtime |
//! | 6 the daemons | [`sender`], [`receiver`] | everything below |

pub mod host;
pub mod limits;

pub mod cli;
pub mod config;

pub mod status;

pub mod receiver;
pub mod sender;
