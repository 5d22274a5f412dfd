//! A demo of half a minute. Exporters send NetFlow v5, v9 and IPFIX without a pause while the link is cut and
//! each daemon is killed and restarted. At the end every datagram must have arrived.
//!
//! The demo needs neither root nor systemd: it holds the daemons' sockets, as systemd would. `make demo`
//! builds and runs it.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a demo that cannot continue ends there and prints the reason"
)]

mod chart;
mod progress;
mod table;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use chart::Event;
use nf_transport_kit::chatter::{MIXED, Pattern};
use nf_transport_kit::load::{SteadyLoad, Until};
use nf_transport_kit::pair::Pair;
use nf_transport_kit::samples::Sampler;
use progress::DemoProgress;

const EXPORTERS: u16 = 6;
const DATAGRAMS_PER_SECOND: u32 = 2000;
const DATAGRAMS: u64 = 50_000;

/// Longest time without an arrival before the demo fails.
const STALL: Duration = Duration::from_secs(30);

/// The defaults with the cipher that invitations name, and no minimum of free disk space.
const SETTINGS: &str = "cipher = \"chacha20-poly1305\"\n[spool]\nmin-free = \"0B\"\n";

fn main() -> ExitCode {
    println!(
        "{EXPORTERS} exporters send {DATAGRAMS_PER_SECOND} datagrams a second: NetFlow v5, v9 and IPFIX.\n\n    \
         exporters --UDP--> nf-sender [spool] ==TCP, chacha20-poly1305==> nf-receiver --UDP--> collector\n"
    );
    let mut pair = Pair::new(EXPORTERS, Pattern::new(MIXED), SETTINGS);
    pair.sender.use_key("the demo");
    pair.receiver.use_key("the demo");
    pair.receiver.start();
    pair.sender.start();
    pair.sender.wait_state("connected", STALL);
    let watch = Sampler::start(pair.sender.control(), Duration::from_millis(100));
    let load = pair.load(Some(DATAGRAMS_PER_SECOND), Until::Sent(DATAGRAMS));
    let progress = DemoProgress::new(DATAGRAMS);
    let demo = Demo { pair, load, watch, progress, began: Instant::now(), events: Vec::new() };
    demo.run()
}

struct Demo {
    pair: Pair,
    load: SteadyLoad,
    watch: Sampler,
    progress: DemoProgress,
    began: Instant,
    events: Vec<Event>,
}

impl Demo {
    fn run(mut self) -> ExitCode {
        self.run_for(4);
        self.print_event("the link is cut");
        self.pair.link.cut();
        self.run_for(3);
        self.print_event("the link is back; nf-sender retries after its delay of 3 s");
        self.pair.link.restore();
        self.run_for(6);
        self.print_event("nf-sender is killed with SIGKILL and restarted");
        self.pair.sender.take_daemon().kill();
        self.pair.sender.start();
        self.run_for(4);
        self.print_event("nf-receiver is killed with SIGKILL");
        self.pair.receiver.take_daemon().kill();
        self.run_for(3);
        self.print_event("nf-receiver is restarted");
        self.pair.receiver.start();
        self.wait_for_the_rest();
        self.report()
    }

    /// Waits this number of seconds while the exporters send.
    fn run_for(&self, seconds: u64) {
        let end = Instant::now() + Duration::from_secs(seconds);
        while Instant::now() < end {
            self.show();
        }
    }

    /// Waits until all datagrams have arrived, or until none has arrived for `STALL`.
    fn wait_for_the_rest(&self) {
        let (mut arrived, mut since) = (0, Instant::now());
        while arrived < DATAGRAMS && since.elapsed() < STALL {
            self.show();
            let now = self.pair.collector.arrived();
            if now > arrived {
                (arrived, since) = (now, Instant::now());
            }
        }
    }

    fn show(&self) {
        std::thread::sleep(Duration::from_millis(100));
        let latest = self.watch.latest();
        self.progress.show(
            self.began.elapsed(),
            self.load.sent(),
            self.pair.collector.arrived(),
            latest.as_ref(),
        );
    }

    fn print_event(&mut self, description: &'static str) {
        let event = Event { at: self.began.elapsed(), description };
        self.progress.print_event(&event);
        self.events.push(event);
    }

    fn report(self) -> ExitCode {
        let held_back = self.load.held_back();
        let exporters = self.load.finish();
        let samples = self.watch.finish();
        self.progress.finish();
        let report = self.pair.collector.report();
        println!("{}", table::table(&report, exporters.sent()));
        println!("{}", chart::chart(&samples, &self.events));
        if held_back > 0 {
            println!(
                "The exporters paused for {held_back} ms in total: the socket buffer of nf-sender was half full."
            );
        }
        table::verdict(&report, exporters.sent(), self.pair.sender.udp().dropped())
    }
}
