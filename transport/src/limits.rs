//! Bounds of the shared crate, each with its unit and its reason.

use core::time::Duration;

/// Longest payload of a UDP datagram over IPv4 in bytes: 65,535 less 20 (IP) and 8 (UDP). RFC 768, RFC 791.
pub const PAYLOAD_MAX: usize = 65_507;

/// A batch takes another datagram while its body stays within this many bytes, so that floods leave in large
/// pieces and a repeat after a crash stays small.
pub const BATCH_BODY_TARGET: usize = 64 * 1024;

/// Longest body of a batch in bytes: one datagram of any size fits, with its addresses.
pub const BATCH_BODY_MAX: usize = 65_600;

/// Tables of rows that the transposed records of a batch have at the most: some for each template of a few exporters.
pub const TABLES_MAX: usize = 64;

/// Pieces that the rows of transposed records are put together of at the most: one for each row if all are of 8 bytes.
pub const PIECES_MAX: usize = 8192;

/// Bytes by which sealing makes a batch's body longer: key id (8), salt (16) and tag (16).
pub const SEAL_OVERHEAD: usize = 40;

/// Longest message on the wire in bytes, its header not counted: a batch with its header.
pub const MESSAGE_MAX: usize = BATCH_BODY_MAX + 64;

/// Longest sentence that a refusal carries, in bytes of UTF-8.
pub const REFUSAL_TEXT_MAX: usize = 512;

/// Bytes of batches that a sender has under way without an acknowledgement: enough to fill 1 Gbit/s over 50 ms. No more than
/// half of `INTAKE_RING`, so that all of it stays in memory until it is known to be late.
pub const WINDOW: u32 = 6 * 1024 * 1024;

/// How long a receiver may keep an acknowledgement to itself: one then does for many batches, and the sender is not woken for
/// each. Nothing waits for it: what is unacknowledged for so short a time lies in memory only.
pub const ACK_DELAY: Duration = Duration::from_millis(10);

/// Bytes of batches that a receiver acknowledges at once: a sixth of the window, so that the sender never has to stop.
pub const ACK_BYTES: usize = 1024 * 1024;

/// Bytes of messages that either side holds ready to be written to the connection.
pub const OUTBOX_MAX: usize = 512 * 1024;

/// Either side gives a link up after this many heartbeats in a row that it did not hear.
pub const HEARTBEATS_MISSED: u32 = 3;

/// The longest heartbeat that a sender may ask for: one that vanished keeps its place for `HEARTBEATS_MISSED` of them.
pub const HEARTBEAT_MAX: Duration = Duration::from_secs(60);

/// Exporters whose counters nf-sender keeps; the one unheard longest makes room.
pub const EXPORTERS_MAX: usize = 4096;

/// Exporters of one address whose counters are kept; the one unheard longest makes room. A chassis has some dozens of source ids,
/// and no host takes more than a sixteenth of the table.
pub const EXPORTERS_PER_ADDRESS: usize = 256;

/// Exporters of one address with the same source id, distinguished by their ports. A datagram from a new port is compared with each of them.
pub const EXPORTERS_PER_SOURCE: usize = 64;

/// Datagrams of an exporter that may overtake another one: reordering by 200 places both ways, with a reserve.
pub const SEQUENCE_WINDOW: usize = 512;

/// Runs of numbers that are followed for each exporter: line cards behind one source id, and the last restarts.
pub const SEQUENCE_RUNS: usize = 8;

/// Holes in the numbers of an exporter that may still be filled, all ways of counting together: two windows, as without losses each
/// other datagram can be late.
pub const SEQUENCE_HOLES: usize = 2 * SEQUENCE_WINDOW;

/// Bytes of recent numbers of all exporters: 2 KiB for each of 4,096, and as much for some hundreds of them that lose or reorder
/// datagrams. Beyond, an exporter that is heard forgets its own, so that late datagrams stay missing.
pub const SEQUENCE_MEMORY: usize = 12 * 1024 * 1024;

/// A number may jump ahead by as much as this many datagrams add, and be accepted at once: the loss of a burst.
pub const JUMP_DATAGRAMS: u64 = 1024;

/// A number may jump ahead by this many times the amount that the exporter adds on average in the elapsed time, and be accepted at once.
pub const JUMP_RATE_FACTOR: u64 = 4;

/// A jump by up to this many times that amount is accepted if the next numbers continue it and the old run does not continue.
pub const JUMP_RATE_FACTOR_MAX: u64 = 256;

/// Datagrams that an exporter whose rate is not known can send in a second: 1 Gbit/s of full ones.
pub const EXPORTER_RATE_MAX: u64 = 100_000;

/// Templates of one exporter that are kept: routers have a few dozens at the most; the oldest makes room.
pub const TEMPLATES_PER_EXPORTER: usize = 256;

/// Bytes of templates of one exporter that are kept: 256 of 40 fields each. One that is longer is not kept.
pub const TEMPLATE_BYTES_PER_EXPORTER: usize = 64 * 1024;

/// Bytes that each kept template counts beside its definition: its entry and what the allocator adds.
pub const TEMPLATE_OVERHEAD: usize = 64;

/// Ports, with what each defined, that are remembered of one template that was defined differently from several ports:
/// enough to see that two exporters behind one address take turns.
pub const DEFINERS_PER_TEMPLATE: usize = 16;

/// Exporters behind one address with the same source id or observation domain whose templates are kept apart; the one
/// whose definitions are the oldest makes room. A NAT rarely hides more.
pub const PORTS_PER_DOMAIN: usize = 64;

