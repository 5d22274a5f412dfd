//! The table of mutual TLS and compression.

use super::{Section, words};
use crate::modes::options;
use crate::numbers::{grouped, short};
use crate::results::Results;

pub(super) fn tls_and_compression(results: &Results) -> Section {
    let row = |who: &'static str| {
        let rate = results.median(options::RATE, who, 0).map_or_else(String::new, grouped);
        let cost = results.median(options::COST, who, options::COST_RATE)?;
        let key = |who| (options::COST, who, options::COST_RATE);
        let ratio = |other| results.ratio(key(who), key(other)).map_or_else(String::new, short);
        let name = if who == options::PLAIN_RELAY { who.to_owned() } else { format!("the pair, {who}") };
        let ratios = [options::PLAIN, options::PLAIN_RELAY].map(ratio);
        Some([vec![name, rate, short(cost)], ratios.to_vec()].concat())
    };
    let rows: Vec<_> = options::SUBJECTS.into_iter().filter_map(row).collect();
    let length = if rows.is_empty() { String::new() } else { short(options::compressed()) };
    Section {
        title: "Mutual TLS and compression",
        how: format!(
            "Loss-free rate, and core-microseconds per datagram at {} datagrams/s. All relays carry NetFlow \
             v5 of a plausible router, in which no two datagrams near each other are equal. With `zstd` \
             nf-sender stores and sends these flow records in columnar form, in {length} bytes per byte of \
             payload (full batches).",
            grouped(options::COST_RATE)
        ),
        head: words(&["relay", "datagrams/s", "cost", "to plain", "to the plain relay"]),
        rows,
    }
}
