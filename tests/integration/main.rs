//! Tests of the two daemons as processes with real sockets on loopback, and of the test kit itself.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "a test that cannot continue fails there and prints the reason"
)]

mod advisories;
mod backlog;
mod bad_input;
mod bind;
mod blocked_log;
mod chaos;
mod claims;
mod clocks;
mod collector_elsewhere;
mod compression;
mod confusion;
mod corpus_decoding;
mod damage;
mod decoding;
mod delivery;
mod egress_filter;
mod exporter_figures;
mod fairness;
mod few_files;
mod floors;
mod full_disk;
mod hang_ups;
mod hostile;
mod intake;
mod kit;
mod last_mile;
mod late_data;
mod limits;
mod link_faults;
mod link_local;
mod losses;
mod newer;
mod nfcapd;
mod outage;
mod pairing;
mod path_mtu;
mod real_tools;
mod receiver_disks;
mod refusals;
mod restored;
mod rivals;
mod running;
mod secrecy;
mod service;
mod several_collectors;
mod shipped;
mod small_disks;
mod source_address;
mod source_check;
mod source_ports;
mod spool_encryption;
mod spool_faults;
mod status_watch;
mod stream_proof;
mod systemd;
mod tampering;
mod tenants;
mod tls;
mod two_configurations;
