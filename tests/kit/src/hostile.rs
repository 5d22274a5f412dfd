//! A hostile client. It uses the shared crate's codecs to send any part of the protocol, and keeps its
//! connections open.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::{Buf, BytesMut};
use nf_transport_core::batch::{BatchBuilder, Compression};
use nf_transport_core::datagram::{Datagram, Timestamp};
use nf_transport_core::framing::{Decoder, Heartbeat, Hello, Message};
use nf_transport_core::secure::{Channel, Handshake, Key, SenderHandshake, StreamKey, Suite};
use nf_transport_core::sequence::{Position, RunId, StreamId};
use socket2::{Domain, Socket, Type};

use crate::hosts::key_text;
use crate::pair::STALL;

/// Connections that a flood holds at most. Beyond that the oldest is closed.
const HELD: usize = 1000;

/// Opens connections at a fixed rate until dropped, and holds them open.
pub struct Flood {
    stop: Arc<AtomicBool>,
    made: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Flood {
    /// Opens `rate` connections a second. `connect` opens one and gets its number.
    pub fn start<C: Send + 'static>(
        rate: u32,
        connect: impl Fn(u64) -> io::Result<C> + Send + 'static,
    ) -> Self {
        let (stop, made) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, count) = (Arc::clone(&stop), Arc::clone(&made));
        let thread = std::thread::spawn(move || {
            let mut held = std::collections::VecDeque::new();
            let began = Instant::now();
            for number in 0.. {
                let due = began + Duration::from_secs(1) / rate * u32::try_from(number).unwrap();
                std::thread::sleep(due.saturating_duration_since(Instant::now()));
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                if let Ok(connection) = connect(number) {
                    held.push_back(connection);
                    count.fetch_add(1, Ordering::Relaxed);
                }
                if held.len() > HELD {
                    held.pop_front();
                }
            }
        });
        Self { stop, made, thread: Some(thread) }
    }

    /// Returns the number of connections opened so far.
    pub fn made(&self) -> u64 {
        self.made.load(Ordering::Relaxed)
    }

    /// Waits until `count` more connections are open.
    pub fn wait_for_more(&self, count: u64) {
        let (wanted, began) = (self.made() + count, Instant::now());
        while self.made() < wanted {
            assert!(began.elapsed() < STALL, "only {} of {wanted} connections were opened", self.made());
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().into_iter().for_each(|thread| drop(thread.join()));
    }
}

/// Connects to `target` from this local address.
pub fn connect_from(source: Ipv4Addr, target: SocketAddr) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&SocketAddr::new(IpAddr::V4(source), 0).into())?;
    socket.connect(&target.into())?;
    Ok(socket.into())
}

/// Returns the key of `seed` that [`write_key`](super::hosts::write_key) writes.
pub fn key_of(seed: &str) -> Key {
    Key::from_text(&key_text(seed)).unwrap()
}

/// Length of the HELLO payload and offset of its heartbeat, in bytes.
const HELLO_LEN: usize = 158;
const HEARTBEAT_OFFSET: usize = 26;

/// Returns the secret of the client's own stream with this number.
fn own_key(stream: u8) -> StreamKey {
    StreamKey::new([stream; 32].into()).unwrap()
}

/// A client with a finished handshake.
pub struct Client {
    tcp: TcpStream,
    channel: Channel,
    decoder: Decoder,
}

impl Client {
    /// Connects and authenticates as `id` with the key of `seed`.
    pub fn with_key(target: SocketAddr, id: &str, seed: &str) -> io::Result<Self> {
        Self::with_key_from(Ipv4Addr::LOCALHOST, target, id, seed)
    }

    /// Does the same from this local address.
    pub fn with_key_from(source: Ipv4Addr, target: SocketAddr, id: &str, seed: &str) -> io::Result<Self> {
        let handshake = SenderHandshake::keyed(&id.parse().unwrap(), &key_of(seed), Suite::ChaCha20Poly1305);
        Self::run_handshake(connect_from(source, target)?, handshake)
    }

    /// Connects in clear text under the name `id`.
    pub fn in_clear_text(target: SocketAddr, id: &str) -> io::Result<Self> {
        Self::run_handshake(TcpStream::connect(target)?, SenderHandshake::plain(&id.parse().unwrap()))
    }

