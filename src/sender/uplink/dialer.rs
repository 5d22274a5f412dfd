//! The connection attempts: the current one, and earlier ones that nobody has answered yet.
//!
//! The kernel accepts connections for a receiver that is stopped, overloaded or not yet running. Such a
//! connection stays open until it is answered, or until two newer ones to the same address exist. The first
//! answer is used at once, without regard to the backoff. At most two connections per address are open.

use core::future::pending;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use nf_transport_core::sequence::SenderId;
use tokio::net::lookup_host;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::timeout;

use crate::config::HostPort;
use crate::host::TcpProgress;
use crate::host::secure_stream::SecureStream;
use crate::host::systemd::messages::sender;
use crate::limits::DIAL_PATIENCE;
use crate::sender::uplink::dial::{ChannelMode, DialError, connect};
use crate::sender::uplink::segment_sizes::SegmentSizes;

/// A secure channel to a receiver, ready for a session.
#[derive(Debug)]
pub(crate) struct EstablishedChannel {
    pub(crate) receiver: HostPort,
    pub(crate) address: SocketAddr,
    /// The largest TCP segment in bytes; `None` if TCP decides.
    pub(crate) segment_bytes: Option<u16>,
    pub(crate) stream: SecureStream,
}

/// Dials receivers. Every method is cancel-safe: attempts that were begun continue.
#[derive(Debug, Default)]
pub(crate) struct Dialer {
    attempts: JoinSet<DialOutcome>,
    /// The attempts under way, oldest first.
    open: Vec<OpenDial>,
    next_number: u64,
    pub(crate) sizes: SegmentSizes,
}

/// The outcome of one attempt.
#[derive(Debug)]
struct DialOutcome {
    number: u64,
    result: Result<SecureStream, DialError>,
}

/// An attempt that has ended.
struct FinishedDial {
    number: u64,
    receiver: HostPort,
    answer: Result<EstablishedChannel, DialError>,
}

/// An attempt under way.
#[derive(Debug)]
struct OpenDial {
    number: u64,
    receiver: HostPort,
    address: SocketAddr,
    segment_bytes: Option<u16>,
    uses_tls: bool,
    /// The socket, once TCP is connected.
    socket: Arc<OnceLock<OwnedFd>>,
    task: AbortHandle,
}

impl Drop for OpenDial {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Dialer {
    /// Connects to the first address of `receiver` that answers. An earlier attempt may be answered before.
    pub(crate) async fn dial(
        &mut self,
        receiver: &HostPort,
        id: &SenderId,
        speech: &ChannelMode,
    ) -> Result<EstablishedChannel, DialError> {
        let host = || receiver.host().to_owned();
        let addresses = tokio::select! {
            addresses = lookup_host((receiver.host(), receiver.port())) => {
                addresses.map_err(|error| DialError::Resolve { host: host(), error })?
            }
            answer = self.late_answer() => return Ok(answer),
        };
        let mut outcome = Err(DialError::NoAddress(host()));
        for address in addresses {
            let number = match self.begin(receiver, address, id, speech) {
                Ok(number) => number,
                Err(error) => {
                    outcome = Err(error);
                    continue;
                }
            };
            outcome = match timeout(DIAL_PATIENCE, self.outcome(number)).await {
                Ok(outcome) => outcome,
                Err(_) => Err(self.time_out(number, address)),
            };
            if outcome.is_ok() {
                break;
            }
        }
        outcome
    }

    /// Waits until an earlier attempt leads to a channel. Late rejections are only logged.
    pub(crate) async fn late_answer(&mut self) -> EstablishedChannel {
        loop {
            let FinishedDial { receiver, answer, .. } = self.finished().await;
            match answer {
                Ok(answer) => return answer,
                Err(error) if error.is_refusal() => {
                    tracing::warn!(
                        message_id = sender::REFUSED,
                        %receiver,
                        %error,
                        "receiver {receiver} answered late and rejected the connection: {error}"
                    );
                }
                Err(_) => {}
            }
        }
    }

