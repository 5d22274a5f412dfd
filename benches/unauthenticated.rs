//! A flood of unauthenticated connections: 2,000 bad handshakes a second for 30 s from many loopback
//! addresses. Meanwhile one sender delivers at a steady rate and new senders connect. The same run also
//! measures without the flood.
//!
//! `NF_BENCH_SECONDS` sets the duration.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a benchmark that cannot continue ends there and prints the reason"
)]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nf_transport_kit::chatter::{MIXED, Pattern};
use nf_transport_kit::hosts::{QUICK_SENDER, SenderHost};
use nf_transport_kit::load::Until;
use nf_transport_kit::pair::{Pair, STALL};
use nf_transport_kit::samples::count;
use socket2::{Domain, Socket, Type};

const SECONDS: u64 = 30;
const CONNECTIONS_PER_SECOND: u64 = 2000;
const THREADS: u64 = 4;

/// Datagrams per second of the established sender.
const DATAGRAMS_PER_SECOND: u32 = 2000;

/// Time for which silent connections stay open, unless nf-receiver closes them.
const SILENCE: Duration = Duration::from_secs(3);

fn main() {
    let seconds =
        std::env::var("NF_BENCH_SECONDS").map_or(SECONDS, |text| text.parse().expect("a number of seconds"));
    println!(
        "nf-receiver for {seconds} s: a sender at {DATAGRAMS_PER_SECOND} datagrams/s, a new sender every second, \
         and unauthenticated connections\n"
    );
    println!(
        "{:>13} {:>12} {:>12} {:>14} {:>14} {:>12} {:>10}",
        "connections/s", "delivered", "missing", "new senders", "slowest", "peak memory", "CPU"
    );
    for per_second in [0, CONNECTIONS_PER_SECOND] {
        measure(per_second, seconds);
    }
    println!("\nnew senders: connected of started ones; slowest: longest time from start to connected");
}

fn measure(per_second: u64, seconds: u64) {
    let mut pair = Pair::new(4, Pattern::new(MIXED), QUICK_SENDER);
    let key = pair.receiver.use_key("a key of all");
    pair.sender.protect(&["--key-file", key.to_str().unwrap()]);
    pair.receiver.start();
    pair.sender.start();
    pair.sender.wait_state("connected", STALL);
    let flood = UnauthenticatedFlood::start(pair.receiver.addr(), per_second);
    let load = pair.load(Some(DATAGRAMS_PER_SECOND), Until::Stopped);
    let began = Instant::now();
    let (mut tried, mut slowest) = (0, Duration::ZERO);
    while began.elapsed() < Duration::from_secs(seconds) {
        let mut newcomer = SenderHost::new(&format!("new-{tried}"), &pair.receiver.addr(), QUICK_SENDER);
        newcomer.protect(&["--key-file", key.to_str().unwrap()]);
        let started = Instant::now();
        newcomer.start();
        newcomer.wait_state("connected", STALL);
        slowest = slowest.max(started.elapsed());
        tried += 1;
        std::thread::sleep(Duration::from_secs(1).saturating_sub(started.elapsed()));
    }
    let made = flood.stop();
    let exporters = load.stop();
    let report = pair.collector.wait_for_all(exporters.sent(), STALL);
    report.assert_exact(exporters.sent());
    let status = pair.receiver.status();
    assert_eq!(pair.sender.daemon().count_log(&["not connected"]), 0, "the established sender was disturbed");
    println!(
        "{:>13} {:>12} {:>12} {:>14} {:>14} {:>12} {:>10}",
        made / seconds,
        exporters.total(),
        report.missing(exporters.sent()),
        format!("{tried} of {tried}"),
        format!("{:.0} ms", slowest.as_secs_f64() * 1000.0),
        format!("{:.1} MiB", mebibytes(pair.receiver.daemon().memory_peak())),
        format!(
            "{:.0} %",
            100.0 * processor_seconds(pair.receiver.daemon().pid()) / began.elapsed().as_secs_f64()
        ),
    );
    assert!(count(&status, "/refusals") >= made / 2, "the connections were not rejected: {status:#}");
}

fn mebibytes(bytes: u64) -> f64 {
    f64::from(u32::try_from(bytes / 1024).unwrap()) / 1024.0
}

/// Returns the CPU time of a process (proc(5), fields 14 and 15 of stat, in 1/100 s).
fn processor_seconds(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let after_name = stat.rsplit(')').next().unwrap();
    let ticks: u32 =
        after_name.split_whitespace().skip(11).take(2).map(|ticks| ticks.parse::<u32>().unwrap()).sum();
    f64::from(ticks) / 100.0
}

/// Threads that open unauthenticated connections.
struct UnauthenticatedFlood {
    stop: Arc<AtomicBool>,
    made: Arc<AtomicU64>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl UnauthenticatedFlood {
    fn start(target: SocketAddr, per_second: u64) -> Self {
        let (stop, made) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let threads = (0..if per_second == 0 { 0 } else { THREADS }).map(|thread| {
            let (stop, made) = (Arc::clone(&stop), Arc::clone(&made));
            std::thread::spawn(move || connect_repeatedly(target, thread, per_second / THREADS, &stop, &made))
        });
        let threads = threads.collect();
        Self { stop, made, threads }
    }

    /// Stops the flood and returns the number of connections made.
    fn stop(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().unwrap();
        }
        self.made.load(Ordering::Relaxed)
    }
}

/// Opens connections until stopped. One in eight stays open without sending; the others send something that
/// is no valid handshake.
fn connect_repeatedly(target: SocketAddr, thread: u64, per_second: u64, stop: &AtomicBool, made: &AtomicU64) {
    let wrong_key = b"NFR1\x01\x01\x01\0\x08\x05key-id-1new-0";
    let openings: [&[u8]; 4] = [wrong_key, b"GET / HTTP/1.1\r\n\r\n", &[0xa5; 64], b"NFR1\x02"];
    let mut silent = std::collections::VecDeque::new();
    let began = Instant::now();
    for number in 0_u64.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let due = began + Duration::from_micros(number * 1_000_000 / per_second);
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        while silent.front().is_some_and(|(since, _): &(Instant, TcpStream)| since.elapsed() > SILENCE) {
            silent.pop_front();
        }
        let source = 1 + (number * THREADS + thread) % 200;
        let Ok(mut stream) = connect_from(u8::try_from(source).unwrap(), target) else { continue };
        made.fetch_add(1, Ordering::Relaxed);
        if number % 8 == 0 {
            silent.push_back((Instant::now(), stream));
            continue;
        }
        let opening = openings[usize::try_from(number).unwrap() % openings.len()];
        // nf-receiver may close the connection at any moment.
        drop(stream.write_all(opening).and_then(|()| {
            if opening == wrong_key {
                stream.read_exact(&mut [0; 24])?;
                stream.write_all(&[&[0, 48][..], &[7; 48]].concat())?;
            }
            stream.read(&mut [0; 64])
        }));
    }
}

/// Connects from another address of loopback.
fn connect_from(source: u8, target: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&SocketAddr::from(([127, 0, 1, source], 0)).into())?;
    socket.connect(&target.into())?;
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(Duration::from_secs(1)))?;
    Ok(stream)
}
