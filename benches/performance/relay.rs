//! The compared relays. Each receives datagrams at one UDP address of loopback and sends them to another.

use std::any::Any;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use nf_transport_core::secure::Suite;
use nf_transport_kit::hosts::directory;
use nf_transport_kit::netflow_tools::{NfcapdSettings, find};

use crate::bare::{Bare, BarePair};
use crate::generator::Sending;
use crate::nfacctd::{self, NfacctdTee};
use crate::pair::BenchPair;
use crate::process::Process;

/// The receive buffer of a relay's socket. nfcapd and nfacctd always have the permitted one. It is enough for
/// them, because they receive at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Buffer {
    /// As much as any user may request, as for the other relays.
    Permitted,
    /// As much as its socket unit requests, where the benchmark may do so. `max-delay` needs it.
    Package,
}

/// One of the relays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// nf-sender and nf-receiver, in clear text or with a cipher.
    Pair(Option<Suite>),
    /// The same of another build, for a comparison.
    Baseline(Option<Suite>),
    /// recvfrom and sendto, one datagram each.
    PlainRelay,
    /// `nfcapd -R`, which collects and repeats.
    Nfcapd,
    /// nfacctd with its tee plugin.
    Nfacctd,
    /// The bare loop with recvmmsg and sendmmsg or GSO.
    Bare(Sending),
    /// Two loops with a TCP connection between them, for one burst at a time.
    BarePair,
    /// The same, for the datagrams of 10 ms at a time, as with the default `max-delay`.
    GatheringBarePair,
}

impl Kind {
    pub(crate) const PLAIN: Self = Self::Pair(None);
    pub(crate) const PAIRS: [Self; 4] = [
        Self::PLAIN,
        Self::Pair(Some(Suite::Aes256Gcm)),
        Self::Pair(Some(Suite::ChaCha20Poly1305)),
        Self::Pair(Some(Suite::Blowfish)),
    ];
    pub(crate) const BARE: Self = Self::Bare(Sending::Plain);

    /// Returns all relays that send without GSO.
    pub(crate) fn all() -> Vec<Self> {
        let baselines = Self::PAIRS.into_iter().filter_map(Self::baseline).filter(|_| baseline().is_some());
        let bare = [Self::GatheringBarePair, Self::BarePair, Self::BARE];
        let others = [Self::PlainRelay, Self::Nfcapd, Self::Nfacctd].into_iter().chain(bare);
        Self::PAIRS.into_iter().chain(baselines).chain(others).collect()
    }

    /// Returns the pair of the other build with the same cipher; `None` if this is no pair.
    pub(crate) fn baseline(self) -> Option<Self> {
        let Self::Pair(suite) = self else { return None };
        Some(Self::Baseline(suite))
    }

    /// Returns the name in tables and the plot.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Pair(None) => "plain",
            Self::Pair(Some(suite)) => suite.name(),
            Self::Baseline(None) => "plain (baseline)",
            Self::Baseline(Some(Suite::Aes256Gcm)) => "aes-256-gcm (baseline)",
            Self::Baseline(Some(Suite::ChaCha20Poly1305)) => "chacha20-poly1305 (baseline)",
            Self::Baseline(Some(Suite::Blowfish)) => "blowfish (baseline)",
            Self::PlainRelay => "plain relay",
            Self::Nfcapd => "nfcapd -R",
            Self::Nfacctd => "nfacctd tee",
            Self::Bare(Sending::Plain) => "bare loop",
            Self::Bare(Sending::Gso) => "bare loop, GSO",
            Self::BarePair => "bare TCP pair",
            Self::GatheringBarePair => "gathering TCP pair",
        }
    }

    /// Returns whether the needed program is installed.
    pub(crate) fn is_installed(self) -> bool {
        match self {
            Self::Nfcapd => find("nfcapd").is_some(),
            Self::Nfacctd => find(nfacctd::PROGRAM).is_some(),
            Self::Baseline(_) => baseline().is_some(),
            Self::Pair(_) | Self::PlainRelay | Self::Bare(_) | Self::BarePair | Self::GatheringBarePair => {
                true
            }
        }
    }

    /// Starts the relay with `sink` as its target. `buffer` applies to all but nfcapd and nfacctd.
    pub(crate) fn start(self, sink: SocketAddr, buffer: Buffer) -> Relay {
        match self {
            Self::Pair(suite) => of_pair(BenchPair::new(sink, suite, buffer).connect()),
            Self::Baseline(suite) => {
                let build = baseline().expect("NF_BENCH_BASELINE is set");
                of_pair(BenchPair::new(sink, suite, buffer).connect_baseline(&build))
            }
            Self::PlainRelay => of_bare(Bare::plain_relay(sink, buffer), "plain relay"),
            Self::Nfcapd => nfcapd(sink),
            Self::Nfacctd => {
                let nfacctd = NfacctdTee::start(sink, receive_buffer());
                let process = Process { name: "nfacctd", pid: nfacctd.pid() };
                let input = nfacctd.addr();
                Relay { input, processes: vec![process], _running: Box::new(nfacctd) }
            }
            Self::Bare(sending) => of_bare(Bare::start(Some(sink), sending, buffer), "bare loop"),
            Self::BarePair => self.bare_pair(sink, buffer, Duration::from_micros(1)),
            Self::GatheringBarePair => self.bare_pair(sink, buffer, Duration::from_millis(10)),
        }
    }

    fn bare_pair(self, sink: SocketAddr, buffer: Buffer, wait: Duration) -> Relay {
        let pair = BarePair::start(sink, buffer, wait);
        Relay { input: pair.addr(), processes: pair.processes(self.name()), _running: Box::new(pair) }
    }
}

/// Returns the directory with the programs of another build, if the pair is compared with one.
fn baseline() -> Option<PathBuf> {
    std::env::var_os("NF_BENCH_BASELINE").map(PathBuf::from)
}

fn of_bare(bare: Bare, name: &'static str) -> Relay {
    let process = Process { name, pid: bare.pid() };
    Relay { input: bare.addr(), processes: vec![process], _running: Box::new(bare) }
}

pub(crate) fn of_pair(pair: BenchPair) -> Relay {
    Relay { input: pair.input(), processes: pair.processes().to_vec(), _running: Box::new(pair) }
}

fn nfcapd(sink: SocketAddr) -> Relay {
    let files = directory();
    let settings = NfcapdSettings::of_all(Ipv4Addr::LOCALHOST.into(), files.path().join("flows"));
    let buffer = u32::try_from(receive_buffer()).unwrap();
    let nfcapd = settings.buffer(buffer).rotate_every(3600).repeat_to(sink).start();
    let process = Process { name: "nfcapd", pid: nfcapd.pid() };
    let input = nfcapd.addr();
    Relay { input, processes: vec![process], _running: Box::new((nfcapd, files)) }
}

/// Returns the largest receive buffer that any user may request, in bytes.
pub(crate) fn receive_buffer() -> u64 {
    let text =
        std::fs::read_to_string("/proc/sys/net/core/rmem_max").expect("Linux provides net.core.rmem_max");
    text.trim().parse().unwrap()
}

/// A running relay. Dropping it ends it.
pub(crate) struct Relay {
    /// Address on which the relay receives datagrams.
    pub(crate) input: SocketAddr,
    pub(crate) processes: Vec<Process>,
    /// The running processes, which end on drop.
    _running: Box<dyn Any>,
}
