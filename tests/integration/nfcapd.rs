//! nfcapd on the machine of nf-receiver: after a stop, a kill and a restart it lacks at most the contents of
//! its own socket, and decodes flows at once.

mod formats;
mod separation;

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::time::{Duration, Instant};

use nf_transport_kit::chatter::{Mix, Pattern};
use nf_transport_kit::exporter::Exporters;
use nf_transport_kit::hosts::{QUICK_SENDER, ReceiverHost, SenderHost};
use nf_transport_kit::load::{SteadyLoad, Until};
use nf_transport_kit::netflow_tools::{Nfcapd, NfcapdSettings, installed};
use nf_transport_kit::pair::STALL;
use nf_transport_kit::samples::count;
use serde_json::Value;
use tempfile::TempDir;

use crate::isolation::shared;
use formats::{ipfix, ipfix_record, template};

/// Three flows per datagram, and a template in the first of 1,000 where the format needs one.
const THREE_FLOWS: Mix = &[3; 1000];
const FLOWS: u64 = 3;

/// The kit's exporters of NetFlow v5 and v9.
const V5: u16 = 0;
const V9: u16 = 1;

/// Rate in datagrams per second.
const RATE: u32 = 5000;

/// Time for which nfcapd is stopped.
const STOPPED: Duration = Duration::from_secs(60);

/// Longest time for the delivery of a backlog of that length.
const CATCH_UP: Duration = Duration::from_secs(120);

/// Fields that nfdump prints, enough to identify each flow.
const FORMAT: &str = "fmt:%sa %da %pkt %byt";

/// One exporter, the pair, and nfcapd next to nf-receiver. Fields drop in this order.
struct NfcapdSetup {
    sender: SenderHost,
    receiver: ReceiverHost,
    nfcapd: Nfcapd,
    exporter: u16,
    pattern: Pattern,
    _directory: TempDir,
}

impl NfcapdSetup {
    /// Starts everything. `rotation` is the time between two files of nfcapd in seconds; `toml` are settings
    /// of nf-receiver.
    fn running(exporter: u16, rotation: u32, toml: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        // No other test uses this address, so the port stays free while nfcapd is stopped.
        let ip = IpAddr::from(Ipv4Addr::new(127, 77, 0, 1));
        let nfcapd =
            NfcapdSettings::of_all(ip, directory.path().join("flows")).rotate_every(rotation).start();
        let mut receiver = ReceiverHost::new(&[], &collector(&nfcapd, toml));
        receiver.start();
        let mut sender = SenderHost::new("edge", &receiver.addr(), QUICK_SENDER);
        sender.start();
        sender.wait_state("connected", STALL);
        Self { sender, receiver, nfcapd, exporter, pattern: Pattern::new(THREE_FLOWS), _directory: directory }
    }

    /// Returns the exporter, which has not sent yet.
    fn exporter(&self) -> Exporters {
        Exporters::new(self.exporter..self.exporter + 1, self.sender.udp().addr(), self.pattern)
    }

    fn load(&self, exporter: Exporters, until: Until) -> SteadyLoad {
        SteadyLoad::start(exporter, self.sender.udp().clone(), Some(RATE), until)
    }

    /// Waits until nf-receiver has delivered this number of datagrams to nfcapd's socket since it started.
    fn wait_delivered(&self, datagrams: u64) -> Value {
        self.receiver.wait_status(CATCH_UP, |status| delivered(status) >= datagrams)
    }

    /// Waits until nf-sender's queue is empty and nfcapd has read everything, then stops nfcapd. Returns
    /// nf-receiver's status from before the stop.
    fn finish(&mut self, exporter: &Exporters) -> Value {
        self.sender.udp().wait_until_drained();
        assert_eq!(self.sender.udp().dropped(), 0, "the kernel dropped datagrams at nf-sender's socket");
        self.sender.wait_status(CATCH_UP, |status| {
            count(status, "/received/datagrams") == exporter.total()
                && count(status, "/queued/datagrams") == 0
        });
        self.nfcapd.kernel().wait_until_drained();
        // A status request makes nf-receiver check the socket, so it knows that nothing is unread.
        let status = self.receiver.status();
        self.nfcapd.stop();
        status
    }

