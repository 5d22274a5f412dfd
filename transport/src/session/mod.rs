//! The session of a sender and a receiver over one connection, from HELLO to GOODBYE, refusal or error.
//!
//! Both sides are state machines without sockets, files or clocks. Bytes, commands and `now` are their input,
//! bytes and events their output. The preface is exchanged before the session starts. Only the daemons access
//! the spool and the receiver's store.
//!
//! Invariants:
//!
//! - A sender sends all positions without holes, from the position that the receiver named in WELCOME.
//! - A receiver acknowledges only positions that its daemon reported as delivered.
//! - If some collectors are ahead of others, the receiver receives more than it acknowledges. It requests the
//!   unacknowledged rest again when the slower collectors need it.
//!
//! A daemon repeats these steps in this order:
//!
//! 1. Read bytes from the socket and pass them to `handle_bytes`. A receiver reads only while
//!    [`ReceiverSession::wants_bytes`] is true. This step precedes the timeout, so that a peer whose bytes
//!    are not read yet is not considered dead.
//! 2. Call `handle_timeout` if the time of `poll_timeout` has passed.
//! 3. Call `poll_event` until it returns `None`. An error ends the session.
//! 4. Sender only: while the spool has the position that [`SenderSession::next_position`] returns, call
//!    `send_batch` or `send_gap`.
//! 5. Write the content of `outbox`. Then wait for bytes, for space in the socket, or for `poll_timeout`.
//!
//! Because all events are taken before more bytes are read, a session buffers less than one message
//! (`limits::MESSAGE_MAX`) and one read of input, and `limits::OUTBOX_MAX` of output.
//!
//! After its end (an error, a refusal or GOODBYE) a session returns no events and has no timeout. Its outbox
//! still holds the final messages: write them, then close the connection. The peer loses a refusal if the
//! kernel answers unread bytes with a TCP reset. So shut down the writing side first, and continue to read
//! for a moment.

mod error;
mod liveness;
mod outbox;
mod receiver;
mod sender;
mod wire;

pub use error::{OutOfOrder, SessionError};
pub use outbox::Outbox;
pub use receiver::{ReceiverEvent, ReceiverSession, ResumePoint};
pub use sender::{SenderEvent, SenderSession};

#[cfg(test)]
mod tests;
