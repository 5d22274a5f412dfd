//! What compression saves, and what it costs: softflowd's exports of a capture as batches without compression, with
//! zstd alone, and with zstd of the transposed records. All take turns in one run; medians are shown.
//!
//! `NF_BENCH_TURNS` changes how many turns each gets; `NF_TRANSPORT_CAPTURES` names a directory of real captures.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a benchmark that cannot go on ends there, and says what it saw"
)]

#[expect(dead_code, reason = "the tests use parts of the kit that this does not need")]
#[path = "../tests/integration/support/mod.rs"]
mod support;

use std::hint::black_box;
use std::time::{Duration, Instant};

use nf_transport::batch::{Batch, Compression};

use support::flow_exports::{Exports, capture, exported, wire};
use support::netflow_tools::installed;

/// Turns of each kind.
const TURNS: usize = 9;

/// Bytes of payload that each turn encodes and decodes, at least.
const BYTES: usize = 16 << 20;

/// The versions that are exported, and their names.
const VERSIONS: [(u8, &str); 3] = [(5, "NetFlow 5"), (9, "NetFlow 9"), (10, "IPFIX")];

const KINDS: [(Compression, &str); 3] =
    [(Compression::None, "none"), (Compression::Zstd, "zstd"), (Compression::Transposed, "transposed")];

/// How full the batches are of which the sizes are shown: as full as can be, a few datagrams, a lone one.
const FILLS: [(u32, &str); 3] = [(u32::MAX, "full"), (4, "4 each"), (1, "1 each")];

fn main() {
    if !installed() {
        println!("skipped: needs softflowd and nfdump (Debian packages of these names)");
        return;
    }
    let turns =
        std::env::var("NF_BENCH_TURNS").map_or(TURNS, |text| text.parse().expect("a number of turns"));
    let directory = tempfile::tempdir().unwrap();
    let (capture, what) = capture(directory.path());
    println!("compression of what softflowd exports of {what}\n");
    println!(
        "{:<10} {:<11} {:>12} {:>8} {:>8} {:>8} {:>13} {:>13}",
        "", "", "payload", FILLS[0].1, FILLS[1].1, FILLS[2].1, "encode", "decode"
    );
    for (version, name) in VERSIONS {
        let exports = Exports::new(exported(&capture, version));
        print(name, &measure(&exports, turns));
    }
    println!(
        "\nbytes of batches to bytes of payload, by how many datagrams are in a batch; speeds in GB/s of"
    );
    println!("payload with full batches, one core, medians of {turns} turns of each kind in turn");
}

/// What one kind of compression gave.
struct Figures {
    raw: usize,
    /// Bytes of batches, as full as in each of [`FILLS`].
    wire: [usize; 3],
    /// Bytes of payload in a second.
    encode: f64,
    decode: f64,
}

/// The figures of each of [`KINDS`].
fn measure(exports: &Exports, turns: usize) -> Vec<Figures> {
    let mut seconds: Vec<[Vec<f64>; 2]> = KINDS.iter().map(|_| Default::default()).collect();
    let rounds = BYTES.div_ceil(exports.raw());
    for _ in 0..turns {
        for ((compression, _), seconds) in KINDS.into_iter().zip(&mut seconds) {
            seconds[0].push(encode(exports, compression, rounds).as_secs_f64());
            seconds[1].push(decode(&exports.batches(compression, u32::MAX), rounds).as_secs_f64());
        }
    }
    let rate = |seconds: Vec<f64>| exact(exports.raw() * rounds) / median(seconds);
    let figures = |((compression, _), [encode, decode]): ((Compression, _), [Vec<f64>; 2])| Figures {
        raw: exports.raw(),
        wire: FILLS.map(|(most, _)| wire(&exports.batches(compression, most))),
        encode: rate(encode),
        decode: rate(decode),
    };
    KINDS.into_iter().zip(seconds).map(figures).collect()
}

fn encode(exports: &Exports, compression: Compression, rounds: usize) -> Duration {
    let start = Instant::now();
    for _ in 0..rounds {
        black_box(exports.batches(compression, u32::MAX));
    }
    start.elapsed()
}

fn decode(batches: &[Batch], rounds: usize) -> Duration {
    let start = Instant::now();
    for batch in (0..rounds).flat_map(|_| batches) {
        black_box(batch.records().unwrap().iter().map(|datagram| datagram.payload.len()).sum::<usize>());
    }
    start.elapsed()
}

fn exact(bytes: usize) -> f64 {
    u32::try_from(bytes).unwrap().into()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn print(name: &str, figures: &[Figures]) {
    for (figures, (_, kind)) in figures.iter().zip(KINDS) {
        let [full, few, lone] = figures.wire.map(|wire| exact(wire) / exact(figures.raw));
        println!(
            "{name:<10} {kind:<11} {:>12} {full:>8.3} {few:>8.3} {lone:>8.3} {:>13.2} {:>13.2}",
            figures.raw,
            figures.encode / 1e9,
            figures.decode / 1e9
        );
    }
}
