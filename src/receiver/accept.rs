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
use crate::service::Stop;

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
                            tracing::warn!(%error, held_back, "cannot accept a connection");
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
        drop(place);
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
            tracing::warn!(%peer, held_back, "turned a connection away: {turned}");
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
    use crate::receiver::output::Outputs;
    use crate::receiver::positions::Positions;
    use crate::receiver::seats::Seats;
    use crate::service::stop_channel;
    use std::sync::Mutex;

    #[tokio::test]
    async fn a_peer_that_says_nothing_does_not_hold_up_the_end() {
        for greeted in [false, true] {
            let state = tempfile::tempdir().unwrap();
            let gate = Arc::new(Gate {
                shared: Arc::new(Shared {
                    seats: Seats::default(),
                    positions: Positions::open(state.path()).unwrap(),
                    outputs: Outputs::new(&["127.0.0.1:9995".parse().unwrap()]).unwrap(),
                    complaints: Mutex::default(),
                }),
                plaintext: false,
                handshake_timeout: Duration::from_secs(300),
                connections: Arc::new(Semaphore::new(1)),
            });
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let mut peer = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            let (stopper, stop) = stop_channel();
            let running = tokio::spawn(gate.clone().run(listener, stop));
            if greeted {
                peer.write_all(&Preface::encode_plain(&"edge".parse().unwrap())).await.unwrap();
                peer.read_u8().await.unwrap();
            } else {
                // The place is taken once the connection is admitted.
                while gate.connections.available_permits() > 0 {
                    tokio::task::yield_now().await;
                }
            }
            stopper.stop();
            tokio::time::timeout(Duration::from_secs(30), running).await.unwrap().unwrap();
        }
    }
}
