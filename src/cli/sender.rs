//! The command line of nf-sender.

use core::fmt;
use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Arg, ArgMatches, Command};
use zeroize::Zeroizing;

use crate::cli::{
    Invocation, Row, Takes, check_command, file_argument, keygen_command, keygen_file, parse, reload_command,
    status_command, with_options,
};

/// What nf-sender is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SenderAction {
    /// Run as the service.
    Run,
    /// Say what a running service is doing.
    Status {
        /// For programs.
        json: bool,
        /// Again and again.
        watch: bool,
    },
    /// Tell a running service to connect now.
    Reconnect,
    /// Check the configuration.
    Check,
    /// Tell a running service to take up its configuration.
    Reload,
    /// Make a key.
    Keygen {
        /// Where to; standard output if nowhere.
        file: Option<PathBuf>,
    },
    /// Write what a token says into the configuration.
    Join {
        /// The token, or `-` (default) for standard input.
        token: TypedToken,
    },
}

/// A token as it was typed. It is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct TypedToken(Zeroizing<String>);

impl TypedToken {
    /// What was typed.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for TypedToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TypedToken")
    }
}

const ROWS: &[Row] = &[
    Row {
        key: "listen",
        long: "listen",
        short: Some('l'),
        variable: Some("NF_SENDER_LISTEN"),
        takes: Takes::Many("ADDR:PORT"),
        help: "Take datagrams on this UDP address; may be repeated; sockets from systemd replace it \
               [default: [::]:2055]",
    },
    Row {
        key: "receivers",
        long: "receiver",
        short: Some('r'),
        variable: Some("NF_SENDER_RECEIVER"),
        takes: Takes::Many("HOST:PORT"),
        help: "Connect to this nf-receiver; may be repeated: the first that answers, in order",
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
        variable: Some("NF_SENDER_KEY_FILE"),
        takes: Takes::One("FILE"),
        help: "Use the shared key in this file, which nobody else may read; keygen makes keys \
               [default: the systemd credential `key`, if there is one]",
    },
    Row {
        key: "cipher",
        long: "cipher",
        short: None,
        variable: Some("NF_SENDER_CIPHER"),
        takes: Takes::One("NAME"),
        help: "Encrypt with blowfish (as the original), chacha20-poly1305 or aes-256-gcm [default: blowfish]",
    },
    Row {
        key: "plaintext",
        long: "plaintext",
        short: None,
        variable: Some("NF_SENDER_PLAINTEXT"),
        takes: Takes::Nothing,
        help: "Send without encryption, to other machines too; without this and without a key, only to this one",
    },
    Row {
        key: "spool.directory",
        long: "spool",
        short: None,
        variable: Some("NF_SENDER_SPOOL"),
        takes: Takes::One("DIR"),
        help: "Keep datagrams that wait for the link in this directory \
               [default: $STATE_DIRECTORY, else /var/lib/nf-sender]",
    },
    Row {
        key: "id",
        long: "id",
        short: None,
        variable: Some("NF_SENDER_ID"),
        takes: Takes::One("NAME"),
        help: "Be known to the receiver by this name [default: the host name]",
    },
    Row {
        key: "control",
        long: "control",
        short: None,
        variable: Some("NF_SENDER_CONTROL"),
        takes: Takes::One("PATH"),
        help: "Serve, or ask, at this control socket \
               [default: $RUNTIME_DIRECTORY/control.sock, else /run/nf-sender/control.sock]",
    },
];

const AFTER_HELP: &str = "\
Examples:
  nf-sender join
  nf-sender join < token
  nf-sender --receiver collector.example.net:2055 --key-file /etc/nf-sender/key
  nf-sender --listen 192.0.2.1:9995 --receiver 127.0.0.1:2055 --spool /var/tmp/spool
  nf-sender status --watch
  nf-sender --config new.toml check

Files:
  /etc/nf-sender/nf-sender.toml           configuration; may be absent
  /etc/nf-sender/nf-sender.toml.d/*.toml  drop-ins, read after it in the order of their names

An option stands above its environment variable, that above drop-ins, those above the file.
In variables, several values are separated by commas.

Exit codes:
  0 done   64 wrong usage   69 the service does not answer   71 refused by the system
  73 cannot create or own a file   74 input or output failed   78 wrong configuration";

/// The command line, for whatever describes it.
pub fn sender_command() -> Command {
    let command = Command::new("nf-sender")
        .version(env!("CARGO_PKG_VERSION"))
        .about(
            "Takes NetFlow and IPFIX datagrams from exporters by UDP, keeps them on disk, and brings each of \
             them, in order, to an nf-receiver",
        )
        .after_help(AFTER_HELP)
        .arg(file_argument("NF_SENDER_CONFIG"))
        .subcommand(status_command("Print state, queue and counters of the running nf-sender"))
        .subcommand(
            Command::new("reconnect")
                .about("Make the running nf-sender try its receivers now, in order, also if it is connected"),
        )
        .subcommand(check_command())
        .subcommand(reload_command("nf-sender"))
        .subcommand(keygen_command())
        .subcommand(
            Command::new("join")
                .about(
                    "Write what a token of `nf-receiver invite` says (receiver, id, key and cipher) into the \
                     configuration, and make a running nf-sender take it up; safe to repeat",
                )
                .arg(Arg::new("token").value_name("TOKEN").default_value("-").allow_hyphen_values(true).help(
                    "The token; - reads it from standard input, and a terminal does not show it. It holds the key: \
                     treat it like a password. Written here, it is visible in `ps` for a moment and stays in the \
                     shell's history",
                )),
        );
    with_options(command, ROWS)
}

/// What `arguments`, the program's name first, and the environment say; or what clap has to say, which may be
/// the help.
pub fn parse_sender(
    arguments: impl IntoIterator<Item = OsString>,
) -> Result<Invocation<SenderAction>, clap::Error> {
    parse(sender_command(), ROWS, arguments, action)
}

fn action(subcommand: Option<(&str, &ArgMatches)>) -> SenderAction {
    match subcommand {
        Some(("status", flags)) => {
            SenderAction::Status { json: flags.get_flag("json"), watch: flags.get_flag("watch") }
        }
        Some(("reconnect", _)) => SenderAction::Reconnect,
        Some(("check", _)) => SenderAction::Check,
        Some(("reload", _)) => SenderAction::Reload,
        Some(("keygen", matches)) => SenderAction::Keygen { file: keygen_file(matches) },
        Some(("join", matches)) => {
            let token = matches.get_one::<String>("token").cloned().unwrap_or_else(|| "-".to_owned());
            SenderAction::Join { token: TypedToken(Zeroizing::new(token)) }
        }
        _ => SenderAction::Run,
    }
}
