//! Two senders with one id: the newer connection wins, the older one says why it lost, and neither loses data.

use nf_transport_kit::chatter::{MIXED, Pattern};
use nf_transport_kit::collector::Collector;
use nf_transport_kit::daemon::Program;
use nf_transport_kit::exporter::Exporters;
use nf_transport_kit::hosts::{PATIENT_SENDER, ReceiverHost, SenderHost};
use nf_transport_kit::pair::STALL;
use nf_transport_kit::samples::{assert_conserved, count};

use crate::running::shared;

/// The older of two senders must have been refused, in status and log, and still answer.
fn assert_superseded(older: &SenderHost) {
    let status = older.wait_state("refused", STALL);
    let reason = status["reason"].as_str().unwrap_or_default();
    assert!(reason.contains("newer connection"), "{status:#}");
    assert!(status["retry_in_s"].as_u64().is_some_and(|seconds| seconds > 3000), "{status:#}");
    older.daemon().wait_for_log(&["refuses", "newer connection"], STALL);
}

#[test]
fn of_two_senders_with_one_id_the_newer_connection_wins_and_neither_loses_data() {
    let _running = shared();
    let pattern = Pattern::new(MIXED);
    let collector = Collector::start(2, pattern);
    let mut receiver = ReceiverHost::new(&[collector.addr()], "");
    receiver.start();
    let mut older = SenderHost::new("edge", &receiver.addr(), PATIENT_SENDER);
    let mut newer = SenderHost::new("edge", &receiver.addr(), PATIENT_SENDER);
    older.start();
    older.wait_state("connected", STALL);
    let mut first = Exporters::new(0..1, older.udp().addr(), pattern);
    first.send(30);
    collector.wait_for(30, STALL);
    older.wait_status(STALL, |status| count(status, "/queued/datagrams") == 0);

    newer.start();
    newer.wait_state("connected", STALL);
    assert_superseded(&older);
    receiver.daemon().wait_for_log(&["edge", "newer connection"], STALL);
    let mut second = Exporters::new(1..2, newer.udp().addr(), pattern);
    second.send(30);
    first.send(30); // kept, as after any lost link
    collector.wait_for(60, STALL);
    assert_eq!(collector.report().exporters[1].arrived, 30);
    older.wait_status(STALL, |status| count(status, "/queued/datagrams") == 30);
    newer.wait_status(STALL, |status| count(status, "/queued/datagrams") == 0);

    let asked = Program::Sender.run(&["reconnect", "--control", older.control().to_str().unwrap()]);
    assert!(asked.status.success(), "{}", String::from_utf8_lossy(&asked.stderr));
    let sent = [first.sent()[0], second.sent()[0]];
    collector.wait_for_all(&sent, STALL).assert_exact(&sent);
    assert_superseded(&newer);
    for sender in [&older, &newer] {
        assert_conserved(&sender.wait_status(STALL, |status| count(status, "/queued/datagrams") == 0));
    }
    let status = receiver.status();
    assert_eq!(status["senders"].as_array().map(Vec::len), Some(1), "{status:#}");
    assert_eq!(count(&status, "/senders/0/delivered/datagrams"), 90, "{status:#}");
}
