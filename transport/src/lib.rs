//! The shared crate of nf-sender and nf-receiver: framing, encryption and segment rotation.
//!
//! The crate opens no socket and reads no clock: callers pass the current moment as an argument.
//! Only [`spool`] accesses files, through a trait.
//! The modules form three floors. Each module imports only from the floors below its own:
//!
//! | floor | modules |
//! |---|---|
//! | 0 values | [`datagram`], [`flow_layout`], [`prefixes`], [`sequence`], [`limits`], [`internal_error`] |
//! | 1 codecs and clock arithmetic | [`batch`], [`clock`], [`framing`], [`netflow`] |
//! | 2 machines | [`spool`], [`secure`], [`session`] |

#![cfg_attr(
    test,
    expect(clippy::disallowed_methods, reason = "tests begin at the present moment and measure")
)]

pub mod datagram;
pub mod flow_layout;
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
