//! Bounds of the two daemons, each with its unit and its reason. The bounds of the shared crate are in
//! `nf_transport_core::limits`.

use core::time::Duration;

/// Bytes of batches that the uplink reads ahead from segments, so that it does not wait for the disk between
/// batches.
pub const READ_AHEAD: usize = 512 * 1024;

/// Heartbeats after which a sender ends a session if TCP repeats a segment in vain although the sender hears
/// the receiver. Fewer than `HEARTBEATS_MISSED`: after that many, the receiver, which hears nothing, ends
/// the session without a reason.
pub const HEARTBEATS_UNACKNOWLEDGED: u32 = 2;

/// Bytes of TCP segments that a sender tries in turn if the path loses full ones. IPv6 paths pass 1,200
/// bytes (RFC 8200: 1,280), IPv4 hosts 536 bytes (RFC 1122: 576).
pub const SEGMENT_BYTES: [u16; 2] = [1200, 536];

/// Time for which a sender connects with smaller segments before it tries full ones again. A repaired path
/// is used fully within an hour; a broken one costs two heartbeats.
pub const SEGMENT_BYTES_KEPT: Duration = Duration::from_secs(3600);

/// Addresses of receivers whose segment size a sender remembers: some for each of `RECEIVERS_MAX` names.
pub const SEGMENT_SIZES_MAX: usize = 64;

/// Time for which a sender waits for an answer before it tries the next address or receiver, or follows its
/// schedule. The connection stays open: the sender uses a later answer at once.
pub const DIAL_PATIENCE: Duration = Duration::from_secs(10);

/// Time for which a reconnecting sender waits for outstanding acknowledgements, so that it sends nothing
/// twice.
pub const RECONNECT_GRACE: Duration = Duration::from_secs(5);

/// Time after which nf-receiver ends a connection that its sender has closed, even if collectors have not
/// received all of its datagrams. The sender still has these.
pub const HANG_UP_GRACE: Duration = Duration::from_secs(2);

/// Datagrams of one recvmmsg call, at most. Each has a slot of `JOURNAL_SLOT_SIZE` bytes: 8 MiB in total.
pub const JOURNAL_SLOTS: usize = 128;

/// Bytes of each slot of the journal: any datagram fits, and pages stay aligned.
pub const JOURNAL_SLOT_SIZE: usize = 64 * 1024;

/// Bytes of the journal's ring: batches that are neither acknowledged nor in a segment.
pub const JOURNAL_RING: u64 = 12 * 1024 * 1024;

/// Bytes of receive buffer that nf-sender requests for each socket: more than 2 s of 20,000 datagrams/s.
pub const RECEIVE_BUFFER: usize = 64 * 1024 * 1024;

/// Journal mappings that one process can guard against SIGBUS: nf-sender has three, its unit tests some for
/// each core.
pub const JOURNAL_MAPPINGS_MAX: usize = 512;

/// Longest configurable `max-delay`: collectors get flow data within a second of its arrival, and longer
/// waits would save nothing.
pub const MAX_DELAY_MAX: Duration = Duration::from_secs(1);

/// Longest time for which nf-sender coalesces datagrams in its sockets with a `max-delay` of 0. It does so
/// only while they arrive more often than that.
pub const COALESCING_MAX: Duration = Duration::from_millis(1);

/// UDP sockets that nf-sender, or TCP sockets that nf-receiver listens on, at most: far more than any known
/// setup needs.
pub const LISTENERS_MAX: usize = 64;

/// Bytes of templates of all senders and collectors: eight times the maximum of one. The largest user makes
/// room.
pub const TEMPLATES_TOTAL: usize = 32 * 1024 * 1024;

/// Bytes of options data of all senders and collectors: four times the maximum of one. The largest user
/// makes room.
pub const OPTIONS_TOTAL: usize = 64 * 1024 * 1024;

/// Time for which nf-sender continues to send after a stop was requested.
pub const STOP_GRACE: Duration = Duration::from_secs(5);

/// Streams per sender id whose position nf-receiver remembers. A new one replaces one unseen for longer than
/// `STREAM_KEPT`, else the last that began of those that are neither among the first `STREAMS_FIRST` nor
/// used for `STREAM_ESTABLISHED`, else the one that began last. So streams under a forged id displace each
/// other.
pub const STREAMS_PER_SENDER: usize = 8;

/// First streams per sender id, which are kept however briefly they were used: half of the places. So a
/// client that began a few streams before the sender did cannot take all the others.
pub const STREAMS_FIRST: usize = STREAMS_PER_SENDER / 2;

/// Time of use after which a stream is kept in preference to briefly used ones. A client that begins streams
/// at random has to return for each of them.
pub const STREAM_ESTABLISHED: Duration = Duration::from_secs(3_600);

