//! The bare loops: the least that a relay can do, as the limit. One takes datagrams by recvmmsg and sends them on by sendmmsg or
//! GSO. Two have a TCP connection between them, and so are the least that a relay like the pair can do: nothing is framed,
//! checked, kept, acknowledged or encrypted. Each is a process of its own: this program, started again with hidden words.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nf_transport_kit::kernel_socket::{KernelFigures, KernelSocket, RECEIVE_BUFFER};
use rustix::event::{PollFd, PollFlags, poll};

use crate::generator::Sending;
use crate::messages::{COUNT, Messages};
use crate::payload::LEN;
use crate::process::Process;

/// The word by which this program knows that it is to be the loop.
pub(crate) const WORD: &str = "--bare-loop";

/// The loop as a child. Dropping it ends it.
pub(crate) struct Bare {
    child: Child,
    addr: SocketAddr,
    kernel: KernelSocket,
}

impl Bare {
    /// Starts one that sends on to `target`, or only receives.
    pub(crate) fn start(target: Option<SocketAddr>, sending: Sending) -> Self {
        let sending = if sending == Sending::Gso { "gso" } else { "plain" };
        match target {
            Some(target) => Self::with(&[sending, &target.to_string()]),
            None => Self::with(&[sending]),
        }
    }

    fn with(words: &[&str]) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        // What anybody may ask for, as the other relays have it.
        rustix::net::sockopt::set_socket_recv_buffer_size(&socket, RECEIVE_BUFFER).unwrap();
        let (addr, kernel) = (socket.local_addr().unwrap(), KernelSocket::of(&socket));
        Self { child: child(socket, words), addr, kernel }
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn kernel(&self) -> KernelFigures {
        self.kernel.figures()
    }

    /// Tells one that only receives to end; says how many datagrams it took.
    pub(crate) fn finish(mut self) -> u64 {
        self.kernel.wait_until_drained();
        UdpSocket::bind("127.0.0.1:0").unwrap().send_to(&[], self.addr).unwrap();
        let said = std::io::read_to_string(self.child.stdout.take().unwrap()).unwrap();
        said.trim().parse().expect("the number of datagrams")
    }
}

/// Two loops with a TCP connection between them. Dropping them ends them.
pub(crate) struct BarePair {
    input: Bare,
    output: Child,
}

impl BarePair {
    /// Starts two that send on to `target`.
    pub(crate) fn start(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let between = listener.local_addr().unwrap().to_string();
        let output = child(listener, &["from-tcp", &target.to_string()]);
        Self { input: Bare::with(&["to-tcp", &between]), output }
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.input.addr
    }

    pub(crate) fn processes(&self) -> Vec<Process> {
        [self.input.pid(), self.output.id()].map(|pid| Process { name: "bare TCP pair", pid }).to_vec()
    }
}

impl Drop for BarePair {
    fn drop(&mut self) {
        drop(self.output.kill());
        drop(self.output.wait());
    }
}

/// This program as a loop with these words, whose standard input is `socket`.
fn child(socket: impl Into<OwnedFd>, words: &[&str]) -> Child {
    let mut command = Command::new("/proc/self/exe");
    command.arg(WORD).args(words).stdin(socket.into()).stdout(Stdio::piped());
    command.spawn().unwrap()
}

impl Drop for Bare {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// The loop itself: its socket is the standard input, its words say how to send, and where to.
pub(crate) fn run(words: &[String]) {
    let socket = std::io::stdin().as_fd().try_clone_to_owned().unwrap();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        ["to-tcp", target] => to_tcp(&socket.into(), target),
        ["from-tcp", target] => from_tcp(&socket.into(), target),
        ["gso", target] => relay(&socket.into(), target, Sending::Gso),
        [_, target] => relay(&socket.into(), target, Sending::Plain),
        _ => println!("{}", receive(&socket.into())),
    }
}

/// Writes what comes to a connection. As nf-sender does it lets a burst gather before it takes it.
fn to_tcp(socket: &UdpSocket, target: &str) {
    let mut connection = TcpStream::connect(target).unwrap();
    connection.set_nodelay(true).unwrap();
    let mut messages = Messages::new(LEN);
    let mut count = 0;
    loop {
        if count < COUNT {
            poll(&mut [PollFd::new(socket, PollFlags::IN)], None).unwrap();
            std::thread::sleep(Duration::from_micros(1));
        }
        count = messages.receive(socket);
        assert_full(&messages, count);
        // The other loop may end first.
        if connection.write_all(messages.joined(count)).is_err() {
            return;
        }
    }
}

/// Sends what comes by a connection.
fn from_tcp(listener: &TcpListener, target: &str) {
    let outgoing = UdpSocket::bind("127.0.0.1:0").unwrap();
    outgoing.connect(target).unwrap();
    Sending::Gso.prepare(&outgoing);
    let mut connection = listener.accept().unwrap().0;
    let mut buffer = vec![0; 4 * COUNT * LEN];
    let mut filled = 0;
    loop {
        match connection.read(&mut buffer[filled..]) {
            Ok(0) | Err(_) => return,
            Ok(count) => filled += count,
        }
        let whole = filled - filled % LEN;
        for burst in buffer[..whole].chunks(COUNT * LEN) {
            // A collector that is not there is no fault of the sender.
            drop(outgoing.send(burst));
        }
        buffer.copy_within(whole..filled, 0);
        filled -= whole;
    }
}

fn relay(socket: &UdpSocket, target: &str, sending: Sending) {
    let outgoing = UdpSocket::bind("127.0.0.1:0").unwrap();
    outgoing.connect(target).unwrap();
    sending.prepare(&outgoing);
    let mut messages = Messages::new(LEN);
    loop {
        let count = messages.receive(socket);
        assert_full(&messages, count);
        if count > 0 {
            sending.send(&outgoing, &mut messages, count);
        }
    }
}

fn assert_full(messages: &Messages, count: usize) {
    let is_full = (0..count).all(|at| messages.received(at).len() == LEN);
    assert!(is_full, "the loop takes full datagrams only");
}

/// Takes datagrams until an empty one comes; says how many.
fn receive(socket: &UdpSocket) -> u64 {
    let mut messages = Messages::new(LEN);
    let mut total = 0;
    loop {
        for at in 0..messages.receive(socket) {
            if messages.received(at).is_empty() {
                return total;
            }
            total += 1;
        }
    }
}
