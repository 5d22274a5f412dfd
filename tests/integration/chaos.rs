//! Random faults under steady load. `NF_CHAOS_SEED` repeats a run.

use std::time::Duration;

use nf_transport_kit::chatter::{MEDIUM, Pattern};
use nf_transport_kit::hosts::QUICK_SENDER;
use nf_transport_kit::load::Until;
use nf_transport_kit::pair::{Pair, STALL};
use nf_transport_kit::samples::Sampler;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use crate::isolation::alone;

const EXPORTERS: u16 = 8;
const DATAGRAMS_PER_SECOND: u32 = 20_000;

/// Bytes of batches that nf-receiver acknowledges at once: `limits::ACK_BYTES`.
const ACK_BYTES: usize = 1024 * 1024;

/// Longest body of a batch, and the overhead of each record beyond its payload, in bytes
/// (docs/spool-format.md).
const BATCH_BODY: usize = 65_600;
const RECORD_OVERHEAD: usize = 23;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    KillSender,
    KillReceiver,
    CutLink,
}

impl Fault {
    fn strike(self, pair: &mut Pair, lasts: Duration) {
        match self {
            Self::KillSender => {
                pair.sender.take_daemon().kill();
                std::thread::sleep(lasts / 4); // the kernel queues datagrams as long as there is room
                pair.sender.start();
            }
            Self::KillReceiver => {
                pair.receiver.take_daemon().kill();
                std::thread::sleep(lasts);
                pair.receiver.start();
            }
            Self::CutLink => {
                pair.link.cut();
                std::thread::sleep(lasts);
                pair.link.restore();
            }
        }
    }
}

#[test]
fn two_hundred_kills_and_cuts_lose_nothing() {
    strike_often("10ms", 200);
}

#[test]
fn kills_and_cuts_lose_nothing_sent_at_once() {
    strike_often("0ms", 70);
}

#[test]
fn kills_and_cuts_lose_nothing_that_gathers_long() {
    strike_often("200ms", 70);
}

/// Strikes with this number of faults while datagrams gather for up to `max_delay`.
#[expect(clippy::print_stdout, reason = "the seed and the counts of a test")]
fn strike_often(max_delay: &str, faults: u32) {
    let _running = alone();
    let seed = std::env::var("NF_CHAOS_SEED").map_or_else(|_| rand::random(), |seed| seed.parse().unwrap());
    println!("NF_CHAOS_SEED={seed}");
    let mut dice = SmallRng::seed_from_u64(seed);
    let pattern = Pattern::new(MEDIUM);
    let settings = format!("max-delay = {max_delay:?}\n{QUICK_SENDER}");
    let mut pair = Pair::connected(EXPORTERS, pattern, &settings);
    let watch = Sampler::start(pair.sender.control(), Duration::from_millis(100));
    let load = pair.load(Some(DATAGRAMS_PER_SECOND), Until::Stopped);
    let mut struck = Vec::new();
    for _ in 0..faults {
        std::thread::sleep(Duration::from_millis(dice.random_range(0..300)));
        let fault = [Fault::KillSender, Fault::KillReceiver, Fault::CutLink][dice.random_range(0..3)];
        fault.strike(&mut pair, Duration::from_millis(dice.random_range(0..300)));
        struck.push(fault);
    }
    let held_back = load.held_back();
    let exporters = load.stop();
    pair.assert_all_arrive(&exporters, false);
    let samples = watch.finish();
    let answered = samples.iter().filter(|sample| sample.state.is_some()).count();
    let kills = struck.iter().filter(|fault| **fault == Fault::KillReceiver).count();
    let repeated = pair.collector.report().repeated();
    let unacknowledged = (ACK_BYTES + BATCH_BODY) / (RECORD_OVERHEAD + pattern.shortest());
    println!(
        "{} datagrams, {faults} faults, {kills} of them kills of the receiver, {repeated} repeats; \
         {answered} of {} samples of the status answered; the load held back {held_back} times",
        exporters.total(),
        samples.len(),
    );
    assert!(answered > usize::try_from(faults).unwrap() / 2, "only {answered} samples");
    let bound = u64::try_from(kills * unacknowledged).unwrap();
    assert!(repeated <= bound, "{repeated} repeats after {kills} kills of the receiver: more than {bound}");
    pair.sender.wait_state("connected", STALL);
}
