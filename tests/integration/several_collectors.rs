//! Several collectors beside each other: who gets what, and that none waits for another where that is not wanted.

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

/// Payload bytes that are more than nf-receiver, TCP and the sockets hold together: what waits, waits in the spool.
const MUCH: u64 = 12 * 1024 * 1024;

/// Datagrams of `LARGE`, of 1,358 bytes or more on average, that make up as much.
const MANY: u64 = MUCH / 1358;

/// Bytes that wait in nf-receiver for the collectors of one stream: `limits::LANE_MAX`.
const LANE: u64 = 1024 * 1024;

/// The longest batch, in bytes: `limits::BATCH_BODY_MAX`.
const BATCH: u64 = 65_600;

const EXPORTERS: u16 = 3;

/// A sender and a receiver with a link between them.
struct Field {
    sender: SenderHost,
    link: Link,
    receiver: ReceiverHost,
}

impl Field {
    /// Both daemons run, with these tables of collectors, and are connected.
    fn with(tables: &str) -> Self {
        let (sender, link, receiver) = connected_daemons(tables);
        Self { sender, link, receiver }
    }

    fn load(&self, exporters: Exporters, rate: Option<u32>, until: Until) -> SteadyLoad {
        SteadyLoad::start(exporters, self.sender.udp().clone(), rate, until)
    }

    /// Sends so many datagrams, all exporters together.
    fn send(&self, pattern: Pattern, datagrams: u64) -> Exporters {
        let exporters = self.sender.exporters(EXPORTERS, pattern);
        self.load(exporters, None, Until::Sent(datagrams)).finish()
    }

    /// Waits until so many datagrams are acknowledged, and so many are not.
    fn wait_acknowledged(&self, acknowledged: u64, queued: u64) {
        self.sender.wait_status(STALL, |status| {
            assert_conserved(status);
            count(status, "/acknowledged/datagrams") == acknowledged
                && count(status, "/queued/datagrams") == queued
        });
    }

    /// What nf-receiver says of its collector at `address`.
    fn collector(&self, address: SocketAddr) -> Value {
        find(&self.receiver.status(), address)
    }

    /// Waits until nf-receiver's word on its collector at `address` is as wanted.
    fn wait_collector(&self, address: SocketAddr, wanted: impl Fn(&Value) -> bool) -> Value {
        find(&self.receiver.wait_status(STALL, |status| wanted(&find(status, address))), address)
    }
}

/// The collector at `address` in a status of nf-receiver.
fn find(status: &Value, address: SocketAddr) -> Value {
    let collectors = status["collectors"].as_array().unwrap();
    let address = address.to_string();
    collectors.iter().find(|collector| collector["address"] == address).expect("that collector").clone()
}

/// The table of a collector, with these lines.
fn table(address: SocketAddr, lines: &str) -> String {
    format!("[[collector]]\naddress = \"{address}\"\n{lines}\n")
}

/// An address where nobody listens, and where nothing of this machine binds a port by itself.
fn absent(place: u8) -> SocketAddr {
    UdpSocket::bind((Ipv4Addr::new(127, 0, 77, place), 0)).unwrap().local_addr().unwrap()
}

/// Panics unless the collector gets exactly these numbers of the exporters' datagrams, in order and once.
fn assert_gets(collector: &Collector, sent: &[u32]) {
    let report = collector.wait_for_all(sent, STALL);
    report.assert_exact(sent);
    let arrived: Vec<u64> = report.exporters.iter().map(|tally| tally.arrived).collect();
    let expected: Vec<u64> = sent.iter().map(|sent| u64::from(*sent)).collect();
    assert_eq!((arrived, report.kernel_drops), (expected, 0));
}

#[test]
fn a_collector_that_skips_and_whose_name_leads_nowhere_keeps_nobody_waiting() {
    let _running = shared();
    let pattern = Pattern::new(MIXED);
    let collector = Collector::start(EXPORTERS, pattern);
    let gone = "[[collector]]\naddress = \"no-such-host.invalid:9995\"\nwhen-down = \"skip\"\n";
    let field = Field::with(&format!("{gone}{}", table(collector.addr(), "")));
    let exporters = field.send(pattern, 300);
    assert_gets(&collector, exporters.sent());
    field.wait_acknowledged(300, 0);
    let status = field.receiver.status();
    let rows = status["collectors"].as_array().unwrap();
    let gone = rows.iter().find(|row| row["address"] == "no-such-host.invalid:9995").unwrap();
    assert_eq!((rows.len(), &gone["state"]), (2, &Value::from("unknown")));
}

