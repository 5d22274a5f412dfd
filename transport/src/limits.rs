//! Bounds of the shared crate, each with its unit and its reason.

use core::time::Duration;

/// Longest payload of a UDP datagram over IPv4 in bytes: 65,535 less 20 (IP) and 8 (UDP). RFC 768, RFC 791.
pub const PAYLOAD_MAX: usize = 65_507;

/// Body length in bytes up to which a batch accepts another datagram.
///
/// Floods travel in large batches, and little is repeated after a crash.
pub const BATCH_BODY_TARGET: usize = 64 * 1024;

/// Longest body of a batch in bytes: a datagram of any size fits, with its addresses.
pub const BATCH_BODY_MAX: usize = 65_600;

/// Most tables in the columnar form of a batch: some for each template of a few exporters.
pub const TABLES_MAX: usize = 64;

/// Most sections in the columnar form of a batch: one for each row if all rows are 8 bytes long.
pub const SECTIONS_MAX: usize = 8192;

/// Bytes that sealing adds to the body of a batch: key id (8), salt (16) and tag (16).
pub const SEAL_OVERHEAD: usize = 40;

/// Longest payload of a message in bytes: a batch with its header.
pub const MESSAGE_MAX: usize = BATCH_BODY_MAX + 64;

/// Longest text of a refusal, in bytes of UTF-8.
pub const REFUSAL_TEXT_MAX: usize = 512;

/// Bytes of unacknowledged batches that a sender may have in flight: enough to fill 1 Gbit/s over 50 ms.
///
/// At most half of `JOURNAL_RING`, so that all of it stays in memory until it is known to be late.
pub const WINDOW: u32 = 6 * 1024 * 1024;

/// Longest time from the delivery of a batch to its acknowledgement.
///
/// One acknowledgement, and one write of the position, then cover several batches. nf-sender keeps data in
/// memory for longer than that, and `kill -9` of nf-receiver repeats no more.
pub const ACK_DELAY: Duration = Duration::from_millis(20);

/// Time after an acknowledgement from which the next delivery is acknowledged at once.
///
/// A sender that sends every 10 ms then gets one for every other piece, and no timer wakes the receiver.
pub const ACK_PAUSE: Duration = Duration::from_millis(15);

/// Bytes of batches after which a receiver acknowledges at once: a sixth of the window, so that the sender
/// never stops.
pub const ACK_BYTES: usize = 1024 * 1024;

/// Bytes of messages that each side keeps ready to be written to the connection.
pub const OUTBOX_MAX: usize = 512 * 1024;

/// Number of heartbeats without any byte after which a side abandons the connection.
pub const HEARTBEATS_MISSED: u32 = 3;

/// Longest heartbeat that a sender may request: a vanished sender keeps its place for `HEARTBEATS_MISSED` of
/// them.
pub const HEARTBEAT_MAX: Duration = Duration::from_secs(60);

/// Exporters whose counters nf-sender keeps. A new one replaces the one that has been silent for longest.
pub const EXPORTERS_MAX: usize = 4096;

/// Exporters of one address whose counters are kept. A new one replaces the one that has been silent for
/// longest.
///
/// A chassis has some dozens of source ids, and no host gets more than a sixteenth of the table.
pub const EXPORTERS_PER_ADDRESS: usize = 256;

/// Exporters of one address with the same source id, distinguished by their ports.
///
/// A datagram from a new port is compared with each of them.
pub const EXPORTERS_PER_SOURCE: usize = 64;

/// Datagrams of an exporter that may overtake another one: reordering by 200 places both ways, with a
/// reserve.
pub const SEQUENCE_WINDOW: usize = 512;

/// Sequence-number runs that are followed for each exporter: line cards behind one source id, and the last
/// restarts.
pub const SEQUENCE_RUNS: usize = 8;

/// Holes in the sequence numbers of an exporter that may still be filled, for all ways of counting together.
///
/// Two windows, because without losses every other datagram can be late.
pub const SEQUENCE_HOLES: usize = 2 * SEQUENCE_WINDOW;

/// Bytes of recent sequence numbers of all exporters.
///
/// The sum of 2 KiB for each of 4,096 exporters and as much for some hundreds that lose or reorder datagrams.
/// Above it, an exporter that sends a datagram forgets its own numbers, so that late datagrams stay missing.
pub const SEQUENCE_MEMORY: usize = 12 * 1024 * 1024;

/// Datagrams whose amount a sequence number may jump ahead and be accepted at once: the loss of a burst.
pub const JUMP_DATAGRAMS: u64 = 1024;

/// Factor of a jump that is accepted at once, relative to the amount that the exporter adds on average in the
/// elapsed time.
pub const JUMP_RATE_FACTOR: u64 = 4;

/// Factor of a jump, relative to the same amount, that is accepted under two conditions: the next numbers
/// continue it, and the old run does not continue.
pub const JUMP_RATE_FACTOR_MAX: u64 = 256;

/// Datagrams per second that are possible for an exporter of unknown rate: 1 Gbit/s of full ones.
pub const EXPORTER_RATE_MAX: u64 = 100_000;

/// Templates kept of one exporter. Routers have a few dozens at most. A new one replaces the oldest.
pub const TEMPLATES_PER_EXPORTER: usize = 256;

/// Bytes of templates kept of one exporter: 256 templates of 40 fields each. A longer template is not kept.
pub const TEMPLATE_BYTES_PER_EXPORTER: usize = 64 * 1024;

/// Bytes that each kept template counts in addition to its definition: its entry and the allocator's
/// overhead.
pub const TEMPLATE_OVERHEAD: usize = 64;

/// Ports, with their definitions, that are remembered of one template defined differently from several ports.
///
/// Enough to see that two exporters behind one address alternate.
pub const DEFINERS_PER_TEMPLATE: usize = 16;

