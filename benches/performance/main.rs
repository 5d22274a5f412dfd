//! Generator, relay and verifying sink on loopback: what nf-sender and nf-receiver carry and what that costs, beside
//! other relays and a bare loop, in turn in the same run; medians are shown.
//!
//! `cargo bench --bench performance -- MODE...` runs only these modes; without any it runs all, and writes
//! `docs/performance.md` and its plot. `NF_BENCH_TURNS` (5) changes how many turns each relay gets,
//! `NF_BENCH_PROBE_SECONDS` (1.5) and `NF_BENCH_RUN_SECONDS` (4) how long a probe of a rate and a run at a given rate
//! last, `NF_BENCH_SECONDS` (60) how long is looked at what is written to disk, `NF_BENCH_BACKLOG_MIB` (1024) and
//! `NF_BENCH_SEGMENTS` (10000) how much is caught up with and started with. With `NF_BENCH_VERBOSE=1` each run is
//! shown; `NF_BENCH_RELAYS=plain,aes-256-gcm` measures only these relays. `NF_TRANSPORT_CAPTURES` names a directory of real
//! captures, for compression.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a benchmark that cannot go on ends there, and says what it saw"
)]

mod bare;
mod generator;
mod machine;
mod marks;
mod messages;
mod modes;
mod nfacctd;
mod numbers;
mod pair;
mod payload;
mod plot;
mod process;
mod relay;
mod report;
mod results;
mod run;
mod search;
mod settings;
mod sink;

use modes::{catch_up, compression, cost, disk, exporters, ingest, rate, senders, start};
use results::Results;
use settings::Settings;

/// What a mode does in one turn.
type Turn = fn(&Settings, &mut Results);

/// All modes, in the order of the report.
const MODES: [(&str, Turn); 10] = [
    ("rate", rate::turn),
    ("cost", cost::turn),
    ("latency", cost::latency),
    ("ingest", ingest::turn),
    ("catch-up", catch_up::turn),
    ("exporters", exporters::turn),
    ("senders", senders::turn),
    ("disk", disk::turn),
    ("start", start::turn),
    ("compression", compression::turn),
];

fn main() {
    let words: Vec<_> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    if words.first().is_some_and(|word| word == bare::WORD) {
        return bare::run(&words[1..]);
    }
    lift_limit_of_files();
    let settings = Settings::from_environment();
    for word in &words {
        assert!(
            MODES.iter().any(|(name, _)| name == word),
            "no mode {word}; there are {:?}",
            MODES.map(|(name, _)| name)
        );
    }
    let (mut results, began) = (Results::default(), std::time::Instant::now());
    for (name, turn) in MODES {
        if words.is_empty() || words.iter().any(|word| word == name) {
            for number in 1..=settings.turns {
                let minutes = began.elapsed().as_secs_f64() / 60.0;
                println!("{minutes:>5.1} min: {name}, turn {number} of {}", settings.turns);
                turn(&settings, &mut results);
            }
        }
    }
    report::print(&results);
    if words.is_empty() && !settings.is_partial() {
        report::write(&settings, &results);
    }
}

/// A thousand exporters have a socket each.
fn lift_limit_of_files() {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let lifted = rustix::process::Rlimit { current: limit.maximum, ..limit };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, lifted).unwrap();
}
