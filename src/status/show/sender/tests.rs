use core::time::Duration;

use nf_transport_core::sequence::StreamId;

use super::*;
use crate::status::samples::sender;
use crate::status::{DeniedStatus, DroppedCounts, JournalStatus};

#[test]
fn warnings_are_below_the_totals() {
    let status = SenderStatus { warnings: vec!["the spool has no room".to_owned()], ..sender() };
    let text = render_sender(&status, None);
    assert!(
        text.contains("  from 198.51.100.7 (1331)\n\nwarning: the spool has no room\n\nexporter "),
        "{text}"
    );
}

#[test]
fn a_sender_shows_link_totals_and_exporters() {
    let expected = "\
nf-sender brno-edge: connected to 127.0.0.1:2055, encrypted by aes-256-gcm

                 datagrams     bytes
received         1,234,567   1.4 GiB
recovered                0
acknowledged     1,234,533   1.4 GiB
queued                  34  48.8 KiB  in 1 file, oldest 3s, room for 5d 0h
dropped: kernel         12            at [::]:2055 (12)
dropped: denied      1,331            from 198.51.100.7 (1331)

exporter            type  source  datagrams  missing  last seen
[2001:db8::7]:4739     -       -        567        -  1h 2m ago
192.0.2.1:50000       v9       0  1,234,000        2     0s ago

  missing: lost before nf-sender, by the exporter's sequence numbers
";
    assert_eq!(render_sender(&sender(), None), expected);
}

#[test]
fn two_snapshots_give_rates() {
    let mut before = sender();
    before.received.datagrams -= 40_000;
    before.acknowledged.datagrams -= 39_000;
    let earlier = Earlier { status: &before, ago: Duration::from_secs(2) };
    let text = render_sender(&sender(), Some(earlier));
    assert!(text.contains("received         1,234,567   1.4 GiB  20,000/s\n"), "{text}");
    assert!(text.contains("acknowledged     1,234,533   1.4 GiB  19,500/s\n"), "{text}");
}

#[test]
fn the_link_sentence_has_state_retry_and_reason() {
    let sentence = |state, retry_in_s, reason: &str, receiver: Option<&str>| {
        link_sentence(&SenderStatus {
            state,
            retry_in_s,
            reason: (!reason.is_empty()).then(|| reason.to_owned()),
            receiver: receiver.map(str::to_owned),
            ..sender()
        })
    };
    let receiver = Some("a.example.net:2055");
    assert_eq!(
        sentence(LinkState::Waiting, Some(9), "connection refused", receiver),
        "not connected to a.example.net:2055, retry in 9 s: connection refused"
    );
    assert_eq!(
        sentence(LinkState::Waiting, None, "no receiver is configured", None),
        "waiting: no receiver is configured"
    );
    assert_eq!(sentence(LinkState::Connecting, None, "", receiver), "connecting to a.example.net:2055");
    assert_eq!(
        sentence(LinkState::Connecting, None, "large packets are lost", receiver),
        "connecting to a.example.net:2055: large packets are lost"
    );
    let small = SenderStatus { segment_bytes: Some(1200), ..sender() };
    assert_eq!(
        link_sentence(&small),
        "connected to 127.0.0.1:2055, encrypted by aes-256-gcm, TCP segments of at most 1200 bytes"
    );
    assert_eq!(
        sentence(LinkState::Refused, Some(243), "keys differ", receiver),
        "rejected by a.example.net:2055, retry in 243 s: keys differ"
    );
}

#[test]
fn denied_exporters_have_their_interface() {
    let mut status = sender();
    status.denied_exporters[0].address = "fe80::1".parse().unwrap();
    let rows = [2, 3].map(|index| DeniedStatus { interface: Some(index), ..status.denied_exporters[0] });
    status.denied_exporters = rows.to_vec();
    let text = render_sender(&status, None);
    assert!(text.contains("from fe80::1%2 (1331), fe80::1%3 (1331)"), "{text}");
}

#[test]
fn internal_errors_have_their_own_line() {
    assert!(!render_sender(&sender(), None).contains("internal"));
    let text = render_sender(&SenderStatus { internal_errors: 2, ..sender() }, None);
    assert!(text.contains("\ninternal errors: 2: report them, with the messages in the journal\n"), "{text}");
}

#[test]
fn a_replaced_stream_is_explained() {
    let mut status = sender();
    let [old, new] = [0xEE, 0xFF].map(|byte| StreamId([byte; 16]).to_string());
    (status.replaced_stream, status.possible_repeats) = (Some(old.clone()), 12);
    status.stream.clone_from(&new);
    let text = render_sender(&status, None);
    assert!(text.contains("\nmay arrive twice         12\n"), "{text}");
    let lines = format!("\nstream {new}\ncontinues {old}: the spool was restored or cloned\n");
    assert!(text.contains(&lines) && lines.lines().all(|line| line.len() <= 80), "{text}");
}

#[test]
fn exporters_of_dropped_datagrams_are_named() {
    for dropped in [
        DroppedCounts { spool_full: 40, ..DroppedCounts::default() },
        DroppedCounts { too_old: 40, ..DroppedCounts::default() },
    ] {
        let text = render_sender(&SenderStatus { dropped, ..sender() }, None);
        let line = text.lines().find(|line| line.starts_with("dropped: ")).unwrap();
        assert!(line.ends_with("40            of 192.0.2.1 (40)"), "{text}");
    }
}

#[test]
fn json_has_its_keys_and_null_where_undefined() {
    let value = serde_json::to_value(sender()).unwrap();
    assert_eq!(value["state"], "connected");
    assert_eq!(value["retry_in_s"], serde_json::Value::Null);
    assert!(value.as_object().unwrap().contains_key("reason"));
    assert_eq!(value["queued"]["oldest_s"], 3);
    assert_eq!(value["dropped"]["spool_full"], 0);
    assert_eq!(value["exporters"][0]["address"], "192.0.2.1");
    assert_eq!(
        (&value["exporters"][0]["missing"], &value["exporters"][0]["duplicates"]),
        (&2.into(), &0.into())
    );
    let unknown = &value["exporters"][1];
    assert_eq!(
        (&unknown["missing"], &unknown["version"]),
        (&serde_json::Value::Null, &serde_json::Value::Null)
    );
    assert!(unknown["missing_reason"].as_str().unwrap().starts_with("unusable: "));
    assert_eq!(serde_json::from_value::<SenderStatus>(value).unwrap(), sender());
}

#[test]
fn files_outside_the_queue_have_their_own_lines() {
    let mut status = sender();
    assert!(!render_sender(&status, None).contains("newer/"));
    status.newer = KeptFiles { files: 2, bytes: 3_000_000 };
    status.damaged = KeptFiles { files: 1, bytes: 70_000 };
    let reason = Some("/run/nf-sender/intake was truncated".to_owned());
    status.intake = JournalStatus { in_memory: true, reason };
    let text = render_sender(&status, None);
    assert!(
        text.contains("\nnewer/: 2 files, 2.9 MiB: written by a newer version, not sent by this one\n"),
        "{text}"
    );
    assert!(text.contains("\ndamaged/: 1 file, 68.4 KiB: copies of damaged pieces of the spool\n"), "{text}");
    let line = "\nreceive journal: in memory only, so kill -9 would lose datagrams: /run/nf-sender/intake was \
                truncated\n";
    assert!(text.contains(line), "{text}");
}
