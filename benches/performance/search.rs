//! The search for the highest rate that is reached: steps up or down from a guess, then bisection, on a geometric scale.

/// The search ends when the highest rate that was reached and the lowest that was not are so close.
const CLOSE: f64 = 1.03;

/// The first step from a guess that is good, and from one that is not.
const SMALL_STEP: f64 = 1.06;
const LARGE_STEP: f64 = 1.4;

/// Rates beyond these are not looked at.
const LOWEST: f64 = 500.0;
const HIGHEST: f64 = 4_000_000.0;

/// The highest rate at which `probe` says yes. On a machine that does other things too, one failure is noise: a rate is
/// not reached if it fails twice.
pub(crate) fn highest(guess: Option<f64>, start: f64, mut probe: impl FnMut(f64) -> bool) -> f64 {
    let mut reached = |rate: f64| probe(rate) || probe(rate);
    let mut step: f64 = if guess.is_some() { SMALL_STEP } else { LARGE_STEP };
    let mut rate = guess.unwrap_or(start);
    let is_low = reached(rate);
    let (mut low, mut high) = if is_low { (rate, HIGHEST) } else { (LOWEST, rate) };
    // The nearest rate on the other side of the limit.
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
