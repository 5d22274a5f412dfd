//! Several collectors: the distribution of datagrams among them, and their independence of each other's
//! delays.

mod faults;

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use nf_transport_kit::chatter::{LARGE, MIXED, Pattern};
use nf_transport_kit::collector::{Collector, Reading, ReadingPace};
use nf_transport_kit::daemon::Daemon;
use nf_transport_kit::exporter::Exporters;
use nf_transport_kit::hosts::{QUICK_SENDER, ReceiverHost, SenderHost};
use nf_transport_kit::link::Link;
use nf_transport_kit::load::{SteadyLoad, Until};
use nf_transport_kit::pair::{STALL, connected_daemons};
use nf_transport_kit::samples::{assert_conserved, count};
use serde_json::Value;

use crate::isolation::shared;
use crate::loss_accounting::{dropped, gaps};

/// More payload than nf-receiver, TCP and the sockets hold together, in bytes. The rest is queued in the
/// spool.
const MUCH: u64 = 12 * 1024 * 1024;

/// Datagrams of `LARGE` with that payload; they have at least 1,358 bytes on average.
const MANY: u64 = MUCH / 1358;

/// Bytes that nf-receiver holds for the collectors of one stream: `limits::LANE_MAX`.
const LANE: u64 = 1024 * 1024;

/// Bytes of batches that nf-receiver acknowledges at once: `limits::ACK_BYTES`.
const ACK_BYTES: u64 = 1024 * 1024;

/// Longest batch, in bytes: `limits::BATCH_BODY_MAX`.
const BATCH: u64 = 65_600;

const EXPORTERS: u16 = 3;

/// A sender and a receiver with a link between them.
struct CollectorsSetup {
    sender: SenderHost,
    link: Link,
    receiver: ReceiverHost,
}

impl CollectorsSetup {
    /// Starts and connects both daemons with these tables of collectors.
    fn with(tables: &str) -> Self {
        let (sender, link, receiver) = connected_daemons(tables);
        Self { sender, link, receiver }
    }

    fn load(&self, exporters: Exporters, rate: Option<u32>, until: Until) -> SteadyLoad {
        SteadyLoad::start(exporters, self.sender.udp().clone(), rate, until)
    }

    /// Sends this number of datagrams, all exporters together.
    fn send(&self, pattern: Pattern, datagrams: u64) -> Exporters {
        let exporters = self.sender.exporters(EXPORTERS, pattern);
        self.load(exporters, None, Until::Sent(datagrams)).finish()
    }

    /// Waits until these numbers of datagrams are acknowledged and queued.
    fn wait_acknowledged(&self, acknowledged: u64, queued: u64) {
        self.sender.wait_status(STALL, |status| {
            assert_conserved(status);
            count(status, "/acknowledged/datagrams") == acknowledged
                && count(status, "/queued/datagrams") == queued
        });
    }

    /// Returns nf-receiver's status of its collector at `address`.
    fn collector(&self, address: SocketAddr) -> Value {
        find(&self.receiver.status(), address)
    }

    /// Waits until nf-receiver's status of its collector at `address` is as wanted.
    fn wait_collector(&self, address: SocketAddr, wanted: impl Fn(&Value) -> bool) -> Value {
        find(&self.receiver.wait_status(STALL, |status| wanted(&find(status, address))), address)
    }
}

/// Returns the collector at `address` in a status of nf-receiver.
fn find(status: &Value, address: SocketAddr) -> Value {
    let collectors = status["collectors"].as_array().unwrap();
    let address = address.to_string();
    collectors.iter().find(|collector| collector["address"] == address).expect("that collector").clone()
}

/// Returns the table of a collector with these lines.
fn table(address: SocketAddr, lines: &str) -> String {
    format!("[[collector]]\naddress = \"{address}\"\n{lines}\n")
}

/// Returns an address where nothing listens, and where this machine binds no automatic ports.
fn absent(place: u8) -> SocketAddr {
    UdpSocket::bind((Ipv4Addr::new(127, 0, 77, place), 0)).unwrap().local_addr().unwrap()
}

/// Panics unless the collector gets exactly these numbers of datagrams, in order and once.
fn assert_gets(collector: &Collector, sent: &[u32]) {
    let report = collector.wait_for_all(sent, STALL);
    report.assert_exact(sent);
    let arrived: Vec<u64> = report.exporters.iter().map(|tally| tally.arrived).collect();
    let expected: Vec<u64> = sent.iter().map(|sent| u64::from(*sent)).collect();
    assert_eq!((arrived, report.kernel_drops), (expected, 0));
}

