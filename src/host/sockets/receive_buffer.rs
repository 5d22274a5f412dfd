//! The receive buffer of a UDP socket, in which the kernel keeps datagrams until they are received.

use std::io;
use std::net::UdpSocket;

use bytesize::ByteSize;
use socket2::SockRef;

/// Raises the receive buffer of `socket` to `wanted` bytes, as far as the kernel grants it, and never lowers
/// it. Returns the resulting size in requested bytes: the kernel itself counts twice as many.
pub fn ensure_receive_buffer(socket: &UdpSocket, wanted: usize) -> io::Result<usize> {
    let granted = || SockRef::from(socket).recv_buffer_size().map(|doubled| doubled / 2);
    let before = granted()?;
    if before >= wanted {
        return Ok(before);
    }
    if rustix::net::sockopt::set_socket_recv_buffer_size_force(socket, wanted).is_err() {
        // Without CAP_NET_ADMIN, a request above the permitted size sets the permitted size, even if a socket
        // unit has set a larger one before.
        let allowed = permitted_receive_buffer().min(wanted);
        if allowed > before {
            SockRef::from(socket).set_recv_buffer_size(allowed)?;
        }
    }
    granted()
}

/// Returns the receive buffer in bytes that any process may request; 0 if it is unknown.
fn permitted_receive_buffer() -> usize {
    let text = std::fs::read_to_string("/proc/sys/net/core/rmem_max").unwrap_or_default();
    text.trim().parse().unwrap_or(0)
}

/// Returns a warning if the kernel granted a smaller receive buffer than `wanted` bytes.
pub fn receive_buffer_advice(wanted: usize, granted: usize) -> Option<String> {
    let size = |bytes: usize| ByteSize(u64::try_from(bytes).unwrap_or(u64::MAX));
    (granted < wanted).then(|| {
        format!(
            "the kernel grants a receive buffer of {} for each socket instead of {}, so bursts may be lost: \
             allow more with \"sysctl -w net.core.rmem_max={wanted}\", and in /etc/sysctl.d to keep it",
            size(granted),
            size(wanted),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sufficient_receive_buffer_is_unchanged() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let before = SockRef::from(&socket).recv_buffer_size().unwrap();
        assert_eq!(ensure_receive_buffer(&socket, 4096).unwrap(), before / 2);
        assert_eq!(SockRef::from(&socket).recv_buffer_size().unwrap(), before);
        assert!(ensure_receive_buffer(&socket, 256 * 1024).unwrap() >= before / 2);
    }

    #[test]
    fn a_small_receive_buffer_is_warned_of() {
        assert_eq!(receive_buffer_advice(67_108_864, 67_108_864), None);
        assert_eq!(
            receive_buffer_advice(67_108_864, 212_992).unwrap(),
            "the kernel grants a receive buffer of 208.0 KiB for each socket instead of 64.0 MiB, so bursts \
             may be lost: allow more with \"sysctl -w net.core.rmem_max=67108864\", and in /etc/sysctl.d to \
             keep it"
        );
    }
}
