//! The report of `check` about a valid configuration.

use core::fmt;
use std::path::PathBuf;

use crate::config::value::{Origin, Sourced};

/// The files that were read, every value in effect with its origin, notes and warnings.
#[derive(Debug)]
pub struct Report {
    pub(super) files: Vec<PathBuf>,
    pub(super) values: Vec<InEffect>,
    pub(super) notes: Vec<String>,
    pub(super) warnings: Vec<String>,
}

impl Report {
    /// Returns warnings about settings that are valid, but probably unintended. Daemons log them at start.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Adds notes about facts outside of the files.
    pub fn add_notes(&mut self, notes: impl IntoIterator<Item = String>) {
        self.notes.extend(notes);
    }

    /// Adds warnings.
    pub fn warn(&mut self, warnings: impl IntoIterator<Item = String>) {
        self.warnings.extend(warnings);
    }

    /// Returns the origin of the value of `key`, which includes its section, if it is in effect.
    pub fn origin(&self, key: &str) -> Option<&Origin> {
        self.values.iter().find(|value| value.key == key).map(|value| &value.origin)
    }

    /// Returns the origin of the table, one of several, whose `key`, which includes its section, is the text
    /// `value`.
    pub fn origin_among(&self, key: &str, value: &str) -> Option<&Origin> {
        let quoted = format!("{value:?}");
        self.values.iter().find(|found| found.key == key && found.text == quoted).map(|found| &found.origin)
    }
}

/// A value in effect.
#[derive(Clone, Debug)]
pub(super) struct InEffect {
    /// The key with its section.
    pub(super) key: String,
    /// The value as text.
    pub(super) text: String,
    pub(super) origin: Origin,
}

impl InEffect {
    pub(super) fn new(key: String, found: &Sourced) -> Self {
        Self { key, text: found.value.to_string(), origin: found.origin.clone() }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.files.is_empty() {
            writeln!(f, "no configuration file found; defaults, variables and options apply")?;
        }
        for file in &self.files {
            writeln!(f, "read {}", file.display())?;
        }
        let longest = |text: fn(&InEffect) -> &str| {
            self.values.iter().map(|value| text(value).chars().count()).max().unwrap_or(0)
        };
        // A very long list must not push all origins off the screen.
        let (keys, texts) = (longest(|value| &value.key), longest(|value| &value.text).min(40));
        for InEffect { key, text, origin } in &self.values {
            writeln!(f, "  {key:keys$} = {text:texts$}  ({origin})")?;
        }
        for note in &self.notes {
            writeln!(f, "{note}")?;
        }
        for warning in &self.warnings {
            writeln!(f, "warning: {warning}")?;
        }
        f.write_str("configuration is valid\n")
    }
}
