//! Takes connections in, and finds out who speaks before anything else is done for them.

pub(crate) mod known_sources;
pub(crate) mod rejected;
pub(crate) mod unauthenticated;
pub(crate) mod waiting;

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use nf_transport_core::prefixes::Prefixes;
use nf_transport_core::secure::{
    AcceptedSender, AccessPolicy, Channel, Credential, Handshake, HandshakeRejection, ReceiverHandshake,
};
use nf_transport_core::sequence::SenderId;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout, timeout_at};

use crate::host::secure_stream::{HandshakeError, SecureStream, run_handshake};
use crate::host::systemd::messages::receiver;
use crate::host::{Pulse, ROUND, Shutdown, Suppressed, is_out_of_files};
use crate::limits::ACCEPT_PAUSE;
use crate::receiver::accept::known_sources::Source;
use crate::receiver::accept::unauthenticated::{Notes, Strangers, StrangersPlace};
use crate::receiver::session::{FAREWELL, Shared, serve, turn_back};
use crate::receiver::state::positions::Owner;

/// Why a connection came to nothing before it had a session.
#[derive(Debug, thiserror::Error)]
enum Rejected {
    #[error("{0}")]
    Handshake(HandshakeRejection),
    #[error("closed before it had proven who it is: {0}")]
    Lost(io::Error),
    #[error(
        "had not proven who it is when others needed its place (limits.unauthenticated, limits.unauthenticated-per-source)"
    )]
    Crowded,
    #[error("did not prove who it is in time (limits.handshake-timeout)")]
    TimedOut,
    #[error("there are too many connections: raise limits.connections, or stop other senders")]
    NoPlace,
}

/// What all listeners share.
#[derive(Debug)]
pub(crate) struct Gate {
    pub(crate) shared: Arc<Shared>,
    /// Whom to let in, as of now.
    pub(crate) policy: watch::Receiver<Arc<AccessPolicy>>,
    pub(crate) handshake_timeout: Duration,
    /// Places for those that were let in.
    pub(crate) connections: Arc<Semaphore>,
    pub(crate) strangers: Strangers,
}

impl Gate {
    /// Serves connections of `listener` until told to stop; returns once all of them have ended.
    pub(crate) async fn run(self: Arc<Self>, listener: TcpListener, pulse: Pulse, stop: Shutdown) {
        let mut stopping = stop.clone();
        let mut sessions = JoinSet::new();
        loop {
            pulse.beat();
            tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((stream, peer)) => {
                        let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
                        let place = self.strangers.enter(peer.ip());
                        sessions.spawn(self.clone().admit(stream, peer, place, stop.clone()));
                    }
                    Err(error) => {
                        if is_out_of_files(&error) {
                            self.shared.outputs().give_up_sockets();
                        }
                        // No peer is known: the unspecified address stands for all.
                        if let Some(held_back) = self.shared.may_complain(Ipv6Addr::UNSPECIFIED.into()) {
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
                () = tokio::time::sleep(ROUND) => {}
                () = stopping.requested() => break,
            }
        }
        while sessions.join_next().await.is_some() {}
    }

    /// Lets a stranger in, or not, and serves it until it ends.
    async fn admit(
        self: Arc<Self>,
        mut tcp: TcpStream,
        peer: SocketAddr,
        mut place: StrangersPlace,
        mut stop: Shutdown,
    ) {
        let deadline = Instant::now() + self.handshake_timeout;
        let outcome = tokio::select! {
            outcome = timeout_at(deadline, self.greet(&mut tcp, peer, Notes::of(&place))) => {
                outcome.unwrap_or(Err(Rejected::TimedOut))
            }
            () = place.evicted() => Err(Rejected::Crowded),
            () = stop.requested() => return,
        };
        let AcceptedSender { channel, sender, credential } = match outcome {
            Ok(admitted) => admitted,
            Err(rejected) => {
                self.complain(peer, &rejected);
                return linger(tcp, place, &rejected).await;
            }
        };
        // In clear text anybody can have any id.
        if !matches!(credential, Credential::ClearText { .. }) {
            self.shared.known_sources.note(peer.ip(), &sender);
        }
        let stream = SecureStream::new(tcp, channel);
        let Ok(_connection) = self.connections.clone().try_acquire_owned() else {
            self.complain(peer, &Rejected::NoPlace);
            // Until it is told so it stays in its place among the strangers, of which there are few.
            return turn_back(stream, &Rejected::NoPlace.to_string()).await;
        };
        drop(place);
        let policy = self.policy.clone();
        serve(&self.shared, stream, peer, AuthenticatedSender { sender, credential, policy }, deadline, stop)
            .await;
    }

    /// Finds out who the peer is.
    async fn greet(
        &self,
        tcp: &mut TcpStream,
        peer: SocketAddr,
        notes: Notes,
    ) -> Result<AcceptedSender, Rejected> {
        tcp.set_nodelay(true).map_err(Rejected::Lost)?;
        let policy = self.policy.borrow().clone();
        let handshake = Noted { handshake: ReceiverHandshake::new(policy, peer.ip().is_loopback()), notes };
        run_handshake(tcp, handshake).await.map_err(|error| match error {
            HandshakeError::Lost(error) => Rejected::Lost(error),
            HandshakeError::Failed(rejection) => Rejected::Handshake(rejection),
        })
    }

    fn complain(&self, peer: SocketAddr, rejected: &Rejected) {
        self.shared.note_refused(peer, rejected.to_string());
        if let Some(held_back) = self.shared.may_complain(peer.ip()) {
            tracing::warn!(
                message_id = receiver::REJECTED,
                %peer,
                held_back,
                "turned a connection from {peer} away: {rejected}{}",
                Suppressed(held_back)
            );
        }
    }
}

/// A handshake that notes what the peer has shown.
struct Noted {
    handshake: ReceiverHandshake,
    notes: Notes,
}

impl Handshake for Noted {
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
        self.notes.shows(self.handshake.evidence());
        outcome
    }

