//! Throughput and cost of nf-sender and nf-receiver on loopback between a generator and a verifying sink,
//! compared with other relays and a bare loop. The relays alternate within one run; the output shows medians.
//!
//! `cargo bench --bench performance -- MODE...` runs only these modes. Without a mode it runs all and writes
//! `docs/performance.md` and its plot. Environment variables change the measurements:
//!
//! - `NF_BENCH_TURNS` (5): turns of each relay.
//! - `NF_BENCH_PROBE_SECONDS` (1): duration of a probe of a rate.
//! - `NF_BENCH_RUN_SECONDS` (2.5): duration of a run at a given rate.
//! - `NF_BENCH_SECONDS` (30): duration of the measurement of disk writes.
//! - `NF_BENCH_BACKLOG_MIB` (1024): size of the backlog for catching up.
//! - `NF_BENCH_IDLE_SECONDS` (10): duration for which wake-ups of an idle pair are counted.
//! - `NF_BENCH_SEGMENTS` (10000): segments in the spool at start.
//! - `NF_BENCH_VERBOSE=1`: print each run.
//! - `NF_BENCH_RELAYS=plain,aes-256-gcm`: measure only these relays.
//! - `NF_BENCH_BASELINE`: directory with nf-sender and nf-receiver of another build. `rate` and `cost`
//!   measure these in turn with the others; a table shows the ratios.
//! - `NF_TRANSPORT_CAPTURES`: directory of real captures for the compression mode.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a benchmark that cannot continue ends there and prints the reason"
)]

mod bare;
mod flow_records;
mod generator;
mod machine;
mod marks;
mod messages;
mod modes;
mod nfacctd;
mod numbers;
mod pair;
mod payload;
mod plan;
mod plot;
mod process;
mod relay;
mod report;
mod results;
mod run;
mod search;
mod settings;
mod sink;

use modes::{
    catch_up, compression, cost, disk, exporters, idle, ingest, max_delay, options, rate, senders, spaced,
    start,
};
use results::Results;
use settings::Settings;

/// Measures a mode for one turn.
type ModeTurn = fn(&Settings, &mut Results);

/// All modes in the order of the report.
const MODES: [(&str, ModeTurn); 14] = [
    ("rate", rate::turn),
    ("cost", cost::turn),
    ("latency", cost::latency),
    ("spaced", spaced::turn),
    ("max-delay", max_delay::turn),
    ("idle", idle::turn),
    ("options", options::turn),
    ("ingest", ingest::turn),
    ("catch-up", catch_up::turn),
    ("exporters", exporters::turn),
    ("senders", senders::turn),
    ("disk", disk::turn),
    ("start", start::turn),
    ("compression", compression::turn),
];

fn main() {
    let arguments: Vec<_> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    if arguments.first().is_some_and(|argument| argument == bare::LOOP_ARGUMENT) {
        return bare::run(&arguments[1..]);
    }
    raise_file_limit();
    let settings = Settings::from_environment();
    for argument in &arguments {
        assert!(
            MODES.iter().any(|(name, _)| name == argument),
            "unknown mode {argument}; the modes are {:?}",
            MODES.map(|(name, _)| name)
        );
    }
    plan::print(&settings, |mode| arguments.is_empty() || arguments.iter().any(|argument| argument == mode));
    let (mut results, began) = (Results::default(), std::time::Instant::now());
    for (name, turn) in MODES {
        if arguments.is_empty() || arguments.iter().any(|argument| argument == name) {
            for number in 1..=settings.turns {
                let minutes = began.elapsed().as_secs_f64() / 60.0;
                println!("{minutes:>5.1} min: {name}, turn {number} of {}", settings.turns);
                results.begin_turn(number);
                turn(&settings, &mut results);
            }
        }
    }
    report::print(&results);
    if arguments.is_empty() && !settings.is_partial() {
        report::write(&settings, &results);
    }
}

/// Raises the soft limit of open files to the hard limit: a thousand exporters need a socket each.
fn raise_file_limit() {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let lifted = rustix::process::Rlimit { current: limit.maximum, ..limit };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, lifted).unwrap();
}
