//! Bounds of the two daemons, each with its unit and its reason. Those of the shared crate are in `nf_transport_core::limits`.

use core::time::Duration;

/// Bytes of batches read ahead from segments for the link.
pub const READ_AHEAD: usize = 512 * 1024;

/// A sender gives a session up after this many heartbeats for which TCP repeats a segment in vain although the receiver is
/// heard: fewer than `HEARTBEATS_MISSED`, after which the receiver, which hears nothing, ends it without a reason.
pub const HEARTBEATS_UNACKNOWLEDGED: u32 = 2;

/// Bytes of TCP segments that a sender tries one after the other where full ones are lost on the way: 1,200 pass every IPv6
/// path (1,280 bytes, RFC 8200), 536 every host of IPv4 (576 bytes, RFC 1122).
pub const SEGMENT_BYTES: [u16; 2] = [1200, 536];

/// How long a sender makes connections with smaller segments before it tries full ones again: a path that was repaired is
/// used fully within an hour, and one that was not costs two heartbeats.
pub const SEGMENT_BYTES_KEPT: Duration = Duration::from_secs(3600);

/// Addresses of receivers whose segment size a sender remembers: some for each of `RECEIVERS_MAX` names.
pub const SEGMENT_SIZES_MAX: usize = 64;

/// How long a sender waits for an answer before it tries the next address or receiver, or waits for its schedule. The
/// connection stays open: an answer that comes later is used at once.
pub const DIAL_PATIENCE: Duration = Duration::from_secs(10);

/// How long a sender that connects again waits for acknowledgements of what is under way, so that nothing is sent twice.
pub const RECONNECT_GRACE: Duration = Duration::from_secs(5);

/// A connection that its sender has closed ends after this time even if collectors do not take what it sent before: the sender
/// still has that.
pub const HANG_UP_GRACE: Duration = Duration::from_secs(2);

/// Datagrams that one recvmmsg call takes at the most.
pub const JOURNAL_SLOTS: usize = 128;

/// Bytes of each intake slot: any datagram fits, pages stay aligned.
pub const JOURNAL_SLOT_SIZE: usize = 64 * 1024;

/// Bytes of the intake's ring: batches that are neither acknowledged nor in a segment.
pub const JOURNAL_RING: u64 = 12 * 1024 * 1024;

/// Bytes of receive buffer that nf-sender asks for on each socket: over 2 s of 20,000 datagrams/s.
pub const RECEIVE_BUFFER: usize = 64 * 1024 * 1024;

/// Mappings of intakes that one process can guard against SIGBUS: nf-sender has three, its unit tests some for each core.
pub const JOURNAL_MAPPINGS_MAX: usize = 512;

/// How long nf-sender lets datagrams gather in its sockets at the most, and only while they come more often than that.
pub const COALESCING_MAX: Duration = Duration::from_millis(1);

/// UDP sockets that nf-sender listens on at the most.
pub const LISTENERS_MAX: usize = 64;

/// Bytes of templates of all senders and collectors: eight times the most of one; what takes most makes room.
pub const TEMPLATES_TOTAL: usize = 32 * 1024 * 1024;

/// Bytes of options data of all senders and collectors: four times the most of one; what takes most makes room.
pub const OPTIONS_TOTAL: usize = 64 * 1024 * 1024;

/// How long nf-sender keeps sending after it was told to stop.
pub const STOP_GRACE: Duration = Duration::from_secs(5);

/// Streams whose position nf-receiver remembers for each sender id. One unseen for longer than `STREAM_KEPT` makes room, or else
/// the one that began last: streams that somebody begins under another's id do not displace the streams before them.
pub const STREAMS_PER_SENDER: usize = 8;

/// A stream unseen for so long makes room for another of the same sender id before all others: no outage lasts as long, and its
/// spool was probably given up.
pub const STREAM_KEPT: Duration = Duration::from_secs(30 * 86_400);

