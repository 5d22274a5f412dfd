//! How two sides come to trust a connection before any message is spoken.

pub mod preface;
