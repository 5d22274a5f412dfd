//! Numbers from one kind into another, where all that occur are small.

/// A count as a number to calculate with; exact up to 2^53.
#[expect(clippy::as_conversions, clippy::cast_precision_loss, reason = "no count here is as large as 2^53")]
pub(crate) fn float(count: u64) -> f64 {
    count as f64
}

/// A number that is not negative as a count, the fraction cut off.
#[expect(
    clippy::as_conversions,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the conversion cuts off and saturates, as wanted"
)]
pub(crate) fn count(number: f64) -> u64 {
    number as u64
}

pub(crate) fn index(number: u32) -> usize {
    usize::try_from(number).unwrap()
}

/// The one in the middle, of two the upper; nothing of none.
pub(crate) fn median(values: &[f64]) -> Option<f64> {
    quantile(values, 0.5)
}

/// The value that this share of all lies below.
pub(crate) fn quantile(values: &[f64], share: f64) -> Option<f64> {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    let place = count(float(u64::try_from(values.len()).unwrap()) * share);
    values.get(usize::try_from(place).unwrap()).or(values.last()).copied()
}
