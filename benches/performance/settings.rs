//! What the environment changes; see the documentation of the program.

/// How long and how often is measured.
#[derive(Clone, Copy, Debug)]
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
            verbose: std::env::var_os("NF_BENCH_VERBOSE").is_some(),
        }
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
