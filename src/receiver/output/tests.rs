use std::net::UdpSocket;

use nf_transport_core::sequence::Position;

use super::*;
use crate::receiver::output::resolved::without_v4_mapping;
use crate::receiver::state::templates::{netflow_9, test_sender};

#[test]
fn v4_mapped_addresses_become_v4() {
    for (given, expected) in [
        ("[::ffff:127.0.0.1]:9995", "127.0.0.1:9995"),
        ("[fe80::1%3]:9995", "[fe80::1%3]:9995"),
        ("127.0.0.1:1", "127.0.0.1:1"),
    ] {
        assert_eq!(without_v4_mapping(given.parse().unwrap()), expected.parse().unwrap());
    }
}

#[tokio::test]
async fn a_change_keeps_unchanged_collectors() {
    let [first, second, third] =
        ["127.0.0.1:4001", "127.0.0.1:4002", "[::1]:4003"].map(|text| text.parse().unwrap());
    let before = Outputs::to(&[first, second]);
    let after = before.changed_to(&[third, second, second].map(|address| ResolvedCollector::at(&address)));
    assert_eq!(after.addresses().collect::<Vec<_>>(), [third, second]);
    assert!(Arc::ptr_eq(&before.collectors[1], &after.collectors[1]));
}

/// A member of a group with this `name` in the settings, which resolved to `address`.
fn member(name: &str, address: &str) -> ResolvedCollector {
    let settings =
        CollectorSettings { group: Some("g".to_owned()), ..CollectorSettings::at(&name.to_owned()) };
    ResolvedCollector { settings, ..ResolvedCollector::at(&address.parse().unwrap()) }
}

#[tokio::test]
async fn a_group_member_at_a_shared_address_counts_once() {
    let members = [
        member("one.example.net:4001", "127.0.0.1:4001"),
        member("two.example.net:4001", "[::ffff:127.0.0.1]:4001"),
        member("three.example.net:4002", "127.0.0.1:4002"),
    ];
    let outputs = Outputs::to(&[]).changed_to(&members);
    for number in 0..100 {
        let datagram = of_exporter(number, b"x");
        outputs.iter().for_each(|output| output.skip(&[datagram]));
        let gone_by: u64 = outputs.figures().iter().map(|figures| figures.counts.skipped).sum();
        assert_eq!(gone_by, u64::from(number) + 1, "exporter {number} has one taker");
    }
}

fn of_exporter(number: u8, payload: &[u8]) -> Datagram<'_> {
    let exporter = SocketAddr::from(([192, 0, 2, number], 2055));
    Datagram { exporter, local: exporter, arrival: crate::host::wall_clock(), payload }
}

async fn deliver(outputs: &Outputs, datagrams: &[Datagram<'_>]) {
    let learners = outputs.templates().of_sender(
        &test_sender(),
        outputs.iter().map(|output| output.name().clone()),
        None,
    );
    for (output, learner) in outputs.iter().zip(learners) {
        output.deliver(datagrams, &mut DeliveryProgress::at(Position(0)), &learner).await;
    }
}

/// The datagrams that the listener received, each with its source address.
fn received(listener: &UdpSocket) -> Vec<(Vec<u8>, SocketAddr)> {
    listener.set_nonblocking(true).unwrap();
    let mut buffer = [0; 2048];
    let next = || listener.recv_from(&mut buffer).ok().map(|(len, from)| (buffer[..len].to_vec(), from));
    core::iter::from_fn(next).collect()
}

fn listener() -> (UdpSocket, String) {
    let listener = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    (listener, address)
}

#[tokio::test]
async fn kept_exporters_keep_their_source_ports() {
    let ((first, first_address), (_second, second_address)) = (listener(), listener());
    let alone = [member("one.example.net:4001", &first_address)];
    let both = [alone[0].clone(), member("two.example.net:4001", &second_address)];
    let numbers: Vec<[u8; 1]> = (0..10).map(|number| [number]).collect();
    let datagrams: Vec<_> = numbers.iter().map(|payload| of_exporter(payload[0], payload)).collect();
    let outputs = Outputs::to(&[]).changed_to(&alone);
    deliver(&outputs, &datagrams).await;
    let before = received(&first);
    let outputs = outputs.changed_to(&both);
    deliver(&outputs, &datagrams).await;
    let after = received(&first);
    assert!((1..10).contains(&after.len()), "{after:?}");
    assert!(after.iter().all(|datagram| before.contains(datagram)), "{before:?} {after:?}");
    assert_eq!(outputs.figures()[0].counts.datagrams, u64::try_from(10 + after.len()).unwrap());
}

/// Datagrams that arrived at these times, in seconds since 1970.
fn arrived_at<'a>(seconds: &[u64], payload: &'a [u8]) -> Vec<Datagram<'a>> {
    let arrived = |second: &u64| Datagram {
        arrival: nf_transport_core::datagram::Timestamp(second * 1_000_000_000),
        ..of_exporter(1, payload)
    };
    seconds.iter().map(arrived).collect()
}

