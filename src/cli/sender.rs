//! The command line of nf-sender.

use core::fmt;
use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Arg, ArgMatches, Command};
use zeroize::Zeroizing;

use crate::cli::{
    Invocation, OptionArgument, OptionRow, check_command, file_argument, keygen_command, keygen_file, parse,
    reload_command, status_command, with_options,
};

/// An action of nf-sender.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SenderAction {
    /// Run as the service.
    Run,
    /// Print the status of the running service.
    Status {
        /// Print JSON.
        json: bool,
        /// Repeat every second.
        watch: bool,
    },
    /// Request a new connection of the running service.
    Reconnect,
    /// Check the configuration.
    Check,
    /// Request a reload of the running service.
    Reload,
    /// Generate a key.
    Keygen {
        /// The new file; `None` prints to standard output.
        file: Option<PathBuf>,
    },
    /// Write the settings of a token into the configuration.
    Join {
        /// The token, or `-` (default) for standard input.
        token: TypedToken,
    },
}

/// A token as it was typed. `Debug` does not reveal it.
#[derive(Clone, PartialEq, Eq)]
pub struct TypedToken(Zeroizing<String>);

impl TypedToken {
    /// Returns the token.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for TypedToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TypedToken")
    }
}

const ROWS: &[OptionRow] = &[
    OptionRow {
        key: "listen",
        long: "listen",
        short: Some('l'),
        variable: Some("NF_SENDER_LISTEN"),
        argument: OptionArgument::Many("ADDR:PORT"),
        help: "Listen for datagrams on this UDP address; may be repeated; sockets from systemd replace it \
               [default: [::]:2055]",
    },
    OptionRow {
        key: "receivers",
        long: "receiver",
        short: Some('r'),
        variable: Some("NF_SENDER_RECEIVER"),
        argument: OptionArgument::Many("HOST:PORT"),
        help: "Connect to this nf-receiver; may be repeated: the first that answers, in order",
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
        variable: Some("NF_SENDER_KEY_FILE"),
        argument: OptionArgument::One("FILE"),
        help: "Use the shared key in this file, which only its owner may read; keygen makes keys \
               [default: the systemd credential `key`, if it exists]",
    },
    OptionRow {
        key: "cipher",
        long: "cipher",
        short: None,
        variable: Some("NF_SENDER_CIPHER"),
        argument: OptionArgument::One("NAME"),
        help: "Encrypt with blowfish (as the original), chacha20-poly1305 or aes-256-gcm [default: blowfish]",
    },
    OptionRow {
        key: "plaintext",
        long: "plaintext",
        short: None,
        variable: Some("NF_SENDER_PLAINTEXT"),
        argument: OptionArgument::Nothing,
        help: "Send without encryption, to other machines too. Without this and without a key, nf-sender \
               sends to this machine only",
    },
    OptionRow {
        key: "spool.directory",
        long: "spool",
        short: None,
        variable: Some("NF_SENDER_SPOOL"),
        argument: OptionArgument::One("DIR"),
        help: "Queue datagrams in this directory \
               [default: $STATE_DIRECTORY, else /var/lib/nf-sender]",
    },
    OptionRow {
        key: "id",
        long: "id",
        short: None,
        variable: Some("NF_SENDER_ID"),
        argument: OptionArgument::One("NAME"),
        help: "The name of this sender at the receiver [default: the host name]",
    },
    OptionRow {
        key: "control",
        long: "control",
        short: None,
        variable: Some("NF_SENDER_CONTROL"),
        argument: OptionArgument::One("PATH"),
        help: "Path of the control socket, of the service and of commands that ask it \
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
  /etc/nf-sender/nf-sender.toml           configuration (optional)
  /etc/nf-sender/nf-sender.toml.d/*.toml  drop-ins, read after it in order of their names

Precedence, highest first: options, environment, drop-ins, configuration file.
Variables separate several values by commas.

Exit codes:
  0 success   64 usage error   69 service does not answer   71 system error
  73 cannot create or own a file   74 input/output error   78 invalid configuration";

/// Returns the definition of the command line, also for completions and tests.
pub fn sender_command() -> Command {
    let command = Command::new("nf-sender")
        .version(env!("CARGO_PKG_VERSION"))
        .about(
            "Receives NetFlow and IPFIX datagrams from exporters by UDP, queues them on disk, and sends each \
             of them, in order, to an nf-receiver",
        )
        .after_help(AFTER_HELP)
        .arg(file_argument("NF_SENDER_CONFIG"))
        .subcommand(status_command("Print state, queue and counters of the running nf-sender"))
        .subcommand(
            Command::new("reconnect")
                .about("Make the running nf-sender reconnect now: it tries its receivers in order, even \
                        while it is connected"),
        )
        .subcommand(check_command())
        .subcommand(reload_command("nf-sender"))
        .subcommand(keygen_command())
        .subcommand(
            Command::new("join")
                .about(
                    "Write the settings of a token of `nf-receiver invite` (receiver, id, key and cipher) \
                     into the configuration, and reload a running nf-sender; safe to repeat",
                )
                .arg(Arg::new("token").value_name("TOKEN").default_value("-").allow_hyphen_values(true).help(
                    "The token; - reads it from standard input, without echo on a terminal. It contains the \
                     key: treat it like a password. As an argument it is visible in `ps` for a moment and \
                     stays in the shell's history",
                )),
        );
    with_options(command, ROWS)
}

/// Parses `arguments`, which begin with the program's name, and the environment. The error may also be the
/// help or the version.
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
