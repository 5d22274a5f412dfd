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
mod blocked_log;
mod chaos;
mod claims;
mod clocks;
mod closed_connections;
mod compression;
mod confusion;
mod corpus_decoding;
mod damage;
mod decoding;
mod delivery;
mod egress_filter;
mod exporter_figures;
mod fairness;
mod file_limit;
mod floors;
mod full_disk;
mod hostile;
mod isolation;
mod kit_self_test;
mod language;
mod late_data;
mod link_faults;
mod link_local;
mod loss_accounting;
mod newer;
mod nfcapd;
mod outage;
mod pairing;
mod path_mtu;
mod real_tools;
mod receive_journal;
mod receiver_disks;
mod rejected_senders;
mod remote_collector;
mod restored_spools;
mod same_sender_twice;
mod secrecy;
mod service_manager;
mod several_collectors;
mod shipped;
mod slow_collectors;
mod small_disks;
mod source_address;
mod source_check;
mod source_ports;
mod spool_encryption;
mod spool_faults;
mod spool_limits;
mod status_watch;
mod stream_proof;
mod systemd;
mod tampering;
mod tenants;
mod tls;
mod two_configurations;
mod wildcard_sockets;
