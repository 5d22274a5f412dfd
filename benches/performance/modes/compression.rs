//! `compression`: what it saves, and what it costs: softflowd's exports of a capture as batches without compression, with
//! zstd alone, and with zstd of the columnar form.

use std::hint::black_box;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use nf_transport_core::batch::{Batch, Compression};
use nf_transport_kit::flow_exports::{Exports, capture, exported, wire};
use nf_transport_kit::netflow_tools::installed;

use crate::numbers::float;
use crate::results::Results;
use crate::settings::Settings;

/// Topics: bytes of batches for each byte of payload, by kind and version: of full batches, and of such with one datagram each.
pub(crate) const FULL: &str = "wire, full batches";
pub(crate) const LONE: &str = "wire, lone datagrams";

/// Topics: bytes of payload in a nanosecond on one core.
pub(crate) const ENCODE: &str = "encode";
pub(crate) const DECODE: &str = "decode";

/// The kinds, by name.
pub(crate) const NONE: &str = "none";
pub(crate) const ZSTD: &str = "zstd";
pub(crate) const COLUMNAR: &str = "columnar";
const KINDS: [(&str, Compression); 3] =
    [(NONE, Compression::None), (ZSTD, Compression::Zstd), (COLUMNAR, Compression::Columnar)];

/// The versions that are exported, and their names.
pub(crate) const VERSIONS: [(u8, &str); 3] = [(5, "NetFlow v5"), (9, "NetFlow v9"), (10, "IPFIX")];

/// Bytes of payload that each turn encodes and decodes, at least.
const BYTES: usize = 16 << 20;

/// What all turns work on.
struct Material {
    /// What was captured.
    what: String,
    exports: Vec<Exports>,
}

/// What was captured; nothing if nothing was.
pub(crate) fn captured() -> Option<&'static str> {
    MATERIAL.get().map(|material| material.what.as_str())
}

static MATERIAL: OnceLock<Material> = OnceLock::new();

pub(crate) fn turn(settings: &Settings, results: &mut Results) {
    if !installed() {
        println!("compression: needs softflowd and nfdump (Debian packages of these names)");
        return;
    }
    let material = MATERIAL.get_or_init(|| {
        let directory = tempfile::tempdir().unwrap();
        let (capture, what) = capture(directory.path());
        let exports = VERSIONS.map(|(version, _)| Exports::new(exported(&capture, version)));
        Material { what, exports: exports.into() }
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
            settings.note(kind, &format!("{name}: {} bytes of {payload}", wire(&batches)));
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
