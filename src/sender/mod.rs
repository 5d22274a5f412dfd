//! nf-sender.
pub(crate) mod intake;
pub(crate) mod ledger;
