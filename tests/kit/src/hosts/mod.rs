//! The two machines: one runs nf-sender, one nf-receiver. Each keeps the objects that outlive its daemon: the
//! sockets, which systemd would hold, and the directories.

mod receiver;
mod sender;

use std::fs::OpenOptions;
use std::io::Write;
use std::net::{SocketAddr, UdpSocket};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::daemon::{Daemon, Program};
use crate::kernel_socket::{KernelFigures, KernelSocket, enlarge, receive_buffer};

pub use receiver::ReceiverHost;
pub use sender::SenderHost;

/// Settings with short delays: nf-sender detects a dead peer within 0.6 s and retries within 0.2 s. The spool
/// needs no free space on the test machine.
pub const QUICK_SENDER: &str = r#"
heartbeat = "200ms"
[reconnect]
first = "50ms"
factor = 2
longest = "200ms"
[spool]
min-free = "0B"
"#;

/// Settings of a sender that does not retry by itself for an hour.
pub const PATIENT_SENDER: &str = r#"
heartbeat = "200ms"
[reconnect]
first = "1h"
factor = 1
longest = "1h"
[spool]
min-free = "0B"
"#;

/// Writes a key file that only its owner can read. The same `seed` always gives the same key.
pub fn write_key(path: &Path, seed: &str) {
    write_secret(path, &key_text(seed));
}

/// Returns the key of `seed` in the text format of key files.
pub fn key_text(seed: &str) -> String {
    seed.bytes().cycle().take(32).fold(String::new(), |digits, byte| digits + &format!("{byte:02x}"))
}

/// Writes a file that only its owner can read.
pub fn write_secret(path: &Path, text: &str) {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path).unwrap();
    writeln!(file, "{text}").unwrap();
}

/// Default arguments for channel protection: clear text.
fn clear_text() -> Vec<String> {
    vec!["--plaintext".to_owned()]
}

/// A UDP socket that stays open while daemons come and go.
pub struct HeldUdp {
    socket: UdpSocket,
    kernel: KernelSocket,
    capacity: u64,
}

impl HeldUdp {
    /// Binds a free port of this address and requests a large receive buffer.
    pub fn bind(addr: &str) -> Self {
        let socket = UdpSocket::bind(addr).unwrap();
        enlarge(&socket);
        Self::holding(socket)
    }

    /// Holds an existing socket unchanged.
    pub fn holding(socket: UdpSocket) -> Self {
        let capacity = u64::try_from(receive_buffer(&socket)).unwrap();
        Self { kernel: KernelSocket::find(&socket), socket, capacity }
    }

    pub fn addr(&self) -> SocketAddr {
        self.socket.local_addr().unwrap()
    }

    /// Returns the receive buffer in bytes.
    pub fn capacity(&self) -> u64 {
        self.capacity
    }

    pub fn kernel(&self) -> KernelFigures {
        self.kernel.figures()
    }

    /// Returns the number of datagrams that the kernel dropped for lack of room.
    pub fn dropped(&self) -> u64 {
        self.kernel().dropped
    }

    /// Waits until the daemon has read everything in the socket.
    pub fn wait_until_drained(&self) {
        self.kernel.wait_until_drained();
    }
}

/// Polls `status` until it is as wanted.
fn wait_status(
    patience: Duration,
    status: impl Fn() -> Value,
    wanted: impl Fn(&Value) -> bool,
    daemon: &Daemon,
) -> Value {
    let deadline = Instant::now() + patience;
    loop {
        let status = status();
        if wanted(&status) {
            return status;
        }
        let log = || daemon.log();
        assert!(Instant::now() < deadline, "not within {patience:?}; status:\n{status:#}\nlog:\n{}", log());
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Creates a directory on a real disk, next to the built programs: `/tmp` may be small or a tmpfs.
pub fn directory() -> TempDir {
    let built = Program::Sender.path();
    let place = built.parent().unwrap().join("tmp");
    std::fs::create_dir_all(&place).unwrap();
    tempfile::tempdir_in(place).unwrap()
}