/// Bytes that each exporter and domain counts beside its templates: its entry in a table that is half full.
pub const TEMPLATE_EXPORTER_OVERHEAD: usize = 640;

/// Bytes of templates that are kept of one sender for one collector: 1,800 exporters with 10 templates of 25 fields; the
/// exporter that has defined nothing for longest makes room.
pub const TEMPLATE_MEMORY: usize = 4 * 1024 * 1024;

/// Bytes of options data records of one exporter and domain that are kept: an application table of 2,000 rows and 500
/// interfaces. The record that came longest ago in the largest table makes room.
pub const OPTION_BYTES_PER_EXPORTER: usize = 512 * 1024;

/// Bytes that each kept record counts beside itself: its entry in a table that is half full.
pub const OPTION_OVERHEAD: usize = 128;

/// Bytes that each options template with records counts beside these.
pub const OPTION_TABLE_OVERHEAD: usize = 256;

/// Bytes of options data records that are kept of one sender for one collector: those of 80 exporters with 500 interfaces
/// and 500 applications; the exporter that has sent none for longest makes room.
pub const OPTION_MEMORY: usize = 16 * 1024 * 1024;

/// How often everything known of an exporter may be repeated to a collector that did not restart, because the collector
/// sees the exporter under another port; then once in `REPEAT_EVERY`.
pub const REPEATS_AT_ONCE: usize = 8;

/// See `REPEATS_AT_ONCE`: exporters refresh their templates no more often.
pub const REPEAT_EVERY: Duration = Duration::from_secs(10);

/// Sockets of one exporter and domain of which is remembered that repeats went from them: more than there are at a time.
pub const SOCKETS_PER_DOMAIN: usize = 128;

/// Bytes of a datagram that repeats templates, unless one template alone is longer: it passes a link of 1,500
/// bytes whole, whatever tunnels add.
pub const REPEAT_TARGET: usize = 1400;

/// Bytes that the length of the records of one template counts, beside two for each run of fields in records of
/// variable length: its entry in a vector with room to grow. Kept of IPFIX, and of NetFlow v9 for compression.
pub const RECORD_LENGTH_OVERHEAD: usize = 48;

/// Bytes of record lengths of one exporter: over 300 templates; when there is no more room all are
/// learned anew.
pub const RECORD_LENGTHS_PER_EXPORTER: usize = 16 * 1024;

/// Bytes of record lengths of all exporters: 40 templates for each of `EXPORTERS_MAX`; beyond that, what
/// an exporter defines is not learned, and its data records are not counted.
pub const RECORD_LENGTHS_TOTAL: usize = 8 * 1024 * 1024;

/// Positions passed over when the last one used is not known: no run of the program uses as many.
pub const POSITIONS_PER_RUN: u64 = 1 << 44;

/// Runs that a spool remembers at most. With more restarts while nothing is acknowledged the oldest is forgotten. Then a
/// receiver that last heard that run gets again what it has and did not acknowledge, at most one window.
pub const RUNS_MAX: usize = 64;

/// Copies of damaged pieces that nf-sender keeps in `damaged/`: each damage makes one. The oldest makes room.
pub const DAMAGED_FILES_MAX: u64 = 1024;

/// Bytes of all copies of damaged pieces: four segments of the default size, enough to see what happened.
pub const DAMAGED_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// The shortest heartbeat: below it, the scheduling of a busy host looks like a dead peer.
pub const HEARTBEAT_MIN: Duration = Duration::from_millis(10);

/// How far the time of a file's last change may lag behind the clock: the kernel takes it from its last tick, and some file
/// systems round it down to a second or two.
pub const FILE_TIME_LAG: Duration = Duration::from_secs(2);

/// A wall clock that moved so far against the boot clock was set. Smaller corrections are within the precision of all that is
/// measured with it, leap seconds aside.
pub const CLOCK_STEP: Duration = Duration::from_secs(1);

/// nf-receiver follows a step of its own clock once it has lasted for so long: a clock that is wrong for a moment makes
/// nothing late.
pub const CLOCK_SETTLED_AFTER: Duration = Duration::from_secs(60);

/// A wall clock that has not been set for so long may tell how old the datagrams of an earlier boot are: time
/// synchronization sets a wrong clock within minutes of the boot or of the network's return.
pub const CLOCK_STEADY_AFTER: Duration = Duration::from_secs(3600);

/// 2026-01-01, since 1970: a clock that shows an earlier time is wrong, as this program did not exist then.
pub const CLOCK_EARLIEST: Duration = Duration::from_secs(1_767_225_600);

/// Bytes of batches that wait in nf-receiver for the collectors of one stream while others are ahead of them.
pub const LANE_MAX: usize = 1024 * 1024;

/// Records of one direction after which both sides go on with a new key: at most 256 MiB under one.
pub const REKEY_EVERY: u64 = 4096;

/// Bytes of one direction after which a sender makes a new handshake.
pub const CHANNEL_BYTES_MAX: u64 = 1 << 40;

/// No further record is sealed while as many bytes wait to be written: enough for one write to take two records.
pub const SEALED_AHEAD: usize = 128 * 1024;

/// Characters of an invitation's token.
pub const TOKEN_MAX: usize = 2048;

/// Characters below which a passphrase is short: guessing it takes a recording of one handshake, and little time.
pub const PASSPHRASE_SHORT: usize = 16;