/// Interval at which the file of a stream is marked as seen while its session has nothing to store.
pub const STREAM_MARKED_EVERY: Duration = Duration::from_secs(86_400);

/// Interval at which nf-receiver looks for such streams while nothing else needs a sync: an idle daemon
/// writes nothing.
pub const IDLE_STREAMS_EXAMINED_EVERY: Duration = Duration::from_secs(3_600);

/// Length from which the log of positions is replaced by a new one, unless the new one is half as long: with
/// 100 active senders a replacement in 5 minutes.
pub const POSITIONS_LOG_MAX: usize = 4 * 1024 * 1024;

/// Space that the log of positions reserves at once, so that most syncs change no size: 8 minutes of one
/// sender.
pub const POSITIONS_LOG_RESERVED: usize = 64 * 1024;

/// Position files synced in one second, when sessions end or after a crash: the log has the others, and the
/// next sync of the log waits for these.
pub const POSITION_FILES_PER_SYNC: usize = 32;

/// Age after which an unseen stream is the first to make room for another of the same sender id. No outage
/// lasts as long, and its spool was probably abandoned.
pub const STREAM_KEPT: Duration = Duration::from_secs(30 * 86_400);

/// Streams whose position nf-receiver remembers in total, so that no number of sender ids fills the disk.
pub const STREAMS_MAX: usize = 131_072;

/// New streams that one sender id may begin at once, beyond one per `NEW_STREAM_INTERVAL`: during its setup
/// a sender restarts several times with an empty spool. With a shared key, or in clear text, each address
/// counts separately.
pub const NEW_STREAMS_BURST: u32 = 16;

/// New streams that one address (of IPv6: one /64 network) may begin at once, with a shared key or in
/// clear text, beyond one per `NEW_STREAM_INTERVAL`: as many senders behind one NAT may start at once, each
/// with an empty spool. Under many ids, one address needs 15 days for `STREAMS_MAX` streams.
pub const NEW_STREAMS_BURST_PER_SOURCE: u32 = 1024;

/// Interval in which one sender id may begin one new stream: each creates a file and removes that of another
/// stream.
pub const NEW_STREAM_INTERVAL: Duration = Duration::from_secs(10);

/// Longest delay of nf-sender after a temporary rejection: too many new streams began, or another sender has
/// its id. An old connection of its own under that id ends after three heartbeats.
pub const REFUSED_FOR_NOW_DELAY_MAX: Duration = NEW_STREAM_INTERVAL;

/// Sender ids, with their addresses where these count, whose new streams are counted at the same time:
/// bounds the memory.
pub const NEW_STREAM_OWNERS: usize = 16_384;

/// Addresses whose new streams are counted at the same time: bounds the memory.
pub const NEW_STREAM_SOURCES: usize = 16_384;

/// Interval between log lines about the same subject and peer. The lines in between are counted, so that no
/// peer floods the log.
pub const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// Pause of a listener when the system has no file descriptor left for a connection: without it the loop
/// would spin.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Log lines that wait to be written, about 300 KiB. Further lines are dropped and counted. The journal
/// writes as many within milliseconds.
pub const LOG_QUEUE_MAX: usize = 1024;

/// Time for which an ending program waits until its last log lines are written: a blocked journal must not
/// prevent the end.
pub const LOG_FLUSH: Duration = Duration::from_secs(2);

/// Bytes of a control request line: several times the longest request.
pub const CONTROL_REQUEST_MAX: u64 = 256;

/// Bytes of a control reply: a status with all of `EXPORTERS_MAX` exporters is below 2 MiB.
pub const CONTROL_REPLY_MAX: u64 = 16 * 1024 * 1024;

/// Time for which either side of the control socket waits for the other, so that neither blocks the other.
pub const CONTROL_TIMEOUT: Duration = Duration::from_secs(5);

/// Control requests served at once, and as many requests for metrics. The newest replaces the oldest.
pub const CONTROL_CONNECTIONS: usize = 16;

/// Requests for metrics from one address that are served at once: several scrapers behind one proxy.
pub const SCRAPES_PER_ADDRESS: usize = 4;

/// Shortest delay between connection attempts: with a shorter one, a dead receiver would load the host.
pub const RECONNECT_MIN: Duration = Duration::from_millis(10);

/// Longest delay between connection attempts: nf-sender detects a restored link within a day.
pub const RECONNECT_MAX: Duration = Duration::from_secs(86_400);

/// Smallest configurable segment size in bytes: a batch of any size and the header fit.
pub const SEGMENT_MIN: u64 = 128 * 1024;

