//! Many datagrams by one system call: memory for them, recvmmsg and sendmmsg.

#![expect(unsafe_code, reason = "recvmmsg and sendmmsg, which std has not")]

use std::io;
use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::ptr::null_mut;

use libc::{c_int, c_uint, iovec, mmsghdr};

/// Datagrams that one call takes or sends: as many as one GSO send can hold at 1,464 bytes each.
pub(crate) const COUNT: usize = 44;

/// Room for `COUNT` datagrams of the same longest length, one after the other.
pub(crate) struct Messages {
    memory: Vec<u8>,
    slot: usize,
    pieces: [iovec; COUNT],
    headers: [mmsghdr; COUNT],
}

impl Messages {
    /// Room for datagrams of `slot` bytes at the most.
    pub(crate) fn new(slot: usize) -> Self {
        let piece = iovec { iov_base: null_mut(), iov_len: slot };
        // SAFETY: the header is made of numbers and pointers, for which zero bytes are valid: nothing, and no pointer.
        let header: mmsghdr = unsafe { std::mem::zeroed() };
        Self { memory: vec![0; slot * COUNT], slot, pieces: [piece; COUNT], headers: [header; COUNT] }
    }

    /// The room of one datagram.
    pub(crate) fn slot(&mut self, at: usize) -> &mut [u8] {
        &mut self.memory[at * self.slot..][..self.slot]
    }

    /// A datagram that was received.
    pub(crate) fn received(&self, at: usize) -> &[u8] {
        let length = usize::try_from(self.headers[at].msg_len).unwrap();
        &self.memory[at * self.slot..][..length]
    }

    /// The room of the first `count` datagrams, as one piece.
    pub(crate) fn joined(&self, count: usize) -> &[u8] {
        &self.memory[..count * self.slot]
    }

    /// Waits for the first datagram as long as the socket's time-out says, then takes what is there. Says how many: 0
    /// after a time-out.
    pub(crate) fn receive(&mut self, socket: &UdpSocket) -> usize {
        let (headers, count) = self.prepare(0, COUNT);
        // SAFETY: the headers and all that they point to belong to `self`, which is borrowed for the call.
        let taken =
            unsafe { libc::recvmmsg(socket.as_raw_fd(), headers, count, libc::MSG_WAITFORONE, null_mut()) };
        if taken < 0 {
            tolerate(&io::Error::last_os_error());
        }
        usize::try_from(taken).unwrap_or_default()
    }

    /// Sends the first `count` datagrams at full length by a connected socket.
    pub(crate) fn send(&mut self, socket: &UdpSocket, count: usize) {
        let mut sent = 0;
        while sent < count {
            let (headers, rest) = self.prepare(sent, count);
            // SAFETY: the headers and all that they point to belong to `self`, which is borrowed for the call.
            let taken: c_int = unsafe { libc::sendmmsg(socket.as_raw_fd(), headers, rest, 0) };
            if taken < 0 {
                tolerate(&io::Error::last_os_error());
            }
            sent += usize::try_from(taken).unwrap_or_default();
        }
    }

    /// Points the headers from one to another to their memory.
    fn prepare(&mut self, from: usize, to: usize) -> (*mut mmsghdr, c_uint) {
        let slots = self.memory.chunks_exact_mut(self.slot);
        for ((slot, piece), header) in slots.zip(&mut self.pieces).zip(&mut self.headers) {
            piece.iov_base = slot.as_mut_ptr().cast();
            header.msg_hdr.msg_iov = piece;
            header.msg_hdr.msg_iovlen = 1;
        }
        (self.headers[from..to].as_mut_ptr(), c_uint::try_from(to - from).unwrap())
    }
}

/// Nothing there in time, or a collector that was not there yet.
fn tolerate(error: &io::Error) {
    let kinds = [io::ErrorKind::WouldBlock, io::ErrorKind::Interrupted, io::ErrorKind::ConnectionRefused];
    assert!(kinds.contains(&error.kind()), "a benchmark's socket: {error}");
}
