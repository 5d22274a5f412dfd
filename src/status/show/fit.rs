//! Cuts a status to the size of a terminal, so that nothing scrolls away.

use std::io;

/// Rows and columns of a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Screen {
    pub(super) rows: usize,
    pub(super) columns: usize,
}

impl Screen {
    /// The terminal at standard output; `None` if it is no terminal, or has no known size.
    pub(super) fn of_standard_output() -> Option<Self> {
        let size = rustix::termios::tcgetwinsize(io::stdout()).ok()?;
        let screen = Self { rows: size.ws_row.into(), columns: size.ws_col.into() };
        (screen.rows > 0 && screen.columns > 0).then_some(screen)
    }

    /// Cuts the last rows of the longest paragraphs until `text` fits. Each paragraph keeps its first two
    /// lines (a head and a row), and gets a line that counts the hidden ones.
    pub(super) fn fit(self, text: &str) -> String {
        let mut paragraphs: Vec<Paragraph<'_>> = text.trim_end().split("\n\n").map(Paragraph::new).collect();
        // One row stays empty for the cursor.
        while self.height(&paragraphs) >= self.rows {
            let longest = paragraphs.iter_mut().filter(|paragraph| paragraph.can_shrink());
            let Some(longest) = longest.max_by_key(|paragraph| paragraph.shown) else { break };
            longest.shrink();
        }
        let paragraphs: Vec<String> = paragraphs.iter().map(Paragraph::text).collect();
        paragraphs.join("\n\n") + "\n"
    }

    fn height(self, paragraphs: &[Paragraph<'_>]) -> usize {
        let lines = paragraphs.iter().map(|paragraph| {
            let shown = paragraph.lines.iter().take(paragraph.shown);
            let rows: usize = shown.map(|line| line.chars().count().div_ceil(self.columns).max(1)).sum();
            rows + usize::from(paragraph.hidden() > 0)
        });
        lines.sum::<usize>() + paragraphs.len().saturating_sub(1)
    }
}

/// Consecutive lines without an empty line.
struct Paragraph<'t> {
    lines: Vec<&'t str>,
    shown: usize,
}

impl<'t> Paragraph<'t> {
    fn new(text: &'t str) -> Self {
        let lines: Vec<&str> = text.lines().collect();
        Self { shown: lines.len(), lines }
    }

    fn can_shrink(&self) -> bool {
        self.shown >= if self.hidden() == 0 { 4 } else { 3 }
    }

    /// Hides one more line. The first time it hides two, because the line that counts them needs a row
    /// itself.
    fn shrink(&mut self) {
        self.shown -= if self.hidden() == 0 { 2 } else { 1 };
    }

    fn hidden(&self) -> usize {
        self.lines.len() - self.shown
    }

    fn text(&self) -> String {
        let lines = self.lines.get(..self.shown).unwrap_or_default().join("\n");
        match self.hidden() {
            0 => lines,
            hidden => format!("{lines}\n... and {hidden} more (status --json lists all)"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCREEN: Screen = Screen { rows: 12, columns: 40 };

    fn status(rows: usize) -> String {
        let table: Vec<String> = (0..rows).map(|row| format!("192.0.2.{row}")).collect();
        format!("nf-sender edge: connected\n\nqueued 7\n\nexporter\n{}\n", table.join("\n"))
    }

    #[test]
    fn a_status_that_fits_is_not_changed() {
        assert_eq!(SCREEN.fit(&status(6)), status(6));
    }

    #[test]
    fn only_the_long_table_is_cut() {
        for rows in [7, 100] {
            let text = SCREEN.fit(&status(rows));
            assert_eq!(text.lines().count(), SCREEN.rows - 1, "{text}");
            let rest = format!("192.0.2.4\n... and {} more (status --json lists all)\n", rows - 5);
            assert!(text.starts_with("nf-sender edge: connected\n\nqueued 7\n\nexporter\n"), "{text}");
            assert!(text.ends_with(&rest), "{text}");
        }
    }

    #[test]
    fn wrapped_lines_count_as_several_rows() {
        let long = "x".repeat(3 * SCREEN.columns);
        let text = SCREEN.fit(&format!("{long}\n\n{}", status(6)));
        assert_eq!(text.lines().count(), SCREEN.rows - 1 - 2, "{text}");
    }

    #[test]
    fn the_longer_of_two_tables_is_cut_first() {
        let text = SCREEN.fit(&format!("{}\nsender\na\nb\n", status(50)));
        assert!(text.ends_with("\n\nsender\na\nb\n"), "{text}");
    }

    #[test]
    fn a_tiny_terminal_shows_the_head_of_each_part() {
        let text = Screen { rows: 2, columns: 1 }.fit(&status(50));
        assert!(text.contains("queued 7\n\nexporter\n192.0.2.0\n... and 49 more"), "{text}");
    }
}
