//! Many datagrams per system call: memory for them, recvmmsg and sendmmsg.

#![expect(unsafe_code, reason = "recvmmsg and sendmmsg, which std lacks")]

use std::io;
use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::ptr::null_mut;

use libc::{c_int, c_uint, iovec, mmsghdr};

/// Datagrams per call: as many as one GSO send can hold at 1,464 bytes each.
pub(crate) const COUNT: usize = 44;

/// Contiguous memory for `COUNT` datagrams of the same maximum length.
pub(crate) struct Messages {
    memory: Vec<u8>,
    slot: usize,
    pieces: [iovec; COUNT],
    headers: [mmsghdr; COUNT],
}

impl Messages {
    /// Allocates memory for datagrams of at most `slot` bytes.
    pub(crate) fn new(slot: usize) -> Self {
        let piece = iovec { iov_base: null_mut(), iov_len: slot };
        // SAFETY: the header consists of integers and pointers, for which zero bytes are valid.
        let header: mmsghdr = unsafe { std::mem::zeroed() };
        Self { memory: vec![0; slot * COUNT], slot, pieces: [piece; COUNT], headers: [header; COUNT] }
    }

    /// Returns the memory of one datagram.
    pub(crate) fn slot(&mut self, at: usize) -> &mut [u8] {
        &mut self.memory[at * self.slot..][..self.slot]
    }

    /// Returns a received datagram.
    pub(crate) fn received(&self, at: usize) -> &[u8] {
        let length = usize::try_from(self.headers[at].msg_len).unwrap();
        &self.memory[at * self.slot..][..length]
    }

    /// Returns the memory of the first `count` datagrams as one slice.
    pub(crate) fn joined(&self, count: usize) -> &[u8] {
        &self.memory[..count * self.slot]
    }

    /// Waits for the first datagram up to the socket's time-out, then receives the queued ones. Returns their
    /// number: 0 after a time-out.
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

    /// Sends the first `count` datagrams at full length on a connected socket.
    pub(crate) fn send(&mut self, socket: &UdpSocket, count: usize) {
        let mut sent = 0;
        while sent < count {
            let (headers, rest) = self.prepare(sent, count);
            // SAFETY: the headers and their memory belong to `self`, which is borrowed for the call.
            let taken: c_int = unsafe { libc::sendmmsg(socket.as_raw_fd(), headers, rest, 0) };
            if taken < 0 {
                tolerate(&io::Error::last_os_error());
            }
            sent += usize::try_from(taken).unwrap_or_default();
        }
    }

    /// Points the headers of a range to their memory.
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

/// Accepts a time-out, an interruption, and a collector that is not listening yet.
fn tolerate(error: &io::Error) {
    let kinds = [io::ErrorKind::WouldBlock, io::ErrorKind::Interrupted, io::ErrorKind::ConnectionRefused];
    assert!(kinds.contains(&error.kind()), "a benchmark's socket: {error}");
}
