//! Takes values out of a table, key by key, and collects all problems.
//!
//! A key that is taken is known; keys that remain at the end are unknown. So there is no other list of keys.
//! `None` always means that a problem was recorded.

use core::cmp::Ordering;
use core::fmt::Display;
use core::ops::RangeInclusive;
use std::collections::HashSet;

use crate::config::error::Problem;
use crate::config::parsers::ParseResult;
use crate::config::report::InEffect;
use crate::config::value::{Origin, Sourced, SourcedTable, Value};

/// A value that was read; `None` means that a problem was recorded.
pub(super) type Checked<T> = Option<T>;

/// Reads one table.
pub(super) struct Reader<'p> {
    table: SourcedTable,
    /// The prefix of each key of this table, such as `spool.`; empty at the top level.
    prefix: String,
    /// The place of the table.
    origin: Origin,
    known: Vec<&'static str>,
    values: Vec<InEffect>,
    problems: &'p mut Vec<Problem>,
}

impl<'p> Reader<'p> {
    pub(super) fn new(table: SourcedTable, problems: &'p mut Vec<Problem>) -> Self {
        Self {
            table,
            prefix: String::new(),
            origin: Origin::Default,
            known: Vec::new(),
            values: Vec::new(),
            problems,
        }
    }

    /// Takes the value of `key`, or else `default`, and parses it.
    pub(super) fn read<T>(
        &mut self,
        key: &'static str,
        default: impl Into<Value>,
        parse: impl FnOnce(&Value) -> ParseResult<T>,
    ) -> Option<T> {
        let found = self.take_or_default(key, default);
        let parsed = parse(&found.value);
        let value = self.check(key, &found, parsed)?;
        self.values.push(InEffect::new(format!("{}{key}", self.prefix), &found));
        Some(value)
    }

    /// Takes and parses the value of the required `key`.
    pub(super) fn required<T>(
        &mut self,
        key: &'static str,
        parse: impl FnOnce(&Value) -> ParseResult<T>,
    ) -> Option<T> {
        if self.table.contains(key) {
            // The default is never used.
            return self.read(key, "", parse);
        }
        self.known.push(key);
        self.reject_missing(key);
        None
    }

    /// Records that the required `key` is missing.
    pub(super) fn reject_missing(&mut self, key: &str) {
        let key = format!("{}{key}", self.prefix);
        self.problems.push(Problem::Missing { origin: self.origin.clone(), key });
    }

    /// Takes and parses the value of `key`, if present.
    pub(super) fn optional<T>(
        &mut self,
        key: &'static str,
        parse: impl FnOnce(&Value) -> ParseResult<T>,
    ) -> Checked<Option<T>> {
        if self.table.contains(key) {
            // The default is never used.
            return self.read(key, "", parse).map(Some);
        }
        self.known.push(key);
        Some(None)
    }

    /// As [`Self::optional`], for a secret: an invalid value is never displayed.
    pub(super) fn optional_secret<T>(
        &mut self,
        key: &'static str,
        parse: impl Fn(&Value) -> ParseResult<T>,
    ) -> Checked<Option<T>> {
        if let Some(found) = self.table.get_mut(key)
            && parse(&found.value).is_err()
        {
            found.value = Value::Hidden;
        }
        self.optional(key, parse)
    }

    /// Takes and parses the items of the list `key`, or else of `default`: as many as `count` allows, without
    /// duplicates.
    pub(super) fn list<T: PartialEq>(
        &mut self,
        key: &'static str,
        default: impl Into<Value>,
        count: RangeInclusive<usize>,
        parse: impl Fn(&Value) -> ParseResult<T>,
    ) -> Option<Vec<T>> {
        let found = self.take_or_default(key, default);
        let items = items(&found).ok_or_else(|| {
            let example = parse(&Value::List(Vec::new())).err().unwrap_or_default();
            format!("a list of entries, each {example}")
        });
        let items = self.check(key, &found, items)?;
        let value = self.parse_items(key, items, parse)?;
        let value = self.check(key, &found, within(&count, value))?;
        self.values.push(InEffect::new(format!("{}{key}", self.prefix), &found));
        Some(value)
    }