/// Exporters behind one address with the same source id or observation domain whose templates are kept apart.
///
/// A new one replaces the one with the oldest definitions. A NAT rarely hides more.
pub const PORTS_PER_DOMAIN: usize = 64;

/// Bytes that each exporter and domain counts in addition to its templates: its entry in a half-full table.
pub const TEMPLATE_EXPORTER_OVERHEAD: usize = 640;

/// Bytes of templates kept of one sender for one collector: 1,800 exporters with 10 templates of 25 fields.
///
/// A new exporter replaces the one that has defined nothing for longest.
pub const TEMPLATE_MEMORY: usize = 4 * 1024 * 1024;

/// Bytes of options data records kept of one exporter and domain: an application table of 2,000 rows and 500
/// interfaces. A new record replaces the oldest one of the largest table.
pub const OPTION_BYTES_PER_EXPORTER: usize = 512 * 1024;

/// Bytes that each kept record counts in addition to itself: its entry in a half-full table.
pub const OPTION_OVERHEAD: usize = 128;

/// Bytes that each options template with records counts in addition to its records.
pub const OPTION_TABLE_OVERHEAD: usize = 256;

/// Bytes of options data records kept of one sender for one collector: those of 80 exporters with 500
/// interfaces and 500 applications. A new exporter replaces the one that has sent none for longest.
pub const OPTION_MEMORY: usize = 16 * 1024 * 1024;

/// Repeats of everything known of an exporter to a collector that did not restart, before `REPEAT_EVERY`
/// applies.
///
/// They are needed because the collector sees the exporter under another port.
pub const REPEATS_AT_ONCE: usize = 8;

/// Shortest interval of further such repeats. Exporters refresh their templates no more often.
pub const REPEAT_EVERY: Duration = Duration::from_secs(10);

/// Sockets of one exporter and domain that are remembered as sources of repeats: more than exist at a time.
pub const SOCKETS_PER_DOMAIN: usize = 128;

/// Length in bytes of a datagram that repeats templates, unless one template alone is longer.
///
/// It passes a link with an MTU of 1,500 bytes unfragmented, also through tunnels.
pub const REPEAT_TARGET: usize = 1400;

/// Bytes that the record length of one template counts: its entry in a vector with room to grow.
///
/// Records of variable length count two more bytes for each run of fields. The lengths are kept for IPFIX,
/// and for NetFlow v9 if batches are compressed.
pub const RECORD_LENGTH_OVERHEAD: usize = 48;

/// Bytes of record lengths of one exporter: over 300 templates. When they are used up, all are learned again.
pub const RECORD_LENGTHS_PER_EXPORTER: usize = 16 * 1024;

/// Bytes of record lengths of all exporters: 40 templates for each of `EXPORTERS_MAX`.
///
/// Definitions beyond that are not learned, and their data records are not counted.
pub const RECORD_LENGTHS_TOTAL: usize = 8 * 1024 * 1024;

/// Positions skipped when the last used one is unknown: no run of the program uses as many.
pub const POSITIONS_PER_RUN: u64 = 1 << 44;

/// Runs that a spool remembers.
///
/// After more restarts without an acknowledgement the oldest run is forgotten. A receiver that last received
/// from that run then gets its unacknowledged data again, at most one window.
pub const RUNS_MAX: usize = 64;

/// Copies of damaged pieces that nf-sender keeps in `damaged/`, one for each damage. A new copy replaces the
/// oldest.
pub const DAMAGED_FILES_MAX: u64 = 1024;

/// Bytes of all copies of damaged pieces: four segments of the default size, enough for an analysis.
pub const DAMAGED_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// Shortest heartbeat: below it, scheduling delays of a busy host look like a dead peer.
pub const HEARTBEAT_MIN: Duration = Duration::from_millis(10);

/// Longest lag of a file's modification time behind the clock.
///
/// The kernel takes it from its last tick, and some file systems round it down to a second or two.
pub const FILE_TIME_LAG: Duration = Duration::from_secs(2);

/// Smallest move of the wall clock against the boot clock that counts as a step.
///
/// Smaller corrections are within the precision of everything that is measured with it, leap seconds aside.
pub const CLOCK_STEP: Duration = Duration::from_secs(1);

/// Time after which nf-receiver follows a step of its own clock: a clock that is wrong for a moment makes
/// nothing late.
pub const CLOCK_SETTLED_AFTER: Duration = Duration::from_secs(60);

/// Time without a step after which the wall clock may determine the age of datagrams from an earlier boot.
///
/// Time synchronization sets a wrong clock within minutes after a boot or after the network is back.
pub const CLOCK_STEADY_AFTER: Duration = Duration::from_secs(3600);

/// 2026-01-01, since 1970. A clock that shows an earlier time is wrong, because this program did not exist
/// then.
pub const CLOCK_EARLIEST: Duration = Duration::from_secs(1_767_225_600);

/// Bytes of batches that nf-receiver keeps for the slower collectors of one stream.
pub const LANE_MAX: usize = 1024 * 1024;

/// Records of one direction under one key, at most 256 MiB. Both sides then switch to a new key.
pub const REKEY_EVERY: u64 = 4096;

/// Bytes of one direction after which a sender makes a new handshake.
pub const CHANNEL_BYTES_MAX: u64 = 1 << 40;

/// Sealed bytes waiting to be written at which sealing pauses: one write then takes two records.
pub const SEALED_AHEAD: usize = 128 * 1024;

/// Characters of an invitation's token.
pub const TOKEN_MAX: usize = 2048;

/// Characters below which a passphrase is short: a recording of one handshake and little time suffice to
/// guess it.
pub const PASSPHRASE_SHORT: usize = 16;