/// Streams whose position nf-receiver remembers in all: no number of sender ids fills the disk.
pub const STREAMS_MAX: usize = 131_072;

/// New streams that one sender id may begin at once, beyond one in each `NEW_STREAM_INTERVAL`: a sender that is set up restarts
/// several times with an empty spool. With a shared key, or in clear text, each address counts apart.
pub const NEW_STREAMS_BURST: u32 = 16;

/// New streams that may begin at once at one address (of IPv6: one /64 network), with a shared key or in clear text, beyond one in each
/// `NEW_STREAM_INTERVAL`: so many senders behind one NAT may start at the same time, each with an empty spool. Under many ids,
/// `STREAMS_MAX` streams at one address take 15 days.
pub const NEW_STREAMS_BURST_PER_SOURCE: u32 = 1024;

/// One sender id may begin a new stream in each such time: a file is made for it, and one of another stream removed.
pub const NEW_STREAM_INTERVAL: Duration = Duration::from_secs(10);

/// The longest wait of nf-sender after a refusal that may soon be over: too many new streams began, or another sender has its id. An
/// old connection of its own under that id ends after three heartbeats.
pub const REFUSED_FOR_NOW_DELAY_MAX: Duration = NEW_STREAM_INTERVAL;

/// Sender ids, with their addresses where these count, whose new streams are counted at the same time.
pub const NEW_STREAM_OWNERS: usize = 16_384;

/// Addresses whose new streams are counted at the same time.
pub const NEW_STREAM_SOURCES: usize = 16_384;

/// One log line about the same thing from the same peer in this time; the rest is counted.
pub const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// How long a listener rests when the system has no file descriptor left for a connection.
pub const ACCEPT_REST: Duration = Duration::from_millis(100);

/// Log lines that wait to be written; beyond, new ones are dropped and counted. Some 300 KiB: the journal takes as many within
/// milliseconds.
pub const LOG_QUEUE_MAX: usize = 1024;

/// How long a program that ends waits for its last log lines to be written.
pub const LOG_FLUSH: Duration = Duration::from_secs(2);

/// Bytes of a control request line.
pub const CONTROL_REQUEST_MAX: u64 = 256;

/// Bytes of a control reply: status with all of `EXPORTERS_MAX` exporters is below 2 MiB.
pub const CONTROL_REPLY_MAX: u64 = 16 * 1024 * 1024;

/// How long either side of the control socket waits for the other.
pub const CONTROL_TIMEOUT: Duration = Duration::from_secs(5);

/// Control requests that are answered at once, and as many requests for metrics. The newest takes the place of the oldest.
pub const CONTROL_CONNECTIONS: usize = 16;

/// Requests for metrics from one address that are answered at once: those of some scrapers behind one proxy.
pub const SCRAPES_PER_ADDRESS: usize = 4;

/// The shortest delay between attempts to connect: below it, a dead receiver costs the host work.
pub const RECONNECT_MIN: Duration = Duration::from_millis(10);

/// The longest delay between attempts to connect: a link that is back is found within a day at the latest.
pub const RECONNECT_MAX: Duration = Duration::from_secs(86_400);

/// The least that a segment may be told to hold in bytes: a batch of any size fits beside its header.
pub const SEGMENT_MIN: u64 = 128 * 1024;

/// The most that a spool may be told to hold in bytes: 1 PiB, far above any disk in use.
pub const SPOOL_MAX: u64 = 1 << 50;

/// The shortest time in which segments may rotate or age: below it, files cost more than what they hold.
pub const ROTATE_EVERY_MIN: Duration = Duration::from_millis(100);

/// The longest time that segments may be told to last: ten years of 365.25 days.
pub const MAX_AGE_MAX: Duration = Duration::from_secs(10 * 31_557_600);

/// The longest time that unacknowledged data may be told to stay off the disk.
pub const SYNC_AFTER_MAX: Duration = Duration::from_secs(3600);

