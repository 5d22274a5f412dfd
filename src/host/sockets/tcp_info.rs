//! The kernel's state of a TCP connection (`TCP_INFO`, tcp(7)); no library wraps this call.

#![expect(unsafe_code, reason = "a system call")]

use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// Progress of the written bytes of a TCP connection, and signs of trouble on the path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpProgress {
    /// Bytes that the peer's kernel has acknowledged.
    pub bytes_acknowledged: u64,
    /// Segments in flight. 0 while the peer's window is closed, even if bytes wait to be sent.
    pub segments_unacknowledged: u32,
    /// Consecutive retransmission timeouts since the last acknowledgement of new bytes.
    pub timeouts: u8,
    /// Bytes that wait although the peer's window has room for a full segment: this host's network device
    /// refuses them. 0 while segments are in flight, and on kernels before 5.4, which do not report the
    /// window.
    pub bytes_refused: u32,
    /// Segments that arrived while an earlier one was missing.
    pub segments_out_of_order: u32,
}

impl TcpProgress {
    /// Returns whether nothing is in flight or refused.
    pub fn is_idle(&self) -> bool {
        self.segments_unacknowledged == 0 && self.bytes_refused == 0 && self.timeouts == 0
    }

    /// Queries the kernel about `socket`. Fields that an older kernel lacks are 0.
    pub fn query(socket: impl AsFd) -> io::Result<Self> {
        // SAFETY: zeros are a valid value of this structure of integers.
        let mut info: libc::tcp_info = unsafe { core::mem::zeroed() };
        let mut length = libc::socklen_t::try_from(size_of::<libc::tcp_info>()).unwrap_or_default();
        // SAFETY: the kernel writes at most `length` bytes to `info`, which lives through the call.
        let outcome = unsafe {
            libc::getsockopt(
                socket.as_fd().as_raw_fd(),
                libc::IPPROTO_TCP,
                libc::TCP_INFO,
                (&raw mut info).cast(),
                &raw mut length,
            )
        };
        if outcome != 0 {
            return Err(io::Error::last_os_error());
        }
        let is_refused = info.tcpi_unacked == 0 && info.tcpi_snd_wnd >= info.tcpi_snd_mss;
        Ok(Self {
            bytes_acknowledged: info.tcpi_bytes_acked,
            segments_unacknowledged: info.tcpi_unacked,
            bytes_refused: if is_refused { info.tcpi_notsent_bytes } else { 0 },
            timeouts: info.tcpi_retransmits,
            segments_out_of_order: info.tcpi_rcv_ooopack,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn the_kernel_counts_acknowledged_bytes() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        let before = TcpProgress::query(&client).unwrap();
        client.write_all(&[0; 1000]).unwrap();
        server.read_exact(&mut [0; 1000]).unwrap();
        server.write_all(&[0]).unwrap(); // carries the acknowledgement
        client.read_exact(&mut [0]).unwrap();
        let after = TcpProgress::query(&client).unwrap();
        assert_eq!(after.bytes_acknowledged - before.bytes_acknowledged, 1000);
        assert_eq!((after.segments_unacknowledged, after.timeouts), (0, 0));
    }

    #[test]
    fn a_closed_window_has_no_segment_in_flight() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (server, _) = listener.accept().unwrap();
        client.set_nonblocking(true).unwrap();
        while (&client).write(&[0; 4096]).is_ok() {}
        let progress = loop {
            let progress = TcpProgress::query(&client).unwrap();
            if progress.segments_unacknowledged == 0 {
                break progress;
            }
            std::thread::yield_now(); // until the last acknowledgement, which the kernel delays
        };
        assert_eq!((progress.bytes_refused, progress.timeouts), (0, 0));
        drop(server);
    }
}
