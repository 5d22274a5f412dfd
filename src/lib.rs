//! The two daemons of nf-transport, nf-sender and nf-receiver.
//!
//! The shared crate `nf_transport_core` contains formats, encryption and the spool. The modules here form
//! floors above it; each imports only from floors below its own:
//!
//! | layer | modules | may touch |
//! |---|---|---|
//! | 3 settings | [`config`], [`cli`], [`limits`] | the files that they are given |
//! | 4 the host | [`host`] | sockets, clock, runtime |
//! | 5 status | [`status`] | sockets, clock, runtime |
//! | 6 the daemons | [`sender`], [`receiver`] | everything below |

pub mod host;
pub mod limits;

pub mod cli;
pub mod config;

pub mod status;

pub mod receiver;
pub mod sender;
