//! Takes a key off the command line, where every user of the machine could read it (`ps`).

use std::convert::Infallible;
use std::env;
use std::ffi::{OsStr, OsString};
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::process::Command;

use crate::cli::Given;
use crate::limits::KEY_FILE_MAX;
use crate::service::{DaemonError, logging};

/// The key that the command line holds in full, if it does.
fn typed_key(given: &[Given]) -> Option<&str> {
    let words = &given.iter().find(|given| given.key == "key")?.words;
    words.first().map(String::as_str).filter(|word| *word != "-")
}

/// If the key was `given` on the command line, starts this program again in the same process with `-k -` in its
/// place and the key on standard input. Nothing else changes: process id, open sockets and environment stay.
pub fn conceal_key(given: &[Given]) -> Result<(), DaemonError> {
    let Some(key) = typed_key(given) else { return Ok(()) };
    if key.len() > KEY_FILE_MAX {
        return Err(DaemonError::configuration(format_args!(
            "option --key: a key of {} bytes, where {KEY_FILE_MAX} are allowed",
            key.len()
        )));
    }
    logging::start();
    tracing::warn!(
        "the key was on the command line, where other users could read it until now, and where \
         histories and logs keep it: use --key-file, the systemd credential `key`, or `-k -` instead"
    );
    logging::finish();
    let failed =
        |error| DaemonError::system(format_args!("cannot take the key off the command line: {error}"));
    restart(key, env::args_os().collect()).map(|never| match never {}).map_err(failed)
}

fn restart(key: &str, arguments: Vec<OsString>) -> io::Result<Infallible> {
    let (reader, mut writer) = io::pipe()?;
    // A pipe has room for more than `KEY_FILE_MAX`, so this never waits for a reader.
    writer.write_all(key.as_bytes())?;
    drop(writer);
    let mut arguments = arguments.into_iter();
    let name = arguments.next().unwrap_or_default();
    let rest = without_key(arguments);
    Err(Command::new(env::current_exe()?).arg0(name).args(["-k", "-"]).args(rest).stdin(reader).exec())
}

/// The `arguments` without the option that gives a key, in each of the forms that it may have.
fn without_key(arguments: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut is_key = false;
    arguments
        .filter(|argument| {
            let follows = is_key;
            is_key = !follows && (argument == "-k" || argument == "--key");
            !follows && !is_key && !holds_key(argument)
        })
        .collect()
}

fn holds_key(argument: &OsStr) -> bool {
    let bytes = argument.as_encoded_bytes();
    bytes.starts_with(b"--key=") || (bytes.starts_with(b"-k") && bytes.len() > 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_is_gone_in_whatever_form_it_was_given() {
        for line in ["-k s3cret", "-ks3cret", "-k=s3cret", "--key s3cret", "--key=s3cret"] {
            let line = format!("--listen [::]:2055 {line} --key-file f check");
            let rest = without_key(line.split(' ').map(OsString::from));
            assert_eq!(rest, ["--listen", "[::]:2055", "--key-file", "f", "check"], "{line}");
        }
    }

    #[test]
    fn a_key_that_looks_like_an_option_is_gone_too() {
        let arguments = ["-k", "--key", "--id", "edge"].map(OsString::from);
        assert_eq!(without_key(arguments.into_iter()), ["--id", "edge"]);
    }
}
