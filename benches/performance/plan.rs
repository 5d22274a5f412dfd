//! The planned duration of each mode.

use crate::modes::{cost, exporters, idle, max_delay, options, senders, spaced};
use crate::relay::Kind;
use crate::settings::Settings;

/// Seconds to start and warm up a relay, and to wait for its last datagrams.
const START: f64 = 1.3;

/// Probes of a search in the first turn, and in a later one, which begins at the known figure.
const FIRST_PROBES: f64 = 14.0;
const LATER_PROBES: f64 = 7.0;

/// Seconds between two probes of a search: most reuse the running relay.
const BETWEEN_PROBES: f64 = 0.4;

/// Seconds in which a backlog of 1 MiB is built and delivered, by the pair and by two bare senders.
const PER_BACKLOG_MIB: f64 = 0.01;

/// Prints the planned minutes of the chosen modes.
pub(crate) fn print(settings: &Settings, is_chosen: impl Fn(&str) -> bool) {
    let modes = crate::MODES.into_iter().map(|(name, _)| name).filter(|name| is_chosen(name));
    let plans: Vec<_> = modes.map(|name| (name, minutes(name, settings))).collect();
    for (name, minutes) in &plans {
        println!("planned: {minutes:>5.1} min for {name}");
    }
    println!("planned: {:>5.1} min in all", plans.iter().map(|(_, minutes)| minutes).sum::<f64>());
}

fn minutes(mode: &str, settings: &Settings) -> f64 {
    let count = |kinds: &mut dyn Iterator<Item = Kind>| number(settings.chosen(kinds).count());
    let turns = number(settings.turns);
    let runs = |runs: f64| turns * runs * (START + settings.run);
    let searches = |subjects: f64| {
        let probes = FIRST_PROBES + (turns - 1.0) * LATER_PROBES;
        subjects * probes * (settings.probe + BETWEEN_PROBES)
    };
    let seconds = match mode {
        "rate" => searches(count(&mut Kind::all().into_iter())),
        "cost" => runs(cost::RATES.into_iter().map(|rate| count(&mut cost::kinds(rate))).sum()),
        // `cost` has measured the others.
        "latency" => runs(1.0),
        "spaced" => runs(count(&mut spaced::KINDS.into_iter()) * number(spaced::RATES.len())),
        "max-delay" => runs(number(max_delay::RATES.len() * max_delay::DELAYS.len())),
        "idle" => {
            count(&mut idle::kinds().into_iter()) * (START + idle::SETTLED.as_secs_f64() + settings.idle)
        }
        "options" => {
            let subjects = options::SUBJECTS.into_iter().filter(|who| settings.is_chosen(who));
            let (relays, pairs): (Vec<_>, Vec<_>) = subjects.partition(|who| *who == options::PLAIN_RELAY);
            searches(number(pairs.len())) + runs(number(relays.len() + pairs.len()))
        }
        "ingest" => searches(2.0),
        "catch-up" => turns * settings.backlog * PER_BACKLOG_MIB,
        "exporters" => runs(number(exporters::COUNTS.len() * exporters::KINDS.len())),
        // Many daemons take longer to start.
        "senders" => 1.5 * runs(number(2 * senders::COUNTS.len())),
        "disk" => 3.0 * settings.disk,
        _ => turns * 10.0,
    };
    seconds / 60.0
}

fn number(count: usize) -> f64 {
    crate::numbers::float(u64::try_from(count).unwrap())
}
