//! Takes connections in, and finds out who speaks before anything else is done for them.

use std::io;
use std::net::{Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use crate::receiver::serve::{Shared, serve};
use crate::secure::preface::{Mode, Parsed, Preface, PrefaceError, Status};
use crate::service::{Stop, counted};

/// How long the listener rests when the system has no file descriptor left for a connection.
const REST: Duration = Duration::from_millis(100);

/// Why a connection came to nothing before it had a session.
#[derive(Debug, thiserror::Error)]
enum Turned {
    #[error("{0}")]
    Preface(#[from] PrefaceError),
    #[error("refused: {0}")]
    Refused(Status),
    #[error("closed before it said who it is: {0}")]
    Lost(#[from] io::Error),
    #[error("closed unheard: there are too many connections; raise limits.connections or stop other senders")]
    Unheard,
    #[error("did not say who it is in time")]
    TimedOut,
}

/// What all listeners share.
#[derive(Debug)]
pub(crate) struct Gate {
    pub(crate) shared: Arc<Shared>,
    pub(crate) plaintext: bool,
    pub(crate) handshake_timeout: Duration,
    pub(crate) connections: Arc<Semaphore>,
    /// Connections beyond the limit that are being told so.
    pub(crate) refusals: Arc<Semaphore>,
}

impl Gate {
    /// Serves connections of `listener` until told to stop; returns once all of them have ended.
    pub(crate) async fn run(self: Arc<Self>, listener: TcpListener, stop: Stop) {
        let mut stopping = stop.clone();
        let mut sessions = JoinSet::new();
        loop {
            tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((stream, peer)) => {
                        let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
                        sessions.spawn(self.clone().admit(stream, peer, stop.clone()));
                    }
                    Err(error) => {
                        // No peer is known: the unspecified address stands for all.
                        if let Some(held_back) = self.shared.may_complain(Ipv6Addr::UNSPECIFIED.into()) {
                            tracing::warn!(%error, held_back = counted(held_back), "cannot accept a connection");
                        }
                        tokio::time::sleep(REST).await;
                    }
                },
                Some(_) = sessions.join_next() => {}
                () = stopping.told() => break,
            }
        }
        while sessions.join_next().await.is_some() {}
    }

    async fn admit(self: Arc<Self>, mut stream: TcpStream, peer: SocketAddr, mut stop: Stop) {
        let deadline = Instant::now() + self.handshake_timeout;
        let place = self.connections.clone().try_acquire_owned();
        let refusal = if place.is_err() { Some(self.refusals.clone().try_acquire_owned()) } else { None };
        if let Some(Err(_)) = refusal {
            return self.complain(peer, &Turned::Unheard);
        }
        let greeting = timeout_at(deadline, self.greet(&mut stream, peer, place.is_ok()));
        let outcome = tokio::select! {
            outcome = greeting => outcome.unwrap_or(Err(Turned::TimedOut)),
            () = stop.told() => return,
        };
        match outcome {
            Ok(preface) => {
                serve(&self.shared, stream, peer, preface.sender, deadline, stop).await;
            }
            Err(turned) => self.complain(peer, &turned),
        }
        drop((place, refusal));
    }

    /// Reads the preface and answers it.
    async fn greet(
        &self,
        stream: &mut TcpStream,
        peer: SocketAddr,
        has_place: bool,
    ) -> Result<Preface, Turned> {
        let preface = match read_preface(stream).await {
            Err(Turned::Preface(PrefaceError::Version(_))) => {
                return self.refuse(stream, Status::UnsupportedVersion).await;
            }
            other => other?,
        };
        let status = match preface.mode {
            _ if !has_place => Status::TooManyConnections,
            Mode::None if !self.plaintext && !peer.ip().is_loopback() => Status::EncryptionRequired,
            mode => mode.answer_without_keys(),
        };
        if status != Status::Accepted {
            return self.refuse(stream, status).await;
        }
        stream.set_nodelay(true)?;
        stream.write_all(&status.encode_reply()).await?;
        Ok(preface)
    }

    async fn refuse(&self, stream: &mut TcpStream, status: Status) -> Result<Preface, Turned> {
        stream.write_all(&status.encode_reply()).await?;
        stream.shutdown().await?;
        Err(Turned::Refused(status))
    }

    fn complain(&self, peer: SocketAddr, turned: &Turned) {
        if let Some(held_back) = self.shared.may_complain(peer.ip()) {
            tracing::warn!(%peer, held_back = counted(held_back), "turned a connection away: {turned}");
        }
    }
}

async fn read_preface(stream: &mut TcpStream) -> Result<Preface, Turned> {
    let mut bytes = Vec::new();
    loop {
        match Preface::parse(&bytes)? {
            Parsed::Here(preface) => return Ok(preface),
            Parsed::NeedMore(total) => {
                let missing = u64::try_from(total.saturating_sub(bytes.len())).unwrap_or(0);
                if (&mut *stream).take(missing).read_buf(&mut bytes).await? == 0 {
                    return Err(Turned::Lost(io::ErrorKind::UnexpectedEof.into()));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::receiver::ahead::Ahead;
    use crate::receiver::output::Outputs;
    use crate::receiver::positions::Positions;
    use crate::receiver::seats::Seats;
    use crate::service::stop_channel;
    use std::sync::Mutex;

    /// A gate with one place, and the directory that it keeps positions in.
    fn gate() -> (Arc<Gate>, tempfile::TempDir) {
        let state = tempfile::tempdir().unwrap();
        let gate = Gate {
            shared: Arc::new(Shared {
                seats: Seats::default(),
                positions: Positions::open(state.path()).unwrap(),
                outputs: Outputs::new(&["127.0.0.1:9995".parse().unwrap()]).unwrap(),
                ahead: Ahead::take_up(state.path()),
                complaints: Mutex::default(),
                news: Mutex::default(),
            }),
            plaintext: false,
            handshake_timeout: Duration::from_secs(300),
            connections: Arc::new(Semaphore::new(1)),
            refusals: Arc::new(Semaphore::new(1)),
        };
        (Arc::new(gate), state)
    }

    /// Connects, and waits until the connection is admitted: a place of `places` is taken.
    async fn connect(address: SocketAddr, places: &Semaphore) -> TcpStream {
        let peer = TcpStream::connect(address).await.unwrap();
        while places.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        peer
    }

    #[tokio::test]
    async fn a_peer_that_says_nothing_does_not_hold_up_the_end() {
        for greeted in [false, true] {
            let (gate, _state) = gate();
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let (stopper, stop) = stop_channel();
            let running = tokio::spawn(gate.clone().run(listener, stop));
            let mut peer = connect(address, &gate.connections).await;
            if greeted {
                peer.write_all(&Preface::encode_plain(&"edge".parse().unwrap())).await.unwrap();
                peer.read_u8().await.unwrap();
            }
            stopper.stop();
            tokio::time::timeout(Duration::from_secs(30), running).await.unwrap().unwrap();
        }
    }

    #[tokio::test]
    async fn connections_beyond_the_limit_are_closed_unheard_if_too_many_are_being_refused() {
        let (gate, _state) = gate();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (_stopper, stop) = stop_channel();
        tokio::spawn(gate.clone().run(listener, stop));
        let _in_place = connect(address, &gate.connections).await;
        let mut refused = connect(address, &gate.refusals).await;
        let mut unheard = TcpStream::connect(address).await.unwrap();
        assert_eq!(unheard.read(&mut [0]).await.unwrap(), 0);
        refused.write_all(&Preface::encode_plain(&"edge".parse().unwrap())).await.unwrap();
        let mut reply = [0; 24];
        refused.read_exact(&mut reply).await.unwrap();
        assert_eq!(reply, Status::TooManyConnections.encode_reply());
    }
}