#[tokio::test(start_paused = true)]
async fn a_backlog_from_1970_takes_one_minute() {
    let (listener, address) = listener();
    let mut paced = ResolvedCollector::at(&address.parse().unwrap());
    paced.settings.catch_up_pace = core::num::NonZeroU32::new(4);
    let outputs = Outputs::to(&[]).changed_to(&[paced]);
    let now = u64::try_from(crate::host::wall_clock().seconds()).unwrap();
    let datagrams = arrived_at(&[0, 4, now - 3600, now - 3596, now + 3600], b"x");
    let begun = tokio::time::Instant::now();
    let delivery = deliver(&outputs, &datagrams);
    tokio::pin!(delivery);
    tokio::time::timeout(core::time::Duration::from_secs(31), &mut delivery).await.unwrap_err();
    assert_eq!(outputs.figures()[0].paced_s, Some(30));
    delivery.await;
    assert_eq!(received(&listener).len(), datagrams.len());
    // One second each for 0 to 4, the longest possible wait, and one second more; the datagram from the
    // future is sent at once.
    assert_eq!(begun.elapsed().as_secs(), 62);
    tokio::time::advance(core::time::Duration::from_secs(2)).await;
    assert_eq!(outputs.figures()[0].paced_s, None);
}

#[tokio::test]
async fn a_returning_exporter_repeats_new_templates() {
    let (listener, address) = listener();
    let all = [ResolvedCollector::at(&address.parse().unwrap())];
    let mut none_of_it = all.clone();
    none_of_it[0].settings.exporters = vec!["198.51.100.0/24".parse().unwrap()];
    let (defining, data) = (netflow_9(true), netflow_9(false));
    let mut redefining = defining.clone();
    *redefining.last_mut().unwrap() = 8;
    let mut outputs = Outputs::to(&[]).changed_to(&all);
    deliver(&outputs, &[of_exporter(1, &defining), of_exporter(1, &data)]).await;
    assert_eq!(received(&listener).len(), 2);
    for (meanwhile, expected) in [(&data, 1), (&defining, 1), (&redefining, 2)] {
        outputs = outputs.changed_to(&none_of_it);
        deliver(&outputs, &[of_exporter(1, meanwhile)]).await;
        assert!(received(&listener).is_empty());
        outputs = outputs.changed_to(&all);
        deliver(&outputs, &[of_exporter(1, &data)]).await;
        assert_eq!(received(&listener).len(), expected);
    }
}

