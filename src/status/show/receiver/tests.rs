use core::time::Duration;

use nf_transport_core::sequence::StreamId;

use super::*;
use crate::status::samples::receiver;
use crate::status::{CollectorState, ConfusedStatus, DeniedExporter};

#[test]
fn a_receiver_shows_senders_and_collectors() {
    let expected = "\
nf-receiver: 1 sender connected

sender     state      peer             cipher  datagrams    bytes  duplicate  lost
brno-edge  connected  127.0.0.1:40000  none       12,000  2.0 KiB          3     0

  duplicate: received again after a reconnect, not delivered again

collector               state                    datagrams    bytes  skipped  socket drops  unread at stop
127.0.0.1:9995          down, holding for 1m 1s     12,000  2.0 KiB        0             0               7
  late: 127.0.0.1:9996  up                               5  1.0 KiB        0             0               0

  unread at stop: lost in the collector's socket when it stopped (upper bound)

exporter        seen as          by collector
192.0.2.1:4000  127.0.0.1:50123  127.0.0.1:9995

unmatched: 44 datagrams for which no collector is configured, from 198.51.100.7 (44)

certificate: expires in 2d 3h

revoked certificates /etc/crl: issued 1d 1h ago, expires in 2d 3h

rejected peer  times    last  reason
192.0.2.9      1,200  3s ago  the other side speaks HTTP
";
    assert_eq!(render_receiver(&receiver(), None), expected);
}

#[test]
fn a_paced_collector_is_shown_as_such() {
    let mut status = receiver();
    (status.collectors[0].state, status.collectors[0].held_s) = (CollectorState::Up, 0);
    for (paced_s, state) in [(57, "up, pacing: next in 57s"), (0, "up, pacing   ")] {
        status.collectors[0].paced_s = Some(paced_s);
        let text = render_receiver(&status, None);
        assert!(text.contains(&format!("127.0.0.1:9995          {state} ")), "{text}");
    }
}

#[test]
fn an_expired_revocation_list_is_shown() {
    let mut status = receiver();
    status.revocation_lists[0].expires_s = Some(-1);
    let text = render_receiver(&status, None);
    let line = "/etc/crl: issued 1d 1h ago, EXPIRED: certificates revoked since then are accepted; \
                install the next list and reload\n";
    assert!(text.contains(line), "{text}");
    status.revocation_lists[0].expires_s = None;
    assert!(render_receiver(&status, None).contains("/etc/crl: issued 1d 1h ago\n"));
}

#[test]
fn denied_exporters_of_a_sender_are_shown() {
    let mut status = receiver();
    assert!(!render_receiver(&status, None).contains("denied"));
    status.senders[0].denied = 7;
    let address = "192.0.2.7".parse().unwrap();
    status.senders[0].denied_exporters = vec![DeniedExporter { address, datagrams: 7, last_seen_s: 3 }];
    let text = render_receiver(&status, None);
    let line = "\nbrno-edge: 7 datagrams denied, from 192.0.2.7 (7): not in 'exporters' of its table\n";
    assert!(text.contains(line), "{text}");
}

#[test]
fn datagrams_that_the_kernel_refused_are_shown() {
    let mut status = receiver();
    assert!(!render_receiver(&status, None).contains("refused to send"));
    status.collectors[0].refused = 12;
    let text = render_receiver(&status, None);
    let line = "\n127.0.0.1:9995: 12 datagrams dropped: the kernel refused to send them\n";
    assert!(text.contains(line), "{text}");
}

#[test]
fn internal_errors_have_their_own_line() {
    assert!(!render_receiver(&receiver(), None).contains("internal"));
    let text = render_receiver(&ReceiverStatus { internal_errors: 2, ..receiver() }, None);
    assert!(text.contains("\ninternal errors: 2: report them, with the messages in the journal\n"), "{text}");
}

#[test]
fn a_replaced_stream_and_a_rival_are_explained() {
    let [old, new] = [0xEE, 0xFF].map(|byte| StreamId([byte; 16]).to_string());
    let mut status = receiver();
    (status.senders[0].stream, status.senders[0].replaces) = (new.clone(), Some(old.clone()));
    status.senders[0].superseded = Some("192.0.2.8:4000".to_owned());
    let text = render_receiver(&status, None);
    let lines = format!("\nbrno-edge: stream {new}\n  continues {old}: its spool was restored or cloned\n");
    assert!(text.contains(&lines) && lines.lines().all(|line| line.len() <= 80), "{text}");
    assert!(
        text.contains("\nbrno-edge: the connection from 192.0.2.8:4000 was open and has been replaced\n"),
        "{text}"
    );
    status.senders[0].rival = Some("192.0.2.9:4000".to_owned());
    let text = render_receiver(&status, None);
    let line = "\nbrno-edge: rejected 192.0.2.9:4000: another sender with this id was connected\n";
    assert!(text.contains(line) && line.len() <= 80, "{text}");
    status.senders[0].ended = Some("the sender ended the session".to_owned());
    let text = render_receiver(&status, None);
    assert!(text.contains("\nbrno-edge: disconnected: the sender ended the session\n"), "{text}");
}

#[test]
fn a_restarted_receiver_has_a_rate_of_zero() {
    let mut before = receiver();
    before.collectors[0].delivered.datagrams = 1_000_000;
    before.senders[0].delivered.datagrams = 11_000;
    let earlier = Earlier { status: &before, ago: Duration::from_secs(1) };
    let text = render_receiver(&receiver(), Some(earlier));
    let ends: Vec<&str> = text.lines().filter(|line| line.ends_with("/s")).collect();
    assert_eq!(ends.len(), 2, "{text}");
    assert!(ends[0].ends_with(" 1,000/s") && ends[1].ends_with(" 0/s"), "{text}");
}

#[test]
fn json_has_the_keys_of_the_contract() {
    let value = serde_json::to_value(receiver()).unwrap();
    assert_eq!(value["collectors"][0]["state"], "down");
    assert_eq!(value["senders"][0]["delivered"]["datagrams"], 12_000);
    assert_eq!(serde_json::from_value::<ReceiverStatus>(value).unwrap(), receiver());
}

#[test]
fn exporters_that_a_collector_confuses_are_shown() {
    let mut status = receiver();
    let confused = ConfusedStatus {
        exporters: ["192.0.2.1", "192.0.2.2"].map(|address| address.parse().unwrap()),
        senders: ["edge"; 2].map(str::to_owned),
        version: 9,
        source_id: 0,
        template_id: 256,
        meaning: "both use source id 0".to_owned(),
    };
    status.collectors[0].confused = vec![confused.clone(), confused];
    let text = render_receiver(&status, None);
    let line = "\nwarning: both use source id 0 (1 more pair: status --json lists it)\n";
    assert!(text.contains(line), "{text}");
}
