//! Accepts connections, and authenticates each peer before anything else is done for it.

pub(crate) mod authenticated;
pub(crate) mod known_sources;
pub(crate) mod rejected;
pub(crate) mod unauthenticated;
pub(crate) mod waiting;

use std::io;
use std::net::{Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use nf_transport_core::secure::{
    AcceptedSender, AccessPolicy, Channel, Credential, Handshake, HandshakeRejection, ReceiverHandshake,
};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout, timeout_at};

use crate::host::connection::CLOSE_TIMEOUT;
use crate::host::secure_stream::{HandshakeError, SecureStream, run_handshake};
use crate::host::systemd::messages::receiver;
use crate::host::{Pulse, Shutdown, Suppressed, is_out_of_files};
use crate::limits::ACCEPT_PAUSE;
use crate::receiver::accept::authenticated::AuthenticatedSender;
use crate::receiver::accept::unauthenticated::{
    PeerEvidence, UnauthenticatedConnections, UnauthenticatedPlace,
};
use crate::receiver::session::{Shared, reject, serve};

/// Reason why a connection was rejected before it had a session.
#[derive(Debug, thiserror::Error)]
enum Rejected {
    #[error("{0}")]
    Handshake(HandshakeRejection),
    #[error("connection lost before authentication: {0}")]
    Lost(io::Error),
    #[error(
        "closed before authentication to make room (limits.unauthenticated, \
         limits.unauthenticated-per-source)"
    )]
    Crowded,
    #[error("did not authenticate in time (limits.handshake-timeout)")]
    TimedOut,
    #[error("too many connections; raise limits.connections, or stop other senders")]
    TooManyConnections,
}

/// State shared by all listeners.
#[derive(Debug)]
pub(crate) struct Acceptor {
    pub(crate) shared: Arc<Shared>,
    /// The current access policy.
    pub(crate) policy: watch::Receiver<Arc<AccessPolicy>>,
    pub(crate) handshake_timeout: Duration,
    /// Permits for authenticated connections.
    pub(crate) connections: Arc<Semaphore>,
    pub(crate) unauthenticated: UnauthenticatedConnections,
}