    /// Counts the flows in nfcapd's files.
    fn flows(&self) -> u64 {
        u64::try_from(self.nfcapd.printed(0, FORMAT).lines().count()).unwrap()
    }

    /// Returns the numbers below `sent` of datagrams without flows in nfcapd's files. Panics unless all other
    /// flows are there exactly once, and no others.
    fn missing(&self, sent: u64) -> Vec<u64> {
        let mut reference = HashMap::new();
        let mut payload = Vec::new();
        for number in 0..sent {
            self.pattern.datagram(self.exporter, u32::try_from(number).unwrap(), &mut payload);
            let records = payload.len() - usize::try_from(FLOWS).unwrap() * 48;
            for record in payload[records..].chunks(48) {
                assert_eq!(reference.insert(Flow::parse(record), (number, 0)), None, "two flows are equal");
            }
        }
        for line in self.nfcapd.printed(0, FORMAT).lines() {
            let known = reference.get_mut(&Flow::printed(line));
            known.unwrap_or_else(|| panic!("nfcapd has a flow that was not sent: {line}")).1 += 1;
        }
        let mut found: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
        for (number, times) in reference.into_values() {
            found.entry(number).or_default().push(times);
        }
        let is_missing = |(number, times): (u64, Vec<u8>)| {
            assert!(
                times == [0, 0, 0] || times == [1, 1, 1],
                "flows of datagram {number} were stored {times:?} times"
            );
            (times[0] == 0).then_some(number)
        };
        found.into_iter().filter_map(is_missing).collect()
    }
}

/// Returns the settings of an nf-receiver that delivers to nfcapd.
fn collector(nfcapd: &Nfcapd, toml: &str) -> String {
    format!("[[collector]]\naddress = \"{}\"\n{toml}", nfcapd.addr())
}

/// Identity of a flow: two addresses, packets and bytes.
#[derive(PartialEq, Eq, Hash)]
struct Flow([u32; 4]);

impl Flow {
    /// Reads the flow from a record of NetFlow v5.
    fn parse(record: &[u8]) -> Self {
        Self([0, 4, 16, 20].map(|at| u32::from_be_bytes(*record[at..].first_chunk().unwrap())))
    }

    /// Reads the flow from a line of nfdump.
    fn printed(line: &str) -> Self {
        let mut words = line.split_whitespace();
        let addresses = [(); 2].map(|()| words.next().unwrap().parse::<Ipv4Addr>().unwrap().to_bits());
        let numbers = [(); 2].map(|()| words.next().unwrap().parse().unwrap());
        Self([addresses[0], addresses[1], numbers[0], numbers[1]])
    }
}

fn delivered(status: &Value) -> u64 {
    count(status, "/collectors/0/delivered/datagrams")
}

