//! Numbers, sizes and time spans as text.

use bytesize::ByteSize;

/// A paragraph with the meaning of columns: those that are `true`. Empty if there are none.
pub(super) fn render_legend<const N: usize>(columns: [(bool, &str, &str); N]) -> String {
    let shown = columns.into_iter().filter(|(is_shown, ..)| *is_shown);
    let lines: Vec<String> = shown.map(|(_, column, meaning)| format!("  {column}: {meaning}\n")).collect();
    if lines.is_empty() { String::new() } else { format!("\n{}", lines.concat()) }
}

/// A line that counts rows that are not shown; empty if all are shown.
pub(super) fn more_rows(rows: usize) -> String {
    if rows == 0 { String::new() } else { format!("and {rows} more: status --json lists them\n") }
}

pub(super) fn size(bytes: u64) -> String {
    ByteSize(bytes).to_string()
}

/// A number with a comma between groups of three digits.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// A time span in its two largest units, such as `1h 2m`.
pub fn span(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    if days > 0 {
        format!("{days}d {}h", hours % 24)
    } else if hours > 0 {
        format!("{hours}h {}m", minutes % 60)
    } else if minutes > 0 {
        format!("{minutes}m {}s", seconds % 60)
    } else {
        format!("{seconds}s")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_spans_are_easy_to_read() {
        assert_eq!(["0", "999", "1,000", "1,000,000"], [0, 999, 1000, 1_000_000].map(grouped));
        assert_eq!(["0s", "59s", "1m 0s", "1h 1m", "2d 3h"], [0, 59, 60, 3_660, 183_600].map(span));
    }
}
