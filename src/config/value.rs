//! Values before parsing, each with its origin.

use core::fmt;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

/// The origin of a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The built-in default.
    Default,
    /// A line of a file; lines count from 1.
    File {
        /// The file.
        path: Arc<PathBuf>,
        /// The line.
        line: usize,
    },
    /// An environment variable of this name.
    Variable(&'static str),
    /// A command line option of this name, without its dashes.
    Option(&'static str),
}

impl Origin {
    /// The precedence: the value with the highest number applies.
    pub(super) fn layer(&self) -> u8 {
        match self {
            Self::Default => 0,
            Self::File { .. } => 1,
            Self::Variable(_) => 2,
            Self::Option(_) => 3,
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Variable(name) => write!(f, "environment variable {name}"),
            Self::Option(name) => write!(f, "option --{name}"),
        }
    }
}

/// A value and its origin.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Sourced {
    pub(super) value: Value,
    pub(super) origin: Origin,
}

/// An unparsed value.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Text(String),
    /// The decimal text of a number.
    Number(String),
    Boolean(bool),
    /// A TOML date or time, which no key accepts.
    Moment(String),
    /// A secret, which must not be displayed.
    Hidden,
    List(Vec<Sourced>),
    Table(SourcedTable),
    /// One or more texts from an option or a variable, which have no types.
    Arguments(Vec<String>),
}

impl Value {
    /// Returns the number with these decimal digits.
    pub(super) fn number(digits: &str) -> Self {
        Self::Number(digits.to_owned())
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => write!(f, "{text:?}"),
            Self::Number(text) | Self::Moment(text) => f.write_str(text),
            Self::Boolean(value) => value.fmt(f),
            Self::Hidden => f.write_str("a value that is not shown"),
            Self::List(items) => separated(f, items.iter().map(|item| &item.value)),
            Self::Table(_) => f.write_str("a table"),
            Self::Arguments(arguments) => match arguments.as_slice() {
                [word] => write!(f, "{word:?}"),
                _ => f.debug_list().entries(arguments).finish(),
            },
        }
    }
}

fn separated<'a>(f: &mut fmt::Formatter<'_>, items: impl Iterator<Item = &'a Value>) -> fmt::Result {
    f.write_str("[")?;
    for (index, item) in items.enumerate() {
        let comma = if index == 0 { "" } else { ", " };
        write!(f, "{comma}{item}")?;
    }
    f.write_str("]")
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<PathBuf> for Value {
    fn from(path: PathBuf) -> Self {
        Self::Text(path.display().to_string())
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Self::Boolean(value)
    }
}

impl<const N: usize> From<[&str; N]> for Value {
    fn from(texts: [&str; N]) -> Self {
        let sourced = |text: &str| Sourced { value: text.into(), origin: Origin::Default };
        Self::List(texts.into_iter().map(sourced).collect())
    }
}

/// Values by key.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct SourcedTable(BTreeMap<String, Sourced>);

impl SourcedTable {
    pub(super) fn insert(&mut self, key: String, found: Sourced) {
        self.0.insert(key, found);
    }

    pub(super) fn contains(&self, key: &str) -> bool {
        self.0.contains_key(key)
    }

    pub(super) fn get_mut(&mut self, key: &str) -> Option<&mut Sourced> {
        self.0.get_mut(key)
    }

    pub(super) fn remove(&mut self, key: &str) -> Option<Sourced> {
        self.0.remove(key)
    }

    pub(super) fn into_entries(self) -> impl Iterator<Item = (String, Sourced)> {
        self.0.into_iter()
    }

    /// Merges `later` into this table, with precedence: tables merge, tables of a list are appended, other
    /// values are replaced.
    pub(super) fn merge(&mut self, later: Self) {
        for (key, found) in later.0 {
            match (self.0.get_mut(&key), found) {
                (
                    Some(Sourced { value: Value::Table(table), .. }),
                    Sourced { value: Value::Table(above), .. },
                ) => table.merge(above),
                (
                    Some(Sourced { value: Value::List(items), .. }),
                    Sourced { value: Value::List(above), .. },
                ) if items.iter().chain(&above).all(|item| matches!(item.value, Value::Table(_))) => {
                    items.extend(above);
                }
                (_, found) => self.insert(key, found),
            }
        }
    }

    /// Sets the value of the dotted `key`.
    pub(super) fn put_arguments(&mut self, key: &str, arguments: Vec<String>, origin: Origin) {
        let mut above = Self::default();
        match key.split_once('.') {
            None => above.insert(key.to_owned(), Sourced { value: Value::Arguments(arguments), origin }),
            Some((section, key)) => {
                let mut table = Self::default();
                table.put_arguments(key, arguments, origin.clone());
                above.insert(section.to_owned(), Sourced { value: Value::Table(table), origin });
            }
        }
        self.merge(above);
    }
}
