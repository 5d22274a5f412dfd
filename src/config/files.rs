//! Reads a configuration file and its drop-ins.
//!
//! The drop-ins of `FILE` are the files `FILE.d/*.toml` in the order of their names. Each overrides the files
//! read before it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{fs, io};

use toml::de::{DeTable, DeValue};

use crate::config::error::{ConfigError, Problem};
use crate::config::value::{Origin, Sourced, SourcedTable, Value};

/// The files that were read, in that order, and their merged values.
#[derive(Debug)]
pub(super) struct ReadFiles {
    /// The absolute path of the configuration file.
    pub(super) path: PathBuf,
    pub(super) read: Vec<PathBuf>,
    pub(super) table: SourcedTable,
}

/// A planned change of one drop-in. It shows the settings that would be in effect before anything is written.
#[derive(Clone, Copy, Debug)]
pub struct Revision<'a> {
    /// The path of the drop-in, with the same beginning as the configuration file's.
    pub path: &'a Path,
    /// The new content; `None` removes the drop-in.
    pub text: Option<&'a str>,
}

/// Returns the configuration file of `service` for command lines that name none.
pub(super) fn default_path(service: &str) -> PathBuf {
    format!("/etc/{service}/{service}.toml").into()
}

/// Returns the directory of the drop-ins of `file`.
pub fn drop_in_directory(file: &Path) -> PathBuf {
    let mut directory = file.as_os_str().to_owned();
    directory.push(".d");
    directory.into()
}

/// Reads `file`, which must exist, or else the default file of `service`, which may be absent. `revision`
/// replaces one drop-in.
pub(super) fn read(
    service: &str,
    file: Option<&Path>,
    revision: Option<Revision<'_>>,
) -> Result<ReadFiles, ConfigError> {
    let default = default_path(service);
    let path = file.unwrap_or(&default);
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let mut files = ReadFiles { path: absolute, read: Vec::new(), table: SourcedTable::default() };
    let may_be_absent = file.is_none();
    match fs::read_to_string(path) {
        Ok(text) => files.add_file(path, &text)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound && may_be_absent => {}
        Err(source) => return Err(Problem::Unreadable { path: path.to_owned(), source }.into()),
    }
    let mut drop_ins = drop_ins(path)?;
    if let Some(Revision { path, text }) = revision {
        drop_ins.retain(|drop_in| drop_in != path);
        drop_ins.extend(text.is_some().then(|| path.to_owned()));
        drop_ins.sort();
    }
    for drop_in in drop_ins {
        if let Some(Revision { path, text: Some(text) }) = revision
            && path == drop_in
        {
            files.add_file(path, text)?;
            continue;
        }
        let text = fs::read_to_string(&drop_in)
            .map_err(|source| Problem::Unreadable { path: drop_in.clone(), source })?;
        files.add_file(&drop_in, &text)?;
    }
    Ok(files)
}

impl ReadFiles {
    fn add_file(&mut self, path: &Path, text: &str) -> Result<(), Problem> {
        self.table.merge(parse(path, text)?);
        self.read.push(path.to_owned());
        Ok(())
    }
}

/// Returns the drop-ins of `path`, sorted by name. Hidden files do not count.
fn drop_ins(path: &Path) -> Result<Vec<PathBuf>, Problem> {
    let directory = drop_in_directory(path);
    let unreadable = |source| Problem::Unreadable { path: directory.clone(), source };
    let entries = match fs::read_dir(&directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(unreadable(error)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(unreadable)?;
        let hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
        let path = entry.path();
        if !hidden && path.extension().is_some_and(|extension| extension == "toml") {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// Returns another configuration file in the directory of `file` in which `path` is the value of some key.
/// Unreadable files are skipped.
pub fn other_file_naming(path: &Path, file: &Path) -> Option<PathBuf> {
    let names =
        |text: String| toml::from_str(&text).is_ok_and(|table: toml::Table| mentions(&table.into(), path));
    let mut others: Vec<PathBuf> =
        fs::read_dir(file.parent()?).ok()?.flatten().map(|entry| entry.path()).collect();
    others.retain(|other| other != file && other.extension().is_some_and(|extension| extension == "toml"));
    others.sort();
    let with_drop_ins = others.into_iter().flat_map(|other| {
        let drop_ins = drop_ins(&other).unwrap_or_default();
        core::iter::once(other).chain(drop_ins)
    });
    let mut with_drop_ins = with_drop_ins.filter(|other| fs::read_to_string(other).is_ok_and(names));
    with_drop_ins.next()
}

fn mentions(value: &toml::Value, path: &Path) -> bool {
    match value {
        toml::Value::String(text) => Path::new(text) == path,
        toml::Value::Array(values) => values.iter().any(|value| mentions(value, path)),
        toml::Value::Table(table) => table.values().any(|value| mentions(value, path)),
        _ => false,
    }
}

/// Parses `text`, the content of `path`.
pub(super) fn parse(path: &Path, text: &str) -> Result<SourcedTable, Problem> {
    let document = DeTable::parse(text).map_err(|error| {
        let (line, column) = line_and_column(text, error.span().map_or(0, |span| span.start));
        Problem::Syntax { path: path.to_owned(), line, column, message: error.message().to_owned() }
    })?;
    let source = TomlFile { path: Arc::new(path.to_owned()), text };
    Ok(source.table(document.get_ref()))
}

/// A TOML file whose values are converted.
struct TomlFile<'t> {
    path: Arc<PathBuf>,
    text: &'t str,
}

impl TomlFile<'_> {
    fn table(&self, table: &DeTable<'_>) -> SourcedTable {
        let mut taken = SourcedTable::default();
        for (key, value) in table {
            let origin = self.origin(key.span().start);
            taken.insert(key.get_ref().to_string(), Sourced { value: self.value(value.get_ref()), origin });
        }
        taken
    }

    fn value(&self, value: &DeValue<'_>) -> Value {
        match value {
            DeValue::String(text) => Value::Text(text.to_string()),
            DeValue::Integer(number) => Value::Number(decimal(number.as_str(), number.radix())),
            DeValue::Float(number) => Value::Number(number.as_str().to_owned()),
            DeValue::Boolean(value) => Value::Boolean(*value),
            DeValue::Datetime(moment) => Value::Moment(moment.to_string()),
            DeValue::Table(table) => Value::Table(self.table(table)),
            DeValue::Array(items) => Value::List(
                items
                    .iter()
                    .map(|item| Sourced {
                        value: self.value(item.get_ref()),
                        origin: self.origin(item.span().start),
                    })
                    .collect(),
            ),
        }
    }

    fn origin(&self, offset: usize) -> Origin {
        Origin::File { path: Arc::clone(&self.path), line: line_and_column(self.text, offset).0 }
    }
}

/// Converts the digits of a number of any radix to decimal.
fn decimal(digits: &str, radix: u32) -> String {
    i128::from_str_radix(digits, radix).map_or_else(|_| digits.to_owned(), |number| number.to_string())
}

/// Returns line and column of the byte at `offset`, both from 1. The column counts characters.
fn line_and_column(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.chars().rev().take_while(|character| *character != '\n').count() + 1;
    (line, column)
}
