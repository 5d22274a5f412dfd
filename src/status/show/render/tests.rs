use nf_transport_core::sequence::StreamId;

use super::*;
use crate::status::{
    CollectorStatus, ConfusedStatus, DeniedExporter, DeniedStatus, Dropped, ExporterStatus, JournalStatus,
    LateStatus, Queued, Recovered, RefusedStatus, RevocationStatus, SeenAs, SenderTotals, SocketStatus,
    Tally, UnmatchedStatus,
};

pub(in crate::status) fn sender() -> SenderStatus {
    SenderStatus {
        service: "nf-sender".to_owned(),
        version: "0.1.0".to_owned(),
        id: "brno-edge".to_owned(),
        stream: "00ff".to_owned(),
        replaced_stream: None,
        possible_repeats: 0,
        state: LinkState::Connected,
        receiver: Some("127.0.0.1:2055".to_owned()),
        cipher: Some("aes-256-gcm".to_owned()),
        segment_bytes: None,
        certificate: None,
        retry_in_s: None,
        reason: None,
        received: Tally { datagrams: 1_234_567, bytes: 1_500_000_000 },
        recovered: Recovered { datagrams: 0 },
        acknowledged: Tally { datagrams: 1_234_533, bytes: 1_499_950_000 },
        queued: Queued {
            datagrams: 34,
            bytes: 50_000,
            segments: 1,
            oldest_s: 3,
            room_s: Some(432_000),
            room_bytes: 432_000_000,
            arriving_bytes_per_s: 1000,
        },
        intake: JournalStatus::default(),
        damaged: Kept::default(),
        newer: Kept::default(),
        dropped: Dropped { kernel: 12, denied: 1331, ..Dropped::default() },
        sockets: vec![SocketStatus { address: "[::]:2055".parse().unwrap(), kernel_drops: 12, denied: 1331 }],
        denied_exporters: vec![DeniedStatus {
            address: "198.51.100.7".parse().unwrap(),
            interface: None,
            socket: "[::]:2055".parse().unwrap(),
            datagrams: 1331,
            last_seen_s: 3,
        }],
        dropped_exporters: vec![crate::status::DroppedStatus {
            address: "192.0.2.1".parse().unwrap(),
            datagrams: 40,
            last_s: 3,
        }],
        dropped_of_others: 0,
        dropped_of_unknown: 0,
        internal_errors: 0,
        warnings: Vec::new(),
        exporters: vec![
            ExporterStatus {
                address: "192.0.2.1".parse().unwrap(),
                interface: None,
                port: 50_000,
                version: Some(9),
                format: Some("NetFlow v9".to_owned()),
                source_id: Some(0),
                agent: None,
                datagrams: 1_234_000,
                duplicates: 0,
                missing: Some(2),
                missing_unit: Some("datagrams".to_owned()),
                missing_reason: None,
                last_seen_s: 0,
            },
            ExporterStatus {
                address: "2001:db8::7".parse().unwrap(),
                interface: None,
                port: 4739,
                version: None,
                format: None,
                source_id: None,
                agent: None,
                datagrams: 567,
                duplicates: 0,
                missing: None,
                missing_unit: None,
                missing_reason: Some("unusable: neither NetFlow, IPFIX nor sFlow v5".to_owned()),
                last_seen_s: 3_725,
            },
        ],
    }
}

#[test]
fn warnings_of_a_sender_stand_below_its_totals() {
    let status = SenderStatus { warnings: vec!["the spool has no room".to_owned()], ..sender() };
    let text = render_sender(&status, None);
    assert!(
        text.contains("  from 198.51.100.7 (1331)\n\nwarning: the spool has no room\n\nexporter "),
        "{text}"
    );
}

#[test]
fn a_sender_is_shown_with_its_link_its_totals_and_its_exporters() {
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
fn the_sentence_about_the_link_says_what_happens_next_and_why() {
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
        sentence(LinkState::Waiting, Some(9), "connection refused", None),
        "waiting, retry in 9 s: connection refused"
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
        "refused by a.example.net:2055, retry in 243 s: keys differ"
    );
}

