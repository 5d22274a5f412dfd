//! The conversation of a sender and a receiver over one connection, from HELLO to its end.
//!
//! Both sides are machines without sockets, files or clocks: bytes, commands and `now` go in, bytes and events
//! come out. The preface was exchanged before; what lies in the spool or in the receiver's store is known to the
//! daemons only. Where some collectors are ahead of others, the receiver takes more than it acknowledges, and asks for the
//! rest once more. Neither side ever speaks of a position that it cannot vouch for: a sender sends without holes
//! from where the receiver told it to go on, and a receiver acknowledges only what its daemon said is delivered.
//!
//! What a daemon does, over and over, in this order:
//!
//! 1. bytes that the socket holds are read and given to `handle_bytes` (a receiver reads only while
//!    [`ReceiverSession::wants_bytes`]), so that nobody is called silent whose bytes were only not read yet;
//! 2. if `poll_timeout` has passed, `handle_timeout`;
//! 3. `poll_event` until it gives `None`; an error ends the session;
//! 4. a sender: while [`SenderSession::wants`] a position that the spool has, `send_batch` or `send_gap`;
//! 5. what `outbox` holds is written; more bytes, room in the socket or `poll_timeout` begin the next round.
//!
//! Because every event is taken before more bytes are read, a session holds less than one message
//! (`limits::MESSAGE_MAX`) and one read of what came in, and `limits::OUTBOX_MAX` of what goes out.
//!
//! After its end (an error, a refusal, a goodbye) a session gives no events and has no timeout. What its outbox
//! still holds is the last word to the other side: write it, then close the connection. A refusal gets lost if
//! the kernel answers unread bytes with a reset: shut down writing first, and read on for a moment.

mod error;
mod liveness;
mod outbox;
mod receiver;
mod sender;
mod wire;

pub use error::{OutOfTurn, SessionError};
pub use outbox::Outbox;
pub use receiver::{Place, ReceiverEvent, ReceiverSession};
pub use sender::{SenderEvent, SenderSession};

#[cfg(test)]
mod tests;
