//! Carries the datagrams of NetFlow and IPFIX exporters to their collectors, through outages and restarts.
//!
//! The modules stand in floors; each imports only from floors below its own:
//!
//! | floor | modules | may touch |
//! |---|---|---|
//! | 0 words | [`datagram`], [`prefixes`], [`sequence`], [`limits`], [`internal_error`] | core only, and a counter |
//! | 1 pure codecs and clock arithmetic | [`batch`], [`clock`], [`framing`], [`netflow`] | no I/O, no clock |
//! | 2 machines | [`spool`], [`secure`], [`session`] | files through a trait; no sockets, no clock |
//! | 3 settings | [`config`], [`cli`] | the files they are told to read |
//! | 4 the host | [`service`], [`status`] | sockets, clock, runtime |
//! | 5 the daemons | [`sender`], [`receiver`] | everything below |

pub mod datagram;
pub mod internal_error;
pub mod limits;
pub mod prefixes;
pub mod sequence;

pub mod batch;
pub mod clock;
pub mod framing;
pub mod netflow;

pub mod secure;
pub mod session;
pub mod spool;

pub mod cli;
pub mod config;

pub mod service;
pub mod status;

pub mod receiver;
pub mod sender;