#[tokio::test]
async fn counts_continue_after_new_settings() {
    let address: SocketAddr = "127.0.0.1:4001".parse().unwrap();
    let before = Outputs::to(&[address]);
    let Output::Udp(output) = before.collectors[0].as_ref();
    let datagram = Datagram {
        exporter: address,
        local: address,
        arrival: nf_transport_core::datagram::Timestamp(0),
        payload: b"x",
    };
    output.skip(&[datagram, datagram]);
    let mut other = ResolvedCollector::at(&address);
    other.settings.when_down = WhenDown::Skip;
    let after = before.changed_to(&[other]);
    assert!(!Arc::ptr_eq(&before.collectors[0], &after.collectors[0]));
    assert_eq!(after.figures()[0].counts.skipped, 2);
}

/// One run with a state directory, which delivers to one collector.
struct Run {
    templates: Arc<Templates>,
    outputs: Outputs,
}

impl Run {
    fn begun(state: &std::path::Path, collector: &str) -> Self {
        let templates = Templates::recovered(state);
        let none = Outputs::none(SocketBudget::of_sixteen(), templates.clone());
        Self { templates, outputs: none.changed_to(&[ResolvedCollector::at(&collector.parse().unwrap())]) }
    }

    fn stop_orderly(self, state: &std::path::Path) {
        self.templates.pass_on(state, self.outputs.passed_on()).unwrap();
        self.templates.keep(state).unwrap();
    }
}

/// A state directory that records exporter 1 as seen at a port outside the kernel's ephemeral range.
fn state(collector: &str) -> (tempfile::TempDir, SocketAddr) {
    let state = tempfile::tempdir().unwrap();
    let first = 10_000 + u16::try_from(std::process::id() % 5_000).unwrap();
    let is_free = |port: &u16| UdpSocket::bind(("127.0.0.1", *port)).is_ok();
    let port = SocketAddr::from(([127, 0, 0, 1], (first..20_000).find(is_free).unwrap()));
    let stored = format!(
        "{{\"boot\": 0, \"collectors\": [{{\"collector\": \"{collector}\", \"socket\": null, \
         \"complete\": [], \"exporters\": [{{\"sender\": \"edge\", \
         \"exporter\": \"192.0.2.1:2055\", \"seen_as\": \"{port}\"}}]}}]}}"
    );
    std::fs::write(state.path().join("collectors.json"), stored).unwrap();
    (state, port)
}

#[tokio::test]
async fn an_orderly_restart_repeats_nothing() {
    let (collector, address) = listener();
    let (state, port) = state(&address);
    let [template, flows] = [true, false].map(netflow_9);
    let run = Run::begun(state.path(), &address);
    deliver(&run.outputs, &[of_exporter(1, &template)]).await;
    assert_eq!(received(&collector), [(template, port)]);
    run.stop_orderly(state.path());

    let run = Run::begun(state.path(), &address);
    deliver(&run.outputs, &[of_exporter(1, &flows)]).await;
    assert_eq!(received(&collector), [(flows.clone(), port)]);
    run.stop_orderly(state.path());

    // A killed run hands nothing over.
    drop(Run::begun(state.path(), &address));
    let run = Run::begun(state.path(), &address);
    deliver(&run.outputs, &[of_exporter(1, &flows)]).await;
    assert_eq!(received(&collector).len(), 2);
    assert_eq!(run.outputs.figures()[0].counts.templates, 1);
}

#[tokio::test]
async fn a_collector_at_another_socket_gets_repeats() {
    let (collector, address) = listener();
    let (state, port) = state(&address);
    let [template, flows] = [true, false].map(netflow_9);
    let run = Run::begun(state.path(), &address);
    deliver(&run.outputs, &[of_exporter(1, &template)]).await;
    assert_eq!(received(&collector).len(), 1);
    run.stop_orderly(state.path());

    drop(collector);
    let restarted = UdpSocket::bind(&address).unwrap();
    let run = Run::begun(state.path(), &address);
    deliver(&run.outputs, &[of_exporter(1, &flows)]).await;
    let ports: Vec<_> = received(&restarted).into_iter().map(|(_, port)| port).collect();
    assert_eq!(ports, [port; 2]);
}
