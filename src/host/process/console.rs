//! What the commands of both programs have in common: results go to stdout, errors to stderr, and the exit code
//! tells which of them it was.

use std::io::{self, Write};

use sysexits::ExitCode;

use crate::host::DaemonError;
use crate::host::process::logging;

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
/// `refused` is the number of the message that its configuration cannot be followed. A service, which has such a number,
/// ends even if nobody reads its stderr.
pub fn concluded(program: &str, refused: Option<&'static str>, outcome: Result<(), DaemonError>) -> ExitCode {
    let is_journal = logging::stderr_is_the_journal();
    if refused.is_some() || (is_journal && outcome.is_err()) {
        logging::start();
    }
    let code = outcome.as_ref().map_or_else(DaemonError::code, |()| ExitCode::Ok);
    if let Err(error) = outcome {
        if is_journal {
            let message_id = refused.filter(|_| code == ExitCode::Config);
            tracing::error!(message_id, "{error}");
        } else {
            let sentences: Vec<String> =
                error.to_string().lines().map(|line| format!("{program}: {line}\n")).collect();
            logging::print(sentences.concat());
        }
    }
    logging::finish();
    code
}

/// The exit code for an `answer` of clap, after it was shown: 0 for help and version, else 64.
pub fn concluded_by_clap(answer: &clap::Error) -> ExitCode {
    let code = if answer.use_stderr() { ExitCode::Usage } else { ExitCode::Ok };
    answer.print().map_or(ExitCode::IoErr, |()| code)
}
