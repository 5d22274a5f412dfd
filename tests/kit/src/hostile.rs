//! A hostile client: speaks as much of the protocol as it likes, by the library's own codecs, and holds what it gets.

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

/// Connections that a flood holds at most; the oldest is closed for the next.
const HELD: usize = 1000;

/// Connects again and again until dropped, and holds the connections.
pub struct Flood {
    stop: Arc<AtomicBool>,
    made: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Flood {
    /// Makes `rate` connections a second to `target`. `connect` makes one, by its number.
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

    /// How many connections were made.
    pub fn made(&self) -> u64 {
        self.made.load(Ordering::Relaxed)
    }

    /// Waits until `count` more connections were made.
    pub fn wait_for_more(&self, count: u64) {
        let (wanted, began) = (self.made() + count, Instant::now());
        while self.made() < wanted {
            assert!(began.elapsed() < STALL, "only {} connections", self.made());
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

/// Connects from this address, one of this machine's.
pub fn connect_from(source: Ipv4Addr, target: SocketAddr) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&SocketAddr::new(IpAddr::V4(source), 0).into())?;
    socket.connect(&target.into())?;
    Ok(socket.into())
}

/// The key of `seed`, as [`write_key`](super::hosts::write_key) writes it.
pub fn key_of(seed: &str) -> Key {
    Key::from_text(&key_text(seed)).unwrap()
}

/// Bytes of the payload of HELLO, and where its heartbeat is.
const HELLO_LEN: usize = 158;
const HEARTBEAT_OFFSET: usize = 26;

/// The secret of a client's own stream of this number.
fn own_key(stream: u8) -> StreamKey {
    StreamKey::new([stream; 32].into()).unwrap()
}

/// A connection whose handshake went well.
pub struct Client {
    tcp: TcpStream,
    channel: Channel,
    decoder: Decoder,
}

impl Client {
    /// Authenticates as `id` by the key of `seed`.
    pub fn with_key(target: SocketAddr, id: &str, seed: &str) -> io::Result<Self> {
        Self::with_key_from(Ipv4Addr::LOCALHOST, target, id, seed)
    }

    /// As [`Self::with_key`], from this address, one of this machine's.
    pub fn with_key_from(source: Ipv4Addr, target: SocketAddr, id: &str, seed: &str) -> io::Result<Self> {
        let handshake = SenderHandshake::keyed(&id.parse().unwrap(), &key_of(seed), Suite::ChaCha20Poly1305);
        Self::shake(connect_from(source, target)?, handshake)
    }

    /// Says that it is `id`, in clear text.
    pub fn in_clear_text(target: SocketAddr, id: &str) -> io::Result<Self> {
        Self::shake(TcpStream::connect(target)?, SenderHandshake::plain(&id.parse().unwrap()))
    }

    /// Plays the sender's side of a handshake.
    pub fn shake(mut tcp: TcpStream, mut handshake: SenderHandshake) -> io::Result<Self> {
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

    /// Sends a message.
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

    /// Asks for a session with the stream of this number, which is the client's own.
    pub fn hello(&mut self, stream: u8, heartbeat: Duration) -> io::Result<()> {
        let key = own_key(stream);
        self.claim(key.id(), &key, Position(0), heartbeat)
    }

    /// Asks for a session with `stream` from `first` on, of which it has no other secret than `key`.
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

    /// A HELLO for the stream of `key` from its first position on.
    fn hello_for(&self, key: &StreamKey, heartbeat: Duration) -> io::Result<Hello> {
        let proof = key.prove(self.channel.binding().map_err(io::Error::other)?);
        let (heartbeat, run) = (Heartbeat::nearest(heartbeat), RunId([1; 16]));
        Ok(Hello { stream: key.id(), first: Position(0), heartbeat, run, replaces: None, proof })
    }

    /// As [`Self::hello`], with a heartbeat of so many milliseconds, allowed or not.
    pub fn hello_unchecked(&mut self, stream: u8, heartbeat: u32) -> io::Result<()> {
        let hello = self.hello_for(&own_key(stream), Duration::ZERO)?;
        let mut plain = BytesMut::new();
        drop(Message::Hello(hello).encode(&mut plain));
        let place = plain.len() - HELLO_LEN + HEARTBEAT_OFFSET;
        plain[place..place + 4].copy_from_slice(&heartbeat.to_be_bytes());
        self.write(plain)
    }

    /// Sends the first datagram of the stream of this number.
    pub fn data(&mut self, stream: u8) -> io::Result<()> {
        let exporter = SocketAddr::from(([192, 0, 2, 1], 2055));
        let arrival = Timestamp::from_unix(Duration::from_secs(1_700_000_000));
        let datagram = Datagram { exporter, local: exporter, arrival, payload: b"x" };
        let mut builder = BatchBuilder::new(own_key(stream).id(), Compression::None);
        builder.push(&datagram).map_err(io::Error::other)?;
        let batch = builder.finish(Position(0)).ok_or(io::ErrorKind::InvalidInput)?;
        self.send(Message::Data(batch.bytes().clone()))
    }

    /// Ends the session in good order. The receiver knows then that the sender is gone.
    pub fn part(mut self) {
        self.send(Message::Goodbye).unwrap();
        while self.receive().is_ok() {}
    }

    /// Says no more, and listens on.
    pub fn half_close(&self) -> io::Result<()> {
        self.tcp.shutdown(Shutdown::Write)
    }

    /// The next message from the receiver.
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