    /// Aborts all attempts.
    pub(crate) fn clear(&mut self) {
        self.open.clear();
        self.attempts = JoinSet::new();
    }

    /// Waits for the end of attempt `number`, or for a channel by any other attempt.
    async fn outcome(&mut self, number: u64) -> Result<EstablishedChannel, DialError> {
        loop {
            let finished = self.finished().await;
            if finished.answer.is_ok() || finished.number == number {
                return finished.answer;
            }
        }
    }

    /// Waits for the next attempt to end. Never returns while there is none.
    async fn finished(&mut self) -> FinishedDial {
        loop {
            match self.attempts.join_next().await {
                Some(Ok(DialOutcome { number, result })) => {
                    // The task may end just before it is aborted.
                    let Some(index) = self.open.iter().position(|open| open.number == number) else {
                        continue;
                    };
                    let open = self.open.remove(index);
                    let (receiver, address) = (open.receiver.clone(), open.address);
                    let (dialed, segment_bytes) = (receiver.clone(), open.segment_bytes);
                    let answer =
                        result.map(|stream| EstablishedChannel { receiver, address, segment_bytes, stream });
                    return FinishedDial { number, receiver: dialed, answer };
                }
                Some(Err(_)) => {}
                None => pending().await,
            }
        }
    }

    /// Begins an attempt and returns its number.
    fn begin(
        &mut self,
        receiver: &HostPort,
        address: SocketAddr,
        id: &SenderId,
        speech: &ChannelMode,
    ) -> Result<u64, DialError> {
        let handshake = speech.handshake(id, receiver.host())?;
        if *speech == ChannelMode::LoopbackOnly && !address.ip().to_canonical().is_loopback() {
            return Err(DialError::PlaintextNotAllowed);
        }
        self.keep_newest(address);
        let number = self.next_number;
        self.next_number += 1;
        let segment_bytes = self.sizes.size(address, Instant::now());
        let socket = Arc::new(OnceLock::new());
        let connected = socket.clone();
        let task = self.attempts.spawn(async move {
            DialOutcome { number, result: connect(address, segment_bytes, handshake, &connected).await }
        });
        let speaks_tls = speech.certificate().is_some();
        let receiver = receiver.clone();
        self.open.push(OpenDial {
            number,
            receiver,
            address,
            segment_bytes,
            uses_tls: speaks_tls,
            socket,
            task,
        });
        Ok(number)
    }

    /// Aborts all attempts to `address` except the newest one, which is most likely to be answered.
    fn keep_newest(&mut self, address: SocketAddr) {
        let newest = self.open.iter().rev().find(|open| open.address == address).map(|open| open.number);
        self.open.retain(|open| open.address != address || Some(open.number) == newest);
    }

    /// Handles an attempt that was not answered in time. It stays open unless TCP shows that segments are
    /// lost.
    fn time_out(&mut self, number: u64, address: SocketAddr) -> DialError {
        let Some(index) = self.open.iter().position(|open| open.number == number) else {
            return DialError::TimedOut(address);
        };
        let Some(open) = self.open.get(index) else { return DialError::TimedOut(address) };
        let Some(socket) = open.socket.get() else { return DialError::TimedOut(address) };
        // Only the messages of a TLS handshake are longer than a segment.
        let progress = TcpProgress::query(socket).ok().filter(|_| open.uses_tls);
        let loses_segments = progress.is_some_and(|tcp| {
            tcp.segments_unacknowledged > 0 && tcp.timeouts > 0 || tcp.segments_out_of_order > 0
        });
        if !loses_segments {
            return DialError::Silent(address);
        }
        let open = self.open.remove(index);
        self.sizes.reduce(open.address, open.segment_bytes, Instant::now());
        DialError::SegmentsLost
    }
}
