//! `options`: rate and cost of the pair with mutual TLS and with compression, compared with the pair in clear
//! text. All carry the same flow records, which no two datagrams of a batch have in common.

use std::net::SocketAddr;

use nf_transport_core::batch::Compression;
use nf_transport_kit::flow_exports::{Exports, wire};

use super::rate;
use crate::flow_records;
use crate::numbers::float;
use crate::pair::BenchPair;
use crate::payload::Content;
use crate::relay::{Buffer, Kind, Relay, of_pair};
use crate::results::Results;
use crate::run::{Course, EXPORTERS};
use crate::settings::Settings;

/// Topics: datagrams per second; core-microseconds per datagram at `COST_RATE`.
pub(crate) const RATE: &str = "rate with options";
pub(crate) const COST: &str = "cost with options";

/// Rate of the comparison in datagrams per second.
pub(crate) const COST_RATE: u64 = 20_000;

/// Subjects.
pub(crate) const PLAIN: &str = "plain";
pub(crate) const PLAIN_RELAY: &str = "plain relay";
pub(crate) const SUBJECTS: [&str; 4] = [PLAIN, MUTUAL_TLS, ZSTD, PLAIN_RELAY];
const MUTUAL_TLS: &str = "mutual TLS";
const ZSTD: &str = "zstd";

pub(crate) fn turn(settings: &Settings, results: &mut Results) {
    settings.print_run(ZSTD, &format!("{:.3} bytes per byte of payload", compressed()));
    let subjects = || SUBJECTS.into_iter().filter(|who| settings.is_chosen(who));
    // `rate` measures the plain relay, which does not look into datagrams.
    for who in subjects().filter(|who| *who != PLAIN_RELAY) {
        let guess = results.median(RATE, who, 0);
        let (highest, _) = rate::highest(settings, who, guess, || course(who, Buffer::Permitted));
        results.add(RATE, who, 0, highest);
    }
    for who in subjects() {
        let run = course(who, Buffer::Package).run(float(COST_RATE), settings.run);
        settings.print_run(who, &run);
        results.add(COST, who, COST_RATE, run.cost());
    }
}

fn course(who: &str, buffer: Buffer) -> Course {
    Course::of(EXPORTERS, |sink| start(who, sink, buffer)).with_content(Content::FlowRecords)
}

fn start(who: &str, sink: SocketAddr, buffer: Buffer) -> Relay {
    let pair = || BenchPair::new(sink, None, buffer);
    match who {
        MUTUAL_TLS => of_pair(pair().with_mutual_tls().connect()),
        ZSTD => of_pair(pair().with_settings("spool.compression = \"zstd\"").connect()),
        PLAIN_RELAY => Kind::PlainRelay.start(sink, buffer),
        _ => of_pair(pair().connect()),
    }
}

/// Returns the length of full batches of the flow records, per byte of payload. nf-sender uses the columnar
/// form for them, because it knows the layout of NetFlow v5.
pub(crate) fn compressed() -> f64 {
    let exports = Exports::new(flow_records::all());
    let length = |bytes: usize| float(u64::try_from(bytes).unwrap());
    length(wire(&exports.batches(Compression::Columnar, u32::MAX))) / length(exports.raw())
}
