//! Settings from the environment; see the documentation of the program.

use crate::relay::Kind;

/// Durations and repetitions of the measurements.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) turns: usize,
    /// Seconds of a probe of a rate.
    pub(crate) probe: f64,
    /// Seconds of a run at a given rate.
    pub(crate) run: f64,
    /// Seconds of the measurement of disk writes on a healthy link.
    pub(crate) disk: f64,
    /// Size of the backlog in MiB of payload.
    pub(crate) backlog: f64,
    pub(crate) segments: u64,
    /// Seconds for which wake-ups of idle daemons are counted.
    pub(crate) idle: f64,
    /// Names of the relays to measure; all if empty.
    relays: Vec<String>,
    /// Prints each run as it ends.
    pub(crate) verbose: bool,
}

impl Settings {
    pub(crate) fn from_environment() -> Self {
        Self {
            turns: usize::try_from(crate::numbers::count(number("TURNS", 5.0))).unwrap().max(1),
            probe: number("PROBE_SECONDS", 1.0),
            run: number("RUN_SECONDS", 2.5),
            disk: number("SECONDS", 30.0),
            backlog: number("BACKLOG_MIB", 1024.0),
            segments: crate::numbers::count(number("SEGMENTS", 10_000.0)),
            idle: number("IDLE_SECONDS", 10.0),
            relays: std::env::var("NF_BENCH_RELAYS")
                .map_or_else(|_| Vec::new(), |names| names.split(',').map(str::to_owned).collect()),
            verbose: std::env::var_os("NF_BENCH_VERBOSE").is_some(),
        }
    }

    /// Returns whether some relays are excluded.
    pub(crate) fn is_partial(&self) -> bool {
        !self.relays.is_empty()
    }

    /// Returns whether the relay of this name is to be measured.
    pub(crate) fn is_chosen(&self, name: &str) -> bool {
        self.relays.is_empty() || self.relays.iter().any(|relay| relay == name)
    }

    /// Returns the relays that are installed and selected.
    pub(crate) fn chosen(&self, kinds: impl IntoIterator<Item = Kind>) -> impl Iterator<Item = Kind> {
        let is_named = |kind: &Kind| {
            let name = kind.name().trim_end_matches(" (baseline)");
            self.relays.iter().any(|relay| relay == name)
        };
        let is_wanted = move |kind: &Kind| self.relays.is_empty() || is_named(kind);
        kinds.into_iter().filter(|kind| kind.is_installed()).filter(is_wanted)
    }

    /// Prints a run if `verbose` is set.
    pub(crate) fn print_run(&self, kind: &str, run: &dyn std::fmt::Display) {
        if self.verbose {
            println!("  {kind:<18} {run}");
        }
    }
}

fn number(name: &str, otherwise: f64) -> f64 {
    let set = std::env::var(format!("NF_BENCH_{name}"));
    set.map_or(otherwise, |text| text.parse().unwrap_or_else(|_| panic!("NF_BENCH_{name} is a number")))
}
