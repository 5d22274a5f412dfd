//! Exporters with one source id and different templates at a collector that receives both from one address.

use std::net::UdpSocket;

use nf_transport_kit::daemon::Program;
use nf_transport_kit::field_cases::payloads;
use nf_transport_kit::hosts::ReceiverHost;
use nf_transport_kit::pair::{STALL, connected_daemons};
use nf_transport_kit::samples::count;

use crate::isolation::shared;

/// Returns the datagrams of two vendors with the same source id and template id, but different templates.
fn of_two_vendors() -> [Vec<Vec<u8>>; 2] {
    let all = payloads("j-layout-changed");
    [all[..2].to_vec(), all[5..7].to_vec()]
}

/// Returns the output of `check` for these collectors and the state directory of a stopped receiver.
fn checked(receiver: &mut ReceiverHost, collectors: &str) -> String {
    let state = receiver.path("state");
    receiver.set_toml(&format!("plaintext = true\nstate = \"{}\"\n{collectors}", state.display()));
    let settings = receiver.path("nf-receiver.toml");
    let output = Program::Receiver.run(&["check", "-c", settings.to_str().unwrap()]);
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_shared_source_id_causes_a_warning() {
    let _running = shared();
    let collector = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = collector.local_addr().unwrap();
    let collectors = format!("[[collector]]\naddress = \"{address}\"\n");
    let (sender, _link, mut receiver) = connected_daemons(&collectors);
    for (exporter, payloads) in ["127.0.0.8", "127.0.0.9"].into_iter().zip(of_two_vendors()) {
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
    assert_eq!(receiver.daemon().count_log(&words), 1, "the warning must appear once");

    // The templates are stored, and `check` finds them.
    assert_eq!(receiver.take_daemon().terminate().code(), Some(0));
    let printed = checked(&mut receiver, &collectors);
    assert!(words.iter().all(|word| printed.contains(word)), "{printed}");
}

#[test]
fn separate_source_ids_cause_no_warning() {
    let _running = shared();
    let collector = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = collector.local_addr().unwrap();
    let collectors = format!("[[collector]]\naddress = \"{address}\"\n");
    let (sender, _link, mut receiver) = connected_daemons(&collectors);
    let [one, mut other] = of_two_vendors();
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
    assert_eq!(receiver.take_daemon().terminate().code(), Some(0));
    let printed = checked(&mut receiver, &collectors);
    assert!(!printed.contains("differently"), "{printed}");
}