pub(in crate::status) fn receiver() -> ReceiverStatus {
    ReceiverStatus {
        service: "nf-receiver".to_owned(),
        version: "0.1.0".to_owned(),
        senders: vec![PeerStatus {
            id: "brno-edge".to_owned(),
            stream: "00ff".to_owned(),
            peer: "127.0.0.1:40000".to_owned(),
            state: PeerState::Connected,
            cipher: "none".to_owned(),
            delivered: Tally { datagrams: 12_000, bytes: 2048 },
            duplicates: 3,
            gaps: 0,
            replaces: None,
            superseded: None,
            rival: None,
            ended: None,
            exporters: Vec::new(),
            denied: 0,
            denied_exporters: Vec::new(),
        }],
        all_senders: SenderTotals {
            delivered: Tally { datagrams: 12_000, bytes: 2048 },
            duplicates: 3,
            gaps: 0,
            denied: 0,
        },
        collectors: vec![CollectorStatus {
            address: "127.0.0.1:9995".to_owned(),
            state: CollectorState::Down,
            resolved: true,
            delivered: Tally { datagrams: 12_000, bytes: 2048 },
            skipped: 0,
            refused: 0,
            held_s: 61,
            paced_s: None,
            socket_drops: 0,
            unread: 7,
            templates: 0,
            late: Some(LateStatus {
                address: "127.0.0.1:9996".to_owned(),
                state: CollectorState::Up,
                delivered: Tally { datagrams: 5, bytes: 1024 },
                skipped: 0,
                refused: 0,
                held_s: 0,
                socket_drops: 0,
                unread: 0,
            }),
            seen_as: vec![SeenAs {
                exporter: "192.0.2.1:4000".parse().unwrap(),
                seen_as: "127.0.0.1:50123".parse().unwrap(),
            }],
            confused: Vec::new(),
        }],
        certificate: Some(CertificateStatus { name: None, not_after: 1_800_000_000, expires_s: 183_600 }),
        revocation_lists: vec![RevocationStatus {
            file: "/etc/crl".to_owned(),
            this_update: 1_799_000_000,
            age_s: 90_000,
            next_update: Some(1_800_000_000),
            expires_s: Some(183_600),
        }],
        refusals: 1200,
        refused: vec![RefusedStatus {
            peer: "192.0.2.9".parse().unwrap(),
            count: 1200,
            last_s: 3,
            reason: "the other side speaks HTTP".to_owned(),
        }],
        internal_errors: 0,
        unmatched: 44,
        unmatched_exporters: vec![UnmatchedStatus {
            address: "198.51.100.7".parse().unwrap(),
            datagrams: 44,
            last_seen_s: 3,
        }],
    }
}

#[test]
fn a_receiver_is_shown_with_its_senders_and_collectors() {
    let expected = "\
nf-receiver: 1 sender connected

sender     state      peer             cipher  datagrams    bytes  repeated  lost
brno-edge  connected  127.0.0.1:40000  none       12,000  2.0 KiB         3     0

collector               state                 datagrams    bytes  skipped  its drops  unread
127.0.0.1:9995          down, held for 1m 1s     12,000  2.0 KiB        0          0       7
  late: 127.0.0.1:9996  up                            5  1.0 KiB        0          0       0

exporter        is seen as       by
192.0.2.1:4000  127.0.0.1:50123  127.0.0.1:9995

unmatched: 44 datagrams of no collector, from 198.51.100.7 (44)

certificate: expires in 2d 3h

revoked certificates /etc/crl: issued 1d 1h ago, expires in 2d 3h

rejected   times    last  why
192.0.2.9  1,200  3s ago  the other side speaks HTTP
";
    assert_eq!(render_receiver(&receiver(), None), expected);
}

#[test]
fn a_collector_that_is_paced_is_shown_so() {
    let mut status = receiver();
    (status.collectors[0].state, status.collectors[0].held_s) = (CollectorState::Up, 0);
    for (paced_s, state) in [(57, "up, pacing: next in 57s"), (0, "up, pacing   ")] {
        status.collectors[0].paced_s = Some(paced_s);
        let text = render_receiver(&status, None);
        assert!(text.contains(&format!("127.0.0.1:9995          {state} ")), "{text}");
    }
}

#[test]
fn denied_exporters_are_shown_with_their_interface() {
    let mut status = sender();
    status.denied_exporters[0].address = "fe80::1".parse().unwrap();
    let rows = [2, 3].map(|index| DeniedStatus { interface: Some(index), ..status.denied_exporters[0] });
    status.denied_exporters = rows.to_vec();
    let text = render_sender(&status, None);
    assert!(text.contains("from fe80::1%2 (1331), fe80::1%3 (1331)"), "{text}");
}

