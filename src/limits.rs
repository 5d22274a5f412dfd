//! Every bound of the program: its name, its unit and its reason.

use core::time::Duration;

/// Longest payload of a UDP datagram over IPv4 in bytes: 65,535 less 20 (IP) and 8 (UDP). RFC 768, RFC 791.
pub const PAYLOAD_MAX: usize = 65_507;

/// A batch takes another datagram while its body stays within this many bytes, so that floods leave in large
/// pieces and a repeat after a crash stays small.
pub const BATCH_BODY_TARGET: usize = 64 * 1024;

/// Longest body of a batch in bytes: one datagram of any size fits, with its addresses.
pub const BATCH_BODY_MAX: usize = 65_600;

/// Longest message on the wire in bytes, its header not counted: a batch with its header.
pub const MESSAGE_MAX: usize = BATCH_BODY_MAX + 64;

/// Longest sentence that a refusal carries, in bytes of UTF-8.
pub const REFUSAL_TEXT_MAX: usize = 512;

/// Bytes of batches that a sender has under way without an acknowledgement: enough to fill 1 Gbit/s over 60 ms.
pub const WINDOW: u32 = 8 * 1024 * 1024;

/// Bytes of messages that either side holds ready to be written to the connection.
pub const OUTBOX_MAX: usize = 512 * 1024;

/// Bytes of batches read ahead from segments for the link.
pub const READ_AHEAD: usize = 512 * 1024;

/// Either side gives a link up after this many heartbeats in a row that it did not hear.
pub const HEARTBEATS_MISSED: u32 = 3;

/// The longest heartbeat that a sender may ask for.
pub const HEARTBEAT_MAX: Duration = Duration::from_secs(3600);

/// Datagrams that one recvmmsg call takes at the most.
pub const INTAKE_SLOTS: usize = 128;

/// Bytes of each intake slot: any datagram fits, pages stay aligned.
pub const INTAKE_SLOT_SIZE: usize = 64 * 1024;

/// Bytes of the intake's ring: batches that are neither acknowledged nor in a segment.
pub const INTAKE_RING: u64 = 16 * 1024 * 1024;

/// Bytes of receive buffer that nf-sender asks for on each socket: over 2 s of 20,000 datagrams/s.
pub const RECEIVE_BUFFER: usize = 64 * 1024 * 1024;

/// UDP sockets that nf-sender listens on at the most.
pub const LISTENERS_MAX: usize = 64;

/// Exporters whose counters nf-sender keeps; the one unheard longest makes room.
pub const EXPORTERS_MAX: usize = 4096;

/// Positions passed over when the last one used is not known: no run of the program uses as many.
pub const POSITIONS_PER_RUN: u64 = 1 << 44;

/// How long nf-sender keeps sending after it was told to stop.
pub const STOP_GRACE: Duration = Duration::from_secs(5);

/// Streams whose position nf-receiver remembers for each sender id; the one unseen longest makes room.
pub const STREAMS_PER_SENDER: usize = 8;

/// One log line about the same thing from the same peer in this time; the rest is counted.
pub const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// Bytes of a control request line.
pub const CONTROL_REQUEST_MAX: u64 = 256;
