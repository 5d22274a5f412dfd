//! The kernel's figures for a UDP socket: bytes in its queue and dropped datagrams.
//!
//! The figures come from `/proc/self/net/udp` and `udp6`, which every user may read. For the network of
//! another machine they come from the same files of one of its processes.

use std::cell::RefCell;
use std::fs;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

/// Bytes of receive buffer that the kit asks for.
pub const RECEIVE_BUFFER: usize = 64 * 1024 * 1024;

/// A socket, identified by its inode, whichever process holds it.
#[derive(Clone, Debug)]
pub struct KernelSocket {
    inode: String,
    /// Directory of the tables for the socket's network.
    tables: String,
}

thread_local! {
    /// Directory of the tables for the network of this thread.
    static TABLES: RefCell<String> = RefCell::new("/proc/self/net".to_owned());
}

/// Sets the directory of the tables for sockets that this thread creates from now on.
pub fn use_tables(tables: String) {
    TABLES.set(tables);
}

/// The figures at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KernelFigures {
    /// Bytes in the socket's queue, with the kernel's overhead.
    pub queued: u64,
    /// Datagrams dropped for lack of room since the socket was created.
    pub dropped: u64,
}

impl KernelFigures {
    fn find(table: &str, inode: &str) -> Option<Self> {
        let row = rows(table).find(|row| row[9] == inode)?;
        let (_, queued) = row[4].split_once(':')?;
        Some(Self { queued: u64::from_str_radix(queued, 16).unwrap(), dropped: row[12].parse().unwrap() })
    }
}

impl KernelSocket {
    pub fn find(socket: &UdpSocket) -> Self {
        let name = fs::read_link(format!("/proc/self/fd/{}", socket.as_raw_fd())).unwrap();
        let inode = name.to_str().unwrap().trim_start_matches("socket:[").trim_end_matches(']');
        Self { inode: inode.to_owned(), tables: TABLES.with_borrow(Clone::clone) }
    }

    /// Waits until another process binds this port, and returns its socket.
    pub fn wait_for_port(port: u16) -> Self {
        let suffix = format!(":{port:04X}");
        Self::wait_for_local(&format!("UDP port {port}"), |local| local.ends_with(&suffix))
    }

    /// Waits until another process binds exactly this address, and returns its socket.
    pub fn wait_for(addr: SocketAddr) -> Self {
        let name = table_name(addr);
        Self::wait_for_local(&format!("UDP {addr}"), |local| local == name)
    }

    /// Waits until a row of the tables has the wanted local address, and returns its socket.
    fn wait_for_local(described: &str, is_wanted: impl Fn(&str) -> bool) -> Self {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let tables = TABLES.with_borrow(Clone::clone);
            let table = udp_table(&tables);
            if let Some(row) = rows(&table).find(|row| is_wanted(row[1])) {
                return Self { inode: row[9].to_owned(), tables };
            }
            assert!(Instant::now() < deadline, "nothing listens on {described} after 10 s");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub fn figures(&self) -> KernelFigures {
        // The kernel returns the table in pieces. If other sockets come and go between two pieces, a row can
        // be missing. A closed socket is missing every time.
        let look = || KernelFigures::find(&udp_table(&self.tables), &self.inode);
        let found = (0..100).find_map(|_| look());
        found.unwrap_or_else(|| panic!("no UDP socket with inode {} any more", self.inode))
    }

    /// Waits until the process that reads the socket has emptied its queue.
    pub fn wait_until_drained(&self) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while self.figures().queued > 0 {
            assert!(Instant::now() < deadline, "a UDP socket still has queued datagrams after 10 s");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Requests a large receive buffer, above the system's limit where that is allowed.
pub fn enlarge(socket: &UdpSocket) {
    if rustix::net::sockopt::set_socket_recv_buffer_size_force(socket, RECEIVE_BUFFER).is_err() {
        rustix::net::sockopt::set_socket_recv_buffer_size(socket, RECEIVE_BUFFER).unwrap();
    }
}

/// Returns the receive buffer in bytes, including the kernel's overhead.
pub fn receive_buffer(socket: &UdpSocket) -> usize {
    rustix::net::sockopt::socket_recv_buffer_size(socket).unwrap()
}

/// Formats an address as the tables do: words of four bytes in native byte order, then the port.
fn table_name(addr: SocketAddr) -> String {
    let octets = match addr.ip() {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    };
    let words = octets.as_chunks::<4>().0.iter().map(|word| format!("{:08X}", u32::from_ne_bytes(*word)));
    format!("{}:{:04X}", words.collect::<String>(), addr.port())
}

fn udp_table(tables: &str) -> String {
    let read = |name| fs::read_to_string(format!("{tables}/{name}")).unwrap_or_default();
    read("udp") + &read("udp6")
}

/// Returns the rows of sockets as words. Word 1 is the local address, 4 the queues, 9 the inode, 12 the
/// drops.
fn rows(table: &str) -> impl Iterator<Item = Vec<&str>> {
    table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>()).filter(|row| row.len() == 13)
}
