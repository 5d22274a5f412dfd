//! Takes values out of a table, key by key, and notes everything that is wrong.
//!
//! What is taken is known; what is left at the end is an unknown key. So no list of keys stands anywhere else.
//! A `None` from here always means that a problem was noted.

use core::cmp::Ordering;
use core::fmt::Display;
use core::ops::RangeInclusive;
use std::collections::HashSet;

use crate::config::parsers::Understood;
use crate::config::report::InEffect;
use crate::config::value::{Found, Table, Value};
use crate::config::{Origin, Problem};

/// What was read; `None` means that a problem was noted.
pub(super) type Noted<T> = Option<T>;

/// A table being read.
pub(super) struct Reader<'p> {
    table: Table,
    /// What stands before each key of this table, such as `spool.`; empty at the top.
    prefix: String,
    /// Where the table stands.
    origin: Origin,
    known: Vec<&'static str>,
    values: Vec<InEffect>,
    problems: &'p mut Vec<Problem>,
}

impl<'p> Reader<'p> {
    pub(super) fn new(table: Table, problems: &'p mut Vec<Problem>) -> Self {
        Self {
            table,
            prefix: String::new(),
            origin: Origin::Default,
            known: Vec::new(),
            values: Vec::new(),
            problems,
        }
    }

    /// The value of `key`, or else `default`, as the kind `understand` makes it out.
    pub(super) fn take<T>(
        &mut self,
        key: &'static str,
        default: impl Into<Value>,
        understand: impl FnOnce(&Value) -> Understood<T>,
    ) -> Option<T> {
        let found = self.found(key, default);
        let understood = understand(&found.value);
        let value = self.noted(key, &found, understood)?;
        self.values.push(InEffect::new(format!("{}{key}", self.prefix), &found));
        Some(value)
    }

    /// The value of `key`, which must be there.
    pub(super) fn required<T>(
        &mut self,
        key: &'static str,
        understand: impl FnOnce(&Value) -> Understood<T>,
    ) -> Option<T> {
        if self.table.contains(key) {
            // The default is never looked at.
            return self.take(key, "", understand);
        }
        self.known.push(key);
        self.note_missing(key);
        None
    }

    /// Notes that `key` must be here.
    pub(super) fn note_missing(&mut self, key: &str) {
        let key = format!("{}{key}", self.prefix);
        self.problems.push(Problem::Missing { origin: self.origin.clone(), key });
    }

    /// The value of `key`, if it is there.
    pub(super) fn optional<T>(
        &mut self,
        key: &'static str,
        understand: impl FnOnce(&Value) -> Understood<T>,
    ) -> Noted<Option<T>> {
        if self.table.contains(key) {
            // The default is never looked at.
            return self.take(key, "", understand).map(Some);
        }
        self.known.push(key);
        Some(None)
    }

    /// The value of `key`, if it is there; what is found instead is not shown.
    pub(super) fn optional_secret<T>(
        &mut self,
        key: &'static str,
        understand: impl Fn(&Value) -> Understood<T>,
    ) -> Noted<Option<T>> {
        if let Some(found) = self.table.get_mut(key)
            && understand(&found.value).is_err()
        {
            found.value = Value::Hidden;
        }
        self.optional(key, understand)
    }

    /// The items of the list `key`, or else of `default`: as many as `count` allows, none twice.
    pub(super) fn list<T: PartialEq>(
        &mut self,
        key: &'static str,
        default: impl Into<Value>,
        count: RangeInclusive<usize>,
        understand: impl Fn(&Value) -> Understood<T>,
    ) -> Option<Vec<T>> {
        let found = self.found(key, default);
        let items = items(&found).ok_or_else(|| {
            let example = understand(&Value::List(Vec::new())).err().unwrap_or_default();
            format!("a list of entries, each {example}")
        });
        let items = self.noted(key, &found, items)?;
        let value = self.understood(key, items, understand)?;
        let value = self.noted(key, &found, within(&count, value))?;
        self.values.push(InEffect::new(format!("{}{key}", self.prefix), &found));
        Some(value)
    }

