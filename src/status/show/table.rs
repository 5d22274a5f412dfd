//! Text in columns.

/// On which side a column's texts meet.
#[derive(Clone, Copy, Debug)]
pub(in crate::status) enum Align {
    Left,
    Right,
}

/// Rows of texts, shown with columns as wide as their widest text, two spaces apart. A column without a text below its head
/// is omitted.
#[derive(Debug)]
pub(in crate::status) struct Table {
    alignments: Vec<Align>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table whose columns are headed as `columns` say.
    pub(in crate::status) fn new<const N: usize>(columns: [(&str, Align); N]) -> Self {
        let heads = columns.iter().map(|(head, _)| (*head).to_owned()).collect();
        Self { alignments: columns.iter().map(|(_, align)| *align).collect(), rows: vec![heads] }
    }

    pub(in crate::status) fn row<const N: usize>(&mut self, texts: [String; N]) {
        self.rows.push(texts.into());
    }

    /// The rows, each on a line of its own.
    pub(in crate::status) fn render(&self) -> String {
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
