//! A TCP connection and the channel over it, as both daemons use it.
//!
//! Only [`SecureStream::ready`], [`SecureStream::hung_up`], [`SecureStream::flush`],
//! [`SecureStream::close_gracefully`] and [`run_handshake`] wait. All of them except for the last are cancel
//! safe.

use std::io::{self, IoSlice};
use std::sync::Arc;

use bytes::{Buf, BytesMut};
use nf_transport_core::secure::{Channel, ChannelError, Handshake, KeyError};
use rustix::net::Shutdown;
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest, Ready};
use tokio::net::TcpStream;

use crate::host::TcpProgress;

/// Pieces of one vectored write, at most: more would not make it faster.
const PIECES: usize = 64;

/// Describes the protection of a connection with this cipher for the log.
pub fn protection(cipher: &str) -> String {
    if cipher == "none" { "in clear text".to_owned() } else { format!("encrypted by {cipher}") }
}

/// Errors that end a connection.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// The network or this side's kernel failed.
    #[error("connection lost: {0}")]
    Lost(#[from] io::Error),
    /// The received bytes differ from those that the peer sent.
    #[error("{0}")]
    Channel(#[from] ChannelError),
}

/// Errors of a handshake.
#[derive(Debug)]
pub enum HandshakeError<E> {
    /// The connection ended.
    Lost(io::Error),
    /// The handshake failed.
    Failed(E),
}

/// Runs one side of a handshake over `tcp`. If it fails, its last message is still sent, so that the peer
/// learns the reason.
pub async fn run_handshake<H: Handshake>(
    tcp: &mut TcpStream,
    mut handshake: H,
) -> Result<H::Outcome, HandshakeError<H::Error>> {
    let mut outcome = Ok(());
    loop {
        let output = handshake.take_output();
        tcp.write_all(&output).await.map_err(HandshakeError::Lost)?;
        outcome.map_err(HandshakeError::Failed)?;
        if let Some(derivation) = handshake.take_derivation() {
            let key = tokio::task::spawn_blocking(|| derivation.run()).await;
            outcome = handshake.handle_key(key.unwrap_or(Err(KeyError::System)));
            continue;
        }
        let wanted = handshake.wanted();
        if wanted == 0 {
            let eof = || HandshakeError::Lost(io::ErrorKind::UnexpectedEof.into());
            return handshake.finish().ok_or_else(eof);
        }
        let mut bytes = vec![0; wanted];
        let count = tcp.read(&mut bytes).await.map_err(HandshakeError::Lost)?;
        if count == 0 {
            return Err(HandshakeError::Lost(io::ErrorKind::UnexpectedEof.into()));
        }
        outcome = handshake.handle_bytes(bytes.get(..count).unwrap_or_default());
    }
}

/// The result of a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received {
    /// Bytes arrived.
    Bytes,
    /// Nothing arrived yet.
    Nothing,
    /// The peer has closed its direction.
    End,
}

/// A connection with its channel, which carries a session.
#[derive(Debug)]
pub struct SecureStream {
    tcp: Arc<TcpStream>,
    channel: Channel,
    /// Sealed bytes that are not written yet.
    sealed: BytesMut,
}

impl SecureStream {
    /// Returns a connection whose handshake produced `channel`.
    pub fn new(tcp: TcpStream, channel: Channel) -> Self {
        Self { tcp: Arc::new(tcp), channel, sealed: BytesMut::new() }
    }

    /// Returns the channel.
    pub fn channel(&self) -> &Channel {
        &self.channel
    }

    /// Returns whether sealed bytes are not written yet.
    pub fn has_output(&self) -> bool {
        !self.sealed.is_empty()
    }

    /// Waits until the socket is readable or writable, as far as it is wanted at the time of the call. The
    /// stream is not borrowed meanwhile.
    pub fn ready(
        &self,
        wants_bytes: bool,
        has_output: bool,
    ) -> impl Future<Output = io::Result<Ready>> + use<> {
        let has_early = wants_bytes && self.channel.has_early_data();
        let interest = match (wants_bytes, has_output || self.has_output()) {
            (true, true) => Some(Interest::READABLE | Interest::WRITABLE),
            (true, false) => Some(Interest::READABLE),
            (false, true) => Some(Interest::WRITABLE),
            (false, false) => None,
        };
        let tcp = self.tcp.clone();
        async move {
            match interest {
                _ if has_early => Ok(Ready::READABLE),
                Some(interest) => tcp.ready(interest).await,
                None => core::future::pending().await,
            }
        }
    }

