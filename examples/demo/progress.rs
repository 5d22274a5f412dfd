//! Progress of the demo: bars on a terminal, otherwise a line every few seconds.

use std::cell::Cell;
use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use nf_transport_kit::samples::Sample;

use crate::chart::Event;

/// Time between two lines if there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(2);

/// The bars, or the time of the last line.
pub(crate) enum DemoProgress {
    Bars { all: MultiProgress, sent: ProgressBar, arrived: ProgressBar, queue: ProgressBar },
    Lines { last: Cell<Duration> },
}

impl DemoProgress {
    pub(crate) fn new(datagrams: u64) -> Self {
        if !std::io::stderr().is_terminal() {
            return Self::Lines { last: Cell::new(Duration::ZERO) };
        }
        let all = MultiProgress::new();
        let bar = |name, colour: &str| {
            let template = format!("  {{prefix:<8}} {{bar:44.{colour}}} {{human_pos:>7}} {{msg}}");
            let style = ProgressStyle::with_template(&template).unwrap().progress_chars("━╸ ");
            all.add(ProgressBar::new(datagrams).with_style(style).with_prefix(name))
        };
        let (sent, arrived, queue) = (bar("sent", "cyan"), bar("arrived", "green"), bar("queued", "yellow"));
        Self::Bars { all, sent, arrived, queue }
    }

    /// Shows the current figures.
    pub(crate) fn show(&self, at: Duration, sent: u64, arrived: u64, sample: Option<&Sample>) {
        let queued = sample.map_or(0, |sample| sample.queued);
        let state = sample.and_then(|sample| sample.state.as_deref()).unwrap_or("down");
        match self {
            Self::Bars { sent: sent_bar, arrived: arrived_bar, queue, .. } => {
                sent_bar.set_position(sent);
                arrived_bar.set_position(arrived);
                queue.set_position(queued);
                queue.set_message(format!("link: {state}"));
            }
            Self::Lines { last } if at >= last.get() + LINE_EVERY => {
                last.set(at);
                let seconds = at.as_secs_f64();
                eprintln!(
                    "{seconds:>6.1} s  sent {sent:>6}  arrived {arrived:>6}  queued {queued:>6}  link: {state}"
                );
            }
            Self::Lines { .. } => {}
        }
    }

    /// Prints an action of the demo.
    pub(crate) fn print_event(&self, event: &Event) {
        let line = format!("{:>6.1} s  {}", event.at.as_secs_f64(), event.description);
        match self {
            Self::Bars { all, .. } => all.println(line).unwrap(),
            Self::Lines { .. } => eprintln!("{line}"),
        }
    }

    /// Ends the bars at their last figures.
    pub(crate) fn finish(&self) {
        if let Self::Bars { sent, arrived, queue, .. } = self {
            for bar in [sent, arrived, queue] {
                bar.abandon();
            }
        }
        println!();
    }
}
