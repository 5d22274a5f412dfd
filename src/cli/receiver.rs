//! The command line of nf-receiver.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Arg, ArgAction, ArgMatches, Command};
use nf_transport_core::sequence::SenderId;

use crate::cli::{
    Invocation, OptionArgument, OptionRow, check_command, file_argument, keygen_command, keygen_file, parse,
    reload_command, status_command, with_options,
};

/// An action of nf-receiver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReceiverAction {
    /// Run as the service.
    Run,
    /// Print the status of the running service.
    Status {
        /// Print JSON.
        json: bool,
        /// Repeat every second.
        watch: bool,
    },
    /// Check the configuration.
    Check,
    /// Request a reload of the running service.
    Reload,
    /// Generate a key.
    Keygen {
        /// The new file; `None` prints to standard output.
        file: Option<PathBuf>,
    },
    /// Give a sender a key of its own, or revoke it.
    Invite {
        /// The sender.
        id: SenderId,
        /// The receiver address for the token.
        address: Option<String>,
        /// Replace its key.
        renew: bool,
        /// Remove its keys.
        revoke: bool,
    },
}

const ROWS: &[OptionRow] = &[
    OptionRow {
        key: "listen",
        long: "listen",
        short: Some('l'),
        variable: Some("NF_RECEIVER_LISTEN"),
        argument: OptionArgument::Many("ADDR:PORT"),
        help: "Listen for connections on this TCP address; may be repeated; sockets from systemd replace it \
               [default: [::]:2055]",
    },
    OptionRow {
        key: "collector",
        long: "collector",
        short: Some('C'),
        variable: Some("NF_RECEIVER_COLLECTOR"),
        argument: OptionArgument::Many("HOST:PORT"),
        help: "Deliver to this collector by UDP; may be repeated to deliver to several \
               [default: 127.0.0.1:9995]",
    },
    OptionRow {
        key: "source",
        long: "source",
        short: None,
        variable: Some("NF_RECEIVER_SOURCE"),
        argument: OptionArgument::One("own|exporter"),
        help: "Source address of delivered datagrams: this machine's own, with a port for each exporter, or \
               the exporter's address and port, which needs CAP_NET_RAW [default: own]",
    },
    OptionRow {
        key: "key",
        long: "key",
        short: Some('k'),
        variable: None,
        argument: OptionArgument::One("KEY"),
        help: "Use this shared key, or passphrase, of both sides; - reads it from standard input. Other \
               users can read the command line: --key-file, or the systemd credential `key`, is safer",
    },
    OptionRow {
        key: "key-file",
        long: "key-file",
        short: None,
        variable: Some("NF_RECEIVER_KEY_FILE"),
        argument: OptionArgument::One("FILE"),
        help: "Use the shared key in this file, which only its owner may read; keygen makes keys \
               [default: the systemd credential `key`, if it exists]",
    },
    OptionRow {
        key: "plaintext",
        long: "plaintext",
        short: None,
        variable: Some("NF_RECEIVER_PLAINTEXT"),
        argument: OptionArgument::Nothing,
        help: "Accept senders without encryption, from other machines too. Without this and without a key, \
               nf-receiver accepts senders on this machine only",
    },
    OptionRow {
        key: "state",
        long: "state",
        short: None,
        variable: Some("NF_RECEIVER_STATE"),
        argument: OptionArgument::One("DIR"),
        help: "Store the delivered position of each sender in this directory \
               [default: $STATE_DIRECTORY, else /var/lib/nf-receiver]",
    },
    OptionRow {
        key: "control",
        long: "control",
        short: None,
        variable: Some("NF_RECEIVER_CONTROL"),
        argument: OptionArgument::One("PATH"),
        help: "Path of the control socket, of the service and of commands that ask it \
               [default: $RUNTIME_DIRECTORY/control.sock, else /run/nf-receiver/control.sock]",
    },
];