    fn understood<T: PartialEq>(
        &mut self,
        key: &'static str,
        items: Vec<Found>,
        understand: impl Fn(&Value) -> Understood<T>,
    ) -> Option<Vec<T>> {
        let mut all: Option<Vec<T>> = Some(Vec::new());
        for item in items {
            let seen = all.as_deref().unwrap_or_default();
            let understood = understand(&item.value).and_then(|value| {
                if seen.contains(&value) { Err("no entry twice".to_owned()) } else { Ok(value) }
            });
            match (self.noted(key, &item, understood), &mut all) {
                (Some(value), Some(all)) => all.push(value),
                _ => all = None,
            }
        }
        all
    }

    /// Reads the table under `key`, which may be absent, with `read`.
    pub(super) fn section<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(&mut Reader<'_>) -> Option<T>,
    ) -> Option<T> {
        let found = self.found(key, Value::Table(Table::default()));
        let table = as_table(&found, key);
        let table = self.noted(key, &found, table)?;
        self.inner(key, table, &found.origin, read)
    }

    /// Reads each of the tables `[[key]]` with `read`. Words from an option or a variable stand for tables
    /// that have only the key `word_key`; without either, `defaults` are such words. As many as `count` allows,
    /// none twice.
    pub(super) fn tables<T: PartialEq, const N: usize>(
        &mut self,
        key: &'static str,
        word_key: &'static str,
        defaults: [&str; N],
        count: RangeInclusive<usize>,
        read: impl Fn(&mut Reader<'_>) -> Option<T>,
    ) -> Option<Vec<T>> {
        let found = self.found(key, Value::Words(defaults.map(str::to_owned).into()));
        let items = tables(&found, key, word_key).and_then(|items| within(&count, items));
        let items = self.noted(key, &found, items)?;
        let mut all: Option<Vec<T>> = Some(Vec::new());
        for (table, item) in items {
            let value = self.inner(key, table, &item.origin, &read);
            let seen = all.as_deref().unwrap_or_default();
            let twice = value.as_ref().is_some_and(|value| seen.contains(value));
            let value = if twice { self.noted(key, &item, Err("no entry twice".to_owned())) } else { value };
            match (value, &mut all) {
                (Some(value), Some(all)) => all.push(value),
                _ => all = None,
            }
        }
        all
    }

    /// Reads `table`, which stands at `origin` under `key`.
    fn inner<T>(
        &mut self,
        key: &'static str,
        table: Table,
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

    /// Notes that the values of `smaller` and `larger`, both taken, stand the wrong way round. The one that
    /// somebody gave is to blame, or the larger if both were.
    pub(super) fn refuse_order(&mut self, smaller: &str, larger: &str) {
        let (Some(smaller), Some(larger)) = (self.taken(smaller), self.taken(larger)) else { return };
        let (blamed, bound, other) = if larger.origin == Origin::Default {
            (smaller, "at most", larger)
        } else {
            (larger, "at least", smaller)
        };
        let expected = format!("{bound} {}, which is {} ({})", other.key, other.text, other.origin);
        self.refuse(blamed, expected);
    }

    /// Of two alternatives, both taken, the one that stands in the higher layer counts: whether that is `one`. In
    /// the same layer they contradict each other.
    pub(super) fn chosen(&mut self, one: &str, other: &str) -> Option<bool> {
        let (one, other) = (self.taken(one)?, self.taken(other)?);
        match one.origin.layer().cmp(&other.origin.layer()) {
            Ordering::Greater => Some(true),
            Ordering::Less => Some(false),
            Ordering::Equal => {
                let expected = format!("one of {} and {} ({})", one.key, other.key, other.origin);
                self.refuse(one, expected);
                None
            }
        }
    }

    /// Notes that `key`, which was taken, means nothing without `other`.
    pub(super) fn refuse_alone(&mut self, key: &str, other: &str) {
        if let Some(value) = self.taken(key) {
            self.refuse(value, format!("{other} beside it"));
        }
    }

    /// Notes that several of the tables `[[table]]` have the same `key`, which names each: `names` are those of all.
    pub(super) fn refuse_twice<'i>(&mut self, table: &str, key: &str, names: impl Iterator<Item = &'i str>) {
        let mut seen = HashSet::new();
        for name in names.filter(|name| !seen.insert(*name)) {
            self.refuse_last(table, key, name, format!("an {key} that no other table has"));
        }
    }

    /// Notes that `expected` is wanted instead of the last `key` in the tables `[[table]]` that is `text`.
    pub(super) fn refuse_last(&mut self, table: &str, key: &str, text: &str, expected: String) {
        let quoted = format!("{text:?}");
        let full = format!("{}{table}.{key}", self.prefix);
        let last = self.values.iter().rfind(|value| value.key == full && value.text == quoted);
        if let Some(value) = last.cloned() {
            self.refuse(value, expected);
        }
    }

    /// Whether the value of `key`, which was taken, came from the command line or the environment.
    pub(super) fn is_given_by_hand(&self, key: &str) -> bool {
        self.taken(key).is_some_and(|value| value.origin.layer() > 1)
    }

    fn taken(&self, key: &str) -> Option<InEffect> {
        let key = format!("{}{key}", self.prefix);
        self.values.iter().find(|value| value.key == key).cloned()
    }

    fn refuse(&mut self, value: InEffect, expected: String) {
        let InEffect { key, text: found, origin } = value;
        self.problems.push(Problem::Value { origin, key, found, expected });
    }

    /// Notes the keys that nobody took, and gives the values of those that were.
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

    fn found(&mut self, key: &'static str, default: impl Into<Value>) -> Found {
        self.known.push(key);
        self.table.remove(key).unwrap_or_else(|| Found { value: default.into(), origin: Origin::Default })
    }

    fn noted<T>(&mut self, key: &str, found: &Found, understood: Understood<T>) -> Option<T> {
        let note = |expected: String| {
            self.problems.push(Problem::Value {
                origin: found.origin.clone(),
                key: format!("{}{key}", self.prefix),
                found: found.value.to_string(),
                expected,
            });
        };
        understood.map_err(note).ok()
    }
}

/// The items of a list; a text of an option or a variable is one.
fn items(found: &Found) -> Option<Vec<Found>> {
    match &found.value {
        Value::List(items) => Some(items.clone()),
        Value::Words(words) => Some(
            words
                .iter()
                .map(|word| Found { value: Value::Words(vec![word.clone()]), origin: found.origin.clone() })
                .collect(),
        ),
        _ => None,
    }
}

fn as_table(found: &Found, key: impl Display) -> Understood<Table> {
    match &found.value {
        Value::Table(table) => Ok(table.clone()),
        _ => Err(format!("a table [{key}]")),
    }
}

/// The tables of a list, each with the item that it comes from.
fn tables(found: &Found, key: &str, word_key: &str) -> Understood<Vec<(Table, Found)>> {
    let expected = || format!("one table [[{key}]] for each");
    let table = |item: Found| match &item.value {
        Value::Table(table) => Ok((table.clone(), item)),
        Value::Words(_) => {
            let mut table = Table::default();
            table.insert(word_key.to_owned(), item.clone());
            Ok((table, item))
        }
        _ => Err(expected()),
    };
    items(found).ok_or_else(expected)?.into_iter().map(table).collect()
}

/// `entries`, if there are as many as `count` allows.
fn within<T>(count: &RangeInclusive<usize>, entries: Vec<T>) -> Understood<Vec<T>> {
    if count.contains(&entries.len()) {
        Ok(entries)
    } else if entries.is_empty() {
        Err("at least one entry".to_owned())
    } else {
        Err(format!("at most {} entries", count.end()))
    }
}
