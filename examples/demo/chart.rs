//! The time line of a run: the states of the link, the length of the queue, and the events.

use std::fmt::Write;
use std::time::Duration;

use nf_transport_kit::samples::Sample;

/// Width of the time line in characters.
const WIDTH: usize = 72;

/// Bars for the queue's length, in steps of an eighth of a line.
const HEIGHTS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// An action of the demo.
pub(crate) struct Event {
    /// Time since the first datagram.
    pub(crate) at: Duration,
    pub(crate) description: &'static str,
}

/// States of the link from best to worst, and their symbols in the chart.
const LINK: [(&str, char); 3] = [("connected", '━'), ("not connected", '╌'), ("nf-sender down", '✕')];

/// The samples in the time span of one character.
#[derive(Clone, Copy, Default)]
struct Column {
    /// Index of the worst state in `LINK`.
    link: usize,
    /// Longest queue.
    queued: u64,
}

/// Draws a line for the link, one for the queue and one for the time, then the list of events.
pub(crate) fn chart(samples: &[Sample], events: &[Event]) -> String {
    let Some(end) = samples.last().map(|sample| sample.at.max(Duration::from_secs(1))) else {
        return String::new();
    };
    let columns = columns(samples, end);
    let most = columns.iter().map(|column| column.queued).max().unwrap().max(1);
    let link: String = columns.iter().map(|column| LINK[column.link].1).collect();
    let queue: String = columns.iter().map(|column| height(column.queued, most)).collect();
    let legend = LINK.map(|(name, mark)| format!("{mark} {name}")).join("   ");
    let mut out = format!("link     {link}\nqueue    {queue}  up to {most}\n");
    writeln!(out, "events   {}", marks(events, end)).unwrap();
    writeln!(out, "         0 s{:>1$.0} s\n", end.as_secs_f64(), WIDTH - 5).unwrap();
    for (number, event) in (1..).zip(events) {
        writeln!(out, "  {number}  {:>5.1} s  {}", event.at.as_secs_f64(), event.description).unwrap();
    }
    writeln!(out, "\n  {legend}").unwrap();
    out
}

/// Groups the samples into columns. A column without a sample repeats the one before.
fn columns(samples: &[Sample], end: Duration) -> Vec<Column> {
    let mut columns: Vec<Option<Column>> = vec![None; WIDTH];
    for sample in samples {
        let column = columns[place(sample.at, end)].get_or_insert_default();
        column.link = column.link.max(link(sample));
        column.queued = column.queued.max(sample.queued);
    }
    let mut last = Column::default();
    let filled = columns.into_iter().map(|column| {
        last = column.unwrap_or(last);
        last
    });
    filled.collect()
}

fn link(sample: &Sample) -> usize {
    match sample.state.as_deref() {
        Some("connected") => 0,
        Some(_) => 1,
        None => 2,
    }
}

fn height(queued: u64, most: u64) -> char {
    HEIGHTS[usize::try_from((queued * 8).div_ceil(most)).unwrap()]
}

/// Places the events' numbers on the time line.
fn marks(events: &[Event], end: Duration) -> String {
    let mut line = [' '; WIDTH];
    for (number, event) in ('1'..).zip(events) {
        line[place(event.at, end)] = number;
    }
    line.iter().collect::<String>().trim_end().to_owned()
}

/// Returns the column of a moment.
fn place(at: Duration, end: Duration) -> usize {
    let width = u128::try_from(WIDTH).unwrap();
    usize::try_from(at.as_nanos() * width / end.as_nanos()).unwrap().min(WIDTH - 1)
}
