//! Sessions: one connection of an authenticated sender. It checks and orders batches, drops repeats,
//! delivers, stores the position, and acknowledges.
//!
//! A connection holds one read of input and the batches in the lanes of its delivery. While a collector
//! blocks these, nothing more is read from TCP: the backlog stays in the sender's spool.

mod connection;
mod ended;
pub(crate) mod sender_log;
pub(crate) mod senders;
mod session_loop;
mod shared;

use std::net::SocketAddr;
use std::sync::Arc;

use nf_transport_core::framing::RefusalCode;
use nf_transport_core::sequence::RunId;
use nf_transport_core::session::ReceiverSession;
pub(crate) use shared::Shared;
use tokio::time::{Instant, timeout_at};

use crate::host::connection::flush_and_close;
use crate::host::secure_stream::SecureStream;
use crate::host::{Deadline, SessionExpiry, Shutdown};
use crate::receiver::accept::authenticated::AuthenticatedSender;
use crate::receiver::session::connection::ReceiverConnection;
use crate::receiver::session::ended::ConnectionEnd;

/// Serves `stream` until it ends. A session must be established before `greeted_by`.
pub(crate) async fn serve(
    shared: &Arc<Shared>,
    mut stream: SecureStream,
    peer: SocketAddr,
    sender: AuthenticatedSender,
    greeted_by: Instant,
    stop: Shutdown,
) {
    let mut stopping = stop.clone();
    let id = sender.sender.clone();
    let outputs = shared.outputs.clone();
    let mut connection = ReceiverConnection {
        shared,
        session: ReceiverSession::new(),
        outputs,
        sender,
        stop,
        run: RunId::NONE,
        is_logged: false,
        deadline: None,
        expiry: SessionExpiry::of(stream.channel()),
        timer: Deadline::default(),
    };
    let owner = connection.sender.owner_at(peer.ip());
    let mut place = shared.waiting.enter(&owner);
    let greeting = timeout_at(greeted_by, connection.open_session(&mut stream, peer, &owner));
    let greeted = tokio::select! {
        greeted = greeting => greeted.unwrap_or(Err(ConnectionEnd::NoHello)),
        () = place.evicted() => Err(ConnectionEnd::Crowded(id.clone())),
        () = stopping.requested() => Err(ConnectionEnd::Stopping),
    };
    drop(place);
    let ended = match greeted {
        Ok(mut guard) => {
            let ended = connection.run(&mut stream, &mut guard).await;
            let ended = connection.with_likely_cause(ended);
            guard.entry.note_ended(ended.to_string());
            ended
        }
        Err(ended) => {
            if ended.is_failure() {
                shared.note_rejected(peer, format!("session of {id} was not established: {ended}"));
            }
            ended
        }
    };
    connection.log_end(peer, &ended);
    if matches!(ended, ConnectionEnd::Crowded(_)) {
        return connection.close(&mut stream, &ended).await;
    }
    let mut place = shared.waiting.enter(&owner);
    tokio::select! {
        () = connection.close(&mut stream, &ended) => {}
        () = place.evicted() => tracing::debug!("closed without a last message: newer connections of the \
                                              sender wait"),
    }
}

/// Rejects an authenticated sender for lack of a place, with `reason`.
pub(crate) async fn reject(mut stream: SecureStream, reason: &str) {
    let mut session = ReceiverSession::new();
    session.reject(RefusalCode::TooManyConnections, reason);
    flush_and_close(&mut session, &mut stream).await;
}

#[cfg(test)]
mod tests;
