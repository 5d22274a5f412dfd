//! Errors in a configuration.

use core::fmt;
use std::io;
use std::path::PathBuf;

use crate::config::value::Origin;

/// All problems of a configuration, at least one; displayed one per line.
#[derive(Debug)]
pub struct ConfigError(pub(super) Vec<Problem>);

impl ConfigError {
    /// Returns the problems in the order in which they were found.
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

/// One problem of a configuration: its place, the value found and the values allowed.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// A file or a directory of drop-ins cannot be read.
    #[error("{}: cannot be read: {source}", path.display())]
    Unreadable {
        /// The file or directory.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// A file is not TOML.
    #[error("{}:{line}:{column}: not valid TOML: {message}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The column, from 1, in characters.
        column: usize,
        /// The parser's message.
        message: String,
    },
    /// An unknown key.
    #[error("{origin}: unknown key '{key}'; known keys here: {known}")]
    UnknownKey {
        /// The place of the key.
        origin: Origin,
        /// The key with its section.
        key: String,
        /// The known keys of that table.
        known: String,
    },
    /// A value that the key does not accept.
    #[error("{}found {found}, expected {expected}", place(origin, key))]
    Value {
        /// The place of the key.
        origin: Origin,
        /// The key with its section.
        key: String,
        /// The value found.
        found: String,
        /// The values that the key accepts.
        expected: String,
    },
    /// A required key that a table lacks.
    #[error("{origin}: '{key}' is missing here")]
    Missing {
        /// The place of the table.
        origin: Origin,
        /// The key with its section.
        key: String,
    },
}

/// Formats the place of a value. The name of an option or variable is enough without the key.
fn place(origin: &Origin, key: &str) -> String {
    match origin {
        Origin::Default | Origin::File { .. } => format!("{origin}: {key}: "),
        Origin::Variable(_) | Origin::Option(_) => format!("{origin}: "),
    }
}
