//! Reads a secret from standard input: from a terminal without showing it.

use std::io::{self, BufRead, IsTerminal, Read, Stdin};

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use zeroize::Zeroizing;

use crate::service::console;

/// The first line of standard input, at most `most` bytes of it. On a terminal, `prompt` asks for it.
pub fn read_secret_line(prompt: &str, most: usize) -> io::Result<Zeroizing<String>> {
    let input = io::stdin();
    let hidden = if input.is_terminal() { Some(HiddenInput::begin(&input)?) } else { None };
    if hidden.is_some() {
        console::note(prompt);
    }
    let mut text = Zeroizing::new(String::with_capacity(most));
    let most = u64::try_from(most).unwrap_or(u64::MAX);
    input.lock().take(most).read_line(&mut text)?;
    Ok(text)
}

/// A terminal that shows nothing of what is typed but the ends of lines. Dropped, it is as before.
struct HiddenInput<'a> {
    terminal: &'a Stdin,
    before: Termios,
}

impl<'a> HiddenInput<'a> {
    fn begin(terminal: &'a Stdin) -> io::Result<Self> {
        let before = tcgetattr(terminal)?;
        let mut hidden = before.clone();
        hidden.local_modes.remove(LocalModes::ECHO);
        hidden.local_modes.insert(LocalModes::ECHONL);
        // What was typed already counts.
        tcsetattr(terminal, OptionalActions::Now, &hidden)?;
        Ok(Self { terminal, before })
    }
}

impl Drop for HiddenInput<'_> {
    fn drop(&mut self) {
        if let Err(error) = tcsetattr(self.terminal, OptionalActions::Now, &self.before) {
            console::note(&format!(
                "cannot make the terminal show again what is typed: {error}: run stty echo"
            ));
        }
    }
}
