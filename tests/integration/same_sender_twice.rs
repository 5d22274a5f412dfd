//! Two senders with one id: the first stays connected, the second is rejected with a reason, and neither
//! loses data.

use nf_transport_kit::chatter::{MIXED, Pattern};
use nf_transport_kit::collector::Collector;
use nf_transport_kit::daemon::Program;
use nf_transport_kit::exporter::Exporters;
use nf_transport_kit::hosts::{PATIENT_SENDER, ReceiverHost, SenderHost};
use nf_transport_kit::pair::STALL;
use nf_transport_kit::samples::{assert_conserved, count};

use crate::isolation::shared;

/// Makes a sender retry at once.
fn reconnect(sender: &SenderHost) {
    let asked = Program::Sender.run(&["reconnect", "--control", sender.control().to_str().unwrap()]);
    assert!(asked.status.success(), "{}", String::from_utf8_lossy(&asked.stderr));
}

#[test]
fn one_of_two_senders_with_one_id_is_connected() {
    let _running = shared();
    let pattern = Pattern::new(MIXED);
    let collector = Collector::start(2, pattern);
    let mut receiver = ReceiverHost::new(&[collector.addr()], "");
    receiver.start();
    let mut first = SenderHost::new("edge", &receiver.addr(), PATIENT_SENDER);
    let mut second = SenderHost::new("edge", &receiver.addr(), PATIENT_SENDER);
    first.start();
    first.wait_state("connected", STALL);
    second.start();
    let status = second.wait_state("refused", STALL);
    let reason = status["reason"].as_str().unwrap_or_default();
    assert!(reason.contains("sender edge: its id is in use by another sender, at 127.0.0.1:"), "{status:#}");
    assert!(status["retry_in_s"].as_u64().is_some_and(|seconds| seconds <= 10), "{status:#}");
    receiver.daemon().wait_for_log(&["WARN", "session of edge at", "in use by another sender"], STALL);

    let mut exporters = [(0..1, &first), (1..2, &second)]
        .map(|(exporters, sender)| Exporters::new(exporters, sender.udp().addr(), pattern));
    for round in 1..=10 {
        exporters[0].send(30);
        exporters[1].send(30);
        reconnect(&second);
        receiver.wait_status(STALL, |status| count(status, "/refused/0/count") > round);
    }
    collector.wait_for(300, STALL);
    second.wait_status(STALL, |status| count(status, "/queued/datagrams") == 300);
    first.wait_status(STALL, |status| count(status, "/queued/datagrams") == 0);
    assert_eq!(first.daemon().count_log(&["connected to"]), 1, "{}", first.daemon().log());

    assert_eq!(first.take_daemon().terminate().code(), Some(0));
    reconnect(&second);
    let sent = [exporters[0].sent()[0], exporters[1].sent()[0]];
    collector.wait_for_all(&sent, STALL).assert_exact(&sent);
    assert_conserved(&second.wait_status(STALL, |status| count(status, "/queued/datagrams") == 0));

    // nf-receiver has known the first stream for longer.
    first.start();
    first.wait_state("connected", STALL);
    let status = second.wait_state("refused", STALL);
    assert!(
        status["reason"].as_str().unwrap_or_default().contains("known its stream for longer"),
        "{status:#}"
    );
    let status = receiver.status();
    assert_eq!(status["senders"].as_array().map(Vec::len), Some(1), "{status:#}");
    assert_eq!(count(&status, "/senders/0/delivered/datagrams"), 600, "{status:#}");
}