#[test]
fn each_collector_gets_the_exporters_in_its_prefixes() {
    let _running = shared();
    let pattern = Pattern::new(MIXED);
    let [two, one, all, none] = [(); 4].map(|()| Collector::start(EXPORTERS, pattern));
    // Exporter 0 sends from 127.0.0.2, the next ones from the addresses after that.
    let tables = table(two.addr(), "exporters = [\"127.0.0.2/31\"]")
        + &table(one.addr(), "exporters = [\"2001:db8::/32\", \"127.0.0.4/32\"]")
        + &table(all.addr(), "")
        + &table(none.addr(), "exporters = [\"192.0.2.0/24\"]");
    let field = Field::with(&tables);
    let exporters = field.sender.exporters(EXPORTERS, pattern);
    let exporters = field.load(exporters, Some(4000), Until::Sent(4000)).finish();
    let &[first, second, third] = exporters.sent() else { panic!("three exporters") };
    assert_gets(&all, &[first, second, third]);
    assert_gets(&two, &[first, second, 0]);
    assert_gets(&one, &[0, 0, third]);
    field.wait_acknowledged(4000, 0);
    assert_gets(&none, &[0, 0, 0]);
}

/// How many datagrams of each exporter arrived at each of the collectors.
fn arrivals(collectors: &[&Collector]) -> Vec<Vec<u64>> {
    let of =
        |collector: &&Collector| collector.report().exporters.iter().map(|tally| tally.arrived).collect();
    collectors.iter().map(of).collect()
}