    fn finish(self) -> Option<AcceptedSender> {
        self.handshake.finish()
    }
}

/// After a TLS handshake that failed, the sender may have said more already, which would make the kernel answer with a reset
/// and eat the alert that tells why: it is read for a moment.
async fn linger(tcp: TcpStream, mut place: StrangersPlace, rejected: &Rejected) {
    let is_tls = matches!(
        rejected,
        Rejected::Handshake(
            HandshakeRejection::Tls(_) | HandshakeRejection::NoName | HandshakeRejection::NameNotAllowed(_)
        )
    );
    if is_tls {
        let mut stream = SecureStream::new(tcp, Channel::plain());
        tokio::select! {
            _ = timeout(FAREWELL, stream.close_gracefully()) => {}
            () = place.evicted() => {}
        }
    }
}

/// A sender that was let in, and whom to let in from now on.
#[derive(Debug)]
pub(crate) struct AuthenticatedSender {
    pub(crate) sender: SenderId,
    pub(crate) credential: Credential,
    pub(crate) policy: watch::Receiver<Arc<AccessPolicy>>,
}

impl AuthenticatedSender {
    /// Exporters whose datagrams it may deliver, as of now.
    pub(crate) fn exporters(&self) -> Prefixes {
        self.policy.borrow().exporters_for(&self.sender)
    }

    /// Who it is for the limits on connections without a session and on new streams, from `peer`.
    pub(crate) fn owner_at(&self, peer: IpAddr) -> Owner {
        let is_alone = self.policy.borrow().is_exclusive(&self.sender, &self.credential);
        Owner { sender: self.sender.clone(), source: (!is_alone).then(|| Source::of(peer)) }
    }

    /// Waits until this sender is not let in any more.
    pub(crate) async fn expelled(&mut self) {
        while self.policy.changed().await.is_ok() {
            if !self.policy.borrow_and_update().still_accepts(&self.sender, &self.credential) {
                return;
            }
        }
        core::future::pending::<()>().await;
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
    use crate::receiver::accept::waiting::Waiting;
    use crate::receiver::collectors::confusion::Confusion;
    use crate::receiver::delivery::collector_offsets::Ahead;
    use crate::receiver::output::Outputs;
    use crate::receiver::session::senders::Seats;
    use crate::receiver::state::positions::Positions;

    /// A gate with one place for a sender in clear text, and the directory that it keeps positions in.
    fn gate() -> (Arc<Gate>, tempfile::TempDir) {
        let state = tempfile::tempdir().unwrap();
        let outputs = Outputs::to(&["127.0.0.1:9995".parse().unwrap()]);
        let gate = Gate {
            shared: Arc::new(Shared {
                seats: Seats::default(),
                positions: Positions::open(state.path()).unwrap(),
                outputs: watch::channel(Arc::new(outputs)).1,
                ahead: Ahead::take_up(state.path()),
                templates: Arc::default(),
                complaints: Mutex::default(),
                refused: Mutex::default(),
                known_sources: Arc::default(),
                waiting: Waiting::default(),
                confusion: Confusion::default(),
            }),
            policy: watch::channel(Arc::default()).1,
            handshake_timeout: Duration::from_secs(300),
            connections: Arc::new(Semaphore::new(1)),
            strangers: Strangers::new(4, 2, Arc::default()),
        };
        (Arc::new(gate), state)
    }

    fn preface() -> Vec<u8> {
        Preface::encode_plain(&"edge".parse().unwrap())
    }

    /// A gate that runs, and its address.
    async fn running() -> (Arc<Gate>, SocketAddr, tempfile::TempDir, ShutdownTrigger, JoinHandle<()>) {
        let (gate, state) = gate();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stopper, stop) = shutdown_channel();
        let running = tokio::spawn(gate.clone().run(listener, Pulse::default(), stop));
        (gate, address, state, stopper, running)
    }

    /// A sender that was let in.
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
    async fn a_peer_that_says_nothing_does_not_hold_up_the_end() {
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
    async fn senders_beyond_the_limit_are_told_so_and_strangers_do_not_count() {
        let (gate, address, _state, _stopper, _running) = running().await;
        let _stranger = TcpStream::connect(address).await.unwrap();
        let _in_place = greeted(address).await;
        while gate.connections.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        let mut told = Vec::new();
        greeted(address).await.read_to_end(&mut told).await.unwrap();
        let told = String::from_utf8_lossy(&told).into_owned();
        assert!(told.contains("too many connections: raise limits.connections"), "{told}");
    }

    #[tokio::test]
    async fn a_stranger_makes_room_for_the_next_of_its_source() {
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
        let (_, refused) = gate.shared.refused();
        assert!(refused[0].reason.contains("limits.unauthenticated"), "{refused:?}");
        greeted(address).await;
    }
}
