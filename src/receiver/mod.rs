//! nf-receiver: commands of its command line run here, and the daemon in `daemon`.

mod accept;
mod collectors;
mod daemon;
mod delivery;
mod invite;
mod numbers;
mod output;
mod reload;
mod report;
mod session;
mod source_check;
pub mod state;

use std::{env, process};

use crate::cli::{self, Invocation, ReceiverAction};
use crate::config::{self, Environment, Loaded, RECEIVER};
use crate::host::credentials::pairing::keygen;
use crate::host::process::console;
use crate::host::systemd::messages::receiver;
use crate::host::{DaemonError, ServiceUnit, conceal_key, overrides};
use crate::receiver::invite::InvitationChange;
use crate::status::{self, StatusFormat};

/// Runs the command line of this process. Returns the exit code.
pub fn main() -> process::ExitCode {
    match cli::parse_receiver(env::args_os()) {
        Ok(invocation) => {
            // Only the service reports a rejected configuration to systemd's log.
            let refused =
                (invocation.action == ReceiverAction::Run).then_some(receiver::CONFIGURATION_REFUSED);
            console::concluded(RECEIVER, refused, run(invocation)).into()
        }
        Err(answer) => console::concluded_by_clap(&answer).into(),
    }
}

fn run(invocation: Invocation<ReceiverAction>) -> Result<(), DaemonError> {
    let Invocation { file, overrides: given, action } = invocation;
    conceal_key(&given)?;
    let overrides = overrides(given);
    let environment = match action {
        ReceiverAction::Run => Environment::of_this_process(),
        _ => Environment::of_the_service(RECEIVER),
    };
    match action {
        ReceiverAction::Run => daemon::run(Box::new(move || {
            config::load_receiver(file.as_deref(), overrides.clone(), &environment)
        })),
        ReceiverAction::Check => {
            let loaded = config::load_receiver(file.as_deref(), overrides, &environment)?;
            let ends = reload::check(&loaded.settings)?;
            let access = ServiceUnit::read(RECEIVER).check_access(&loaded.files(), &loaded.settings.state)?;
            let Loaded { settings, mut report, .. } = loaded;
            source_check::check(&settings, &mut report)?;
            report.warn(ends);
            report.warn(collectors::confusion::of_last_run(&settings));
            report.add_notes(access);
            console::print(&report.to_string())
        }
        ReceiverAction::Reload => {
            let path = config::control_path(RECEIVER, file.as_deref(), overrides, &environment)?;
            status::reload(&path, DaemonError::configuration, DaemonError::unavailable)?;
            console::print("nf-receiver reloaded its configuration\n")
        }
        ReceiverAction::Keygen { file } => keygen(file.as_deref()),
        ReceiverAction::Invite { id, address, renew, revoke } => {
            let change = match (renew, revoke) {
                (_, true) => InvitationChange::Revoke,
                (true, _) => InvitationChange::Renew,
                _ => InvitationChange::Invite,
            };
            invite::run(file.as_deref(), overrides, &environment, &id, address.as_deref(), change)
        }
        ReceiverAction::Status { json, watch } => {
            let path = config::control_path(RECEIVER, file.as_deref(), overrides, &environment)?;
            status::show(
                &path,
                StatusFormat { json, watch },
                status::render_receiver,
                console::print,
                DaemonError::unavailable,
            )
        }
    }
}