/// Waits until the collectors got so many datagrams together.
fn wait_for_sum(collectors: &[&Collector], total: u64) {
    let deadline = Instant::now() + STALL;
    while collectors.iter().map(|collector| collector.arrived()).sum::<u64>() < total {
        assert!(Instant::now() < deadline, "of {total}: {:?}", arrivals(collectors));
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Each exporter sends five datagrams; returns which of the collectors got them, by exporter. Panics unless one got them all.
fn takers(field: &Field, exporters: &mut Exporters, collectors: &[&Collector]) -> Vec<usize> {
    let before = arrivals(collectors);
    let count = exporters.sent().len();
    exporters.send(5 * u64::try_from(count).unwrap());
    wait_for_sum(collectors, exporters.total());
    field.wait_acknowledged(exporters.total(), 0);
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
fn a_group_shares_exporters_for_good_and_a_new_member_only_takes_some() {
    const MANY_EXPORTERS: u16 = 48;
    let _running = shared();
    let pattern = Pattern::new(MIXED);
    let [one, two, new] = [(); 3].map(|()| Collector::start(MANY_EXPORTERS, pattern));
    let group = |members: &[&Collector]| -> String {
        members.iter().map(|member| table(member.addr(), "group = \"main\"")).collect()
    };
    let mut field = Field::with(&group(&[&one, &two]));
    let mut exporters = field.sender.exporters(MANY_EXPORTERS, pattern);
    let first = takers(&field, &mut exporters, &[&one, &two]);
    assert!(first.contains(&0) && first.contains(&1), "{first:?}");

    assert_eq!(field.receiver.take().terminate().code(), Some(0));
    field.receiver.set_toml(&group(&[&two, &one]));
    field.receiver.start();
    assert_eq!(takers(&field, &mut exporters, &[&one, &two]), first, "after a restart");

    field.receiver.set_toml(&group(&[&one, &two, &new]));
    field.receiver.daemon().reload();
    // Sessions follow a reload in their own time: this one has, once the new member gets something.
    let deadline = Instant::now() + STALL;
    while new.arrived() == 0 {
        assert!(Instant::now() < deadline, "the new member gets nothing");
        exporters.send(MANY_EXPORTERS.into());
        wait_for_sum(&[&one, &two, &new], exporters.total());
        field.wait_acknowledged(exporters.total(), 0);
    }
    let last = takers(&field, &mut exporters, &[&one, &two, &new]);
    let is_right = |(before, after): (&usize, &usize)| after == before || *after == 2;
    assert!(first.iter().zip(&last).all(is_right), "from {first:?} to {last:?}");
    assert!([0, 1, 2].iter().all(|place| last.contains(place)), "{last:?}");
}

#[test]
fn a_collector_that_is_down_and_set_to_skip_delays_nobody_and_is_counted() {
    let _running = shared();
    let pattern = Pattern::new(LARGE);
    let there = Collector::start(EXPORTERS, pattern);
    let away = absent(1);
    let field = Field::with(&(table(there.addr(), "") + &table(away, "when-down = \"skip\"")));
    let exporters = field.send(pattern, MANY);
    assert_gets(&there, exporters.sent());
    field.wait_acknowledged(MANY, 0);
    let status = field.wait_collector(away, |collector| count(collector, "/skipped") == MANY);
    assert_eq!((&status["state"], count(&status, "/delivered/datagrams")), (&"down".into(), 0));
    assert_eq!(count(&field.collector(there.addr()), "/skipped"), 0);
}

#[test]
fn a_collector_that_is_slow_and_set_to_skip_delays_nobody_and_gets_what_it_can_in_order() {
    let _running = shared();
    let pattern = Pattern::new(LARGE);
    let prompt = Collector::start(EXPORTERS, pattern);
    let reading = Reading::by_default(ReadingPace::PerSecond(500));
    let slow = Collector::start_reading("127.0.0.1:0", EXPORTERS, pattern, reading);
    let field = Field::with(&(table(prompt.addr(), "") + &table(slow.addr(), "when-down = \"skip\"")));
    let exporters = field.send(pattern, MANY);
    assert_gets(&prompt, exporters.sent());
    let by_then = slow.arrived();
    assert!(by_then < MANY / 2, "the slow one had {by_then} when the prompt one had all");
    field.wait_acknowledged(MANY, 0);
    let status = field.wait_collector(slow.addr(), |collector| {
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
fn a_collector_that_is_held_for_delays_none_that_is_set_to_skip_and_gets_all_of_it_once() {
    let _running = shared();
    let pattern = Pattern::new(LARGE);
    let there = Collector::start(EXPORTERS, pattern);
    let away = absent(2);
    let field = Field::with(&(table(away, "") + &table(there.addr(), "when-down = \"skip\"")));
    let exporters = field.send(pattern, MANY);
    assert_gets(&there, exporters.sent());
    field.wait_acknowledged(0, MANY);
    field.wait_collector(away, |collector| collector["state"] == "down" && count(collector, "/held_s") >= 2);
    assert_eq!(count(&field.collector(there.addr()), "/held_s"), 0);

    let late = Collector::start_on(&away.to_string(), EXPORTERS, pattern);
    assert_gets(&late, exporters.sent());
    field.wait_acknowledged(MANY, 0);
    assert_gets(&there, exporters.sent());
    let status = field.collector(away);
    assert_eq!((count(&status, "/delivered/datagrams"), count(&status, "/skipped")), (MANY, 0));
}

#[test]
fn a_collector_that_is_slow_and_held_for_delays_none_that_is_set_to_skip() {
    let _running = shared();
    let pattern = Pattern::new(LARGE);
    let prompt = Collector::start(EXPORTERS, pattern);
    let reading = Reading::by_default(ReadingPace::PerSecond(1500));
    let slow = Collector::start_reading("127.0.0.1:0", EXPORTERS, pattern, reading);
    let field = Field::with(&(table(slow.addr(), "") + &table(prompt.addr(), "when-down = \"skip\"")));
    let exporters = field.send(pattern, MANY);
    assert_gets(&prompt, exporters.sent());
    let by_then = slow.arrived();
    assert!(by_then < MANY / 2, "the slow one had {by_then} when the prompt one had all");
    assert_gets(&slow, exporters.sent());
    field.wait_acknowledged(MANY, 0);
    assert_gets(&prompt, exporters.sent());
}

#[test]
fn waiting_for_a_collector_while_another_has_all_takes_no_computing() {
    const WATCHED: Duration = Duration::from_secs(3);
    let _running = shared();
    let pattern = Pattern::new(LARGE);
    let there = Collector::start(EXPORTERS, pattern);
    let field = Field::with(&(table(absent(3), "") + &table(there.addr(), "when-down = \"skip\"")));
    let exporters = field.send(pattern, MANY);
    assert_gets(&there, exporters.sent());
    field.wait_acknowledged(0, MANY);
    let daemons = [field.sender.daemon(), field.receiver.daemon()];
    let before = daemons.map(Daemon::cpu_time);
    std::thread::sleep(WATCHED);
    let [sender, receiver] = [0, 1].map(|place| daemons[place].cpu_time().saturating_sub(before[place]));
    println!("in {WATCHED:?} of waiting nf-sender computed for {sender:?}, nf-receiver for {receiver:?}");
    assert!(sender.max(receiver) < Duration::from_millis(500), "{sender:?}, {receiver:?}");
}

#[test]
fn while_a_collector_is_caught_up_with_the_other_goes_on_getting_all_at_once() {
    let _running = shared();
    let pattern = Pattern::new(LARGE);
    let there = Collector::start(EXPORTERS, pattern);
    let away = absent(6);
    let field = Field::with(&(table(away, "") + &table(there.addr(), "when-down = \"skip\"")));
    let load = field.load(field.sender.exporters(EXPORTERS, pattern), Some(3000), Until::Sent(MANY));
    there.wait_for(MANY / 3, STALL);
    let reading = Reading { pace: ReadingPace::PerSecond(1500), ..Reading::default() };
    let late = Collector::start_reading(&away.to_string(), EXPORTERS, pattern, reading);
    let exporters = load.finish();
    assert_gets(&there, exporters.sent());
    let by_then = late.arrived();
    assert!(0 < by_then && by_then < MANY * 3 / 4, "the late one had {by_then} when the other one had all");
    assert_gets(&late, exporters.sent());
    field.wait_acknowledged(MANY, 0);
    assert_gets(&there, exporters.sent());
}

#[test]
fn both_sides_count_a_late_collectors_losses() {
    let _running = shared();
    let pattern = Pattern::new(LARGE);
    let there = Collector::start(EXPORTERS, pattern);
    let away = absent(7);
    let mut receiver =
        ReceiverHost::new(&[], &(table(away, "") + &table(there.addr(), "when-down = \"skip\"")));
    let link = Link::to(receiver.addr());
    let toml = format!("{QUICK_SENDER}sync-after = \"0s\"\nmax-size = \"8MiB\"\nrotate-size = \"512KiB\"\n");
    let mut sender = SenderHost::new("edge", &link.addr(), &toml);
    receiver.start();
    sender.start();
    sender.wait_state("connected", STALL);
    let field = Field { sender, link, receiver };
    let load = field.load(field.sender.exporters(EXPORTERS, pattern), Some(4000), Until::Sent(3 * MANY));
    // The spool drops what the late one lacks, also while it is caught up with.
    field.sender.wait_status(STALL, |status| dropped(status, "spool_full") > MANY / 4);
    let reading = Reading { pace: ReadingPace::PerSecond(1500), ..Reading::default() };
    let late = Collector::start_reading(&away.to_string(), EXPORTERS, pattern, reading);
    let exporters = load.finish();
    assert_gets(&there, exporters.sent());
    let status = field.sender.wait_status(STALL * 4, |status| count(status, "/queued/datagrams") == 0);
    assert_conserved(&status);
    let lost = dropped(&status, "spool_full");
    assert_eq!(gaps(&field.receiver), lost, "both sides count the same\n{status:#}");
    late.wait_for(exporters.total() - lost, STALL);
    assert_eq!(late.report().missing(exporters.sent()), lost);
    let of = |address| count(&field.collector(address), "/delivered/datagrams");
    assert_eq!((of(away), of(there.addr())), (exporters.total() - lost, exporters.total()));
    assert_eq!(count(&status, "/acknowledged/datagrams"), exporters.total() - lost);
}

/// While one collector is held for and away, the other one gets all through faults; then the first one gets all through
/// the same faults. Returns how many datagrams were repeated to the first one, and to the other.
fn come_through(place: u8, fault: impl Fn(&mut Field)) -> [u64; 2] {
    let _running = shared();
    let pattern = Pattern::new(LARGE);
    let there = Collector::start(EXPORTERS, pattern);
    let away = absent(place);
    let mut field = Field::with(&(table(away, "") + &table(there.addr(), "when-down = \"skip\"")));
    let load = field.load(field.sender.exporters(EXPORTERS, pattern), Some(4000), Until::Sent(MANY));
    through_faults(&there, &mut field, &fault);
    let exporters = load.finish();
    there.wait_for_all(exporters.sent(), STALL).assert_complete_and_in_order(exporters.sent());
    field.wait_acknowledged(0, MANY);

    let reading = Reading { pace: ReadingPace::PerSecond(4000), ..Reading::default() };
    let late = Collector::start_reading(&away.to_string(), EXPORTERS, pattern, reading);
    through_faults(&late, &mut field, &fault);
    late.wait_for_all(exporters.sent(), STALL).assert_complete_and_in_order(exporters.sent());
    field.wait_acknowledged(MANY, 0);
    let reports = [&late, &there].map(|collector| {
        collector.wait_until_drained();
        collector.report()
    });
    for report in &reports {
        report.assert_complete_and_in_order(exporters.sent());
        assert_eq!(report.kernel_drops, 0);
    }
    reports.map(|report| report.repeated())
}

/// So many faults while a collector gets its datagrams.
const FAULTS: u64 = 3;

fn through_faults(collector: &Collector, field: &mut Field, fault: impl Fn(&mut Field)) {
    for number in 1..=FAULTS {
        collector.wait_for(MANY * number / (FAULTS + 1), STALL);
        fault(field);
    }
}

#[test]
fn a_cut_link_repeats_nothing_while_one_collector_is_ahead_of_another() {
    let repeated = come_through(4, |field| {
        field.link.cut();
        field.sender.wait_status(STALL, |status| status["state"] != "connected");
        field.link.restore();
        field.sender.wait_state("connected", STALL);
    });
    assert_eq!(repeated, [0, 0]);
}

#[test]
fn a_receiver_stopped_in_order_repeats_nothing_while_one_collector_is_ahead_of_another() {
    let repeated = come_through(7, |field| {
        assert_eq!(field.receiver.take().terminate().code(), Some(0));
        field.receiver.start();
    });
    assert_eq!(repeated, [0, 0]);
}

#[test]
fn a_killed_sender_repeats_nothing_while_one_collector_is_ahead_of_another() {
    let _running = shared();
    let pattern = Pattern::new(LARGE);
    let there = Collector::start(EXPORTERS, pattern);
    let away = absent(8);
    let mut field = Field::with(&(table(away, "") + &table(there.addr(), "when-down = \"skip\"")));
    let load = field.load(field.sender.exporters(EXPORTERS, pattern), Some(4000), Until::Sent(MANY));
    let kill = |field: &mut Field| {
        field.sender.take().kill();
        field.sender.start();
    };
    through_faults(&there, &mut field, kill);
    let exporters = load.finish();
    assert_gets(&there, exporters.sent());
    let reading = Reading { pace: ReadingPace::PerSecond(4000), ..Reading::default() };
    let late = Collector::start_reading(&away.to_string(), EXPORTERS, pattern, reading);
    through_faults(&late, &mut field, kill);
    assert_gets(&late, exporters.sent());
    assert_gets(&there, exporters.sent());
    field.sender.wait_status(STALL, |status| count(status, "/queued/datagrams") == 0);
}

/// A reload makes `tables` of what was a collector that is held for and away, and one that has everything; then nothing waits.
fn lets_go(place: u8, tables: impl Fn(SocketAddr, SocketAddr) -> String) {
    let _running = shared();
    let pattern = Pattern::new(LARGE);
    let there = Collector::start(EXPORTERS, pattern);
    let away = absent(place);
    let mut field = Field::with(&(table(away, "") + &table(there.addr(), "when-down = \"skip\"")));
    let exporters = field.send(pattern, MANY);
    assert_gets(&there, exporters.sent());
    field.wait_acknowledged(0, MANY);
    field.receiver.set_toml(&tables(away, there.addr()));
    field.receiver.daemon().reload();
    field.wait_acknowledged(MANY, 0);
    assert_gets(&there, exporters.sent());
}

#[test]
fn a_collector_that_is_removed_is_not_waited_for_any_more() {
    lets_go(9, |_, there| table(there, "when-down = \"skip\""));
}

#[test]
fn a_collector_that_is_removed_is_not_waited_for_any_more_by_one_that_is_held_for_now() {
    lets_go(10, |_, there| table(there, ""));
}

#[test]
fn a_collector_that_is_set_to_skip_now_is_not_waited_for_any_more() {
    lets_go(11, |away, there| table(away, "when-down = \"skip\"") + &table(there, "when-down = \"skip\""));
}

#[test]
fn a_killed_receiver_loses_nothing_while_one_collector_is_ahead_of_another() {
    let [late, there] = come_through(5, |field| {
        field.receiver.take().kill();
        field.receiver.start();
        field.sender.wait_state("connected", STALL);
    });
    println!("repeated: {late} to the collector that was away, {there} to the other");
    // Each time what was in the lane of the other one, and a batch. LARGE's datagrams have 1,300 bytes or more.
    let bound = 2 * FAULTS * (LANE + BATCH) / 1300;
    assert!(there <= bound, "{there} datagrams came again, of at most {bound}");
}
