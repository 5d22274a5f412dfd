//! Tests of the real daemons.
