//! The tables of CPU time, latency and wake-ups.

use crate::modes::{cost, idle, max_delay, rate, spaced};
use crate::numbers::{grouped, short};
use crate::relay::Kind;
use crate::report::{Section, called, figures, words};
use crate::results::Results;

pub(super) fn costs(results: &Results) -> Section {
    let mut rows = Vec::new();
    for kind in Kind::all().into_iter().filter(|_| results.has(cost::COST)) {
        let parts =
            [("", cost::COST), (", nf-sender", cost::COST_SENDER), (", nf-receiver", cost::COST_RECEIVER)];
        for (part, topic) in parts {
            let figures = cost::RATES.map(|rate| (rate, results.median(topic, kind.name(), rate)));
            if figures.iter().any(|(_, cost)| cost.is_some()) {
                let shown = figures.map(|(rate, cost)| {
                    let lossy = results.median(cost::LOSS, kind.name(), rate).is_some_and(|loss| loss > 0.0);
                    cost.map_or_else(String::new, |cost| short(cost) + if lossy { " (lossy)" } else { "" })
                });
                rows.push([vec![called(kind) + part], shown.to_vec()].concat());
            }
        }
    }
    let rates = cost::RATES.map(|rate| format!("{}/s", grouped(rate)));
    Section {
        title: "Processor time per datagram",
        how:
            "Core-microseconds at given rates, in bursts as above: user and system time of all processes of \
              the relay. The plain relay is a loop of recvfrom and sendto, one datagram each."
                .to_owned(),
        head: [words(&["relay"]), rates.to_vec()].concat(),
        rows,
    }
}

pub(super) fn to_plain_relay(results: &Results) -> Section {
    let row = |kind: Kind| {
        let ratio = |rate| {
            let cost = |kind: Kind| (cost::COST, kind.name(), rate);
            results.ratio(cost(kind), cost(Kind::PlainRelay))
        };
        let ratios = cost::RATES.map(ratio);
        let shown = ratios.map(|ratio| ratio.map_or_else(String::new, short));
        ratios.iter().any(Option::is_some).then(|| [vec![called(kind)], shown.to_vec()].concat())
    };
    let rates = cost::RATES.map(|rate| format!("{}/s", grouped(rate)));
    Section {
        title: "Processor time compared with the plain relay",
        how: "Median of the ratios of each turn.".to_owned(),
        head: [words(&["relay"]), rates.to_vec()].concat(),
        rows: Kind::all().into_iter().filter(|kind| *kind != Kind::PlainRelay).filter_map(row).collect(),
    }
}

pub(super) fn spaced_costs(results: &Results) -> Section {
    let row = |kind: Kind| {
        let series = results.series(spaced::SPACED, kind.name());
        let ratio = |rate| {
            let cost = |kind: Kind| (spaced::SPACED, kind.name(), rate);
            results.ratio(cost(kind), cost(Kind::PlainRelay)).map_or_else(String::new, short)
        };
        let ratios = spaced::RATES.map(ratio).to_vec();
        (!series.is_empty()).then(|| [vec![called(kind)], figures(&series), ratios].concat())
    };
    let rates = spaced::RATES.map(|rate| format!("{}/s", grouped(rate)));
    let ratios = spaced::RATES.map(|rate| format!("to the plain relay at {}/s", grouped(rate)));
    Section {
        title: "Evenly spaced datagrams",
        how: "Core-microseconds per datagram if each is sent at a time of its own.".to_owned(),
        head: [words(&["relay"]), rates.to_vec(), ratios.to_vec()].concat(),
        rows: spaced::KINDS.into_iter().filter_map(row).collect(),
    }
}

pub(super) fn latencies(results: &Results) -> Section {
    let kinds = Kind::PAIRS.into_iter().chain([
        Kind::BarePair,
        Kind::BARE,
        Kind::Bare(crate::generator::Sending::Gso),
    ]);
    let row = |kind: Kind| {
        let figure = |topic| results.median(topic, kind.name(), cost::LATENCY_RATE);
        Some(vec![called(kind), short(figure(cost::LATENCY_MEDIAN)?), short(figure(cost::LATENCY_LATE)?)])
    };
    Section {
        title: "Latency",
        how: format!(
            "Milliseconds from exporter to collector at {} datagrams/s.",
            grouped(cost::LATENCY_RATE)
        ),
        head: words(&["relay", "p50", "p99"]),
        rows: kinds.filter_map(row).collect(),
    }
}

pub(super) fn by_max_delay(results: &Results) -> Section {
    let row = |delay: u64| {
        let figures = max_delay::RATES.into_iter().flat_map(|(_, who)| {
            [max_delay::COST, max_delay::MEDIAN, max_delay::LATE]
                .map(|topic| results.median(topic, who, delay).map(short))
        });
        let figures: Option<Vec<_>> = figures.collect();
        Some([vec![format!("{delay} ms")], figures?].concat())
    };
    let head = max_delay::RATES
        .iter()
        .flat_map(|(_, rate)| ["µs", "p50", "p99"].map(|figure| format!("{rate}, {figure}")));
    Section {
        title: "By max-delay",
        how: "The pair in clear text: core-microseconds per datagram, and milliseconds from exporter to \
              collector."
            .to_owned(),
        head: words(&["max-delay"]).into_iter().chain(head).collect(),
        rows: max_delay::DELAYS.into_iter().filter_map(row).collect(),
    }
}

pub(super) fn idle_wake_ups(results: &Results) -> Section {
    let row = |kind: Kind| {
        let topics = [idle::WAKE_UPS, idle::WAKE_UPS_SENDER, idle::WAKE_UPS_RECEIVER];
        let figures = topics.map(|topic| results.latest(topic, kind.name(), 0).map(short));
        let figures: Option<Vec<_>> = figures.into_iter().collect();
        Some([vec![called(kind)], figures?].concat())
    };
    Section {
        title: "Idle",
        how: "Wake-ups per second of all threads of both daemons, connected and without datagrams."
            .to_owned(),
        head: words(&["", "wake-ups/s", "nf-sender", "nf-receiver"]),
        rows: idle::kinds().into_iter().filter_map(row).collect(),
    }
}

/// The figures of this build divided by those of the other build that was measured in turn.
pub(super) fn baselines(results: &Results) -> Section {
    let row = |kind: Kind| {
        let other = kind.baseline()?;
        let ratio = |topic, under| results.ratio((topic, kind.name(), under), (topic, other.name(), under));
        let costs = cost::RATES.map(|rate| ratio(cost::COST, rate));
        let cells = [vec![ratio(rate::RATE, 0)], costs.to_vec(), vec![ratio(idle::WAKE_UPS, 0)]].concat();
        let is_measured = cells.iter().any(Option::is_some);
        let shown = cells.into_iter().map(|cell| cell.map_or_else(String::new, short));
        is_measured.then(|| [called(kind)].into_iter().chain(shown).collect())
    };
    let rates = cost::RATES.map(|rate| format!("cost at {}/s", grouped(rate)));
    Section {
        title: "To the baseline",
        how: "Figures of this build divided by those of the build in `NF_BENCH_BASELINE` in the same turn."
            .to_owned(),
        head: [words(&["", "rate"]), rates.to_vec(), words(&["idle wake-ups"])].concat(),
        rows: Kind::PAIRS.into_iter().filter_map(row).collect(),
    }
}
