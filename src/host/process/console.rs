//! Output of the commands of both programs: results go to stdout, notes and errors to stderr, and the exit
//! code distinguishes success and failure.

use std::io::{self, Write};

use sysexits::ExitCode;

use crate::host::DaemonError;
use crate::host::process::logging;

/// Writes `text` to stdout.
pub fn print(text: &str) -> Result<(), DaemonError> {
    let mut stdout = io::stdout().lock();
    let written = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
    match written {
        // The reader of the pipe, such as `head`, has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        Err(error) => Err(DaemonError::input_output(format_args!("the output cannot be written: {error}"))),
        Ok(()) => Ok(()),
    }
}

/// Writes a note to stderr. A closed stderr is not an error.
pub fn print_note(sentence: &str) {
    drop(io::stderr().write_all(format!("{sentence}\n").as_bytes()));
}

/// Reports the error of a command of `program`, if any, and returns its exit code. The error goes to the
/// journal if stderr is connected to it. There `refused` is the message id for an invalid configuration; only
/// a service has one. A service ends even if nobody reads its stderr.
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

/// Prints an `answer` of clap and returns the exit code: 0 for help and version, else 64.
pub fn concluded_by_clap(answer: &clap::Error) -> ExitCode {
    let code = if answer.use_stderr() { ExitCode::Usage } else { ExitCode::Ok };
    answer.print().map_or(ExitCode::IoErr, |()| code)
}
