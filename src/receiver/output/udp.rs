//! Delivery to a collector by UDP, byte for byte.
//!
//! A datagram counts as delivered once the kernel took it; for a collector on this machine, once it went to a
//! socket that was there and had room. Whatever hinders, the datagram is held and tried again.

use core::net::SocketAddr;
use core::time::Duration;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::time::{Instant, sleep};

use crate::datagram::Datagram;
use crate::receiver::output::gate::{Admission, Gate};
use crate::receiver::output::trouble::Trouble;
use crate::receiver::output::{CollectorCounters, socket};
use crate::status::CollectorState;

/// How long to wait for a full queue to be read.
const QUEUE_PAUSE: Duration = Duration::from_millis(1);

/// How long to wait before a collector that is down is tried again.
const DOWN_PAUSE: Duration = Duration::from_millis(100);

/// A collector reached by UDP.
#[derive(Debug)]
pub(crate) struct UdpOutput {
    address: SocketAddr,
    socket: UdpSocket,
    /// Held for one run of datagrams: tasks take turns.
    turn: tokio::sync::Mutex<Turn>,
    figures: Mutex<Figures>,
}

/// What the task needs whose turn it is.
#[derive(Debug)]
struct Turn {
    gate: Gate,
    trouble: Trouble,
}

#[derive(Debug)]
struct Figures {
    state: CollectorState,
    delivered_datagrams: u64,
    delivered_bytes: u64,
    socket_drops: u64,
    /// Since when nothing could be sent to the collector, whichever tasks tried; `None` while nobody waits.
    held_since: Option<Instant>,
}

/// Why nothing could be sent.
#[derive(Debug)]
enum Obstacle {
    /// The collector's queue is near full, or the kernel lacks memory for a moment.
    Full,
    /// The own socket's send buffer is full.
    SendBufferFull,
    /// The collector's socket is not there.
    Absent,
    /// Sending fails.
    Failing(io::Error),
}

impl UdpOutput {
    /// Where the collector listens.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// An output to the collector at `address`, which is no IPv4 address in the form of an IPv6 one, inside a tokio
    /// runtime.
    pub(super) fn open(address: SocketAddr) -> io::Result<Self> {
        let socket = socket::open(address)?;
        let watch = socket::watch(&socket, address).unwrap_or_else(|error| {
            tracing::warn!(
                collector = %address,
                %error,
                "the socket of the collector {address} cannot be watched, so that what comes while it \
                 is stopped, or is more than it can read, is lost: {error}"
            );
            None
        });
        let mut state = CollectorState::Unknown;
        if watch.is_some() {
            // A connected socket is told when a datagram found no socket; see `refused`.
            socket.connect(&address.into())?;
            state = CollectorState::Down;
        }
        Ok(Self {
            address,
            socket: UdpSocket::from_std(socket.into())?,
            turn: tokio::sync::Mutex::new(Turn { gate: Gate::new(watch), trouble: Trouble::default() }),
            figures: Mutex::new(Figures {
                state,
                delivered_datagrams: 0,
                delivered_bytes: 0,
                socket_drops: 0,
                held_since: None,
            }),
        })
    }

