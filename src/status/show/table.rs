//! Text in columns.

/// The alignment of a column.
#[derive(Clone, Copy, Debug)]
pub(super) enum Align {
    Left,
    Right,
}

/// A table of texts. Each column is as wide as its widest text, and two spaces separate columns. A column
/// without a text below its head is omitted.
#[derive(Debug)]
pub(super) struct Table {
    alignments: Vec<Align>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these heads and alignments.
    pub(super) fn new<const N: usize>(columns: [(&str, Align); N]) -> Self {
        let heads = columns.iter().map(|(head, _)| (*head).to_owned()).collect();
        Self { alignments: columns.iter().map(|(_, align)| *align).collect(), rows: vec![heads] }
    }

    pub(super) fn row<const N: usize>(&mut self, texts: [String; N]) {
        self.rows.push(texts.into());
    }

    /// The table as text, one line for each row.
    pub(super) fn render(&self) -> String {
        let texts = |column: usize| self.rows.iter().filter_map(move |row| row.get(column));
        let is_shown =
            |column: usize| self.rows.len() == 1 || texts(column).skip(1).any(|text| !text.is_empty());
        let width = |column: usize| texts(column).map(|text| text.chars().count()).max().unwrap_or(0);
        let widths: Vec<Option<usize>> =
            (0..self.alignments.len()).map(|column| is_shown(column).then(|| width(column))).collect();
        let line = |row: &Vec<String>| {
            let columns = row.iter().zip(&self.alignments).zip(&widths);
            let cells = columns.filter_map(|((text, align), width)| {
                let width = (*width)?;
                Some(match align {
                    Align::Left => format!("{text:width$}"),
                    Align::Right => format!("{text:>width$}"),
                })
            });
            let cells: Vec<String> = cells.collect();
            format!("{}\n", cells.join("  ").trim_end())
        };
        self.rows.iter().map(line).collect()
    }
}