    fn parse_items<T: PartialEq>(
        &mut self,
        key: &'static str,
        items: Vec<Sourced>,
        parse: impl Fn(&Value) -> ParseResult<T>,
    ) -> Option<Vec<T>> {
        let mut all: Option<Vec<T>> = Some(Vec::new());
        for item in items {
            let seen = all.as_deref().unwrap_or_default();
            let parsed = parse(&item.value).and_then(|value| {
                if seen.contains(&value) { Err("no entry twice".to_owned()) } else { Ok(value) }
            });
            match (self.check(key, &item, parsed), &mut all) {
                (Some(value), Some(all)) => all.push(value),
                _ => all = None,
            }
        }
        all
    }

    /// Reads the table `key`, which may be absent, with `read`.
    pub(super) fn section<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(&mut Reader<'_>) -> Option<T>,
    ) -> Option<T> {
        let found = self.take_or_default(key, Value::Table(SourcedTable::default()));
        let table = as_table(&found, key);
        let table = self.check(key, &found, table)?;
        self.inner(key, table, &found.origin, read)
    }

    /// Reads each of the tables `[[key]]` with `read`: as many as `count` allows, without duplicates. Each
    /// argument of an option or variable becomes a table with the only key `argument_key`. Without either,
    /// `defaults` are such arguments.
    pub(super) fn tables<T: PartialEq, const N: usize>(
        &mut self,
        key: &'static str,
        argument_key: &'static str,
        defaults: [&str; N],
        count: RangeInclusive<usize>,
        read: impl Fn(&mut Reader<'_>) -> Option<T>,
    ) -> Option<Vec<T>> {
        let found = self.take_or_default(key, Value::Arguments(defaults.map(str::to_owned).into()));
        let items = tables(&found, key, argument_key).and_then(|items| within(&count, items));
        let items = self.check(key, &found, items)?;
        let mut all: Option<Vec<T>> = Some(Vec::new());
        for (table, item) in items {
            let value = self.inner(key, table, &item.origin, &read);
            let seen = all.as_deref().unwrap_or_default();
            let twice = value.as_ref().is_some_and(|value| seen.contains(value));
            let value = if twice { self.check(key, &item, Err("no entry twice".to_owned())) } else { value };
            match (value, &mut all) {
                (Some(value), Some(all)) => all.push(value),
                _ => all = None,
            }
        }
        all
    }

    /// Reads `table`, which is the value of `key` at `origin`.
    fn inner<T>(
        &mut self,
        key: &'static str,
        table: SourcedTable,
        origin: &Origin,
        read: impl FnOnce(&mut Reader<'_>) -> Option<T>,
    ) -> Option<T> {
        let mut reader = Reader::new(table, self.problems);
        reader.prefix = format!("{}{key}.", self.prefix);
        reader.origin = origin.clone();
        let value = read(&mut reader);
        let values = reader.finish();
        self.values.extend(values);
        value
    }

    /// Records that the values of `smaller` and `larger`, both taken, are in the wrong order. Blames the one
    /// that is not a default, or the larger one if neither is.
    pub(super) fn reject_order(&mut self, smaller: &str, larger: &str) {
        let (Some(smaller), Some(larger)) = (self.taken(smaller), self.taken(larger)) else { return };
        let (blamed, bound, other) = if larger.origin == Origin::Default {
            (smaller, "at most", larger)
        } else {
            (larger, "at least", smaller)
        };
        let expected = format!("{bound} {}, which is {} ({})", other.key, other.text, other.origin);
        self.reject(blamed, expected);
    }

    /// Returns whether `one` takes precedence over `other`, its alternative; both were taken. In the same
    /// layer they contradict each other, which is recorded.
    pub(super) fn takes_precedence(&mut self, one: &str, other: &str) -> Option<bool> {
        let (one, other) = (self.taken(one)?, self.taken(other)?);
        match one.origin.layer().cmp(&other.origin.layer()) {
            Ordering::Greater => Some(true),
            Ordering::Less => Some(false),
            Ordering::Equal => {
                let expected = format!("one of {} and {} ({})", one.key, other.key, other.origin);
                self.reject(one, expected);
                None
            }
        }
    }

    /// Records that `key`, which was taken, has no effect without `other`.
    pub(super) fn reject_without(&mut self, key: &str, other: &str) {
        if let Some(value) = self.taken(key) {
            self.reject(value, format!("{other} next to it"));
        }
    }

    /// Records duplicates of `key` in the tables `[[table]]`. `names` are the values of all tables.
    pub(super) fn reject_duplicates<'i>(
        &mut self,
        table: &str,
        key: &str,
        names: impl Iterator<Item = &'i str>,
    ) {
        let mut seen = HashSet::new();
        for name in names.filter(|name| !seen.insert(*name)) {
            self.reject_last(table, key, name, format!("an {key} that no other table has"));
        }
    }

    /// Records a problem with the last `key` in the tables `[[table]]` whose value is `text`.
    pub(super) fn reject_last(&mut self, table: &str, key: &str, text: &str, expected: String) {
        let quoted = format!("{text:?}");
        let full = format!("{}{table}.{key}", self.prefix);
        let last = self.values.iter().rfind(|value| value.key == full && value.text == quoted);
        if let Some(value) = last.cloned() {
            self.reject(value, expected);
        }
    }

    /// Returns whether the value of `key`, which was taken, came from the command line or the environment.
    pub(super) fn is_overridden(&self, key: &str) -> bool {
        self.taken(key).is_some_and(|value| value.origin.layer() > 1)
    }

    fn taken(&self, key: &str) -> Option<InEffect> {
        let key = format!("{}{key}", self.prefix);
        self.values.iter().find(|value| value.key == key).cloned()
    }

    fn reject(&mut self, value: InEffect, expected: String) {
        let InEffect { key, text: found, origin } = value;
        self.problems.push(Problem::Value { origin, key, found, expected });
    }

    /// Records the keys that were not taken as unknown, and returns the values of the others.
    pub(super) fn finish(self) -> Vec<InEffect> {
        for (key, found) in self.table.into_entries() {
            self.problems.push(Problem::UnknownKey {
                origin: found.origin,
                key: format!("{}{key}", self.prefix),
                known: self.known.join(", "),
            });
        }
        self.values
    }

    fn take_or_default(&mut self, key: &'static str, default: impl Into<Value>) -> Sourced {
        self.known.push(key);
        self.table.remove(key).unwrap_or_else(|| Sourced { value: default.into(), origin: Origin::Default })
    }

    fn check<T>(&mut self, key: &str, found: &Sourced, parsed: ParseResult<T>) -> Option<T> {
        let note = |expected: String| {
            self.problems.push(Problem::Value {
                origin: found.origin.clone(),
                key: format!("{}{key}", self.prefix),
                found: found.value.to_string(),
                expected,
            });
        };
        parsed.map_err(note).ok()
    }
}

/// Returns the items of a list. Each argument of an option or variable is an item.
fn items(found: &Sourced) -> Option<Vec<Sourced>> {
    match &found.value {
        Value::List(items) => Some(items.clone()),
        Value::Arguments(arguments) => Some(
            arguments
                .iter()
                .map(|word| Sourced {
                    value: Value::Arguments(vec![word.clone()]),
                    origin: found.origin.clone(),
                })
                .collect(),
        ),
        _ => None,
    }
}

fn as_table(found: &Sourced, key: impl Display) -> ParseResult<SourcedTable> {
    match &found.value {
        Value::Table(table) => Ok(table.clone()),
        _ => Err(format!("a table [{key}]")),
    }
}

/// Returns the tables of a list, each with its item.
fn tables(found: &Sourced, key: &str, argument_key: &str) -> ParseResult<Vec<(SourcedTable, Sourced)>> {
    let expected = || format!("one table [[{key}]] for each");
    let table = |item: Sourced| match &item.value {
        Value::Table(table) => Ok((table.clone(), item)),
        Value::Arguments(_) => {
            let mut table = SourcedTable::default();
            table.insert(argument_key.to_owned(), item.clone());
            Ok((table, item))
        }
        _ => Err(expected()),
    };
    items(found).ok_or_else(expected)?.into_iter().map(table).collect()
}

/// Returns `entries` if `count` allows as many.
fn within<T>(count: &RangeInclusive<usize>, entries: Vec<T>) -> ParseResult<Vec<T>> {
    if count.contains(&entries.len()) {
        Ok(entries)
    } else if entries.is_empty() {
        Err("at least one entry".to_owned())
    } else {
        Err(format!("at most {} entries", count.end()))
    }
}