#[test]
fn an_unresolved_collector_delays_no_other() {
    let _running = shared();
    let pattern = Pattern::new(MIXED);
    let collector = Collector::start(EXPORTERS, pattern);
    let gone = "[[collector]]\naddress = \"no-such-host.invalid:9995\"\nwhen-down = \"skip\"\n";
    let setup = CollectorsSetup::with(&format!("{gone}{}", table(collector.addr(), "")));
    let exporters = setup.send(pattern, 300);
    assert_gets(&collector, exporters.sent());
    setup.wait_acknowledged(300, 0);
    let status = setup.receiver.status();
    let rows = status["collectors"].as_array().unwrap();
    let gone = rows.iter().find(|row| row["address"] == "no-such-host.invalid:9995").unwrap();
    assert_eq!((rows.len(), &gone["state"]), (2, &Value::from("unknown")));
}

#[test]
fn each_collector_gets_its_own_prefixes() {
    let _running = shared();
    let pattern = Pattern::new(MIXED);
    let [two, one, all, none] = [(); 4].map(|()| Collector::start(EXPORTERS, pattern));
    // Exporter 0 sends from 127.0.0.2, the next ones from the following addresses.
    let tables = table(two.addr(), "exporters = [\"127.0.0.2/31\"]")
        + &table(one.addr(), "exporters = [\"2001:db8::/32\", \"127.0.0.4/32\"]")
        + &table(all.addr(), "")
        + &table(none.addr(), "exporters = [\"192.0.2.0/24\"]");
    let setup = CollectorsSetup::with(&tables);
    let exporters = setup.sender.exporters(EXPORTERS, pattern);
    let exporters = setup.load(exporters, Some(4000), Until::Sent(4000)).finish();
    let &[first, second, third] = exporters.sent() else { panic!("three exporters") };
    assert_gets(&all, &[first, second, third]);
    assert_gets(&two, &[first, second, 0]);
    assert_gets(&one, &[0, 0, third]);
    setup.wait_acknowledged(4000, 0);
    assert_gets(&none, &[0, 0, 0]);
}

/// Returns the number of arrived datagrams by collector and exporter.
fn arrivals(collectors: &[&Collector]) -> Vec<Vec<u64>> {
    let of =
        |collector: &&Collector| collector.report().exporters.iter().map(|tally| tally.arrived).collect();
    collectors.iter().map(of).collect()
}

