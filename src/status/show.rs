//! The command `status`: requests the status of the service and prints it; with `--watch`, every second.

mod certificates;
mod collectors;
mod exporters;
mod fit;
pub(super) mod pace;
pub(super) mod receiver;
pub(super) mod sender;
mod table;
pub(super) mod units;

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;

use crate::status::control::{ControlError, Request, request};
use crate::status::show::fit::Screen;
use crate::status::show::pace::Earlier;

/// The form in which `status` is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatusFormat {
    /// Prints JSON, one line for each status.
    pub json: bool,
    /// Repeats until interrupted.
    pub watch: bool,
}

/// Time between two requests of a watch.
const PERIOD: Duration = Duration::from_secs(1);

/// Moves the cursor to the upper left corner and clears the screen below it (ECMA-48, CUP and ED).
const CLEAR: &str = "\x1b[H\x1b[J";

/// Requests the status of the service whose control socket is at `path`, and passes the text to `print`.
///
/// The first request that fails ends it with the error that `unavailable` makes, and so does an error of
/// `print`. After the first answer, a watch waits while the service restarts.
pub fn show<S: DeserializeOwned, E>(
    path: &Path,
    format: StatusFormat,
    render: impl Fn(&S, Option<Earlier<'_, S>>) -> String,
    print: impl Fn(&str) -> Result<(), E>,
    unavailable: impl Fn(ControlError) -> E,
) -> Result<(), E> {
    let mut before: Option<(S, Instant)> = None;
    let mut has_answered = false;
    loop {
        let answer: serde_json::Value = match request(path, Request::Status) {
            Err(error) if has_answered => {
                if !format.json {
                    print(&format!("{CLEAR}{error}\n\nretrying every second\n"))?;
                }
                thread::sleep(PERIOD);
                continue;
            }
            answer => answer.map_err(&unavailable)?,
        };
        has_answered = true;
        let now = Instant::now();
        if format.json {
            print(&format!("{answer}\n"))?;
        } else {
            let status: S = serde_json::from_value(answer).map_err(|error| {
                let reason = error.to_string();
                unavailable(ControlError::InvalidReply { path: path.to_owned(), reason })
            })?;
            let earlier =
                before.as_ref().map(|(status, then)| Earlier { status, ago: now.duration_since(*then) });
            let text = render(&status, earlier);
            print(&if format.watch { format!("{CLEAR}{}", fitted(text)) } else { text })?;
            before = Some((status, now));
        }
        if !format.watch {
            return Ok(());
        }
        thread::sleep(PERIOD);
    }
}

/// Cuts `text` to the terminal, if there is one.
fn fitted(text: String) -> String {
    match Screen::of_standard_output() {
        Some(screen) => screen.fit(&text),
        None => text,
    }
}