/// Room in the spool for less than this time at the present rate is warned of: time enough for somebody to come and look.
pub const ROOM_SHORT: Duration = Duration::from_secs(3600);

/// How long room must be that short before it is logged: a burst is over by then.
pub const ROOM_SHORT_FOR: Duration = Duration::from_secs(10);

/// Room that comes and goes is logged no more often.
pub const ROOM_WARNING_EVERY: Duration = Duration::from_secs(600);

/// Receivers that nf-sender tries in turn at the most.
pub const RECEIVERS_MAX: usize = 16;

/// Prefixes of allowed exporters at the most; each is compared with each datagram.
pub const PREFIXES_MAX: usize = 1024;

/// Collectors that nf-receiver delivers to at the most.
pub const COLLECTORS_MAX: usize = 64;

/// Connections that nf-receiver may be told to hold at the most: each takes a file descriptor and buffers.
pub const CONNECTIONS_MAX: u32 = 100_000;

/// Authenticated connections of one sender that have no session at once: a new one, one that it replaces, and some that their
/// sender has given up. More are no sender's.
pub const WAITING_PER_SENDER: usize = 4;

/// Sources of proven senders that nf-receiver remembers, so that they get through a flood of strangers.
pub const KNOWN_SOURCES: usize = 4096;

/// The same for one sender: a host that changes its address now and then. No sender makes others forgotten.
pub const KNOWN_SOURCES_PER_SENDER: usize = 16;

/// Exporters of each collector that the status shows with the address that they are seen as: of 64 collectors 6 MiB.
pub const SEEN_AS_SHOWN: usize = 1024;

/// Rows that nf-sender keeps of what each exporter holds in each segment: 16 MiB. Segments beyond it are read when the spool is
/// full.
pub const HOLDINGS_MAX: usize = 262_144;

/// Exporters of dropped datagrams of the queue that nf-sender counts one by one; the one that lost longest ago makes room.
pub const DROPPED_SHOWN: usize = 256;

/// Exporters whose datagrams are denied that nf-sender, or nf-receiver for each sender, counts one by one; the one heard
/// longest ago makes room.
pub const DENIED_SHOWN: usize = 64;

/// Exporters that match no collector and that nf-receiver counts one by one; the one heard longest ago makes room.
pub const UNMATCHED_SHOWN: usize = 64;

/// Pairs of exporters that a collector mixes up which the status shows.
pub const CONFUSED_SHOWN: usize = 64;

/// Pairs of exporters that collectors mix up which the log names, in all, once each.
pub const CONFUSED_LOGGED: usize = 1024;

/// Peers whose connections were rejected that the status shows.
pub const REFUSED_SHOWN: usize = 64;

/// Files that each connection of nf-receiver takes: its socket and the position of its stream.
pub const FILES_PER_CONNECTION: u64 = 2;

/// Sockets of one collector, each for one exporter, that nf-receiver may be told to hold at the most: there are no more ports.
pub const EXPORTER_SOCKETS_MAX: u32 = 65_536;

/// Datagrams a second that a collector may be told to get at the most: above it there is no limit to speak of.
pub const RATE_MAX: u32 = 1_000_000_000;

/// How often faster than they arrived datagrams may be told to be delivered when they are late: above it there is no limit
/// to speak of.
pub const CATCH_UP_PACE_MAX: u32 = 1_000_000;

/// Datagrams a second that a collector on another machine gets, unless it is told otherwise, while it is caught up with. Its
/// queue cannot be seen: the 208 KiB that Linux gives it by default hold 92 datagrams of 1,464 bytes, which is 4.6 ms at this
/// rate, and collectors read three times as fast (nfcapd 65,000 a second).
pub const CATCH_UP_LIMIT: u32 = 20_000;

/// A datagram counts as late, so that the limits for catching up hold for it, from this age on.
pub const LATE: Duration = Duration::from_secs(1);

