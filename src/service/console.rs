//! What the commands of both programs have in common: results go to stdout, errors to stderr, and the exit code
//! tells which of them it was.

use std::io::{self, Write};

use sysexits::ExitCode;

use crate::service::{DaemonError, logging};

/// Writes `text` to stdout.
pub fn print(text: &str) -> Result<(), DaemonError> {
    let mut stdout = io::stdout().lock();
    let written = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
    match written {
        // Whoever read the output has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        Err(error) => Err(DaemonError::input_output(format_args!("the output cannot be written: {error}"))),
        Ok(()) => Ok(()),
    }
}

/// Says something beside the result, on stderr. Where that is closed, nobody wants to know.
pub fn note(sentence: &str) {
    drop(io::stderr().write_all(format!("{sentence}\n").as_bytes()));
}

/// The exit code of a command of `program`, after its error, if any, was said: in the journal if stderr leads there, where
/// `refused` is the number of the message that its configuration cannot be followed.
pub fn concluded(program: &str, refused: Option<&'static str>, outcome: Result<(), DaemonError>) -> ExitCode {
    let Err(error) = outcome else { return ExitCode::Ok };
    if logging::stderr_is_the_journal() {
        logging::start();
        let message_id = refused.filter(|_| error.code() == ExitCode::Config);
        tracing::error!(message_id, "{error}");
        return error.code();
    }
    let sentences: Vec<String> =
        error.to_string().lines().map(|line| format!("{program}: {line}\n")).collect();
    // Where stderr is closed, the exit code is all that can be said.
    io::stderr().write_all(sentences.concat().as_bytes()).map_or(error.code(), |()| error.code())
}

/// The exit code for an `answer` of clap, after it was shown: 0 for help and version, else 64.
pub fn concluded_by_clap(answer: &clap::Error) -> ExitCode {
    let code = if answer.use_stderr() { ExitCode::Usage } else { ExitCode::Ok };
    answer.print().map_or(ExitCode::IoErr, |()| code)
}
