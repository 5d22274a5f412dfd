//! Values as they were found, each with the place that it came from; not yet understood.

use core::fmt;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nobody gave it.
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
    /// What stands above what: a layer of a higher number counts.
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
pub(super) struct Found {
    pub(super) value: Value,
    pub(super) origin: Origin,
}

/// What was found for a key.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Text(String),
    /// A number as it was written, in decimal.
    Number(String),
    Boolean(bool),
    /// A TOML date or time: no key takes one.
    Moment(String),
    /// Something that must not be shown.
    Hidden,
    List(Vec<Found>),
    Table(Table),
    /// One or more texts from an option or a variable, which know no types.
    Words(Vec<String>),
}

impl Value {
    /// The number that is written as `digits`.
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
            Self::Hidden => f.write_str("something that is not shown here"),
            Self::List(items) => separated(f, items.iter().map(|item| &item.value)),
            Self::Table(_) => f.write_str("a table"),
            Self::Words(words) => match words.as_slice() {
                [word] => write!(f, "{word:?}"),
                _ => f.debug_list().entries(words).finish(),
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
        let found = |text: &str| Found { value: text.into(), origin: Origin::Default };
        Self::List(texts.into_iter().map(found).collect())
    }
}

/// Values by key.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Table(BTreeMap<String, Found>);

impl Table {
    pub(super) fn insert(&mut self, key: String, found: Found) {
        self.0.insert(key, found);
    }

    pub(super) fn contains(&self, key: &str) -> bool {
        self.0.contains_key(key)
    }

    pub(super) fn get_mut(&mut self, key: &str) -> Option<&mut Found> {
        self.0.get_mut(key)
    }

    pub(super) fn remove(&mut self, key: &str) -> Option<Found> {
        self.0.remove(key)
    }

    pub(super) fn into_entries(self) -> impl Iterator<Item = (String, Found)> {
        self.0.into_iter()
    }

    /// Puts `later` above this: tables merge, the tables of a list add up, everything else is replaced as a whole.
    pub(super) fn lay_over(&mut self, later: Self) {
        for (key, found) in later.0 {
            match (self.0.get_mut(&key), found) {
                (
                    Some(Found { value: Value::Table(table), .. }),
                    Found { value: Value::Table(above), .. },
                ) => table.lay_over(above),
                (Some(Found { value: Value::List(items), .. }), Found { value: Value::List(above), .. })
                    if items.iter().chain(&above).all(|item| matches!(item.value, Value::Table(_))) =>
                {
                    items.extend(above);
                }
                (_, found) => self.insert(key, found),
            }
        }
    }

    /// Sets what the dotted `key` leads to.
    pub(super) fn put_words(&mut self, key: &str, words: Vec<String>, origin: Origin) {
        let mut above = Self::default();
        match key.split_once('.') {
            None => above.insert(key.to_owned(), Found { value: Value::Words(words), origin }),
            Some((section, key)) => {
                let mut table = Self::default();
                table.put_words(key, words, origin.clone());
                above.insert(section.to_owned(), Found { value: Value::Table(table), origin });
            }
        }
        self.lay_over(above);
    }
}
