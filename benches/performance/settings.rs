//! What the environment changes; see the documentation of the program.

use crate::relay::Kind;

/// How long and how often is measured.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) turns: usize,
    /// Seconds of a probe of a rate.
    pub(crate) probe: f64,
    /// Seconds of a run at a given rate.
    pub(crate) run: f64,
    /// Seconds on a healthy link, for what is written to disk.
    pub(crate) disk: f64,
    /// MiB of payload.
    pub(crate) backlog: f64,
    pub(crate) segments: u64,
    /// Names of the relays that are measured; all if there are none.
    relays: Vec<String>,
    /// Whether each run is shown as it ends.
    pub(crate) verbose: bool,
}

impl Settings {
    pub(crate) fn from_environment() -> Self {
        Self {
            turns: usize::try_from(crate::numbers::count(number("TURNS", 5.0))).unwrap().max(1),
            probe: number("PROBE_SECONDS", 1.5),
            run: number("RUN_SECONDS", 4.0),
            disk: number("SECONDS", 60.0),
            backlog: number("BACKLOG_MIB", 1024.0),
            segments: crate::numbers::count(number("SEGMENTS", 10_000.0)),
            relays: std::env::var("NF_BENCH_RELAYS")
                .map_or_else(|_| Vec::new(), |names| names.split(',').map(str::to_owned).collect()),
            verbose: std::env::var_os("NF_BENCH_VERBOSE").is_some(),
        }
    }

    /// Whether relays are left out.
    pub(crate) fn is_partial(&self) -> bool {
        !self.relays.is_empty()
    }

    /// Those of the relays that are installed and wanted.
    pub(crate) fn chosen(&self, kinds: impl IntoIterator<Item = Kind>) -> impl Iterator<Item = Kind> {
        let is_wanted =
            |kind: &Kind| self.relays.is_empty() || self.relays.iter().any(|name| name == kind.name());
        kinds.into_iter().filter(|kind| kind.is_installed()).filter(is_wanted)
    }

    /// Shows a run, if that is wanted.
    pub(crate) fn note(&self, kind: &str, run: &dyn std::fmt::Display) {
        if self.verbose {
            println!("  {kind:<18} {run}");
        }
    }
}

fn number(name: &str, otherwise: f64) -> f64 {
    let set = std::env::var(format!("NF_BENCH_{name}"));
    set.map_or(otherwise, |text| text.parse().unwrap_or_else(|_| panic!("NF_BENCH_{name} is a number")))
}
