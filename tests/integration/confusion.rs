//! Exporters with one source id and different templates at a collector that gets both from one address.

use std::net::UdpSocket;

use nf_transport_kit::daemon::Program;
use nf_transport_kit::field_cases::payloads;
use nf_transport_kit::hosts::ReceiverHost;
use nf_transport_kit::pair::{STALL, connected_daemons};
use nf_transport_kit::samples::count;

use crate::running::shared;

/// What two makers send: under one source id and template id, with two templates.
fn of_two_makers() -> [Vec<Vec<u8>>; 2] {
    let all = payloads("j-layout-changed");
    [all[..2].to_vec(), all[5..7].to_vec()]
}

/// What `check` prints about these collectors and the state directory of a receiver that has stopped.
fn checked(receiver: &mut ReceiverHost, collectors: &str) -> String {
    let state = receiver.path("state");
    receiver.set_toml(&format!("plaintext = true\nstate = \"{}\"\n{collectors}", state.display()));
    let settings = receiver.path("nf-receiver.toml");
    let output = Program::Receiver.run(&["check", "-c", settings.to_str().unwrap()]);
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn makers_with_one_source_id_are_warned_of() {
    let _running = shared();
    let collector = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = collector.local_addr().unwrap();
    let collectors = format!("[[collector]]\naddress = \"{address}\"\n");
    let (sender, _link, mut receiver) = connected_daemons(&collectors);
    for (exporter, payloads) in ["127.0.0.8", "127.0.0.9"].into_iter().zip(of_two_makers()) {
        let exporter = UdpSocket::bind((exporter, 0)).unwrap();
        for payload in payloads {
            exporter.send_to(&payload, sender.udp().addr()).unwrap();
        }
    }
    sender.wait_status(STALL, |status| count(status, "/acknowledged/datagrams") == 4);
    let status =
        receiver.wait_status(STALL, |status| status["collectors"][0]["confused"][0]["source_id"] == 1);
    let confused = status["collectors"][0]["confused"].as_array().unwrap();
    assert_eq!(confused.len(), 1, "{status:#}");
    assert_eq!(confused[0]["exporters"], serde_json::json!(["127.0.0.8", "127.0.0.9"]), "{status:#}");
    let words = ["127.0.0.8", "127.0.0.9", "source = \"exporter\", which needs CAP_NET_RAW"];
    receiver.daemon().wait_for_log(&words, STALL);
    let control = receiver.control();
    let shown = Program::Receiver.run(&["status", "--control", control.to_str().unwrap()]);
    assert!(String::from_utf8_lossy(&shown.stdout).contains("\nwarning: exporters 127.0.0.8 (edge) and"));
    assert_eq!(receiver.daemon().count_log(&words), 1, "once for the pair");

    // The templates stay, and check finds them.
    assert_eq!(receiver.take().terminate().code(), Some(0));
    let said = checked(&mut receiver, &collectors);
    assert!(words.iter().all(|word| said.contains(word)), "{said}");
}

#[test]
fn makers_with_source_ids_of_their_own_are_not_warned_of() {
    let _running = shared();
    let collector = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = collector.local_addr().unwrap();
    let collectors = format!("[[collector]]\naddress = \"{address}\"\n");
    let (sender, _link, mut receiver) = connected_daemons(&collectors);
    let [one, mut other] = of_two_makers();
    // The source id is the last field of the header.
    for payload in &mut other {
        payload[19] = 2;
    }
    for (exporter, payloads) in ["127.0.0.8", "127.0.0.9"].into_iter().zip([one, other]) {
        let exporter = UdpSocket::bind((exporter, 0)).unwrap();
        for payload in payloads {
            exporter.send_to(&payload, sender.udp().addr()).unwrap();
        }
    }
    sender.wait_status(STALL, |status| count(status, "/acknowledged/datagrams") == 4);
    assert_eq!(receiver.take().terminate().code(), Some(0));
    let said = checked(&mut receiver, &collectors);
    assert!(!said.contains("differently"), "{said}");
}