#[test]
fn nfcapd_stopped_for_60_s_gets_the_backlog() {
    if !installed() {
        eprintln!("skipped: needs nfdump (Debian package of this name)");
        return;
    }
    let _running = shared();
    let mut setup = NfcapdSetup::running(V5, 3600, "");
    let load = setup.load(setup.exporter(), Until::Stopped);
    setup.wait_delivered(10_000);

    setup.nfcapd.stop();
    let stopped = Instant::now();
    // One burst of the load may have been in flight at the stop. Datagrams after the next burst were sent
    // later.
    let before = load.sent();
    while load.sent() == before {
        std::thread::yield_now();
    }
    let sent_before = load.sent();
    std::thread::sleep(STOPPED); // the outage to survive
    let held = setup.receiver.wait_status(STALL, |status| count(status, "/collectors/0/held_s") >= 60);
    let waiting = count(&setup.sender.status(), "/queued/datagrams");
    assert_eq!(held["collectors"][0]["state"], "down", "{held:#}");
    let sent_while_stopped = load.sent() - sent_before;
    let stopped = stopped.elapsed();

    let started = Instant::now();
    setup.nfcapd.start_again();
    let sent_at_start = load.sent();
    setup.wait_delivered(sent_at_start);
    let caught_up = started.elapsed();
    setup.wait_delivered(sent_at_start + 5000);
    let exporter = load.stop();
    let status = setup.finish(&exporter);
    let unread = count(&status, "/collectors/0/unread");
    let missing = setup.missing(exporter.total());
    println!(
        "{} datagrams of {FLOWS} flows, {sent_while_stopped} of them while nfcapd was stopped for {stopped:?}, \
         when {waiting} waited at the sender; caught up in {caught_up:?}; {} lost of {unread} unread at the stop",
        exporter.total(),
        missing.len(),
    );
    assert!(sent_while_stopped >= u64::from(RATE) * STOPPED.as_secs() * 9 / 10, "{sent_while_stopped}");
    assert!(waiting >= sent_while_stopped * 9 / 10, "{waiting} waited");
    assert!(
        missing.iter().all(|number| *number < sent_before),
        "{missing:?} of {sent_before} sent before the stop"
    );
    assert!(
        u64::try_from(missing.len()).unwrap() <= unread,
        "{missing:?} lost, {unread} counted as unread: {status:#}"
    );
    for nothing in ["skipped", "socket_drops", "held_s"] {
        assert_eq!(count(&status, &format!("/collectors/0/{nothing}")), 0, "{nothing} in {status:#}");
    }
}

#[test]
fn a_killed_nfcapd_loses_at_most_its_own_socket() {
    if !installed() {
        eprintln!("skipped: needs nfdump (Debian package of this name)");
        return;
    }
    let _running = shared();
    let mut setup = NfcapdSetup::running(V5, 2, "");
    let exporter = setup.load(setup.exporter(), Until::Sent(5000)).finish();
    setup.wait_delivered(5000);
    // nfcapd would lose flows that it has read but not written, so wait until all are in its files.
    let deadline = Instant::now() + STALL;
    while setup.flows() < 5000 * FLOWS {
        assert!(Instant::now() < deadline, "nfcapd has written {} flows of {}", setup.flows(), 5000 * FLOWS);
        std::thread::sleep(Duration::from_millis(200));
    }
    setup.nfcapd.freeze();
    let load = setup.load(exporter, Until::Stopped);
    let full = setup.receiver.wait_status(STALL, |status| count(status, "/collectors/0/held_s") >= 1);
    assert_eq!((&full["collectors"][0]["state"], count(&full, "/collectors/0/unread")), (&"up".into(), 0));
    setup.nfcapd.kill();
    let down = setup.receiver.wait_status(STALL, |status| status["collectors"][0]["state"] == "down");
    let unread = count(&down, "/collectors/0/unread");
    setup.nfcapd.start_again();
    setup.wait_delivered(load.sent() + 5000);
    let exporter = load.stop();
    let status = setup.finish(&exporter);

    let missing = setup.missing(exporter.total());
    let lost = u64::try_from(missing.len()).unwrap();
    println!("{} datagrams of {FLOWS} flows; {lost} lost of {unread} unread at the kill", exporter.total());
    assert!(0 < lost && lost <= unread, "{lost} lost, {unread} counted as unread: {down:#}");
    assert_eq!(
        missing,
        (5000..delivered(&full)).collect::<Vec<_>>(),
        "lost datagrams that were not in the socket of the killed nfcapd"
    );
    assert_eq!(count(&status, "/collectors/0/unread"), unread, "{status:#}");
    assert_eq!(count(&status, "/collectors/0/socket_drops"), 0, "{status:#}");
}

/// Sends datagrams of the exporter. Waits until nf-receiver has delivered them all and nfcapd has emptied its
/// socket.
fn carry(setup: &NfcapdSetup, exporter: &mut Exporters, datagrams: u64) {
    exporter.send(datagrams);
    setup.sender.udp().wait_until_drained();
    setup.sender.wait_status(STALL, |status| {
        count(status, "/received/datagrams") == exporter.total() && count(status, "/queued/datagrams") == 0
    });
    setup.nfcapd.kernel().wait_until_drained();
}

