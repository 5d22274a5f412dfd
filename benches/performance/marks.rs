//! The marks: target values of all measurements in one place, as ratios of medians where things are compared.

use crate::modes::{catch_up, compression, cost, disk, exporters, ingest, rate, senders, start};
use crate::numbers::{grouped, short};
use crate::relay::Kind;
use crate::results::Results;

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

    fn ratio(what: impl Into<String>, bound: Bound, of: Option<f64>, to: Option<f64>) -> Self {
        let figure = of.zip(to).map(|(of, to)| of / to);
        Self { behind: of, ..Self::new(what, bound, "", figure) }
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
    let rate = |kind: Kind| results.median(rate::RATE, kind.name(), 0);
    let [plain, aes, chacha, blowfish] = Kind::PAIRS;
    let mut marks: Vec<_> = [(plain, 1.5), (aes, 1.4), (chacha, 1.3)]
        .map(|(kind, bound)| {
            let what = format!("loss-free rate, {} : nfacctd tee", kind.name());
            Mark::ratio(what, Bound::AtLeast(bound), rate(kind), rate(Kind::Nfacctd))
        })
        .into();
    let what = "loss-free rate, blowfish : 3,800/s of the original";
    marks.push(Mark::ratio(what, Bound::AtLeast(12.0), rate(blowfish), Some(ORIGINAL)));
    marks
}

fn costs(results: &Results) -> Vec<Mark> {
    let mut marks = Vec::new();
    for under in [20_000, 60_000] {
        let cost = |kind: Kind| results.median(cost::COST, kind.name(), under);
        for (kind, bound) in [(Kind::PAIRS[0], 0.6), (Kind::PAIRS[1], 0.65)] {
            let what = format!("CPU per datagram at {}/s, {} : nfacctd tee", grouped(under), kind.name());
            marks.push(Mark::ratio(what, Bound::AtMost(bound), cost(kind), cost(Kind::Nfacctd)));
        }
    }
    marks
}

fn queues(results: &Results) -> Vec<Mark> {
    let ingest = |who| results.median(ingest::INGEST, who, 0);
    let caught = |who| results.median(catch_up::CATCH_UP, who, 0);
    let median = |kind: Kind| results.median(cost::LATENCY_MEDIAN, kind.name(), cost::LATENCY_RATE);
    let late = results.median(cost::LATENCY_LATE, Kind::PLAIN.name(), cost::LATENCY_RATE);
    let (pair, plain) = (caught(catch_up::PAIR), caught(catch_up::PLAIN));
    vec![
        Mark::ratio(
            "ingest with the link down : bare recvmmsg loop",
            Bound::AtLeast(0.5),
            ingest(ingest::SENDER),
            ingest(ingest::BARE),
        ),
        Mark::ratio("catch-up from a backlog : bare sendmmsg", Bound::AtLeast(1.0), pair, plain),
        Mark::ratio("the same, with GSO", Bound::AtLeast(2.0), pair, plain),
        Mark::ratio(
            "latency p50, plain : bare loop",
            Bound::AtMost(4.0),
            median(Kind::PLAIN),
            median(Kind::BARE),
        ),
        Mark::new("latency p99, plain", Bound::AtMost(2.0), "ms", late),
    ]
}

fn others(results: &Results) -> Vec<Mark> {
    let peak = |who| results.most(catch_up::MEMORY_PEAK, who, 0);
    let idle = results.median(senders::IDLE, senders::RECEIVER, 100);
    let written = results.most(disk::WRITTEN, disk::IN_MEMORY, 0);
    let forced = results.most(disk::FORCED, disk::IN_MEMORY, 0).unwrap_or_default();
    let exporters = |count| results.median(exporters::EXPORTERS, Kind::PLAIN.name(), count);
    let senders = |count| results.median(senders::SENDERS, senders::RECEIVER, count);
    let wire = |who| results.median(compression::FULL, who, 9);
    let started = format!("start to READY, {} segments less none", grouped(start::segments(results)));
    vec![
        Mark::new("memory of nf-sender at the most", Bound::AtMost(48.0), "MiB", peak("nf-sender")),
        Mark::new("memory of nf-receiver at the most", Bound::AtMost(24.0), "MiB", peak("nf-receiver")),
        Mark::new("memory of nf-receiver per idle sender", Bound::AtMost(64.0), "KiB", idle),
        Mark::new(
            "written or forced to disk, per byte carried",
            Bound::AtMost(0.01),
            "",
            written.map(|it| it.max(forced)),
        ),
        Mark::new(started, Bound::AtMost(20.0), "ms", start::difference(results)),
        Mark::ratio(
            "CPU per datagram, 1,000 exporters : 1",
            Bound::AtMost(1.3),
            exporters(1000),
            exporters(1),
        ),
        Mark::ratio(
            "CPU of nf-receiver per datagram, 100 senders : 1",
            Bound::AtMost(1.3),
            senders(100),
            senders(1),
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
            Bound::AtLeast(bound) => format!("≥ {bound}{unit}"),
            Bound::AtMost(bound) => format!("≤ {bound}{unit}"),
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
