//! Bare loops: the least work that a relay can do, as a limit for comparison.
//!
//! - One loop receives datagrams by recvmmsg and sends them by sendmmsg or GSO.
//! - The plain relay does the same with recvfrom and sendto, one datagram each.
//! - Two loops with a TCP connection between them are the least work for a relay like nf-sender and
//!   nf-receiver: nothing is framed, checked, stored, acknowledged or encrypted.
//!
//! Each loop is a separate process: this program, started again with hidden arguments.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nf_transport_kit::kernel_socket::{KernelFigures, KernelSocket, RECEIVE_BUFFER, enlarge};
use rustix::event::{PollFd, PollFlags, poll};

use crate::generator::Sending;
use crate::messages::{COUNT, Messages};
use crate::payload::LEN;
use crate::process::Process;
use crate::relay::Buffer;

/// Argument that makes this program run a bare loop.
pub(crate) const LOOP_ARGUMENT: &str = "--bare-loop";

/// A bare loop as a child process. Dropping it ends it.
pub(crate) struct Bare {
    child: Child,
    addr: SocketAddr,
    kernel: KernelSocket,
}

impl Bare {
    /// Starts a loop that sends to `target`, or one that only receives.
    pub(crate) fn start(target: Option<SocketAddr>, sending: Sending, buffer: Buffer) -> Self {
        let sending = if sending == Sending::Gso { "gso" } else { "plain" };
        match target {
            Some(target) => Self::with(&[sending, &target.to_string()], buffer),
            None => Self::with(&[sending], buffer),
        }
    }

    /// Starts a plain relay to `target`.
    pub(crate) fn plain_relay(target: SocketAddr, buffer: Buffer) -> Self {
        Self::with(&["one-by-one", &target.to_string()], buffer)
    }

    fn with(arguments: &[&str], buffer: Buffer) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        match buffer {
            Buffer::Package => enlarge(&socket),
            // The kernel grants as much of it as any user may request.
            Buffer::Permitted => {
                rustix::net::sockopt::set_socket_recv_buffer_size(&socket, RECEIVE_BUFFER).unwrap();
            }
        }
        let (addr, kernel) = (socket.local_addr().unwrap(), KernelSocket::find(&socket));
        Self { child: child(socket, arguments), addr, kernel }
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

    /// Stops a loop that only receives, and returns the number of datagrams it received.
    pub(crate) fn finish(mut self) -> u64 {
        self.kernel.wait_until_drained();
        UdpSocket::bind("127.0.0.1:0").unwrap().send_to(&[], self.addr).unwrap();
        let output = std::io::read_to_string(self.child.stdout.take().unwrap()).unwrap();
        output.trim().parse().expect("the number of datagrams")
    }
}

/// Two loops with a TCP connection between them. Dropping them ends them.
pub(crate) struct BarePair {
    input: Bare,
    output: Child,
}

impl BarePair {
    /// Starts two loops that send to `target`. Datagrams gather for `wait` before the first loop receives
    /// them.
    pub(crate) fn start(target: SocketAddr, buffer: Buffer, wait: Duration) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let between = listener.local_addr().unwrap().to_string();
        let output = child(listener, &["from-tcp", &target.to_string()]);
        let wait = wait.as_micros().to_string();
        Self { input: Bare::with(&["to-tcp", &between, &wait], buffer), output }
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.input.addr
    }

    pub(crate) fn processes(&self, name: &'static str) -> Vec<Process> {
        [self.input.pid(), self.output.id()].map(|pid| Process { name, pid }).to_vec()
    }
}

impl Drop for BarePair {
    fn drop(&mut self) {
        drop(self.output.kill());
        drop(self.output.wait());
    }
}

/// Starts this program as a loop with these arguments and `socket` as standard input.
fn child(socket: impl Into<OwnedFd>, arguments: &[&str]) -> Child {
    let mut command = Command::new("/proc/self/exe");
    command.arg(LOOP_ARGUMENT).args(arguments).stdin(socket.into()).stdout(Stdio::piped());
    command.spawn().unwrap()
}

impl Drop for Bare {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Runs the loop. Its socket is the standard input; its arguments are the way to send and the target.
pub(crate) fn run(arguments: &[String]) {
    let socket = std::io::stdin().as_fd().try_clone_to_owned().unwrap();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["to-tcp", target, micros] => {
            to_tcp(&socket.into(), target, Duration::from_micros(micros.parse().unwrap()));
        }
        ["from-tcp", target] => from_tcp(&socket.into(), target),
        ["one-by-one", target] => relay_one_by_one(&socket.into(), target),
        ["gso", target] => relay(&socket.into(), target, Sending::Gso),
        [_, target] => relay(&socket.into(), target, Sending::Plain),
        _ => println!("{}", receive(&socket.into())),
    }
}

/// Writes received datagrams to a TCP connection. Like nf-sender, it lets datagrams gather: for `wait`.
fn to_tcp(socket: &UdpSocket, target: &str, wait: Duration) {
    let mut connection = TcpStream::connect(target).unwrap();
    connection.set_nodelay(true).unwrap();
    let mut messages = Messages::new(LEN);
    let mut count = 0;
    loop {
        if count < COUNT {
            poll(&mut [PollFd::new(socket, PollFlags::IN)], None).unwrap();
            std::thread::sleep(wait);
        }
        count = messages.receive(socket);
        assert_full(&messages, count);
        // The other loop may end first.
        if connection.write_all(messages.joined(count)).is_err() {
            return;
        }
    }
}

/// Sends datagrams that it reads from a TCP connection.
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
            // Ignore errors: the collector may not be listening yet.
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

/// Receives and sends one datagram after the other.
fn relay_one_by_one(socket: &UdpSocket, target: &str) {
    let target: SocketAddr = target.parse().unwrap();
    let outgoing = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut buffer = vec![0; 1 << 16];
    loop {
        let (length, _) = socket.recv_from(&mut buffer).unwrap();
        // Ignore errors: the collector may not be listening yet.
        drop(outgoing.send_to(&buffer[..length], target));
    }
}

fn assert_full(messages: &Messages, count: usize) {
    let is_full = (0..count).all(|at| messages.received(at).len() == LEN);
    assert!(is_full, "the loop accepts full datagrams only");
}

/// Receives datagrams until an empty one arrives, and returns their number.
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