/// Sends datagrams that stay queued at nf-sender, since nfcapd or nf-receiver is down.
fn queue(setup: &NfcapdSetup, exporter: &mut Exporters, datagrams: u64) {
    exporter.send(datagrams);
    setup.sender.udp().wait_until_drained();
    setup.sender.wait_status(STALL, |status| count(status, "/queued/datagrams") == datagrams);
}

/// Returns the numbers of the datagrams that nfcapd cannot decode. A v9 exporter sends three parts of 20.
/// Only the first has a template. nfcapd restarts before the second part, nfcapd and nf-receiver before the
/// third.
fn undecoded_after_restarts(toml: &str) -> Vec<u64> {
    let _running = shared();
    let mut setup = NfcapdSetup::running(V9, 3600, toml);
    let mut exporter = setup.exporter();
    carry(&setup, &mut exporter, 20);

    setup.nfcapd.stop();
    queue(&setup, &mut exporter, 10);
    setup.nfcapd.start_again();
    carry(&setup, &mut exporter, 10);

    setup.nfcapd.stop();
    assert_eq!(setup.receiver.take_daemon().terminate().code(), Some(0));
    queue(&setup, &mut exporter, 10);
    setup.receiver.start();
    setup.nfcapd.start_again();
    carry(&setup, &mut exporter, 10);
    setup.nfcapd.stop();
    setup.missing(60)
}

#[test]
fn v9_decodes_at_once_after_restarts() {
    if !installed() {
        eprintln!("skipped: needs nfdump (Debian package of this name)");
        return;
    }
    assert_eq!(undecoded_after_restarts(""), Vec::<u64>::new());
}

#[test]
fn v9_without_repeated_templates_does_not_decode() {
    if !installed() {
        eprintln!("skipped: needs nfdump (Debian package of this name)");
        return;
    }
    assert_eq!(undecoded_after_restarts("repeat-templates = false"), (20..60).collect::<Vec<_>>());
}

/// Sends datagrams from one exporter and waits until nf-sender has received `total` since its start.
fn send(setup: &NfcapdSetup, exporter: &UdpSocket, datagrams: &[Vec<u8>], total: u64) {
    for datagram in datagrams {
        exporter.send_to(datagram, setup.sender.udp().addr()).unwrap();
    }
    setup.sender.wait_status(STALL, |status| count(status, "/received/datagrams") == total);
}

#[test]
fn queued_flows_decode_with_their_old_template() {
    if !installed() {
        eprintln!("skipped: needs nfdump (Debian package of this name)");
        return;
    }
    let _running = shared();
    let mut setup = NfcapdSetup::running(V5, 3600, "");
    let exporter = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut swapped = template();
    swapped[4..12].rotate_left(4); // destination, source
    let swapped_record = |flow| {
        let mut record = ipfix_record(1, flow);
        record[..8].rotate_left(4);
        record
    };
    send(&setup, &exporter, &[ipfix(0, 2, &template()), ipfix(0, 256, &ipfix_record(1, 0))], 2);
    setup.sender.wait_status(STALL, |status| count(status, "/queued/datagrams") == 0);
    setup.nfcapd.stop_when_drained();
    let waiting =
        [ipfix(1, 256, &ipfix_record(1, 1)), ipfix(2, 2, &swapped), ipfix(2, 256, &swapped_record(2))];
    send(&setup, &exporter, &waiting, 5);
    setup.receiver.wait_status(STALL, |status| count(status, "/collectors/0/held_s") >= 1);
    setup.nfcapd.start_again();
    setup.sender.wait_status(STALL, |status| count(status, "/queued/datagrams") == 0);
    setup.nfcapd.stop_when_drained();
    let flows: Vec<_> = setup.nfcapd.flows(0, "fmt:%sa %da").iter().map(|flow| one_space(flow)).collect();
    assert_eq!(flows, [0, 1, 2].map(|flow| format!("10.1.0.{flow} 10.9.9.9")));
}

/// Replaces runs of spaces in a line of nfdump by single ones.
fn one_space(flow: &str) -> String {
    flow.split_whitespace().collect::<Vec<_>>().join(" ")
}
