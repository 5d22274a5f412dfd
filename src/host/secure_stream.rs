//! A TCP connection and the channel over it, as both daemons use it.
//!
//! Nothing here waits but [`Stream::ready`], [`Stream::hung_up`], [`Stream::flush`], [`Stream::part`] and [`shake`]; all but the last may be
//! given up at any moment without harm.

use std::io::{self, IoSlice};
use std::sync::Arc;

use bytes::{Buf, BytesMut};
use nf_transport_core::secure::{Channel, ChannelError, Handshake, KeyError};
use rustix::net::Shutdown;
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest, Ready};
use tokio::net::TcpStream;

use crate::host::TcpProgress;

/// Pieces that one write takes at the most.
const PIECES: usize = 64;

/// How a connection with this cipher is protected, in words.
pub fn protection(cipher: &str) -> String {
    if cipher == "none" { "in clear text".to_owned() } else { format!("encrypted by {cipher}") }
}

/// Why a connection is of no more use.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// The network, or this side's kernel, says no.
    #[error("connection lost: {0}")]
    Lost(#[from] io::Error),
    /// What came is not what the other side sent.
    #[error("{0}")]
    Channel(#[from] ChannelError),
}

/// Why a handshake came to nothing.
#[derive(Debug)]
pub enum ShakeError<E> {
    /// The connection ended.
    Lost(io::Error),
    /// The handshake did.
    Failed(E),
}

/// Plays one side of a handshake over `tcp`. The last word of one that fails is written too.
pub async fn shake<H: Handshake>(
    tcp: &mut TcpStream,
    mut handshake: H,
) -> Result<H::Outcome, ShakeError<H::Error>> {
    let mut outcome = Ok(());
    loop {
        let output = handshake.take_output();
        tcp.write_all(&output).await.map_err(ShakeError::Lost)?;
        outcome.map_err(ShakeError::Failed)?;
        if let Some(derivation) = handshake.take_derivation() {
            let key = tokio::task::spawn_blocking(|| derivation.run()).await;
            outcome = handshake.handle_key(key.unwrap_or(Err(KeyError::System)));
            continue;
        }
        let wanted = handshake.wanted();
        if wanted == 0 {
            let eof = || ShakeError::Lost(io::ErrorKind::UnexpectedEof.into());
            return handshake.finish().ok_or_else(eof);
        }
        let mut bytes = vec![0; wanted];
        let count = tcp.read(&mut bytes).await.map_err(ShakeError::Lost)?;
        if count == 0 {
            return Err(ShakeError::Lost(io::ErrorKind::UnexpectedEof.into()));
        }
        outcome = handshake.handle_bytes(bytes.get(..count).unwrap_or_default());
    }
}

/// What a read brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received {
    /// Bytes.
    Bytes,
    /// Nothing yet.
    Nothing,
    /// The other side sends no more.
    End,
}

/// A connection over which the session speaks.
#[derive(Debug)]
pub struct Stream {
    tcp: Arc<TcpStream>,
    channel: Channel,
    /// What is sealed and not written yet.
    sealed: BytesMut,
}

impl Stream {
    /// A connection whose handshake led to `channel`.
    pub fn new(tcp: TcpStream, channel: Channel) -> Self {
        Self { tcp: Arc::new(tcp), channel, sealed: BytesMut::new() }
    }

    /// What protects it.
    pub fn channel(&self) -> &Channel {
        &self.channel
    }

    /// Whether something is sealed and not written yet.
    pub fn has_output(&self) -> bool {
        !self.sealed.is_empty()
    }

    /// Waits until the socket can be read or written: whichever of them is wanted as of now. Meanwhile others may use the stream.
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

    /// Waits until the other side has closed the connection, or its half of it, although nothing is read. Meanwhile others may
    /// use the stream.
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

    /// Reads what is there, at most as much as `buffer` takes, and hands what it holds on to `take`.
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

    /// Reads what is there. If the buffer is larger than that, there is nothing to be read now, as if another read had said so.
    fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut count = 0;
        let room = buffer.len();
        let outcome = self.tcp.try_io(Interest::READABLE, || {
            count = rustix::io::read(&self.tcp, buffer)?;
            if (1..room).contains(&count) { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
        });
        if count > 0 { Ok(count) } else { outcome.map(|()| 0) }
    }

    /// Writes from the front of `output` what the socket takes at once.
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

    /// As [`Self::send`], without waiting to be told that the socket takes something. If the connection is lost whoever reads
    /// from it learns that, after the last words that may lie there.
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

    /// Asks the kernel how far TCP has come.
    pub fn tcp_progress(&self) -> io::Result<TcpProgress> {
        TcpProgress::of(&self.tcp)
    }

    /// Makes the end of the connection a reset: what the kernel still holds is not sent any more, and the other side learns
    /// of the end even if it misses something before it.
    pub fn abort(&self) -> io::Result<()> {
        self.tcp.set_zero_linger()
    }

    /// Ends this side: nothing more is sent. Where the other side has torn the connection down, that is so already.
    pub fn end(&self) -> io::Result<()> {
        match rustix::net::shutdown(&self.tcp, Shutdown::Write) {
            Err(rustix::io::Errno::NOTCONN) => Ok(()),
            other => Ok(other?),
        }
    }

    /// Ends this side, and reads on until the other side ends too: unread input would make the kernel answer with a
    /// reset, which can eat what was just written.
    pub async fn part(&mut self) -> io::Result<()> {
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
