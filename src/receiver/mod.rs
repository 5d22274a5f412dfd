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
use crate::config::{self, Loaded, RECEIVER, Surroundings};
use crate::host::credentials::pairing::keygen;
use crate::host::process::console;
use crate::host::systemd::messages::receiver;
use crate::host::{DaemonError, Unit, conceal_key, overrides};
use crate::receiver::invite::InvitationChange;
use crate::status::{self, Manner};

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
    let Invocation { file, given, action } = invocation;
    conceal_key(&given)?;
    let overrides = overrides(given);
    let surroundings = match action {
        ReceiverAction::Run => Surroundings::of_this_process(),
        _ => Surroundings::of_the_service(RECEIVER),
    };
    match action {
        ReceiverAction::Run => daemon::run(Box::new(move || {
            config::load_receiver(file.as_deref(), overrides.clone(), &surroundings)
        })),
        ReceiverAction::Check => {
            let loaded = config::load_receiver(file.as_deref(), overrides, &surroundings)?;
            let ends = reload::check(&loaded.settings)?;
            let access = Unit::of(RECEIVER).check_access(&loaded.files(), &loaded.settings.state)?;
            let Loaded { settings, mut report, .. } = loaded;
            source_check::check(&settings, &mut report)?;
            report.warn(ends);
            report.warn(collectors::confusion::of_last_run(&settings));
            report.note(access);
            console::print(&report.to_string())
        }
        ReceiverAction::Reload => {
            let path = config::control_path(RECEIVER, file.as_deref(), overrides, &surroundings)?;
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
            invite::run(file.as_deref(), overrides, &surroundings, &id, address.as_deref(), change)
        }
        ReceiverAction::Status { json, watch } => {
            let path = config::control_path(RECEIVER, file.as_deref(), overrides, &surroundings)?;
            status::show(
                &path,
                Manner { json, watch },
                status::render_receiver,
                console::print,
                DaemonError::unavailable,
            )
        }
    }
}
