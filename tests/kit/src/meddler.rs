//! A man in the middle. It forwards everything that sender and receiver send, and on request alters one part.
//!
//! It knows the parts of the encrypted protocol: first the preface or the reply, then parts with a length
//! prefix of two bytes. It keeps a copy of every part.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// The end that sent a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Sender,
    Receiver,
}

/// An alteration of the next part that one side sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trick {
    /// One bit is flipped.
    Flip,
    /// The part is dropped.
    Drop,
    /// The part is sent twice.
    Double,
    /// The part is sent after the next one.
    Swap,
    /// Half of the part is sent, then the connection is closed.
    Truncate,
    /// The byte at this offset is replaced.
    Set(usize, u8),
}

/// The address of the man in the middle and its state.
pub struct Meddler {
    addr: SocketAddr,
    shared: Arc<Mutex<MeddlerState>>,
}

#[derive(Default)]
struct MeddlerState {
    armed: Option<(Side, Trick)>,
    /// Every part that either side sent, over all connections.
    seen: Vec<(Side, Vec<u8>)>,
}

impl Meddler {
    /// Starts a man in the middle in front of `receiver`.
    pub fn before(receiver: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let shared = Arc::new(Mutex::new(MeddlerState::default()));
        let of_connections = Arc::clone(&shared);
        std::thread::spawn(move || {
            for sender in listener.incoming() {
                let sender = sender.unwrap();
                let Ok(receiver) = TcpStream::connect(receiver) else { continue };
                for stream in [&sender, &receiver] {
                    stream.set_nodelay(true).unwrap();
                }
                let ends = (sender.try_clone().unwrap(), receiver.try_clone().unwrap());
                spawn(Side::Sender, sender, receiver, Arc::clone(&of_connections));
                spawn(Side::Receiver, ends.1, ends.0, Arc::clone(&of_connections));
            }
        });
        Self { addr, shared }
    }

    /// Returns the address for senders.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Applies `trick` to the next part that `side` sends.
    pub fn arm(&self, side: Side, trick: Trick) {
        self.shared.lock().unwrap().armed = Some((side, trick));
    }

    /// Returns whether the trick has been applied.
    pub fn is_played(&self) -> bool {
        self.shared.lock().unwrap().armed.is_none()
    }

    /// Returns the parts that `side` has sent so far.
    pub fn seen(&self, side: Side) -> Vec<Vec<u8>> {
        let shared = self.shared.lock().unwrap();
        shared.seen.iter().filter(|(of, _)| *of == side).map(|(_, part)| part.clone()).collect()
    }
}

/// Forwards the parts of `from`, which is `side`, to `to`.
fn spawn(side: Side, mut from: TcpStream, mut to: TcpStream, shared: Arc<Mutex<MeddlerState>>) {
    std::thread::spawn(move || {
        // Once either end is closed, close both.
        drop(pass_on(side, &mut from, &mut to, &shared));
        for stream in [from, to] {
            drop(stream.shutdown(Shutdown::Both));
        }
    });
}

fn pass_on(
    side: Side,
    from: &mut TcpStream,
    to: &mut TcpStream,
    shared: &Mutex<MeddlerState>,
) -> std::io::Result<()> {
    let mut is_first = true;
    let mut held_back = None;
    loop {
        let part = if is_first { first_part(side, from)? } else { later_part(from)? };
        is_first = false;
        let trick = {
            let mut shared = shared.lock().unwrap();
            shared.seen.push((side, part.clone()));
            match shared.armed {
                Some((armed, trick)) if armed == side => {
                    shared.armed = None;
                    Some(trick)
                }
                _ => None,
            }
        };
        let mut changed = part.clone();
        match trick {
            None => {}
            Some(Trick::Flip) => *changed.last_mut().unwrap() ^= 1,
            Some(Trick::Set(at, byte)) => changed[at] = byte,
            Some(Trick::Drop) => continue,
            Some(Trick::Double) => to.write_all(&part)?,
            Some(Trick::Swap) => {
                held_back = Some(part);
                continue;
            }
            Some(Trick::Truncate) => return to.write_all(&part[..part.len() / 2]),
        }
        to.write_all(&changed)?;
        if let Some(held_back) = held_back.take() {
            to.write_all(&held_back)?;
        }
    }
}

/// Reads a preface or a reply.
fn first_part(side: Side, from: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let mut part = vec![0; if side == Side::Sender { 10 } else { 24 }];
    from.read_exact(&mut part)?;
    if side == Side::Sender {
        let mut ids = vec![0; usize::from(part[8]) + usize::from(part[9])];
        from.read_exact(&mut ids)?;
        part.extend(ids);
    }
    Ok(part)
}

/// Reads a handshake message or a record, with its length.
fn later_part(from: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let mut part = vec![0; 2];
    from.read_exact(&mut part)?;
    let mut rest = vec![0; usize::from(u16::from_be_bytes([part[0], part[1]]))];
    from.read_exact(&mut rest)?;
    part.extend(rest);
    Ok(part)
}
