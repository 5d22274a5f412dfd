//! The marks: target values of all measurements in one place. Where things are compared, the figure is the
//! median of the ratios of each turn.

use crate::modes::{
    catch_up, compression, cost, disk, exporters, idle, ingest, max_delay, rate, senders, start,
};
use crate::numbers::{grouped, short};
use crate::relay::Kind;
use crate::results::{FigureKey, Results};

/// Rate of the original program with its cipher, in datagrams per second. One mark compares with it.
const ORIGINAL: f64 = 3800.0;

/// Direction in which a figure must differ from its mark.
#[derive(Clone, Copy, Debug)]
enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

/// A target value and the measured figure.
pub(crate) struct Mark {
    what: String,
    bound: Bound,
    unit: &'static str,
    figure: Option<f64>,
    /// Numerator of a ratio, for the reader.
    behind: Option<f64>,
}

impl Mark {
    fn new(what: impl Into<String>, bound: Bound, unit: &'static str, figure: Option<f64>) -> Self {
        Self { what: what.into(), bound, unit, figure, behind: None }
    }

    fn ratio(what: impl Into<String>, bound: Bound, results: &Results, of: FigureKey, to: FigureKey) -> Self {
        let (topic, who, under) = of;
        let behind = results.median(topic, who, under);
        Self { behind, ..Self::new(what, bound, "", results.ratio(of, to)) }
    }

    /// Returns whether the mark was reached; `None` if it was not measured.
    pub(crate) fn is_reached(&self) -> Option<bool> {
        self.figure.map(|figure| match self.bound {
            Bound::AtLeast(bound) => figure >= bound,
            Bound::AtMost(bound) => figure <= bound,
        })
    }
}

/// Returns all marks with the measured figures.
pub(crate) fn all(results: &Results) -> Vec<Mark> {
    [rates(results), costs(results), queues(results), others(results)].into_iter().flatten().collect()
}

fn rates(results: &Results) -> Vec<Mark> {
    let rate = |kind: Kind| (rate::RATE, kind.name(), 0);
    let [plain, aes, chacha, blowfish] = Kind::PAIRS;
    let mut marks: Vec<_> = [(plain, 1.6), (aes, 1.5), (chacha, 1.4)]
        .map(|(kind, bound)| {
            let what = format!("loss-free rate, {} : nfacctd tee", kind.name());
            Mark::ratio(what, Bound::AtLeast(bound), results, rate(kind), rate(Kind::Nfacctd))
        })
        .into();
    let of_original = results.median(rate::RATE, blowfish.name(), 0);
    let what = "loss-free rate, blowfish : 3,800/s of the original";
    let figure = of_original.map(|rate| rate / ORIGINAL);
    marks.push(Mark { behind: of_original, ..Mark::new(what, Bound::AtLeast(12.0), "", figure) });
    marks
}

/// The most that a plain pair may cost compared with the plain relay, by rate.
const TO_PLAIN_RELAY: [(u64, f64); 4] = [(1000, 1.3), (5000, 0.9), (20_000, 0.8), (60_000, 1.2)];

/// Addition to these ratios that AES-256-GCM may cost.
const FOR_AES: f64 = 0.15;

/// The most that the pair may cost compared with nfacctd, in clear text and with AES-256-GCM, by rate.
const TO_NFACCTD: [(u64, [f64; 2]); 3] =
    [(5000, [0.45, 0.45]), (20_000, [0.45, 0.45]), (60_000, [0.6, 0.65])];

/// The most milliseconds of the 99th percentile of latency beyond `max-delay`.
const LATENESS_MS: f64 = 5.0;

/// The default of `max-delay`, in milliseconds.
const MAX_DELAY_MS: f64 = 10.0;

fn costs(results: &Results) -> Vec<Mark> {
    let mut marks = Vec::new();
    let cost = |kind: Kind, under| (cost::COST, kind.name(), under);
    for (under, bound) in TO_PLAIN_RELAY {
        for (kind, bound) in [(Kind::PAIRS[0], bound), (Kind::PAIRS[1], bound + FOR_AES)] {
            let what = format!("CPU per datagram at {}/s, {} : plain relay", grouped(under), kind.name());
            let relay = cost(Kind::PlainRelay, under);
            marks.push(Mark::ratio(what, Bound::AtMost(bound), results, cost(kind, under), relay));
        }
    }
    for (under, bounds) in TO_NFACCTD {
        for (kind, bound) in Kind::PAIRS.into_iter().zip(bounds) {
            let what = format!("CPU per datagram at {}/s, {} : nfacctd tee", grouped(under), kind.name());
            let tee = cost(Kind::Nfacctd, under);
            marks.push(Mark::ratio(what, Bound::AtMost(bound), results, cost(kind, under), tee));
        }
    }
    marks
}