/// The longest time for which `catch-up-pace` makes one datagram wait. A longer distance between two arrivals is a quiet
/// exporter, where no file gets too much, or a clock that was set: neither is worth stalling a stream for.
pub const PACE_WAIT_MAX: Duration = Duration::from_secs(60);

/// The longest time after which datagrams may be told to go to a collector's address for late ones.
pub const LATE_AFTER_MAX: Duration = Duration::from_secs(10 * 31_557_600);

/// Bytes that each of them takes beside its datagrams.
pub const PARCEL_OVERHEAD: usize = 256;

/// Bytes of such batches of all streams together; beyond, each stream holds one batch for each kind of collector.
pub const LANES_MAX: usize = 64 * 1024 * 1024;

/// Ports of one exporter's address that have a socket of their own at a collector: as many exporters behind a NAT or a
/// container's gateway are told apart. The address's other ports share one socket.
pub const PORTS_PER_ADDRESS: usize = 64;

/// How long a port of an exporter is unused before its socket goes to another port of a full address: exporters with active
/// flows send within a few minutes.
pub const PORT_IDLE: Duration = Duration::from_secs(600);

/// Ports that are remembered at one collector, of exporters whose sockets were closed: 16 times `limits.exporter-sockets`.
pub const PORTS_REMEMBERED: usize = 16_384;

/// Files that nf-receiver takes beside its connections, the strangers and the sockets for exporters: listeners, two for each
/// of 64 collectors, control socket.
pub const FILES_BESIDE: u64 = 256;

/// The shortest time that a peer may be given to agree on a session.
pub const HANDSHAKE_TIMEOUT_MIN: Duration = Duration::from_millis(100);

/// The longest time that a peer may be given to agree on a session.
pub const HANDSHAKE_TIMEOUT_MAX: Duration = Duration::from_secs(300);

/// Peers whose repeated log lines are counted one by one; the others share one count.
pub const LOG_KEYS_MAX: usize = 1024;

/// Senders whose seat nf-receiver keeps, with counters and position at hand, before free seats are given up. Those of absent
/// senders whose streams not all collectors have as far are not free: they come on top, up to `UNEVEN_SEATS_MAX`.
pub const SEATS_MAX: usize = 16_384;

/// Seats of absent senders that nf-receiver keeps because not all collectors have their streams as far, a few kilobytes each. Without
/// its seat a sender's next session repeats some datagrams to collectors that were ahead.
pub const UNEVEN_SEATS_MAX: usize = 16_384;

/// Time after which a sender makes a new handshake.
pub const CHANNEL_AGE_MAX: Duration = Duration::from_secs(24 * 3600);

/// Lists of revoked certificates at the most.
pub const REVOKED_MAX: usize = 64;

/// Bytes of a PEM file.
pub const PEM_MAX: usize = 4 * 1024 * 1024;

/// An own certificate that ends within this time is warned of, once a day.
pub const CERTIFICATE_WARNING: Duration = Duration::from_secs(14 * 86_400);

/// A list of revoked certificates is warned of in this part of its time, at most for `CERTIFICATE_WARNING`: an authority that
/// issues lists for a week replaces them daily.
pub const REVOCATION_WARNING_PART: i64 = 10;

/// How often the wall clock is read while a session waits for the end of its certificates: somebody may set it.
pub const CERTIFICATE_CHECK: Duration = Duration::from_secs(10);

/// Senders with keys of their own at the most.
pub const SENDERS_MAX: usize = 4096;

/// Bytes of a file that holds a key or a passphrase.
pub const KEY_FILE_MAX: usize = 4096;

/// Passphrases whose derived keys are remembered over reloads: deriving one takes about 0.14 s.
pub const PASSPHRASES_REMEMBERED: usize = 1024;

/// More time that the service manager is asked for at once by a start or a stop that takes long.
pub const EXTENSION: Duration = Duration::from_secs(15);

/// How long a start or a stop asks for more time at the most.
pub const EXTENSIONS_MAX: Duration = Duration::from_secs(600);
