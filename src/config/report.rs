//! What `check` tells about a configuration that is good.

use core::fmt;
use std::path::PathBuf;

use crate::config::Origin;
use crate::config::value::Found;

/// Which files were read, every value in effect with its origin, what else was found out, and warnings.
#[derive(Debug)]
pub struct Report {
    pub(super) files: Vec<PathBuf>,
    pub(super) values: Vec<InEffect>,
    pub(super) notes: Vec<String>,
    pub(super) warnings: Vec<String>,
}

impl Report {
    /// Sentences about what is allowed, but probably not meant. Daemons log them at start.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Adds sentences about what was found out beside the files.
    pub fn note(&mut self, notes: impl IntoIterator<Item = String>) {
        self.notes.extend(notes);
    }

    /// Adds sentences about what may not be as it is meant.
    pub fn warn(&mut self, warnings: impl IntoIterator<Item = String>) {
        self.warnings.extend(warnings);
    }

    /// Where the value of `key`, with its section, came from, if it is in effect.
    pub fn origin(&self, key: &str) -> Option<&Origin> {
        self.values.iter().find(|value| value.key == key).map(|value| &value.origin)
    }

    /// Where the one of several tables came from whose `key`, with its section, is the text `value`.
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
    /// The value as it was found.
    pub(super) text: String,
    pub(super) origin: Origin,
}

impl InEffect {
    pub(super) fn new(key: String, found: &Found) -> Self {
        Self { key, text: found.value.to_string(), origin: found.origin.clone() }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.files.is_empty() {
            writeln!(f, "no configuration file is there; defaults, variables and options apply")?;
        }
        for file in &self.files {
            writeln!(f, "read {}", file.display())?;
        }
        let longest = |text: fn(&InEffect) -> &str| {
            self.values.iter().map(|value| text(value).chars().count()).max().unwrap_or(0)
        };
        // One very long list must not push every origin out of sight.
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
        f.write_str("configuration is good\n")
    }
}