    /// Waits until the peer has closed the connection, or its direction of it, without reading. The stream is
    /// not borrowed meanwhile.
    pub fn hung_up(&self) -> impl Future<Output = ()> + use<> {
        let tcp = self.tcp.clone();
        async move {
            // The protocol has no urgent data, so priority readiness means that the peer has closed its side.
            while let Ok(ready) = tcp.ready(Interest::PRIORITY).await {
                if ready.is_read_closed() {
                    return;
                }
            }
        }
    }

    /// Reads available bytes, at most the length of `buffer`, and passes the opened ones to `take`.
    pub fn receive(
        &mut self,
        buffer: &mut [u8],
        mut take: impl FnMut(&[u8]),
    ) -> Result<Received, StreamError> {
        if self.channel.has_early_data() {
            self.channel.open(&[], &mut take)?;
            return Ok(Received::Bytes);
        }
        match self.read(buffer) {
            Ok(0) => Ok(Received::End),
            Ok(count) => {
                self.channel.open(buffer.get(..count).unwrap_or_default(), &mut take)?;
                Ok(Received::Bytes)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Received::Nothing),
            Err(error) => Err(error.into()),
        }
    }

    /// Reads available bytes. A partly filled buffer marks the socket as drained, which saves the read that
    /// would return `WouldBlock`.
    fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut count = 0;
        let room = buffer.len();
        let outcome = self.tcp.try_io(Interest::READABLE, || {
            count = rustix::io::read(&self.tcp, buffer)?;
            if (1..room).contains(&count) { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
        });
        if count > 0 { Ok(count) } else { outcome.map(|()| 0) }
    }

    /// Writes as much of `output` as the socket accepts at once, and advances it.
    pub fn send(&mut self, output: &mut impl Buf) -> Result<(), StreamError> {
        let written = if self.channel.is_plain() {
            let mut pieces = [IoSlice::new(&[]); PIECES];
            let count = output.chunks_vectored(&mut pieces);
            let written = self.tcp.try_write_vectored(pieces.get(..count).unwrap_or_default());
            written.map(|count| output.advance(count))
        } else {
            self.channel.seal(output, &mut self.sealed)?;
            self.tcp.try_write(&self.sealed).map(|count| self.sealed.advance(count))
        };
        match written {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// As [`Self::send`], without waiting for readiness. A lost connection is not an error here: the reader
    /// detects it after it has read the peer's last messages.
    pub fn send_at_once(&mut self, output: &mut impl Buf) -> Result<(), StreamError> {
        if !output.has_remaining() && !self.has_output() {
            return Ok(());
        }
        match self.send(output) {
            Err(StreamError::Lost(_)) => Ok(()),
            other => other,
        }
    }

    /// Writes all of `output`.
    pub async fn flush(&mut self, output: &mut impl Buf) -> Result<(), StreamError> {
        while output.has_remaining() || self.has_output() {
            self.ready(false, true).await?;
            self.send(output)?;
        }
        Ok(())
    }

    /// Returns the kernel's state of the TCP connection.
    pub fn tcp_progress(&self) -> io::Result<TcpProgress> {
        TcpProgress::query(&self.tcp)
    }

    /// Makes the close of the connection a reset: the kernel discards unsent bytes, and the peer notices the
    /// end even if it lacks earlier segments.
    pub fn abort(&self) -> io::Result<()> {
        self.tcp.set_zero_linger()
    }

    /// Closes this direction. If the peer has closed the connection already, nothing is left to do.
    pub fn end(&self) -> io::Result<()> {
        match rustix::net::shutdown(&self.tcp, Shutdown::Write) {
            Err(rustix::io::Errno::NOTCONN) => Ok(()),
            other => Ok(other?),
        }
    }

    /// Closes this direction, and reads until the peer closes too. With unread input the kernel would send a
    /// reset, which can destroy the bytes just written.
    pub async fn close_gracefully(&mut self) -> io::Result<()> {
        self.end()?;
        let mut unread = [0; 1024];
        loop {
            self.tcp.readable().await?;
            match self.read(&mut unread) {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }
}
