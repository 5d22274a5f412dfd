//! `status` on the command line: asks, shows, and with `--watch` does so again every second.

pub(crate) mod exporters;
pub(crate) mod fit;
pub(crate) mod pace;
pub(crate) mod render;
pub(crate) mod table;

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;

use crate::status::show::fit::Screen;
use crate::status::{ControlError, Earlier, Request, request};

/// How `status` is to be shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Manner {
    /// As JSON, one line for each status.
    pub json: bool,
    /// Again and again, until interrupted.
    pub watch: bool,
}

/// Time from one look at a service to the next.
const PERIOD: Duration = Duration::from_secs(1);

/// Moves a terminal's cursor to its upper left corner and clears what is below (ECMA-48, CUP and ED).
const CLEAR: &str = "\x1b[H\x1b[J";

/// Asks the service whose control socket is at `path` for its status, and gives what is to be shown to `print`.
/// Errors of either end it; `unavailable` makes one of what the socket says. A watch that has begun outlasts
/// restarts of the service.
pub fn show<S: DeserializeOwned, E>(
    path: &Path,
    manner: Manner,
    render: impl Fn(&S, Option<Earlier<'_, S>>) -> String,
    print: impl Fn(&str) -> Result<(), E>,
    unavailable: impl Fn(ControlError) -> E,
) -> Result<(), E> {
    let mut before: Option<(S, Instant)> = None;
    let mut has_answered = false;
    loop {
        let answer = match request(path, Request::Status) {
            Err(error) if has_answered => {
                if !manner.json {
                    print(&format!("{CLEAR}{error}\n\nasking again every second\n"))?;
                }
                thread::sleep(PERIOD);
                continue;
            }
            answer => answer.map_err(&unavailable)?,
        };
        has_answered = true;
        let now = Instant::now();
        if manner.json {
            print(&format!("{answer}\n"))?;
        } else {
            let status: S = serde_json::from_value(answer).map_err(|error| {
                let reason = error.to_string();
                unavailable(ControlError::InvalidReply { path: path.to_owned(), reason })
            })?;
            let earlier =
                before.as_ref().map(|(status, then)| Earlier { status, ago: now.duration_since(*then) });
            let text = render(&status, earlier);
            print(&if manner.watch { format!("{CLEAR}{}", fitted(text)) } else { text })?;
            before = Some((status, now));
        }
        if !manner.watch {
            return Ok(());
        }
        thread::sleep(PERIOD);
    }
}

/// `text` cut to the terminal, if there is one.
fn fitted(text: String) -> String {
    match Screen::of_standard_output() {
        Some(screen) => screen.fit(&text),
        None => text,
    }
}