impl Acceptor {
    /// Accepts connections of `listener` until shutdown. Returns once all of them have ended.
    pub(crate) async fn run(self: Arc<Self>, listener: TcpListener, pulse: Pulse, stop: Shutdown) {
        let mut stopping = stop.clone();
        let mut sessions = JoinSet::new();
        loop {
            pulse.beat();
            tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((stream, peer)) => {
                        let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
                        let place = self.unauthenticated.enter(peer.ip());
                        sessions.spawn(self.clone().admit(stream, peer, place, stop.clone()));
                    }
                    Err(error) => {
                        if is_out_of_files(&error) {
                            self.shared.outputs().shed_sockets();
                        }
                        // The peer is unknown, so the unspecified address stands for all peers.
                        if let Some(held_back) = self.shared.admit_log(Ipv6Addr::UNSPECIFIED.into()) {
                            tracing::warn!(
                                %error,
                                held_back,
                                "cannot accept a connection: {error}{}",
                                Suppressed(held_back)
                            );
                        }
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                },
                Some(_) = sessions.join_next() => {}
                () = tokio::time::sleep_until(pulse.idle_until()) => {}
                () = stopping.requested() => break,
            }
        }
        while sessions.join_next().await.is_some() {}
    }

    /// Authenticates a connection, and serves it until it ends.
    async fn admit(
        self: Arc<Self>,
        mut tcp: TcpStream,
        peer: SocketAddr,
        mut place: UnauthenticatedPlace,
        mut stop: Shutdown,
    ) {
        let deadline = Instant::now() + self.handshake_timeout;
        let outcome = tokio::select! {
            outcome = timeout_at(deadline, self.authenticate(&mut tcp, peer, PeerEvidence::of(&place))) => {
                outcome.unwrap_or(Err(Rejected::TimedOut))
            }
            () = place.evicted() => Err(Rejected::Crowded),
            () = stop.requested() => return,
        };
        let AcceptedSender { channel, sender, credential } = match outcome {
            Ok(admitted) => admitted,
            Err(rejected) => {
                self.log_rejection(peer, &rejected);
                return linger(tcp, place, &rejected).await;
            }
        };
        // In clear text, any peer can claim any id.
        if !matches!(credential, Credential::ClearText { .. }) {
            self.shared.known_sources.note_authenticated(peer.ip(), &sender);
        }
        let stream = SecureStream::new(tcp, channel);
        let Ok(_connection) = self.connections.clone().try_acquire_owned() else {
            self.log_rejection(peer, &Rejected::TooManyConnections);
            // It keeps its bounded place among the unauthenticated connections until the reason is sent.
            return reject(stream, &Rejected::TooManyConnections.to_string()).await;
        };
        drop(place);
        let policy = self.policy.clone();
        serve(&self.shared, stream, peer, AuthenticatedSender { sender, credential, policy }, deadline, stop)
            .await;
    }

    /// Authenticates the peer.
    async fn authenticate(
        &self,
        tcp: &mut TcpStream,
        peer: SocketAddr,
        notes: PeerEvidence,
    ) -> Result<AcceptedSender, Rejected> {
        tcp.set_nodelay(true).map_err(Rejected::Lost)?;
        let policy = self.policy.borrow().clone();
        let handshake = RankedHandshake {
            handshake: ReceiverHandshake::new(policy, peer.ip().is_loopback()),
            evidence: notes,
        };
        run_handshake(tcp, handshake).await.map_err(|error| match error {
            HandshakeError::Lost(error) => Rejected::Lost(error),
            HandshakeError::Failed(turned) => Rejected::Handshake(turned),
        })
    }

    fn log_rejection(&self, peer: SocketAddr, rejected: &Rejected) {
        self.shared.note_rejected(peer, rejected.to_string());
        if let Some(held_back) = self.shared.admit_log(peer.ip()) {
            tracing::warn!(
                message_id = receiver::REJECTED,
                %peer,
                held_back,
                "rejected connection from {peer}: {rejected}{}",
                Suppressed(held_back)
            );
        }
    }
}

/// A handshake that records the evidence that the peer has shown.
struct RankedHandshake {
    handshake: ReceiverHandshake,
    evidence: PeerEvidence,
}

impl Handshake for RankedHandshake {
    type Outcome = AcceptedSender;
    type Error = HandshakeRejection;

    fn take_output(&mut self) -> Vec<u8> {
        self.handshake.take_output()
    }

    fn wanted(&self) -> usize {
        self.handshake.wanted()
    }

    fn handle_bytes(&mut self, bytes: &[u8]) -> Result<(), HandshakeRejection> {
        let outcome = self.handshake.handle_bytes(bytes);
        self.evidence.record(self.handshake.evidence());
        outcome
    }

    fn finish(self) -> Option<AcceptedSender> {
        self.handshake.finish()
    }
}

