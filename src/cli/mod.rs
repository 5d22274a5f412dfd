//! The command lines of both programs.
//!
//! Options that set values are rows of a table. Each of them, except for a key, has an environment variable
//! of the same name. Their texts are passed on unparsed: only the configuration knows the valid values.

mod receiver;
mod sender;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command};
pub use receiver::{ReceiverAction, parse_receiver, receiver_command};
pub use sender::{SenderAction, TypedToken, parse_sender, sender_command};

/// A parsed command line whose actions are `A`.
#[derive(Debug, PartialEq, Eq)]
pub struct Invocation<A> {
    /// The configuration file from `--config`.
    pub file: Option<PathBuf>,
    /// The values from options and variables.
    pub overrides: Vec<Override>,
    /// The action.
    pub action: A,
}

/// A key of the configuration whose value comes from an option or an environment variable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Override {
    /// The key with its section, as in `spool.directory`.
    pub key: &'static str,
    /// The texts, at least one.
    pub arguments: Vec<String>,
    /// The option or variable.
    pub source: OverrideSource,
}

/// The source of an override.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OverrideSource {
    /// The option of this name.
    Option(&'static str),
    /// The environment variable of this name.
    Variable(&'static str),
}

/// The definition of an option that sets a key of the configuration.
struct OptionRow {
    key: &'static str,
    long: &'static str,
    short: Option<char>,
    /// `None` for a secret, which must not be in an environment.
    variable: Option<&'static str>,
    argument: OptionArgument,
    help: &'static str,
}

/// The arguments of an option, with their placeholder in the help.
enum OptionArgument {
    Nothing,
    One(&'static str),
    Many(&'static str),
}

impl OptionRow {
    fn to_arg(&self) -> Arg {
        let argument = Arg::new(self.long).long(self.long).help(self.help);
        let argument = if let Some(short) = self.short { argument.short(short) } else { argument };
        let argument = if let Some(variable) = self.variable { argument.env(variable) } else { argument };
        match self.argument {
            // A text, not a flag, so that a variable can be "false" as well.
            OptionArgument::Nothing => {
                argument.action(ArgAction::Set).num_args(0).default_missing_value("true")
            }
            OptionArgument::One(name) => argument.value_name(name),
            OptionArgument::Many(name) => {
                argument.value_name(name).action(ArgAction::Append).value_delimiter(',')
            }
        }
    }

    /// Returns the override in `matches`, if any. An empty variable counts as unset.
    fn override_from(&self, matches: &ArgMatches) -> Option<Override> {
        let source = match matches.value_source(self.long)? {
            ValueSource::CommandLine => OverrideSource::Option(self.long),
            ValueSource::EnvVariable => OverrideSource::Variable(self.variable?),
            _ => return None,
        };
        let arguments: Vec<String> = matches.get_many(self.long)?.cloned().collect();
        let unset = matches!(source, OverrideSource::Variable(_)) && arguments.iter().all(String::is_empty);
        (!unset).then_some(Override { key: self.key, arguments, source })
    }
}

/// Returns the option that names the configuration file.
fn file_argument(variable: &'static str) -> Arg {
    Arg::new("config")
        .short('c')
        .long("config")
        .env(variable)
        .value_name("FILE")
        .value_parser(clap::value_parser!(PathBuf))
        .global(true)
        .help("Read this configuration file, which must exist, and its drop-ins FILE.d/*.toml")
}

fn status_command(about: &'static str) -> Command {
    let flag = |name: &'static str, help: &'static str| {
        Arg::new(name).long(name).action(ArgAction::SetTrue).help(help)
    };
    Command::new("status")
        .about(about)
        .arg(flag("json", "Print one JSON object instead of a table"))
        .arg(flag("watch", "Repeat every second, with rates, until interrupted"))
}

fn check_command() -> Command {
    Command::new("check")
        .about("Validate configuration and keys as the service would, and print the settings in effect")
}

fn reload_command(service: &str) -> Command {
    Command::new("reload").about(format!(
        "Make the running {service} reload its configuration, as far as possible without a restart"
    ))
}

fn keygen_command() -> Command {
    Command::new("keygen")
        .about("Generate a key, and print it or write it to a file that only its owner may read")
        .arg(
            Arg::new("file")
                .value_name("FILE")
                .value_parser(clap::value_parser!(PathBuf))
                .help("Write the key to this file, which must not exist yet"),
        )
}

/// Returns the file for the key of `keygen`, if one was named.
fn keygen_file(matches: &ArgMatches) -> Option<PathBuf> {
    matches.get_one::<PathBuf>("file").cloned()
}

/// Adds the options in `rows` to `command`. The option that finds the service is also valid after
/// subcommands.
fn with_options(command: Command, rows: &[OptionRow]) -> Command {
    rows.iter().fold(command, |command, row| command.arg(row.to_arg().global(row.key == "control")))
}

fn parse<A>(
    command: Command,
    rows: &[OptionRow],
    arguments: impl IntoIterator<Item = OsString>,
    action: impl FnOnce(Option<(&str, &ArgMatches)>) -> A,
) -> Result<Invocation<A>, clap::Error> {
    let matches = command.try_get_matches_from(arguments)?;
    let file = matches.get_one::<PathBuf>("config").filter(|path| !path.as_os_str().is_empty());
    Ok(Invocation {
        file: file.cloned(),
        overrides: rows.iter().filter_map(|row| row.override_from(&matches)).collect(),
        action: action(matches.subcommand()),
    })
}

#[cfg(test)]
mod tests;
