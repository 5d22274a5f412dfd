//! Removes a key or token from the command line, where every user of the machine can read it (`ps`).

use std::convert::Infallible;
use std::env;
use std::ffi::{OsStr, OsString};
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::process::Command;

use nf_transport_core::limits::TOKEN_MAX;

use crate::cli::Override;
use crate::host::DaemonError;
use crate::host::process::{console, logging};
use crate::limits::KEY_FILE_MAX;

/// Returns the key on the command line, if it is there in full.
fn typed_key(overrides: &[Override]) -> Option<&str> {
    let arguments = &overrides.iter().find(|found| found.key == "key")?.arguments;
    arguments.first().map(String::as_str).filter(|word| *word != "-")
}

/// Restarts this program in the same process if its command line contains the key: with `-k -` instead, and
/// the key on standard input. Process id, open sockets and environment stay the same.
pub fn conceal_key(overrides: &[Override]) -> Result<(), DaemonError> {
    let Some(key) = typed_key(overrides) else { return Ok(()) };
    if key.len() > KEY_FILE_MAX {
        return Err(DaemonError::configuration(format_args!(
            "option --key: the key has {} bytes, more than the {KEY_FILE_MAX} allowed",
            key.len()
        )));
    }
    logging::start();
    tracing::warn!(
        "the key was on the command line, where other users could read it until now, and where shell \
         histories and logs keep it: use --key-file, the systemd credential `key`, or `-k -` instead"
    );
    logging::finish();
    let arguments = without_key(env::args_os().skip(1));
    restart(key, ["-k", "-"].map(OsString::from).into_iter().chain(arguments))
}

/// Restarts this program in the same process if its command line contains the `token` of an invitation: with
/// `-` instead, and the token on standard input.
pub fn conceal_token(token: &str) -> Result<(), DaemonError> {
    // A longer text is not a token, and may exceed the capacity of a pipe.
    if token == "-" || token.len() > TOKEN_MAX {
        return Ok(());
    }
    console::print_note(
        "warning: the token was on the command line, where other users could read it until now, and where \
         shell histories and logs keep it: use `nf-sender join` without it, which asks for the token. If \
         others may have seen it, replace it: nf-receiver invite --renew",
    );
    restart(token, without_token(env::args_os().skip(1), token).into_iter())
}

/// Restarts this program with these `arguments` and `secret` on standard input. Returns only if that fails.
fn restart(secret: &str, arguments: impl Iterator<Item = OsString>) -> Result<(), DaemonError> {
    let restart = || -> io::Result<Infallible> {
        let (reader, mut writer) = io::pipe()?;
        // A pipe has more capacity than `KEY_FILE_MAX` and `TOKEN_MAX`, so this never waits for a reader.
        writer.write_all(secret.as_bytes())?;
        drop(writer);
        let name = env::args_os().next().unwrap_or_default();
        Err(Command::new(env::current_exe()?).arg0(name).args(arguments).stdin(reader).exec())
    };
    let failed =
        |error| DaemonError::system(format_args!("cannot remove the secret from the command line: {error}"));
    restart().map(|never| match never {}).map_err(failed)
}

/// Replaces the token in `arguments` by `-`.
fn without_token(arguments: impl Iterator<Item = OsString>, token: &str) -> Vec<OsString> {
    arguments.map(|argument| if argument == token { OsString::from("-") } else { argument }).collect()
}

/// Removes the option with the key from `arguments`, in each of its forms.
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
    fn the_key_is_removed_in_each_of_its_forms() {
        for line in ["-k s3cret", "-ks3cret", "-k=s3cret", "--key s3cret", "--key=s3cret"] {
            let line = format!("--listen [::]:2055 {line} --key-file f check");
            let rest = without_key(line.split(' ').map(OsString::from));
            assert_eq!(rest, ["--listen", "[::]:2055", "--key-file", "f", "check"], "{line}");
        }
    }

    #[test]
    fn a_dash_replaces_the_token() {
        for line in ["-c dc2.toml join TOKEN", "-c dc2.toml join -- TOKEN"] {
            let rest = without_token(line.split(' ').map(OsString::from), "TOKEN");
            let rest: Vec<_> = rest.iter().map(|word| word.to_str().unwrap()).collect();
            assert_eq!(rest.join(" "), line.replace("TOKEN", "-"));
        }
    }

    #[test]
    fn a_key_that_looks_like_an_option_is_removed() {
        let arguments = ["-k", "--key", "--id", "edge"].map(OsString::from);
        assert_eq!(without_key(arguments.into_iter()), ["--id", "edge"]);
    }
}