/// Reads the connection for a moment after a failed TLS handshake. The sender may already have sent more
/// data. Closing with unread data would make the kernel send a reset, and the sender would lose the alert
/// with the reason.
async fn linger(tcp: TcpStream, mut place: UnauthenticatedPlace, rejected: &Rejected) {
    let is_tls = matches!(
        rejected,
        Rejected::Handshake(
            HandshakeRejection::Tls(_) | HandshakeRejection::NoName | HandshakeRejection::NameNotAllowed(_)
        )
    );
    if is_tls {
        let mut stream = SecureStream::new(tcp, Channel::plain());
        tokio::select! {
            _ = timeout(CLOSE_TIMEOUT, stream.close_gracefully()) => {}
            () = place.evicted() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use nf_transport_core::secure::preface::{Mode, Partial, Preface, REPLY_LEN, ReplyStatus};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::task::JoinHandle;

    use super::*;
    use crate::host::{ShutdownTrigger, shutdown_channel};
    use crate::receiver::accept::waiting::WaitingForSession;
    use crate::receiver::collectors::confusion::Confusion;
    use crate::receiver::delivery::collector_offsets::CollectorOffsets;
    use crate::receiver::output::Outputs;
    use crate::receiver::session::senders::Senders;
    use crate::receiver::state::positions::Positions;

    /// An acceptor with one place for a sender in clear text, and its state directory.
    fn gate() -> (Arc<Acceptor>, tempfile::TempDir) {
        let state = tempfile::tempdir().unwrap();
        let outputs = Outputs::to(&["127.0.0.1:9995".parse().unwrap()]);
        let gate = Acceptor {
            shared: Arc::new(Shared {
                senders: Senders::default(),
                positions: Positions::open(state.path()).unwrap(),
                outputs: watch::channel(Arc::new(outputs)).1,
                collector_offsets: CollectorOffsets::recover(state.path()),
                templates: Arc::default(),
                log_limit: Mutex::default(),
                rejected: Mutex::default(),
                known_sources: Arc::default(),
                waiting: WaitingForSession::default(),
                confusion: Confusion::default(),
            }),
            policy: watch::channel(Arc::default()).1,
            handshake_timeout: Duration::from_secs(300),
            connections: Arc::new(Semaphore::new(1)),
            unauthenticated: UnauthenticatedConnections::new(4, 2, Arc::default()),
        };
        (Arc::new(gate), state)
    }

    fn preface() -> Vec<u8> {
        Preface::encode_plain(&"edge".parse().unwrap())
    }

    /// A running acceptor, and its address.
    async fn running() -> (Arc<Acceptor>, SocketAddr, tempfile::TempDir, ShutdownTrigger, JoinHandle<()>) {
        let (gate, state) = gate();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stopper, stop) = shutdown_channel();
        let running = tokio::spawn(gate.clone().run(listener, Pulse::default(), stop));
        (gate, address, state, stopper, running)
    }

    /// A connection that was authenticated.
    async fn greeted(address: SocketAddr) -> TcpStream {
        let mut peer = TcpStream::connect(address).await.unwrap();
        peer.write_all(&preface()).await.unwrap();
        let mut reply = [0; REPLY_LEN];
        peer.read_exact(&mut reply).await.unwrap();
        assert_eq!(
            ReplyStatus::parse_reply(Mode::None, &reply),
            Ok(Partial::Complete(ReplyStatus::Accepted))
        );
        peer
    }

    #[tokio::test]
    async fn a_silent_peer_does_not_delay_shutdown() {
        for says_who in [false, true] {
            let (_gate, address, _state, stopper, running) = running().await;
            let peer =
                if says_who { greeted(address).await } else { TcpStream::connect(address).await.unwrap() };
            stopper.request();
            timeout(Duration::from_secs(30), running).await.unwrap().unwrap();
            drop(peer);
        }
    }

    #[tokio::test]
    async fn connections_beyond_the_limit_are_rejected() {
        let (gate, address, _state, _stopper, _running) = running().await;
        let _unauthenticated = TcpStream::connect(address).await.unwrap();
        let _in_place = greeted(address).await;
        while gate.connections.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        let mut told = Vec::new();
        greeted(address).await.read_to_end(&mut told).await.unwrap();
        let told = String::from_utf8_lossy(&told).into_owned();
        assert!(told.contains("too many connections; raise limits.connections"), "{told}");
    }

    #[tokio::test]
    async fn unauthenticated_peers_make_room_per_source() {
        let (gate, address, _state, _stopper, _running) = running().await;
        let mut first = TcpStream::connect(address).await.unwrap();
        let mut second = TcpStream::connect(address).await.unwrap();
        let _third = TcpStream::connect(address).await.unwrap();
        let (mut first_byte, mut second_byte) = ([0], [0]);
        let ended = tokio::select! {
            ended = first.read(&mut first_byte) => ended,
            ended = second.read(&mut second_byte) => ended,
        };
        assert_eq!(ended.unwrap(), 0);
        let (_, refused) = gate.shared.rejected();
        assert!(refused[0].reason.contains("limits.unauthenticated"), "{refused:?}");
        greeted(address).await;
    }
}
