//! Numbers: conversions for small values, medians, and formats for people.

use std::fmt::Write as _;

/// Converts a count to a floating-point number; exact up to 2^53.
#[expect(clippy::as_conversions, clippy::cast_precision_loss, reason = "no count here is as large as 2^53")]
pub(crate) fn float(count: u64) -> f64 {
    count as f64
}

/// Converts a non-negative number to a count, without the fraction.
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

/// Returns the median; of two middle values the upper; `None` of an empty slice.
pub(crate) fn median(values: &[f64]) -> Option<f64> {
    quantile(values, 0.5)
}

/// Returns the value below which this share of all values is.
pub(crate) fn quantile(values: &[f64], share: f64) -> Option<f64> {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    let place = count(float(u64::try_from(values.len()).unwrap()) * share);
    values.get(usize::try_from(place).unwrap()).or(values.last()).copied()
}

/// Formats a number with about three significant digits.
pub(crate) fn short(number: f64) -> String {
    let size = number.abs();
    if size >= 1000.0 {
        grouped(number.round())
    } else if size >= 99.95 {
        format!("{number:.0}")
    } else if size >= 9.995 {
        format!("{number:.1}")
    } else if size >= 0.1 || size == 0.0 {
        format!("{number:.2}")
    } else if size >= 0.01 {
        format!("{number:.3}")
    } else {
        format!("{number:.4}")
    }
}

/// Formats a whole number with commas between thousands.
pub(crate) fn grouped(number: impl Into<Whole>) -> String {
    let digits = number.into().0.to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        write!(out, "{digit}").unwrap();
    }
    out
}

/// A number without a fraction.
pub(crate) struct Whole(u64);

impl From<u64> for Whole {
    fn from(number: u64) -> Self {
        Self(number)
    }
}

impl From<f64> for Whole {
    fn from(number: f64) -> Self {
        Self(count(number))
    }
}

/// Formats bytes in MiB or GiB.
pub(crate) fn grouped_bytes(bytes: u64) -> String {
    let mebibytes = float(bytes) / f64::from(1 << 20);
    if mebibytes < 1024.0 {
        format!("{} MiB", short(mebibytes))
    } else {
        format!("{} GiB", short(mebibytes / 1024.0))
    }
}