const AFTER_HELP: &str = "\
Examples:
  nf-receiver invite brno-edge --address collector.example.net:2055
  nf-receiver --collector 127.0.0.1:9995 --key-file /etc/nf-receiver/key
  nf-receiver --listen 192.0.2.1:2055 --collector 127.0.0.1:9995 --collector [2001:db8::7]:2055
  nf-receiver status --watch
  nf-receiver --config new.toml check

Files:
  /etc/nf-receiver/nf-receiver.toml           configuration (optional)
  /etc/nf-receiver/nf-receiver.toml.d/*.toml  drop-ins, read after it in order of their names

Precedence, highest first: options, environment, drop-ins, configuration file.
Variables separate several values by commas.

Exit codes:
  0 success   64 usage error   69 service does not answer   71 system error
  73 cannot create or own a file   74 input/output error   78 invalid configuration";

/// Returns the definition of the command line, also for completions and tests.
pub fn receiver_command() -> Command {
    let command = Command::new("nf-receiver")
        .version(env!("CARGO_PKG_VERSION"))
        .about(
            "Receives datagrams from nf-senders, verifies and acknowledges them, and delivers each of them, \
             unchanged and in order, to collectors by UDP",
        )
        .after_help(AFTER_HELP)
        .arg(file_argument("NF_RECEIVER_CONFIG"))
        .subcommand(status_command("Print senders, collectors and counters of the running nf-receiver"))
        .subcommand(check_command())
        .subcommand(reload_command("nf-receiver"))
        .subcommand(keygen_command())
        .subcommand(invite_command());
    with_options(command, ROWS)
}

fn invite_command() -> Command {
    let flag = |name: &'static str, help: &'static str| {
        Arg::new(name).long(name).action(ArgAction::SetTrue).help(help)
    };
    Command::new("invite")
        .about(
            "Give the sender NAME a key of its own and print a token for `nf-sender join`. Only the holder \
             of that key can use the name. The token contains the key: treat it like a password. Safe to \
             repeat: the token stays the same",
        )
        .arg(
            Arg::new("name")
                .value_name("NAME")
                .required(true)
                .value_parser(|name: &str| name.parse::<SenderId>())
                .help("The name of the sender: 1 to 64 of A-Z a-z 0-9 . _ -"),
        )
        .arg(Arg::new("address").long("address").value_name("HOST:PORT").help(
            "Address of this receiver for the sender [default: the host name and the listening \
                       port]",
        ))
        .arg(flag(
            "renew",
            "Replace the key; the previous one stays valid until the next renewal, so that the sender is \
             never locked out",
        ))
        .arg(
            flag("revoke", "Remove the key: the sender is rejected from then on")
                .conflicts_with_all(["renew", "address"]),
        )
}

fn invite_action(matches: &ArgMatches) -> ReceiverAction {
    ReceiverAction::Invite {
        id: matches.get_one::<SenderId>("name").expect("clap rejects a command line without it").clone(),
        address: matches.get_one::<String>("address").cloned(),
        renew: matches.get_flag("renew"),
        revoke: matches.get_flag("revoke"),
    }
}

/// Parses `arguments`, which begin with the program's name, and the environment. The error may also be the
/// help or the version.
pub fn parse_receiver(
    arguments: impl IntoIterator<Item = OsString>,
) -> Result<Invocation<ReceiverAction>, clap::Error> {
    parse(receiver_command(), ROWS, arguments, action)
}

fn action(subcommand: Option<(&str, &ArgMatches)>) -> ReceiverAction {
    match subcommand {
        Some(("status", flags)) => {
            ReceiverAction::Status { json: flags.get_flag("json"), watch: flags.get_flag("watch") }
        }
        Some(("check", _)) => ReceiverAction::Check,
        Some(("reload", _)) => ReceiverAction::Reload,
        Some(("keygen", matches)) => ReceiverAction::Keygen { file: keygen_file(matches) },
        Some(("invite", matches)) => invite_action(matches),
        _ => ReceiverAction::Run,
    }
}