/// Largest configurable spool size in bytes: 1 PiB, far above any disk in use.
pub const SPOOL_MAX: u64 = 1 << 50;

/// Shortest configurable time for rotation and age of segments: below it, the files cost more than their
/// content.
pub const ROTATE_EVERY_MIN: Duration = Duration::from_millis(100);

/// Longest configurable age of segments: ten years of 365.25 days, in effect unlimited.
pub const MAX_AGE_MAX: Duration = Duration::from_secs(10 * 31_557_600);

/// Longest configurable time before unacknowledged data is synced to disk: a power loss costs no more than
/// that.
pub const SYNC_AFTER_MAX: Duration = Duration::from_secs(3600);

/// Remaining time, at the present rate, below which nf-sender warns of a filling spool: enough for an
/// operator to react.
pub const ROOM_SHORT: Duration = Duration::from_secs(3600);

/// Time for which the room must be that short before it is logged: a burst is over by then.
pub const ROOM_SHORT_FOR: Duration = Duration::from_secs(10);

/// Interval between warnings about room that alternates between short and sufficient: keeps the log short.
pub const ROOM_WARNING_EVERY: Duration = Duration::from_secs(600);

/// Receivers that nf-sender tries in turn, at most: each address that does not answer costs `DIAL_PATIENCE`.
pub const RECEIVERS_MAX: usize = 16;

/// Prefixes of allowed exporters, at most: nf-sender compares each datagram with each prefix.
pub const PREFIXES_MAX: usize = 1024;

/// Collectors that nf-receiver delivers to, at most: each datagram may be sent to each of them.
pub const COLLECTORS_MAX: usize = 64;

/// Largest configurable number of connections of nf-receiver: each needs a file descriptor and buffers.
pub const CONNECTIONS_MAX: u32 = 100_000;

/// Authenticated connections without a session that one sender has at once: a new one, one that it replaces,
/// and some that the sender has abandoned. No sender needs more. With a shared key or in clear text, those of
/// one address count.
pub const WAITING_PER_SENDER: usize = 4;

/// Addresses of authenticated senders that nf-receiver remembers. These senders reconnect even during a
/// flood of unauthenticated connections.
pub const KNOWN_SOURCES: usize = 4096;

/// Remembered addresses per sender: enough for a host that changes its address now and then. No sender
/// displaces the addresses of others.
pub const KNOWN_SOURCES_PER_SENDER: usize = 16;

/// Exporters of each collector that the status shows with their source address at the collector: 6 MiB for
/// 64 collectors.
pub const SEEN_AS_SHOWN: usize = 1024;

/// Rows in memory, one per exporter and segment, for the datagrams of each exporter in the spool: 16 MiB.
/// nf-sender reads further segments from disk when the spool is full.
pub const HOLDINGS_MAX: usize = 262_144;

/// Exporters of dropped datagrams that nf-sender counts separately. A new one replaces the one that lost
/// datagrams longest ago.
pub const DROPPED_SHOWN: usize = 256;

/// Exporters of denied datagrams that nf-sender, or nf-receiver for each sender, counts separately. A new
/// one replaces the one seen longest ago.
pub const DENIED_SHOWN: usize = 64;

/// Exporters that match no collector and that nf-receiver counts separately. A new one replaces the one
/// seen longest ago.
pub const UNMATCHED_SHOWN: usize = 64;

/// Pairs of exporters that a collector confuses and that the status shows: bounds its size.
pub const CONFUSED_SHOWN: usize = 64;

/// Pairs of exporters that collectors confuse and that the log names, in total and once each: bounds log and
/// memory.
pub const CONFUSED_LOGGED: usize = 1024;

/// Peers with rejected connections that the status shows: bounds its size.
pub const REJECTED_SHOWN: usize = 64;

/// Files of each connection of nf-receiver: its socket and the position file of its stream.
pub const FILES_PER_CONNECTION: u64 = 2;

/// Largest configurable number of sockets per collector, one for each exporter: an address has no more
/// ports.
pub const EXPORTER_SOCKETS_MAX: u32 = 65_536;

/// Largest configurable rate of a collector in datagrams per second: a higher one has no effect.
pub const RATE_MAX: u32 = 1_000_000_000;

/// Largest configurable ratio between delivery rate and arrival rate for late datagrams: a higher one has no
/// effect.
pub const CATCH_UP_PACE_MAX: u32 = 1_000_000;

/// Default rate in datagrams per second for a collector on another machine while it catches up. Its queue is
/// not visible: the 208 KiB that Linux grants by default hold 92 datagrams of 1,464 bytes, which is 4.6 ms
/// at this rate. Collectors read three times as fast (nfcapd: 65,000 per second).
pub const CATCH_UP_LIMIT: u32 = 20_000;

