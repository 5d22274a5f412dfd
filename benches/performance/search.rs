//! Search for the highest reached rate on a geometric scale: steps up or down from a guess, then bisection.

/// Ratio between the lowest rate that failed and the highest that was reached at which the search ends.
const CLOSE: f64 = 1.03;

/// First step from a good guess, and from a default.
const SMALL_STEP: f64 = 1.06;
const LARGE_STEP: f64 = 1.4;

/// Limits of the search, in datagrams per second.
const LOWEST: f64 = 500.0;
const HIGHEST: f64 = 4_000_000.0;

/// Returns the highest rate at which `probe` succeeds. A single failure may be noise from other work of the
/// machine, so a rate fails only if two probes fail.
pub(crate) fn highest(guess: Option<f64>, start: f64, mut probe: impl FnMut(f64) -> bool) -> f64 {
    let mut reached = |rate: f64| probe(rate) || probe(rate);
    let mut step: f64 = if guess.is_some() { SMALL_STEP } else { LARGE_STEP };
    let mut rate = guess.unwrap_or(start);
    let is_low = reached(rate);
    let (mut low, mut high) = if is_low { (rate, HIGHEST) } else { (LOWEST, rate) };
    // Step until the result changes, so that the limit is between `low` and `high`.
    loop {
        rate = if is_low { rate * step } else { rate / step };
        if !(LOWEST..=HIGHEST).contains(&rate) {
            break;
        }
        let is_reached = reached(rate);
        if is_reached {
            low = rate;
        } else {
            high = rate;
        }
        if is_reached != is_low {
            break;
        }
        step = (step * step).min(LARGE_STEP);
    }
    while high / low > CLOSE * CLOSE {
        let middle = (low * high).sqrt();
        if reached(middle) { low = middle } else { high = middle }
    }
    low
}