fn queues(results: &Results) -> Vec<Mark> {
    let caught = |who| (catch_up::CATCH_UP, who, 0);
    let late = |kind: Kind| {
        let what = format!("latency p99, {}, max-delay of {MAX_DELAY_MS} ms", kind.name());
        let figure = results.median(cost::LATENCY_LATE, kind.name(), cost::LATENCY_RATE);
        Mark::new(what, Bound::AtMost(MAX_DELAY_MS + LATENESS_MS), "ms", figure)
    };
    let idle = |kind: Kind| results.median(idle::WAKE_UPS, kind.name(), 0);
    vec![
        Mark::ratio(
            "ingest with the link down : bare recvmmsg loop",
            Bound::AtLeast(0.4),
            results,
            (ingest::INGEST, ingest::SENDER, 0),
            (ingest::INGEST, ingest::BARE, 0),
        ),
        Mark::ratio(
            "catch-up from a backlog : bare sendmmsg",
            Bound::AtLeast(0.75),
            results,
            caught(catch_up::PAIR),
            caught(catch_up::PLAIN),
        ),
        late(Kind::PAIRS[0]),
        late(Kind::PAIRS[1]),
        Mark::ratio(
            "latency p50, plain, max-delay of 0 : bare loop",
            Bound::AtMost(4.0),
            results,
            (max_delay::MEDIAN, max_delay::LATENCY_RATE, 0),
            (cost::LATENCY_MEDIAN, Kind::BARE.name(), cost::LATENCY_RATE),
        ),
        Mark::new(
            "latency p99, plain, max-delay of 0",
            Bound::AtMost(2.0),
            "ms",
            results.median(max_delay::LATE, max_delay::LATENCY_RATE, 0),
        ),
        Mark::new("wake-ups per second of an idle pair, plain", Bound::AtMost(5.0), "", idle(Kind::PAIRS[0])),
        Mark::new("the same, aes-256-gcm", Bound::AtMost(5.0), "", idle(Kind::PAIRS[1])),
    ]
}

fn others(results: &Results) -> Vec<Mark> {
    let peak = |who| results.most(catch_up::MEMORY_PEAK, who, 0);
    let idle = results.median(senders::IDLE, senders::RECEIVER, 100);
    let written = results.most(disk::WRITTEN, disk::IN_MEMORY, 0);
    let forced = results.most(disk::FORCED, disk::IN_MEMORY, 0).unwrap_or_default();
    let exporters = |count| (exporters::EXPORTERS, Kind::PLAIN.name(), count);
    let wire = |who| results.median(compression::FULL, who, 9);
    let started = format!("start to READY, {} segments minus none", grouped(start::segments(results)));
    vec![
        Mark::new("peak memory of nf-sender", Bound::AtMost(48.0), "MiB", peak("nf-sender")),
        Mark::new("peak memory of nf-receiver", Bound::AtMost(24.0), "MiB", peak("nf-receiver")),
        Mark::new("memory of nf-receiver per idle sender", Bound::AtMost(64.0), "KiB", idle),
        Mark::new(
            "written or synced to disk, per byte carried",
            Bound::AtMost(0.01),
            "",
            written.map(|it| it.max(forced)),
        ),
        Mark::new(started, Bound::AtMost(20.0), "ms", start::difference(results)),
        Mark::ratio(
            "CPU per datagram, 1,000 exporters : 1",
            Bound::AtMost(1.3),
            results,
            exporters(1000),
            exporters(1),
        ),
        Mark::ratio(
            "CPU of nf-receiver per datagram, 100 senders : nfacctd tee",
            Bound::AtMost(0.5),
            results,
            (senders::SENDERS, senders::RECEIVER, 100),
            (senders::SENDERS, Kind::Nfacctd.name(), 100),
        ),
        Mark::ratio(
            "CPU of nf-receiver per datagram, 100 senders : 1",
            Bound::AtMost(1.3),
            results,
            (senders::SENDERS, senders::RECEIVER, 100),
            (senders::SENDERS, senders::RECEIVER, 1),
        ),
        Mark::new(
            "bytes on the wire per byte of softflowd's v9, zstd",
            Bound::AtMost(0.6),
            "",
            wire(compression::ZSTD),
        ),
        Mark::new(
            "bytes on the wire per byte of softflowd's v9, columnar",
            Bound::AtMost(0.45),
            "",
            wire(compression::COLUMNAR),
        ),
    ]
}

/// Formats the rows of a table: name, figure, ratio or amount, mark, reached or not.
pub(crate) fn rows(marks: &[Mark]) -> Vec<Vec<String>> {
    let row = |mark: &Mark| {
        let unit = if mark.unit.is_empty() { String::new() } else { format!(" {}", mark.unit) };
        let bound = match mark.bound {
            Bound::AtLeast(bound) => format!("≥ {}{unit}", short(bound)),
            Bound::AtMost(bound) => format!("≤ {}{unit}", short(bound)),
        };
        let reached = match mark.is_reached() {
            Some(true) => "reached",
            Some(false) => "**not reached**",
            None => "not measured",
        };
        let amount = mark.figure.map_or_else(|| "-".to_owned(), |figure| short(figure) + &unit);
        let behind = mark.behind.map_or_else(String::new, short);
        vec![mark.what.clone(), behind, amount, bound, reached.to_owned()]
    };
    marks.iter().map(row).collect()
}
