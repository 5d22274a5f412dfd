//! `compression`: savings and cost. softflowd's exports of a capture are packed into batches without
//! compression, with zstd alone, and with zstd of the columnar records.

use std::hint::black_box;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use nf_transport_core::batch::{Batch, Compression};
use nf_transport_kit::flow_exports::{Exports, capture, exported, wire};
use nf_transport_kit::netflow_tools::installed;

use crate::numbers::float;
use crate::results::Results;
use crate::settings::Settings;

/// Topics: bytes of batches per byte of payload, by kind and version, for full batches and for batches of one
/// datagram.
pub(crate) const FULL: &str = "wire, full batches";
pub(crate) const LONE: &str = "wire, lone datagrams";

/// Topics: bytes of payload per nanosecond on one core.
pub(crate) const ENCODE: &str = "encode";
pub(crate) const DECODE: &str = "decode";

/// Kinds of compression by name.
pub(crate) const NONE: &str = "none";
pub(crate) const ZSTD: &str = "zstd";
pub(crate) const COLUMNAR: &str = "columnar";
const KINDS: [(&str, Compression); 3] =
    [(NONE, Compression::None), (ZSTD, Compression::Zstd), (COLUMNAR, Compression::Columnar)];

/// Exported versions and their names.
pub(crate) const VERSIONS: [(u8, &str); 3] = [(5, "NetFlow v5"), (9, "NetFlow v9"), (10, "IPFIX")];

/// Least bytes of payload that each turn encodes and decodes.
const BYTES: usize = 16 << 20;

/// Input of all turns.
struct Material {
    /// Description of the capture.
    description: String,
    exports: Vec<Exports>,
}

/// Returns the description of the capture; `None` before the first turn.
pub(crate) fn captured() -> Option<&'static str> {
    MATERIAL.get().map(|material| material.description.as_str())
}

static MATERIAL: OnceLock<Material> = OnceLock::new();

pub(crate) fn turn(settings: &Settings, results: &mut Results) {
    if !installed() {
        println!("compression: needs softflowd and nfdump (Debian packages of these names)");
        return;
    }
    let material = MATERIAL.get_or_init(|| {
        let directory = tempfile::tempdir().unwrap();
        let (capture, description) = capture(directory.path());
        let exports = VERSIONS.map(|(version, _)| Exports::new(exported(&capture, version)));
        Material { description, exports: exports.into() }
    });
    for ((version, name), exports) in VERSIONS.into_iter().zip(&material.exports) {
        let rounds = BYTES.div_ceil(exports.raw());
        let payload = float(bytes(exports.raw()));
        for (kind, compression) in KINDS {
            let batches = exports.batches(compression, u32::MAX);
            let mut add = |topic, figure| results.add(topic, kind, u64::from(version), figure);
            add(FULL, float(bytes(wire(&batches))) / payload);
            add(LONE, float(bytes(wire(&exports.batches(compression, 1)))) / payload);
            let speed = |time: Duration| payload * float(bytes(rounds)) / time.as_secs_f64() / 1e9;
            add(ENCODE, speed(encode(exports, compression, rounds)));
            add(DECODE, speed(decode(&batches, rounds)));
            settings.print_run(kind, &format!("{name}: {} bytes of {payload}", wire(&batches)));
        }
    }
}

fn bytes(length: usize) -> u64 {
    u64::try_from(length).unwrap()
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