/// Age from which a datagram counts as late, so that the limits for catching up apply to it.
pub const LATE: Duration = Duration::from_secs(1);

/// Longest time for which `catch-up-pace` delays one datagram. A longer gap between two arrivals is a quiet
/// exporter, where no file gets too much, or a clock change: neither justifies a stalled stream.
pub const PACE_WAIT_MAX: Duration = Duration::from_secs(60);

/// Longest configurable age before datagrams go to a collector's address for late ones: ten years, in effect
/// never.
pub const LATE_AFTER_MAX: Duration = Duration::from_secs(10 * 31_557_600);

/// Bytes of each pending batch in addition to its datagrams: a generous estimate of its bookkeeping.
pub const PENDING_BATCH_OVERHEAD: usize = 256;

/// Bytes of pending batches of all streams together. Beyond that, each stream holds one batch for each kind
/// of collector.
pub const LANES_MAX: usize = 64 * 1024 * 1024;

/// Ports of one exporter address with a socket of their own at a collector: distinguishes as many exporters
/// behind a NAT or a container gateway. The other ports of the address share one socket.
pub const PORTS_PER_ADDRESS: usize = 64;

/// Idle time after which the socket of an exporter's port may go to another port of a full address:
/// exporters with active flows send within a few minutes.
pub const PORT_IDLE: Duration = Duration::from_secs(600);

/// Ports of exporters with closed sockets that nf-receiver remembers per collector: 16 times
/// `limits.exporter-sockets`.
pub const PORTS_REMEMBERED: usize = 16_384;

/// Files of nf-receiver in addition to its connections and the sockets for exporters: listeners, two for
/// each of 64 collectors, the control socket.
pub const FILES_OTHER: u64 = 256;

/// Shortest configurable time for a peer to establish a session: a round trip within a continent fits.
pub const HANDSHAKE_TIMEOUT_MIN: Duration = Duration::from_millis(100);

/// Longest configurable time for a peer to establish a session: a silent peer occupies its place no longer.
pub const HANDSHAKE_TIMEOUT_MAX: Duration = Duration::from_secs(300);

/// Peers whose repeated log lines are counted separately; the others share one count. Bounds the memory.
pub const LOG_KEYS_MAX: usize = 1024;

/// Senders whose entry, with counters and position, nf-receiver keeps in memory before it drops idle
/// entries. Entries of absent senders whose streams have not reached all collectors equally are not idle:
/// nf-receiver keeps them in addition, up to `UNEVEN_SENDERS_MAX`.
pub const SENDER_ENTRIES_MAX: usize = 16_384;

/// Entries of absent senders that nf-receiver keeps because collectors differ in how far they have the
/// stream: a few kilobytes each. Without its entry, a sender's next session repeats some datagrams to the
/// collectors that were ahead.
pub const UNEVEN_SENDERS_MAX: usize = 16_384;

/// Age of a connection after which the sender makes a new handshake, so that no key is used for longer.
pub const CHANNEL_AGE_MAX: Duration = Duration::from_secs(24 * 3600);

/// Lists of revoked certificates, at most: each start and reload reads all of them.
pub const REVOKED_MAX: usize = 64;

/// Bytes of a PEM file, at most: bounds the memory for a wrong file.
pub const PEM_MAX: usize = 4 * 1024 * 1024;

/// Time before the expiry of the own certificate in which nf-receiver and nf-sender warn once a day.
pub const CERTIFICATE_WARNING: Duration = Duration::from_secs(14 * 86_400);

/// Part of a revocation list's validity in which its expiry is warned of, limited by `CERTIFICATE_WARNING`.
/// An authority with weekly lists replaces them daily.
pub const REVOCATION_WARNING_PART: i64 = 10;

/// Interval at which a session reads the wall clock to detect expired certificates: an operator may set the
/// clock.
pub const CERTIFICATE_CHECK: Duration = Duration::from_secs(10);

/// Senders with keys of their own, at most: each start and reload reads all of the key files.
pub const SENDERS_MAX: usize = 4096;

/// Bytes of a file with a key or a passphrase, at most: a pipe has room for as much.
pub const KEY_FILE_MAX: usize = 4096;

/// Passphrases whose derived keys are kept over reloads: deriving one takes about 0.14 s.
pub const PASSPHRASES_REMEMBERED: usize = 1024;

/// Additional time that a slow start or stop requests from the service manager at once.
pub const EXTENSION: Duration = Duration::from_secs(15);

/// Total time for which a start or stop requests more time. After that, the service manager may end it.
pub const EXTENSIONS_MAX: Duration = Duration::from_secs(600);
