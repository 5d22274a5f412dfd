//! nf-sender: the actions of its command line, and the daemon.

mod daemon;
mod ingest;
mod join;
mod journal;
mod queue;
mod reload;
mod report;
mod uplink;

use std::{env, process};

use crate::cli::{self, Invocation, SenderAction};
use crate::config::{self, Environment, SENDER};
use crate::host::credentials::pairing::keygen;
use crate::host::process::console;
use crate::host::systemd::messages::sender;
use crate::host::{DaemonError, ServiceUnit, conceal_key, conceal_token, overrides};
use crate::status::{self, Request, StatusFormat};

/// Runs the action of the command line and returns the exit code.
pub fn main() -> process::ExitCode {
    match cli::parse_sender(env::args_os()) {
        Ok(invocation) => {
            // Only a failed start of the service is logged with this message id.
            let refused = (invocation.action == SenderAction::Run).then_some(sender::CONFIGURATION_REFUSED);
            console::concluded(SENDER, refused, run(invocation)).into()
        }
        Err(answer) => console::concluded_by_clap(&answer).into(),
    }
}

fn run(invocation: Invocation<SenderAction>) -> Result<(), DaemonError> {
    let Invocation { file, overrides: given, action } = invocation;
    conceal_key(&given)?;
    if let SenderAction::Join { token } = &action {
        conceal_token(token.as_str())?;
    }
    let overrides = overrides(given);
    let environment = match action {
        SenderAction::Run => Environment::of_this_process(),
        _ => Environment::of_the_service(SENDER),
    };
    match action {
        SenderAction::Run => daemon::run(Box::new(move || {
            config::load_sender(file.as_deref(), overrides.clone(), &environment)
        })),
        SenderAction::Check => {
            let mut loaded = config::load_sender(file.as_deref(), overrides, &environment)?;
            let end = reload::check(&loaded.settings)?;
            let access =
                ServiceUnit::read(SENDER).check_access(&loaded.files(), &loaded.settings.spool.directory)?;
            let (note, warning) = queue::room::check(&loaded.settings.spool, &loaded.settings.control);
            loaded.report.add_notes(note.into_iter().chain(access));
            loaded.report.warn(end.into_iter().chain(warning));
            console::print(&loaded.report.to_string())
        }
        SenderAction::Reload => {
            let path = config::control_path(SENDER, file.as_deref(), overrides, &environment)?;
            status::reload(&path, DaemonError::configuration, DaemonError::unavailable)?;
            console::print("nf-sender has reloaded its configuration\n")
        }
        SenderAction::Status { json, watch } => {
            let path = config::control_path(SENDER, file.as_deref(), overrides, &environment)?;
            status::show(
                &path,
                StatusFormat { json, watch },
                status::render_sender,
                console::print,
                DaemonError::unavailable,
            )
        }
        SenderAction::Keygen { file } => keygen(file.as_deref()),
        SenderAction::Join { token } => join::run(file.as_deref(), &overrides, &environment, token.as_str()),
        SenderAction::Reconnect => {
            let path = config::control_path(SENDER, file.as_deref(), overrides, &environment)?;
            status::request(&path, Request::Reconnect).map_err(DaemonError::unavailable)?;
            console::print("nf-sender is reconnecting now\n")
        }
    }
}

#[cfg(test)]
mod tests;