    /// As [`Output::deliver`](super::Output::deliver).
    pub(super) async fn deliver(&self, datagrams: &[Datagram<'_>], done: &mut usize) {
        while let Some(waiting) = datagrams.get(*done..).filter(|waiting| !waiting.is_empty()) {
            let mut turn = self.turn.lock().await;
            *done += self.take_turn(&mut turn, waiting).await;
        }
    }

    /// Sends one run of the waiting datagrams as soon as nothing hinders, and says how many they were. Nothing is
    /// awaited once they are sent.
    async fn take_turn(&self, turn: &mut Turn, waiting: &[Datagram<'_>]) -> usize {
        let began = Instant::now();
        loop {
            let obstacle = match self.try_run(turn, waiting) {
                Ok(sent) => return sent,
                Err(obstacle) => obstacle,
            };
            self.note_obstacle(turn, &obstacle, began);
            match obstacle {
                Obstacle::Full => sleep(QUEUE_PAUSE).await,
                Obstacle::Absent | Obstacle::Failing(_) => sleep(DOWN_PAUSE).await,
                Obstacle::SendBufferFull => {
                    if self.socket.writable().await.is_err() {
                        sleep(DOWN_PAUSE).await;
                    }
                }
            }
        }
    }

    /// Sends as many of the waiting datagrams as one run takes, and says how many: at least one.
    fn try_run(&self, turn: &mut Turn, waiting: &[Datagram<'_>]) -> Result<usize, Obstacle> {
        let count = match turn.gate.admit(waiting).map_err(Obstacle::Failing)? {
            Admission::Go(count) => count,
            Admission::Full => return Err(Obstacle::Full),
            Admission::Absent => return Err(Obstacle::Absent),
        };
        let run = waiting.get(..count).unwrap_or_default();
        let taken = self.send(run).map_err(Obstacle::of)?;
        let refused = self.refused(&mut turn.gate, taken < count);
        let sent = run.get(..taken.saturating_sub(usize::from(refused))).unwrap_or_default();
        if sent.is_empty() {
            return Err(Obstacle::Absent);
        }
        self.note_sent(turn, sent);
        Ok(sent.len())
    }

    /// Hands the datagrams of `run` to the kernel, and says how many it took. After an error it took none; an
    /// error that an earlier datagram left behind is told only once, so each error gets a second try.
    fn send(&self, run: &[Datagram<'_>]) -> io::Result<usize> {
        let attempt =
            || self.socket.try_io(Interest::WRITABLE, || socket::send(&self.socket, self.address, run));
        attempt().or_else(|error| match error.kind() {
            io::ErrorKind::WouldBlock => Err(error),
            _ => attempt(),
        })
    }

    /// Whether the last datagram that the kernel took found no socket, as a watched collector's has gone since
    /// the last look.
    ///
    /// On the machine itself a refusal comes back within the call that sends. It stops a run behind the datagram
    /// that was refused; behind the last one of a run it is left on the own socket.
    fn refused(&self, gate: &mut Gate, stopped: bool) -> bool {
        if !gate.is_watching() {
            return false;
        }
        // What cannot be told counts as delivered: sending it again might repeat it.
        let refused = if stopped {
            gate.is_same_socket().is_ok_and(|same| !same)
        } else {
            self.socket.take_error().is_ok_and(|error| error.is_some())
        };
        if refused {
            gate.forget();
        }
        refused
    }

    fn note_sent(&self, turn: &mut Turn, sent: &[Datagram<'_>]) {
        turn.trouble.over(self.address);
        let bytes: usize = sent.iter().map(|datagram| datagram.payload.len()).sum();
        let mut figures = self.figures();
        figures.held_since = None;
        figures.socket_drops = turn.gate.drops();
        figures.state = if turn.gate.is_watching() { CollectorState::Up } else { CollectorState::Unknown };
        figures.delivered_datagrams += u64::try_from(sent.len()).unwrap_or_default();
        figures.delivered_bytes += u64::try_from(bytes).unwrap_or_default();
    }

    fn note_obstacle(&self, turn: &mut Turn, obstacle: &Obstacle, began: Instant) {
        let reason = match obstacle {
            Obstacle::Full | Obstacle::SendBufferFull => None,
            Obstacle::Absent => Some("nothing listens there".to_owned()),
            Obstacle::Failing(error) => Some(error.to_string()),
        };
        let mut figures = self.figures();
        figures.held_since.get_or_insert(began);
        figures.socket_drops = turn.gate.drops();
        if let Some(reason) = reason {
            figures.state = CollectorState::Down;
            turn.trouble.persists(self.address, &reason);
        }
    }

    /// The counters; where no task is delivering, the collector is looked at anew.
    pub(super) fn counters(&self) -> CollectorCounters {
        if let Ok(mut turn) = self.turn.try_lock() {
            self.look_while_idle(&mut turn);
        }
        let figures = self.figures();
        CollectorCounters {
            address: self.address,
            state: figures.state,
            delivered_datagrams: figures.delivered_datagrams,
            delivered_bytes: figures.delivered_bytes,
            held_s: figures.held_since.map_or(0, |since| since.elapsed().as_secs()),
            socket_drops: figures.socket_drops,
        }
    }

    fn look_while_idle(&self, turn: &mut Turn) {
        let seen = turn.gate.is_watching().then(|| turn.gate.look());
        let mut figures = self.figures();
        figures.held_since = None;
        figures.socket_drops = turn.gate.drops();
        figures.state = match seen {
            Some(Ok(Some(_))) => CollectorState::Up,
            Some(_) => CollectorState::Down,
            None => figures.state,
        };
    }

    fn figures(&self) -> MutexGuard<'_, Figures> {
        self.figures.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Obstacle {
    fn of(error: io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::ENOBUFS | libc::ENOMEM) => Self::Full,
            _ if error.kind() == io::ErrorKind::WouldBlock => Self::SendBufferFull,
            _ => Self::Failing(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datagram::Timestamp;

    fn datagrams<'a>(payloads: &[&'a [u8]]) -> Vec<Datagram<'a>> {
        let address = "192.0.2.1:2055".parse().unwrap();
        let datagram =
            |payload| Datagram { exporter: address, local: address, arrival: Timestamp(0), payload };
        payloads.iter().copied().map(datagram).collect()
    }

    fn received(listener: &std::net::UdpSocket) -> Vec<Vec<u8>> {
        listener.set_nonblocking(true).unwrap();
        let mut buffer = vec![0; 65_536];
        std::iter::from_fn(|| listener.recv(&mut buffer).ok().map(|length| buffer[..length].to_vec()))
            .collect()
    }

    /// Time stands still, so that the last look at the collector's socket counts although the socket has gone.
    #[tokio::test(start_paused = true)]
    async fn datagrams_that_find_the_collectors_socket_just_gone_are_held() {
        for listen in ["127.0.0.1:0", "[::1]:0"] {
            for waiting in 1..4 {
                let listener = std::net::UdpSocket::bind(listen).unwrap();
                let address = listener.local_addr().unwrap();
                let output = UdpOutput::open(address).unwrap();
                output.socket.writable().await.unwrap();
                assert_eq!(output.counters().state, CollectorState::Up);
                drop(listener);

                let payloads = [b"one".as_slice(), b"", b"three"];
                let datagrams = datagrams(&payloads[..waiting]);
                let mut done = 0;
                let held =
                    tokio::time::timeout(Duration::from_secs(5), output.deliver(&datagrams, &mut done));
                held.await.unwrap_err();
                assert_eq!(done, 0);
                assert_eq!(output.counters().state, CollectorState::Down);

                let listener = std::net::UdpSocket::bind(address).unwrap();
                output.deliver(&datagrams, &mut done).await;
                assert_eq!(received(&listener), payloads[..waiting]);
                let counters = output.counters();
                assert_eq!(counters.state, CollectorState::Up);
                assert_eq!(counters.delivered_datagrams, u64::try_from(waiting).unwrap());
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn datagrams_are_held_for_as_long_as_nothing_listens() {
        let address = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let output = UdpOutput::open(address).unwrap();
        let datagrams = datagrams(&[b"x"]);
        let mut done = 0;
        {
            let mut delivery = Box::pin(output.deliver(&datagrams, &mut done));
            tokio::time::timeout(Duration::from_secs(60), &mut delivery).await.unwrap_err();
            let counters = output.counters();
            assert_eq!((counters.state, counters.held_s), (CollectorState::Down, 60));
        }
        let counters = output.counters();
        assert_eq!((counters.state, counters.held_s), (CollectorState::Down, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_delivery_left_and_taken_up_again_does_not_begin_the_time_of_holding_anew() {
        let address = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let output = UdpOutput::open(address).unwrap();
        let datagrams = datagrams(&[b"x"]);
        let mut done = 0;
        for _ in 0..11 {
            let delivery = output.deliver(&datagrams, &mut done);
            tokio::time::timeout(Duration::from_secs(5), delivery).await.unwrap_err();
        }
        let mut delivery = Box::pin(output.deliver(&datagrams, &mut done));
        tokio::time::timeout(Duration::from_secs(5), &mut delivery).await.unwrap_err();
        assert_eq!(output.counters().held_s, 60);
    }

    #[tokio::test(start_paused = true)]
    async fn the_queue_of_a_collector_that_does_not_read_stays_half_empty() {
        let listener = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let output = UdpOutput::open(listener.local_addr().unwrap()).unwrap();
        let payloads = [[7; 1464].as_slice(); 1000];
        let datagrams = datagrams(&payloads);
        let mut done = 0;
        let held = tokio::time::timeout(Duration::from_secs(60), output.deliver(&datagrams, &mut done));
        held.await.unwrap_err();
        let queue = output.turn.lock().await.gate.look().unwrap().unwrap();
        assert!(queue.queued < queue.limit / 2, "{queue:?}");
        assert!(queue.queued > queue.limit / 3, "{queue:?}");
        assert_eq!((queue.drops, output.counters().state), (0, CollectorState::Up));
        assert_eq!(received(&listener), payloads[..done]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_collector_that_cannot_be_reached_is_down_and_the_datagram_is_held() {
        // Port 0 is refused by the kernel (EINVAL) whatever the routes are.
        let output = UdpOutput::open("192.0.2.1:0".parse().unwrap()).unwrap();
        assert_eq!(output.counters().state, CollectorState::Unknown);
        let mut done = 0;
        let held = tokio::time::timeout(Duration::from_secs(5), async {
            output.deliver(&datagrams(&[b"x"]), &mut done).await;
        });
        held.await.unwrap_err();
        assert_eq!((done, output.counters().state), (0, CollectorState::Down));
    }
}
