//! The command line of nf-receiver.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Arg, ArgAction, ArgMatches, Command};
use nf_transport_core::sequence::SenderId;

use crate::cli::{
    Invocation, Row, Takes, check_command, file_argument, keygen_command, keygen_file, parse, reload_command,
    status_command, with_options,
};

/// What nf-receiver is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReceiverAction {
    /// Run as the service.
    Run,
    /// Say what a running service is doing.
    Status {
        /// For programs.
        json: bool,
        /// Again and again.
        watch: bool,
    },
    /// Check the configuration.
    Check,
    /// Tell a running service to take up its configuration.
    Reload,
    /// Make a key.
    Keygen {
        /// Where to; standard output if nowhere.
        file: Option<PathBuf>,
    },
    /// Give a sender a key of its own, or take it away.
    Invite {
        /// The sender.
        id: SenderId,
        /// Where it will connect.
        address: Option<String>,
        /// It gets another key.
        renew: bool,
        /// It loses its keys.
        revoke: bool,
    },
}

const ROWS: &[Row] = &[
    Row {
        key: "listen",
        long: "listen",
        short: Some('l'),
        variable: Some("NF_RECEIVER_LISTEN"),
        takes: Takes::Many("ADDR:PORT"),
        help: "Take connections on this TCP address; may be repeated; sockets from systemd replace it \
               [default: [::]:2055]",
    },
    Row {
        key: "collector",
        long: "collector",
        short: Some('C'),
        variable: Some("NF_RECEIVER_COLLECTOR"),
        takes: Takes::Many("HOST:PORT"),
        help: "Deliver to this collector by UDP; may be repeated: every one of them \
               [default: 127.0.0.1:9995]",
    },
    Row {
        key: "source",
        long: "source",
        short: None,
        variable: Some("NF_RECEIVER_SOURCE"),
        takes: Takes::One("own|exporter"),
        help: "Deliver from this machine's own address, with a port for each exporter, or from the exporter's own \
               address and port, which takes CAP_NET_RAW [default: own]",
    },
    Row {
        key: "key",
        long: "key",
        short: Some('k'),
        variable: None,
        takes: Takes::One("KEY"),
        help: "Use this shared key, or passphrase, of both sides; - reads it from standard input. On the command \
               line others can read it: --key-file, or the systemd credential `key`, is safer",
    },
    Row {
        key: "key-file",
        long: "key-file",
        short: None,
        variable: Some("NF_RECEIVER_KEY_FILE"),
        takes: Takes::One("FILE"),
        help: "Use the shared key in this file, which nobody else may read; keygen makes keys \
               [default: the systemd credential `key`, if there is one]",
    },
    Row {
        key: "plaintext",
        long: "plaintext",
        short: None,
        variable: Some("NF_RECEIVER_PLAINTEXT"),
        takes: Takes::Nothing,
        help: "Let senders in without encryption, on other machines too; without this and without a key, \
               only those on this one",
    },
    Row {
        key: "state",
        long: "state",
        short: None,
        variable: Some("NF_RECEIVER_STATE"),
        takes: Takes::One("DIR"),
        help: "Keep how far each sender was delivered in this directory \
               [default: $STATE_DIRECTORY, else /var/lib/nf-receiver]",
    },
    Row {
        key: "control",
        long: "control",
        short: None,
        variable: Some("NF_RECEIVER_CONTROL"),
        takes: Takes::One("PATH"),
        help: "Serve, or ask, at this control socket \
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
  /etc/nf-receiver/nf-receiver.toml           configuration; may be absent
  /etc/nf-receiver/nf-receiver.toml.d/*.toml  drop-ins, read after it in the order of their names

An option stands above its environment variable, that above drop-ins, those above the file.
In variables, several values are separated by commas.

Exit codes:
  0 done   64 wrong usage   69 the service does not answer   71 refused by the system
  73 cannot create or own a file   74 input or output failed   78 wrong configuration";

/// The command line, for whatever describes it.
pub fn receiver_command() -> Command {
    let command = Command::new("nf-receiver")
        .version(env!("CARGO_PKG_VERSION"))
        .about(
            "Takes what nf-sender brings, checks and acknowledges it, and hands every datagram, byte for byte \
             and in order, to collectors by UDP",
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
            "Give the sender NAME a key of its own and print a token with which it joins (nf-sender join TOKEN); \
             nobody without that key can take the name. The token holds the key: treat it like a password. Safe to \
             repeat: the token stays the same",
        )
        .arg(
            Arg::new("name")
                .value_name("NAME")
                .required(true)
                .value_parser(|name: &str| name.parse::<SenderId>())
                .help("What the sender is called: 1 to 64 of A-Z a-z 0-9 . _ -"),
        )
        .arg(
            Arg::new("address")
                .long("address")
                .value_name("HOST:PORT")
                .help("Where the sender reaches this receiver [default: this machine's name and the port listened on]"),
        )
        .arg(flag(
            "renew",
            "Make another key; the one before it stays valid until the next renewal, so that nothing is lost",
        ))
        .arg(flag("revoke", "Take the key away: the sender is not let in any more").conflicts_with_all(["renew", "address"]))
}

fn invite_action(matches: &ArgMatches) -> ReceiverAction {
    ReceiverAction::Invite {
        id: matches.get_one::<SenderId>("name").expect("a command line without it is refused").clone(),
        address: matches.get_one::<String>("address").cloned(),
        renew: matches.get_flag("renew"),
        revoke: matches.get_flag("revoke"),
    }
}

/// What `arguments`, the program's name first, and the environment say; or what clap has to say, which may be
/// the help.
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