#[test]
fn an_expired_revocation_list_is_shown() {
    let mut status = receiver();
    status.revocation_lists[0].expires_s = Some(-1);
    let text = render_receiver(&status, None);
    let line = "/etc/crl: issued 1d 1h ago, EXPIRED: certificates revoked since are accepted; put the next list there and reload\n";
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
fn internal_errors_have_a_line_of_their_own() {
    assert!(!render_sender(&sender(), None).contains("internal"));
    let line = "\ninternal errors: 2, see the journal and report them\n";
    let text = render_sender(&SenderStatus { internal_errors: 2, ..sender() }, None);
    assert!(text.contains(line), "{text}");
    let text = render_receiver(&ReceiverStatus { internal_errors: 2, ..receiver() }, None);
    assert!(text.contains(line), "{text}");
}

#[test]
fn a_replaced_stream_and_a_rival_are_explained() {
    let mut status = sender();
    let [old, new] = [0xEE, 0xFF].map(|byte| StreamId([byte; 16]).to_string());
    (status.replaced_stream, status.possible_repeats) = (Some(old.clone()), 12);
    status.stream.clone_from(&new);
    let text = render_sender(&status, None);
    assert!(text.contains("\nmay arrive twice         12\n"), "{text}");
    let lines = format!("\nstream {new}\ncontinues {old}: the spool was restored or cloned\n");
    assert!(text.contains(&lines) && lines.lines().all(|line| line.len() <= 80), "{text}");
    let mut status = receiver();
    (status.senders[0].stream, status.senders[0].replaces) = (new.clone(), Some(old.clone()));
    status.senders[0].superseded = Some("192.0.2.8:4000".to_owned());
    let text = render_receiver(&status, None);
    let lines = format!("\nbrno-edge: stream {new}\n  continues {old}: its spool was restored or cloned\n");
    assert!(text.contains(&lines) && lines.lines().all(|line| line.len() <= 80), "{text}");
    assert!(text.contains("\nbrno-edge: took over from an open connection of 192.0.2.8:4000\n"), "{text}");
    status.senders[0].rival = Some("192.0.2.9:4000".to_owned());
    let text = render_receiver(&status, None);
    let line = "\nbrno-edge: refused 192.0.2.9:4000: another sender with this id was connected\n";
    assert!(text.contains(line) && line.len() <= 80, "{text}");
    status.senders[0].ended = Some("the sender ended the session".to_owned());
    let text = render_receiver(&status, None);
    assert!(text.contains("\nbrno-edge: disconnected: the sender ended the session\n"), "{text}");
}

#[test]
fn a_receiver_that_was_restarted_has_a_rate_of_zero_instead_of_a_wrong_one() {
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
fn exporters_of_dropped_datagrams_are_named() {
    for dropped in
        [Dropped { spool_full: 40, ..Dropped::default() }, Dropped { too_old: 40, ..Dropped::default() }]
    {
        let text = render_sender(&SenderStatus { dropped, ..sender() }, None);
        let line = text.lines().find(|line| line.starts_with("dropped: ")).unwrap();
        assert!(line.ends_with("40            of 192.0.2.1 (40)"), "{text}");
    }
}

#[test]
fn numbers_and_spans_are_easy_to_read() {
    assert_eq!(["0", "999", "1,000", "1,000,000"], [0, 999, 1000, 1_000_000].map(grouped));
    assert_eq!(["0s", "59s", "1m 0s", "1h 1m", "2d 3h"], [0, 59, 60, 3_660, 183_600].map(span));
}

#[test]
fn json_has_the_keys_of_the_contract_and_null_where_something_does_not_apply() {
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
    let value = serde_json::to_value(receiver()).unwrap();
    assert_eq!(value["collectors"][0]["state"], "down");
    assert_eq!(value["senders"][0]["delivered"]["datagrams"], 12_000);
    assert_eq!(serde_json::from_value::<ReceiverStatus>(value).unwrap(), receiver());
}

#[test]
fn what_is_kept_beside_the_queue_has_lines_of_its_own() {
    let mut status = sender();
    assert!(!render_sender(&status, None).contains("newer/"));
    status.newer = Kept { files: 2, bytes: 3_000_000 };
    status.damaged = Kept { files: 1, bytes: 70_000 };
    let reason = Some("/run/nf-sender/intake was truncated".to_owned());
    status.intake = JournalStatus { in_memory: true, reason };
    let text = render_sender(&status, None);
    assert!(
        text.contains("\nnewer/: 2 files, 2.9 MiB: of a newer version, not sent by this one\n"),
        "{text}"
    );
    assert!(text.contains("\ndamaged/: 1 file, 68.4 KiB: copies of damaged pieces\n"), "{text}");
    let line = "\nintake: in memory, kill -9 would lose datagrams: /run/nf-sender/intake was truncated\n";
    assert!(text.contains(line), "{text}");
}

#[test]
fn exporters_that_a_collector_mixes_up_are_shown() {
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
    let line = "\nwarning: both use source id 0 (1 more: status --json lists them)\n";
    assert!(text.contains(line), "{text}");
}