    /// Runs the sender's side of a handshake.
    pub fn run_handshake(mut tcp: TcpStream, mut handshake: SenderHandshake) -> io::Result<Self> {
        tcp.set_nodelay(true)?;
        tcp.set_read_timeout(Some(STALL))?;
        loop {
            tcp.write_all(&handshake.take_output())?;
            let mut bytes = vec![0; handshake.wanted()];
            if bytes.is_empty() {
                let channel = handshake.finish().ok_or(io::ErrorKind::ConnectionRefused)?;
                return Ok(Self { tcp, channel, decoder: Decoder::default() });
            }
            let count = tcp.read(&mut bytes)?;
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            handshake.handle_bytes(&bytes[..count]).map_err(io::Error::other)?;
        }
    }

    /// Sends one message.
    pub fn send(&mut self, message: Message) -> io::Result<()> {
        let mut plain = BytesMut::new();
        if let Some(batch) = message.encode(&mut plain) {
            plain.extend_from_slice(&batch);
        }
        self.write(plain)
    }

    fn write(&mut self, mut plain: BytesMut) -> io::Result<()> {
        while plain.has_remaining() {
            let mut wire = BytesMut::new();
            self.channel.seal(&mut plain, &mut wire).map_err(io::Error::other)?;
            self.tcp.write_all(&wire)?;
        }
        Ok(())
    }

    /// Requests a session for the client's own stream with this number.
    pub fn hello(&mut self, stream: u8, heartbeat: Duration) -> io::Result<()> {
        let key = own_key(stream);
        self.claim(key.id(), &key, Position(0), heartbeat)
    }

    /// Requests a session for `stream` from position `first`. The proof is made with `key`, which need not be
    /// the stream's secret.
    pub fn claim(
        &mut self,
        stream: StreamId,
        key: &StreamKey,
        first: Position,
        heartbeat: Duration,
    ) -> io::Result<()> {
        let hello = self.hello_for(key, heartbeat)?;
        self.send(Message::Hello(Hello { stream, first, ..hello }))
    }

    /// Builds a HELLO for the stream of `key` from position 0.
    fn hello_for(&self, key: &StreamKey, heartbeat: Duration) -> io::Result<Hello> {
        let proof = key.prove(self.channel.binding().map_err(io::Error::other)?);
        let (heartbeat, run) = (Heartbeat::nearest(heartbeat), RunId([1; 16]));
        Ok(Hello { stream: key.id(), first: Position(0), heartbeat, run, replaces: None, proof })
    }

    /// Does the same as [`Self::hello`] with a heartbeat in milliseconds that may be outside the allowed
    /// range.
    pub fn hello_unchecked(&mut self, stream: u8, heartbeat: u32) -> io::Result<()> {
        let hello = self.hello_for(&own_key(stream), Duration::ZERO)?;
        let mut plain = BytesMut::new();
        drop(Message::Hello(hello).encode(&mut plain));
        let place = plain.len() - HELLO_LEN + HEARTBEAT_OFFSET;
        plain[place..place + 4].copy_from_slice(&heartbeat.to_be_bytes());
        self.write(plain)
    }

    /// Sends the first datagram of the client's own stream with this number.
    pub fn data(&mut self, stream: u8) -> io::Result<()> {
        let exporter = SocketAddr::from(([192, 0, 2, 1], 2055));
        let arrival = Timestamp::from_unix(Duration::from_secs(1_700_000_000));
        let datagram = Datagram { exporter, local: exporter, arrival, payload: b"x" };
        let mut builder = BatchBuilder::new(own_key(stream).id(), Compression::None);
        builder.push(&datagram).map_err(io::Error::other)?;
        let batch = builder.finish(Position(0)).ok_or(io::ErrorKind::InvalidInput)?;
        self.send(Message::Data(batch.bytes().clone()))
    }

    /// Ends the session cleanly. The receiver then knows that the sender is gone.
    pub fn close_gracefully(mut self) {
        self.send(Message::Goodbye).unwrap();
        while self.receive().is_ok() {}
    }

    /// Closes the sending direction; the client can still receive.
    pub fn half_close(&self) -> io::Result<()> {
        self.tcp.shutdown(Shutdown::Write)
    }

    /// Returns the next message from the receiver.
    pub fn receive(&mut self) -> io::Result<Message> {
        let mut bytes = [0; 4096];
        loop {
            if let Some(message) = self.decoder.next_message().map_err(io::Error::other)? {
                return Ok(message);
            }
            let count = self.tcp.read(&mut bytes)?;
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let decoder = &mut self.decoder;
            self.channel
                .open(&bytes[..count], &mut |plain| decoder.extend(plain))
                .map_err(io::Error::other)?;
        }
    }
}
