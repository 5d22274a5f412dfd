//! `senders`: cost of a datagram for nf-receiver with few and with many senders at the same total rate, and
//! the memory of an idle connected sender.

use std::net::SocketAddr;
use std::time::Duration;

use nf_transport_kit::hosts::ReceiverHost;
use nf_transport_kit::pair::STALL;

use crate::numbers::float;
use crate::pair::Sender;
use crate::process::Process;
use crate::relay::{Buffer, Kind};
use crate::results::Results;
use crate::run::Course;
use crate::settings::Settings;
use crate::sink::Sink;

/// Topic: core-microseconds of nf-receiver per datagram, by number of senders.
pub(crate) const SENDERS: &str = "senders";

/// Topic: KiB of nf-receiver's memory per idle sender, by number of senders.
pub(crate) const IDLE: &str = "idle senders";

/// Subject.
pub(crate) const RECEIVER: &str = "nf-receiver";

/// Numbers of senders.
pub(crate) const COUNTS: [u16; 3] = [1, 10, 100];

/// Total rate in datagrams per second.
pub(crate) const RATE: u64 = 20_000;

/// Time after which nf-receiver has finished the work for new connections.
const SETTLED: Duration = Duration::from_millis(500);

pub(crate) fn turn(settings: &Settings, results: &mut Results) {
    for count in COUNTS {
        let sink = Sink::start();
        let mut host = ReceiverHost::new(&[sink.addr()], "");
        host.start();
        let receiver = Process { name: RECEIVER, pid: host.daemon().pid() };
        let resident = || {
            let memory = receiver.memory();
            float(memory.anonymous + memory.shared) / 1024.0
        };
        let before = resident();
        let senders = connect(count, host.addr());
        std::thread::sleep(SETTLED);
        results.add(IDLE, RECEIVER, count.into(), (resident() - before) / f64::from(count));
        let inputs: Vec<_> = senders.iter().map(|sender| sender.host.udp().addr()).collect();
        let mut course = Course::through(&inputs, vec![receiver], sink, count);
        let run = course.run(float(RATE), settings.run);
        settings.print_run(RECEIVER, &format!("{count:>4} senders {run}"));
        results.add(SENDERS, RECEIVER, count.into(), run.cost());
        drop(course);
        // The same number of exporters, which send to nfacctd without nf-transport.
        for kind in settings.chosen([Kind::Nfacctd]) {
            let run = Course::new(kind, count, Buffer::Package).run(float(RATE), settings.run);
            settings.print_run(kind.name(), &format!("{count:>4} exporters {run}"));
            results.add(SENDERS, kind.name(), count.into(), run.cost());
        }
    }
}

/// Starts this number of senders and waits until all are connected.
fn connect(count: u16, receiver: SocketAddr) -> Vec<Sender> {
    let started = |number: u16| {
        let mut sender = Sender::new(&format!("edge-{number}"), receiver, Buffer::Package);
        sender.host.start();
        sender
    };
    let senders: Vec<_> = (0..count).map(started).collect();
    for sender in &senders {
        sender.host.wait_state("connected", STALL);
    }
    senders
}
