//! Reads a secret from standard input, without echo on a terminal.

use std::io::{self, BufRead, IsTerminal, Read, Stdin};

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use zeroize::Zeroizing;

use crate::host::process::console;

/// Ctrl-C, as the other constants a byte that a terminal sends for a control key.
const INTERRUPT: u8 = 0x03;
const END: u8 = 0x04;
const BACKSPACE: u8 = 0x08;
const ERASE_LINE: u8 = 0x15;
const DELETE: u8 = 0x7f;

/// Reads the first line of standard input, at most `most` bytes. On a terminal, `prompt` asks for it.
pub fn read_secret_line(prompt: &str, most: usize) -> io::Result<Zeroizing<String>> {
    let input = io::stdin();
    if !input.is_terminal() {
        let mut text = Zeroizing::new(String::with_capacity(most));
        let most = u64::try_from(most).unwrap_or(u64::MAX);
        input.lock().take(most).read_line(&mut text)?;
        return Ok(text);
    }
    let _hidden = HiddenInput::begin(&input)?;
    console::print_note(prompt);
    edited_line(input.lock().bytes(), most)
}

/// Assembles the line that was typed, at most `most` bytes long. Control keys arrive as bytes, so that none
/// of them ends the program while the terminal shows no echo.
fn edited_line(typed: impl Iterator<Item = io::Result<u8>>, most: usize) -> io::Result<Zeroizing<String>> {
    let mut line = Zeroizing::new(Vec::with_capacity(most));
    for byte in typed {
        match byte? {
            INTERRUPT => return Err(io::Error::other("interrupted")),
            b'\n' | b'\r' | END => break,
            BACKSPACE | DELETE => drop(line.pop()),
            ERASE_LINE => line.clear(),
            byte if line.len() < most => line.push(byte),
            _ => {}
        }
    }
    let text = str::from_utf8(&line).map_err(|_| io::Error::other("not UTF-8 text"))?;
    Ok(Zeroizing::new(text.to_owned()))
}

/// A terminal without echo that sends its control keys as bytes. Dropping this restores it.
struct HiddenInput<'a> {
    terminal: &'a Stdin,
    before: Termios,
}

impl<'a> HiddenInput<'a> {
    fn begin(terminal: &'a Stdin) -> io::Result<Self> {
        let before = tcgetattr(terminal)?;
        let mut hidden = before.clone();
        hidden.local_modes.remove(LocalModes::ECHO | LocalModes::ISIG | LocalModes::ICANON);
        // `Now` keeps bytes that were typed before the prompt.
        tcsetattr(terminal, OptionalActions::Now, &hidden)?;
        Ok(Self { terminal, before })
    }
}

impl Drop for HiddenInput<'_> {
    fn drop(&mut self) {
        if let Err(error) = tcsetattr(self.terminal, OptionalActions::Now, &self.before) {
            console::print_note(&format!("cannot restore the echo of the terminal: {error}: run stty echo"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edited(typed: &[u8], most: usize) -> Result<String, String> {
        let line = edited_line(typed.iter().map(|byte| Ok(*byte)), most);
        line.map(|line| line.to_string()).map_err(|error| error.to_string())
    }

    #[test]
    fn a_hidden_line_is_edited_like_a_visible_one() {
        for (typed, line) in [
            (b"token\nmore".as_slice(), "token"),
            (b"token\r", "token"),
            (b"tokem\x7fn\n", "token"),
            (b"\x08\x7fx\n", "x"),
            (b"wrong\x15token\n", "token"),
            (b"token\x04", "token"),
            (b"longer than eight\n", "longer t"),
        ] {
            assert_eq!(edited(typed, 8).as_deref(), Ok(line), "{}", typed.escape_ascii());
        }
    }

    #[test]
    fn an_interrupt_ends_the_prompt() {
        assert_eq!(edited(b"tok\x03en\n", 8), Err("interrupted".to_owned()));
        assert_eq!(edited(b"\xff\n", 8), Err("not UTF-8 text".to_owned()));
    }
}
