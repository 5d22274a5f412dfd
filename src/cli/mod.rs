//! The command lines of both programs: what can be said on them, and what was.
//!
//! Options that set values are rows of a table; each but a key has an environment variable of the same words. Their texts
//! are passed on as they are: what a value may be is known by the configuration alone.

mod receiver;
mod sender;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command};
pub use receiver::{ReceiverAction, parse_receiver, receiver_command};
pub use sender::{SenderAction, TypedToken, parse_sender, sender_command};

/// What was said on a command line whose actions are `A`.
#[derive(Debug, PartialEq, Eq)]
pub struct Invocation<A> {
    /// The configuration file, if one was named.
    pub file: Option<PathBuf>,
    /// The values that options and variables gave.
    pub given: Vec<Given>,
    /// What to do.
    pub action: A,
}

/// A key of the configuration that an option or an environment variable gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Given {
    /// The key with its section, as in `spool.directory`.
    pub key: &'static str,
    /// The texts, at least one.
    pub words: Vec<String>,
    /// Who gave it.
    pub giver: Giver,
}

/// Who gave a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Giver {
    /// The option of this name.
    Option(&'static str),
    /// The environment variable of this name.
    Variable(&'static str),
}

/// An option that sets a key of the configuration.
struct Row {
    key: &'static str,
    long: &'static str,
    short: Option<char>,
    /// `None` for what must not lie in an environment.
    variable: Option<&'static str>,
    takes: Takes,
    help: &'static str,
}

/// What an option takes, with the words that stand for it in the help.
enum Takes {
    Nothing,
    One(&'static str),
    Many(&'static str),
}

impl Row {
    fn argument(&self) -> Arg {
        let argument = Arg::new(self.long).long(self.long).help(self.help);
        let argument = if let Some(short) = self.short { argument.short(short) } else { argument };
        let argument = if let Some(variable) = self.variable { argument.env(variable) } else { argument };
        match self.takes {
            // A text all the same, so that a variable can say "false" too.
            Takes::Nothing => argument.action(ArgAction::Set).num_args(0).default_missing_value("true"),
            Takes::One(name) => argument.value_name(name),
            Takes::Many(name) => argument.value_name(name).action(ArgAction::Append).value_delimiter(','),
        }
    }

    /// What `matches` hold for this option. A variable that is set to nothing counts as not set.
    fn given(&self, matches: &ArgMatches) -> Option<Given> {
        let giver = match matches.value_source(self.long)? {
            ValueSource::CommandLine => Giver::Option(self.long),
            ValueSource::EnvVariable => Giver::Variable(self.variable?),
            _ => return None,
        };
        let words: Vec<String> = matches.get_many(self.long)?.cloned().collect();
        let unset = matches!(giver, Giver::Variable(_)) && words.iter().all(String::is_empty);
        (!unset).then_some(Given { key: self.key, words, giver })
    }
}

/// The option that names the configuration file.
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
        .arg(flag("json", "Print one JSON object for programs instead of a table"))
        .arg(flag("watch", "Print again every second, with rates, until interrupted"))
}

fn check_command() -> Command {
    Command::new("check")
        .about("Read configuration and keys as the service would, say what is in effect, and stop")
}

fn reload_command(service: &str) -> Command {
    Command::new("reload").about(format!(
        "Make the running {service} take up its configuration, as far as that goes without a restart"
    ))
}

fn keygen_command() -> Command {
    Command::new("keygen")
        .about("Make a new key: print it, or write it to a file that only its owner may read")
        .arg(
            Arg::new("file")
                .value_name("FILE")
                .value_parser(clap::value_parser!(PathBuf))
                .help("Write the key to this file, which must not be there yet"),
        )
}

/// The file that `keygen` is to write, if one was named.
fn keygen_file(matches: &ArgMatches) -> Option<PathBuf> {
    matches.get_one::<PathBuf>("file").cloned()
}

/// A command with the `rows` as its options; those that find the service also stand after its subcommands.
fn with_options(command: Command, rows: &[Row]) -> Command {
    rows.iter().fold(command, |command, row| command.arg(row.argument().global(row.key == "control")))
}

fn parse<A>(
    command: Command,
    rows: &[Row],
    arguments: impl IntoIterator<Item = OsString>,
    action: impl FnOnce(Option<(&str, &ArgMatches)>) -> A,
) -> Result<Invocation<A>, clap::Error> {
    let matches = command.try_get_matches_from(arguments)?;
    let file = matches.get_one::<PathBuf>("config").filter(|path| !path.as_os_str().is_empty());
    Ok(Invocation {
        file: file.cloned(),
        given: rows.iter().filter_map(|row| row.given(&matches)).collect(),
        action: action(matches.subcommand()),
    })
}

#[cfg(test)]
mod tests;
