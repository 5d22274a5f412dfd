//! The bare loop: the least that a relay can do, as the limit. It takes datagrams by recvmmsg and sends them on by sendmmsg
//! or GSO, in a process of its own: this program, started again with hidden words.

use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command, Stdio};

use crate::generator::Sending;
use crate::messages::Messages;
use crate::payload::LEN;
use crate::support::kernel_socket::{KernelFigures, KernelSocket, RECEIVE_BUFFER};

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
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        // What anybody may ask for, as the other relays have it.
        rustix::net::sockopt::set_socket_recv_buffer_size(&socket, RECEIVE_BUFFER).unwrap();
        let (addr, kernel) = (socket.local_addr().unwrap(), KernelSocket::of(&socket));
        let child = Command::new("/proc/self/exe")
            .args([WORD, if sending == Sending::Gso { "gso" } else { "plain" }])
            .args(target.map(|target| target.to_string()))
            .stdin(OwnedFd::from(socket))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        Self { child, addr, kernel }
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

impl Drop for Bare {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// The loop itself: its socket is the standard input, its words say how to send, and where to.
pub(crate) fn run(words: &[String]) {
    let socket = UdpSocket::from(std::io::stdin().as_fd().try_clone_to_owned().unwrap());
    let sending = if words.first().is_some_and(|word| word == "gso") { Sending::Gso } else { Sending::Plain };
    match words.get(1) {
        Some(target) => relay(&socket, target, sending),
        None => println!("{}", receive(&socket)),
    }
}

fn relay(socket: &UdpSocket, target: &str, sending: Sending) {
    let outgoing = UdpSocket::bind("127.0.0.1:0").unwrap();
    outgoing.connect(target).unwrap();
    sending.prepare(&outgoing);
    let mut messages = Messages::new(LEN);
    loop {
        let count = messages.receive(socket);
        assert!(
            (0..count).all(|at| messages.received(at).len() == LEN),
            "the loop takes full datagrams only"
        );
        if count > 0 {
            sending.send(&outgoing, &mut messages, count);
        }
    }
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