/// Waits until the collectors have received this number of datagrams together.
fn wait_for_sum(collectors: &[&Collector], total: u64) {
    let deadline = Instant::now() + STALL;
    while collectors.iter().map(|collector| collector.arrived()).sum::<u64>() < total {
        assert!(Instant::now() < deadline, "of {total}: {:?}", arrivals(collectors));
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Sends five datagrams of each exporter. Returns the receiving collector by exporter. Panics unless one
/// collector got all five.
fn takers(setup: &CollectorsSetup, exporters: &mut Exporters, collectors: &[&Collector]) -> Vec<usize> {
    let before = arrivals(collectors);
    let count = exporters.sent().len();
    exporters.send(5 * u64::try_from(count).unwrap());
    wait_for_sum(collectors, exporters.total());
    setup.wait_acknowledged(exporters.total(), 0);
    let after = arrivals(collectors);
    let new = |exporter: usize| -> Vec<u64> {
        before.iter().zip(&after).map(|(before, after)| after[exporter] - before[exporter]).collect()
    };
    let taker = |exporter| {
        let new = new(exporter);
        let takers: Vec<usize> = (0..new.len()).filter(|place| new[*place] > 0).collect();
        assert_eq!((takers.len(), new.iter().sum::<u64>()), (1, 5), "exporter {exporter}: {new:?}");
        takers[0]
    };
    (0..count).map(taker).collect()
}

#[test]
fn a_group_assigns_exporters_permanently() {
    const MANY_EXPORTERS: u16 = 48;
    let _running = shared();
    let pattern = Pattern::new(MIXED);
    let [one, two, new] = [(); 3].map(|()| Collector::start(MANY_EXPORTERS, pattern));
    let group = |members: &[&Collector]| -> String {
        members.iter().map(|member| table(member.addr(), "group = \"main\"")).collect()
    };
    let mut setup = CollectorsSetup::with(&group(&[&one, &two]));
    let mut exporters = setup.sender.exporters(MANY_EXPORTERS, pattern);
    let first = takers(&setup, &mut exporters, &[&one, &two]);
    assert!(first.contains(&0) && first.contains(&1), "{first:?}");

    assert_eq!(setup.receiver.take_daemon().terminate().code(), Some(0));
    setup.receiver.set_toml(&group(&[&two, &one]));
    setup.receiver.start();
    assert_eq!(takers(&setup, &mut exporters, &[&one, &two]), first, "after a restart");

    setup.receiver.set_toml(&group(&[&one, &two, &new]));
    setup.receiver.daemon().reload();
    // Sessions apply a reload with a delay. The new member's first datagram shows that it is applied.
    let deadline = Instant::now() + STALL;
    while new.arrived() == 0 {
        assert!(Instant::now() < deadline, "the new member gets nothing");
        exporters.send(MANY_EXPORTERS.into());
        wait_for_sum(&[&one, &two, &new], exporters.total());
        setup.wait_acknowledged(exporters.total(), 0);
    }
    let last = takers(&setup, &mut exporters, &[&one, &two, &new]);
    let is_right = |(before, after): (&usize, &usize)| after == before || *after == 2;
    assert!(first.iter().zip(&last).all(is_right), "from {first:?} to {last:?}");
    assert!([0, 1, 2].iter().all(|place| last.contains(place)), "{last:?}");
}

#[test]
fn skipped_datagrams_of_a_collector_are_counted() {
    let _running = shared();
    let pattern = Pattern::new(LARGE);
    let there = Collector::start(EXPORTERS, pattern);
    let away = absent(1);
    let setup = CollectorsSetup::with(&(table(there.addr(), "") + &table(away, "when-down = \"skip\"")));
    let exporters = setup.send(pattern, MANY);
    assert_gets(&there, exporters.sent());
    setup.wait_acknowledged(MANY, 0);
    let status = setup.wait_collector(away, |collector| count(collector, "/skipped") == MANY);
    assert_eq!((&status["state"], count(&status, "/delivered/datagrams")), (&"down".into(), 0));
    assert_eq!(count(&setup.collector(there.addr()), "/skipped"), 0);
}

#[test]
fn a_slow_skipping_collector_delays_no_other() {
    let _running = shared();
    let pattern = Pattern::new(LARGE);
    let prompt = Collector::start(EXPORTERS, pattern);
    let reading = Reading::by_default(ReadingPace::PerSecond(500));
    let slow = Collector::start_reading("127.0.0.1:0", EXPORTERS, pattern, reading);
    let setup =
        CollectorsSetup::with(&(table(prompt.addr(), "") + &table(slow.addr(), "when-down = \"skip\"")));
    let exporters = setup.send(pattern, MANY);
    assert_gets(&prompt, exporters.sent());
    let by_then = slow.arrived();
    assert!(by_then < MANY / 2, "the slow one had {by_then} when the prompt one had all");
    setup.wait_acknowledged(MANY, 0);
    let status = setup.wait_collector(slow.addr(), |collector| {
        count(collector, "/skipped") + count(collector, "/delivered/datagrams") == MANY
    });
    let delivered = count(&status, "/delivered/datagrams");
    slow.wait_for(delivered, STALL);
    let report = slow.report();
    assert_eq!((report.arrived(), report.repeated(), report.kernel_drops), (delivered, 0, 0));
    assert!(report.exporters.iter().all(|tally| tally.out_of_order + tally.corrupted == 0));
    println!(
        "of {MANY} datagrams the slow collector got {delivered}, {by_then} of them while the other got all"
    );
}

#[test]
fn an_absent_held_collector_delays_no_other() {
    let _running = shared();
    let pattern = Pattern::new(LARGE);
    let there = Collector::start(EXPORTERS, pattern);
    let away = absent(2);
    let setup = CollectorsSetup::with(&(table(away, "") + &table(there.addr(), "when-down = \"skip\"")));
    let exporters = setup.send(pattern, MANY);
    assert_gets(&there, exporters.sent());
    setup.wait_acknowledged(0, MANY);
    setup.wait_collector(away, |collector| collector["state"] == "down" && count(collector, "/held_s") >= 2);
    assert_eq!(count(&setup.collector(there.addr()), "/held_s"), 0);

    let late = Collector::start_on(&away.to_string(), EXPORTERS, pattern);
    assert_gets(&late, exporters.sent());
    setup.wait_acknowledged(MANY, 0);
    assert_gets(&there, exporters.sent());
    let status = setup.collector(away);
    assert_eq!((count(&status, "/delivered/datagrams"), count(&status, "/skipped")), (MANY, 0));
}

#[test]
fn a_slow_held_collector_delays_no_other() {
    let _running = shared();
    let pattern = Pattern::new(LARGE);
    let prompt = Collector::start(EXPORTERS, pattern);
    let reading = Reading::by_default(ReadingPace::PerSecond(1500));
    let slow = Collector::start_reading("127.0.0.1:0", EXPORTERS, pattern, reading);
    let setup =
        CollectorsSetup::with(&(table(slow.addr(), "") + &table(prompt.addr(), "when-down = \"skip\"")));
    let exporters = setup.send(pattern, MANY);
    assert_gets(&prompt, exporters.sent());
    let by_then = slow.arrived();
    assert!(by_then < MANY / 2, "the slow one had {by_then} when the prompt one had all");
    assert_gets(&slow, exporters.sent());
    setup.wait_acknowledged(MANY, 0);
    assert_gets(&prompt, exporters.sent());
}

#[test]
fn waiting_for_a_collector_uses_no_cpu_time() {
    const WATCHED: Duration = Duration::from_secs(3);
    let _running = shared();
    let pattern = Pattern::new(LARGE);
    let there = Collector::start(EXPORTERS, pattern);
    let setup = CollectorsSetup::with(&(table(absent(3), "") + &table(there.addr(), "when-down = \"skip\"")));
    let exporters = setup.send(pattern, MANY);
    assert_gets(&there, exporters.sent());
    setup.wait_acknowledged(0, MANY);
    let daemons = [setup.sender.daemon(), setup.receiver.daemon()];
    let before = daemons.map(Daemon::cpu_time);
    std::thread::sleep(WATCHED);
    let [sender, receiver] = [0, 1].map(|place| daemons[place].cpu_time().saturating_sub(before[place]));
    println!("in {WATCHED:?} of waiting nf-sender computed for {sender:?}, nf-receiver for {receiver:?}");
    assert!(sender.max(receiver) < Duration::from_millis(500), "{sender:?}, {receiver:?}");
}

#[test]
fn catching_up_delays_no_other_collector() {
    let _running = shared();
    let pattern = Pattern::new(LARGE);
    let there = Collector::start(EXPORTERS, pattern);
    let away = absent(6);
    let setup = CollectorsSetup::with(&(table(away, "") + &table(there.addr(), "when-down = \"skip\"")));
    let load = setup.load(setup.sender.exporters(EXPORTERS, pattern), Some(3000), Until::Sent(MANY));
    there.wait_for(MANY / 3, STALL);
    let reading = Reading { pace: ReadingPace::PerSecond(1500), ..Reading::default() };
    let late = Collector::start_reading(&away.to_string(), EXPORTERS, pattern, reading);
    let exporters = load.finish();
    assert_gets(&there, exporters.sent());
    let by_then = late.arrived();
    assert!(0 < by_then && by_then < MANY * 3 / 4, "the late one had {by_then} when the other one had all");
    assert_gets(&late, exporters.sent());
    setup.wait_acknowledged(MANY, 0);
    assert_gets(&there, exporters.sent());
}

#[test]
fn both_sides_count_a_late_collectors_losses() {
    let _running = shared();
    let pattern = Pattern::new(LARGE);
    let there = Collector::start(EXPORTERS, pattern);
    let away = absent(12);
    let mut receiver =
        ReceiverHost::new(&[], &(table(away, "") + &table(there.addr(), "when-down = \"skip\"")));
    let link = Link::to(receiver.addr());
    let toml = format!("{QUICK_SENDER}sync-after = \"0s\"\nmax-size = \"8MiB\"\nrotate-size = \"512KiB\"\n");
    let mut sender = SenderHost::new("edge", &link.addr(), &toml);
    receiver.start();
    sender.start();
    sender.wait_state("connected", STALL);
    let setup = CollectorsSetup { sender, link, receiver };
    let load = setup.load(setup.sender.exporters(EXPORTERS, pattern), Some(4000), Until::Sent(3 * MANY));
    // The spool drops datagrams that the late collector lacks, also while that collector catches up.
    setup.sender.wait_status(STALL, |status| dropped(status, "spool_full") > MANY / 4);
    let reading = Reading { pace: ReadingPace::PerSecond(1500), ..Reading::default() };
    let late = Collector::start_reading(&away.to_string(), EXPORTERS, pattern, reading);
    let exporters = load.finish();
    assert_gets(&there, exporters.sent());
    let status = setup.sender.wait_status(STALL * 4, |status| count(status, "/queued/datagrams") == 0);
    assert_conserved(&status);
    let lost = dropped(&status, "spool_full");
    assert_eq!(gaps(&setup.receiver), lost, "both sides count the same\n{status:#}");
    late.wait_for(exporters.total() - lost, STALL);
    assert_eq!(late.report().missing(exporters.sent()), lost);
    let of = |address| count(&setup.collector(address), "/delivered/datagrams");
    assert_eq!((of(away), of(there.addr())), (exporters.total() - lost, exporters.total()));
    assert_eq!(count(&status, "/acknowledged/datagrams"), exporters.total() - lost);
}
