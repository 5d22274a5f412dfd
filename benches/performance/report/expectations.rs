//! The summary at the top of the page: costs, latencies, and the choice of `max-delay`.

use crate::modes::{cost, max_delay};
use crate::numbers::{grouped, short};
use crate::relay::Kind;
use crate::results::Results;

/// Returns the section with its heading.
pub(super) fn section(results: &Results) -> String {
    let costs = cost::RATES.into_iter().filter_map(|rate| {
        let cost = |kind: Kind| (cost::COST, kind.name(), rate);
        let [plain, aes] = [0, 1].map(|at| results.ratio(cost(Kind::PAIRS[at]), cost(Kind::PlainRelay)));
        Some(format!("| {}/s | {} | {} |\n", grouped(rate), short(plain?), short(aes?)))
    });
    let latencies = max_delay::DELAYS.into_iter().filter_map(|delay| {
        let figure = |topic, rate| results.median(topic, rate, delay).map(short);
        let [(_, slow), (_, fast)] = max_delay::RATES;
        let latency = [figure(max_delay::MEDIAN, slow)?, figure(max_delay::LATE, slow)?];
        let cost = [figure(max_delay::COST, slow)?, figure(max_delay::COST, fast)?];
        Some(format!("| {delay} ms | {} | {} |\n", latency.join(" | "), cost.join(" | ")))
    });
    format!(
        "\n## What to expect and how to choose max-delay\n\n{INTRODUCTION}\n\n\
         | datagrams | clear text | aes-256-gcm |\n| --- | ---: | ---: |\n{}\n{DELAYS}\n\n\
         | max-delay | p50, ms | p99, ms | core-µs at 1,000/s | core-µs at 20,000/s |\n\
         | --- | ---: | ---: | ---: | ---: |\n{}\n{CHOICE}\n",
        costs.collect::<String>(),
        latencies.collect::<String>(),
    )
}

const INTRODUCTION: &str = "\
The comparison that matters to most sites is with a plain UDP relay, which receives and sends one \
datagram at a time. It loses datagrams when the link or the collector is down, and encrypts nothing. \
The pair sends many datagrams with each system call, so a datagram costs less the more there are. \
The table shows the processor time of both daemons together, divided by that of the plain relay:";

const DELAYS: &str = "\
`max-delay` in nf-sender.toml is the longest time for which nf-sender lets datagrams gather. A \
larger value saves processor time, because both daemons wake up less often, and delays datagrams by \
up to its length. The latencies are from exporter to collector at 1,000 datagrams/s. nf-sender sends \
earlier once 256 KiB have gathered, so at 20,000 datagrams/s values above 10 ms change nothing:";

const CHOICE: &str = "\
- **10 ms**, the default, costs nothing that matters for flow data. A router exports a flow when it \
has ended, or after an active time-out of 1 to 30 minutes, so the data is a minute old already.
- **50 to 200 ms** suits many small sites with one collector: nf-receiver wakes up once per site and \
`max-delay`.
- **0** gives the lowest latency, for example for sFlow that triggers a defence against attacks. It \
costs most at low rates.

Datagrams that gather are in the socket, where a restart of nf-sender under systemd does not lose \
them. So that a sudden flood fits, nf-sender looks at the socket at least every 16 ms with a receive \
buffer of 64 MiB, as its socket unit sets, and every 1 ms with 4 MiB. With less than 2 MiB, \
`max-delay` has no effect.";
