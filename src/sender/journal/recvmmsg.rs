//! The system calls of the journal that no library wraps: recvmmsg into memory with our own layout, and three
//! socket options.

#![expect(unsafe_code, reason = "system calls on memory that outlives the process")]

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use libc::{c_int, c_uint, mmsghdr};

/// Receives up to `count` datagrams that wait at `socket`, without blocking. Returns their number.
///
/// # Safety
///
/// `headers` points to `count` message headers whose buffers are valid for writes, and nothing else uses any
/// of that memory during the call.
pub(super) unsafe fn recvmmsg(socket: impl AsFd, headers: *mut mmsghdr, count: c_uint) -> io::Result<usize> {
    // SAFETY: the caller guarantees the buffers; no time-out is passed.
    let received = unsafe {
        libc::recvmmsg(socket.as_fd().as_raw_fd(), headers, count, libc::MSG_DONTWAIT, core::ptr::null_mut())
    };
    usize::try_from(received).map_err(|_| io::Error::last_os_error())
}

/// Enables control messages with the arrival time, the destination address and the drop counter of the
/// socket.
pub(crate) fn enable_ancillary_data(socket: impl AsFd, is_v6: bool) -> io::Result<()> {
    let (level, packet_info) = if is_v6 {
        (libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO)
    } else {
        (libc::IPPROTO_IP, libc::IP_PKTINFO)
    };
    turn_on(&socket, libc::SOL_SOCKET, libc::SO_TIMESTAMPNS)?;
    turn_on(&socket, libc::SOL_SOCKET, libc::SO_RXQ_OVFL)?;
    turn_on(&socket, level, packet_info)
}

/// The memory figures of a socket.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SocketMemory {
    /// Bytes of kernel memory that queued datagrams use.
    pub(crate) queued: u32,
    /// Datagrams that the kernel has dropped.
    pub(crate) drops: u32,
}

/// Reads the memory figures of a socket; `None` before Linux 4.12.
pub(crate) fn socket_memory(socket: impl AsFd) -> Option<SocketMemory> {
    // struct sk_meminfo of <linux/sock_diag.h>: SK_MEMINFO_RMEM_ALLOC is the first of nine, SK_MEMINFO_DROPS
    // the last.
    let mut figures = [0_u32; 9];
    let mut length = libc::socklen_t::try_from(size_of_val(&figures)).ok()?;
    // SAFETY: `figures` outlives the call and has `length` bytes.
    let outcome = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_MEMINFO,
            (&raw mut figures).cast(),
            &raw mut length,
        )
    };
    let is_whole = usize::try_from(length).is_ok_and(|length| length == size_of_val(&figures));
    let [queued, .., drops] = figures;
    (outcome == 0 && is_whole).then_some(SocketMemory { queued, drops })
}

fn turn_on(socket: &impl AsFd, level: c_int, option: c_int) -> io::Result<()> {
    let on: c_int = 1;
    let length = libc::socklen_t::try_from(size_of::<c_int>()).unwrap_or_default();
    // SAFETY: `on` outlives the call and has `length` bytes.
    let outcome = unsafe {
        libc::setsockopt(socket.as_fd().as_raw_fd(), level, option, (&raw const on).cast(), length)
    };
    if outcome == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
