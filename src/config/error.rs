//! What can be wrong with a configuration.

use core::fmt;
use std::io;
use std::path::PathBuf;

use crate::config::Origin;

/// Everything that is wrong, at least one thing; shown one below the other.
#[derive(Debug)]
pub struct ConfigError(pub(super) Vec<Problem>);

impl ConfigError {
    /// The problems one by one.
    pub fn problems(&self) -> &[Problem] {
        &self.0
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            let break_before = if index == 0 { "" } else { "\n" };
            write!(f, "{break_before}{problem}")?;
        }
        Ok(())
    }
}

impl core::error::Error for ConfigError {}

impl From<Problem> for ConfigError {
    fn from(problem: Problem) -> Self {
        Self(vec![problem])
    }
}

/// One thing that is wrong with a configuration: where, what, and what would be right.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// A file or a directory of drop-ins cannot be read.
    #[error("{}: cannot be read: {source}", path.display())]
    Unreadable {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file is not TOML.
    #[error("{}:{line}:{column}: not valid TOML: {message}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// From 1, in characters.
        column: usize,
        /// What the parser said.
        message: String,
    },
    /// A key that means nothing.
    #[error("{origin}: unknown key '{key}'; known keys here: {known}")]
    UnknownKey {
        /// Where it stands.
        origin: Origin,
        /// The key with its section.
        key: String,
        /// The keys that would be right there.
        known: String,
    },
    /// A value that the key does not take.
    #[error("{}found {found}, expected {expected}", place(origin, key))]
    Value {
        /// Where it stands.
        origin: Origin,
        /// The key with its section.
        key: String,
        /// The value as found.
        found: String,
        /// What the key takes.
        expected: String,
    },
    /// A key that must be given, in a table that does not have it.
    #[error("{origin}: '{key}' is missing here")]
    Missing {
        /// Where the table stands.
        origin: Origin,
        /// The key with its section.
        key: String,
    },
}

/// Where a value stands; options and variables need no key beside their own name.
fn place(origin: &Origin, key: &str) -> String {
    match origin {
        Origin::Default | Origin::File { .. } => format!("{origin}: {key}: "),
        Origin::Variable(_) | Origin::Option(_) => format!("{origin}: "),
    }
}
