//! Reads a configuration file and its drop-ins.
//!
//! The drop-ins of `FILE` are the files `FILE.d/*.toml` in the order of their names; each lies over what was
//! read before it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{fs, io};

use toml::de::{DeTable, DeValue};

use crate::config::value::{Found, Table, Value};
use crate::config::{ConfigError, Origin, Problem};

/// The files that were read, in that order, and what they say together.
#[derive(Debug)]
pub(super) struct Files {
    /// The configuration file; absolute.
    pub(super) path: PathBuf,
    pub(super) read: Vec<PathBuf>,
    pub(super) table: Table,
}

/// A drop-in as it is about to be, so that what would be in effect is known before anything is written.
#[derive(Clone, Copy, Debug)]
pub struct Revision<'a> {
    /// The drop-in, as a path that begins like the configuration file's.
    pub path: &'a Path,
    /// What it will say; `None` if it will be gone.
    pub text: Option<&'a str>,
}

/// The file that is read where none is named.
pub(super) fn default_path(service: &str) -> PathBuf {
    format!("/etc/{service}/{service}.toml").into()
}

/// Where the drop-ins of `file` are.
pub(super) fn drop_in_directory(file: &Path) -> PathBuf {
    let mut directory = file.as_os_str().to_owned();
    directory.push(".d");
    directory.into()
}

/// Reads `file`, which must exist, or else the default file of `service`, which may be absent; one drop-in may be
/// taken as it is about to be.
pub(super) fn read(
    service: &str,
    file: Option<&Path>,
    revision: Option<Revision<'_>>,
) -> Result<Files, ConfigError> {
    let default = default_path(service);
    let path = file.unwrap_or(&default);
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let mut files = Files { path: absolute, read: Vec::new(), table: Table::default() };
    let may_be_absent = file.is_none();
    match fs::read_to_string(path) {
        Ok(text) => files.take(path, &text)?,
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
            files.take(path, text)?;
            continue;
        }
        let text = fs::read_to_string(&drop_in)
            .map_err(|source| Problem::Unreadable { path: drop_in.clone(), source })?;
        files.take(&drop_in, &text)?;
    }
    Ok(files)
}

impl Files {
    fn take(&mut self, path: &Path, text: &str) -> Result<(), Problem> {
        self.table.lay_over(parse(path, text)?);
        self.read.push(path.to_owned());
        Ok(())
    }
}

/// The drop-ins of `path`, sorted by name; hidden files are none.
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

/// Another configuration than `file`, in the same directory, in which `path` is the value of some key. One that cannot be
/// read names nothing.
pub(super) fn other_that_names(path: &Path, file: &Path) -> Option<PathBuf> {
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

/// What `text`, the content of `path`, says.
pub(super) fn parse(path: &Path, text: &str) -> Result<Table, Problem> {
    let document = DeTable::parse(text).map_err(|error| {
        let (line, column) = line_and_column(text, error.span().map_or(0, |span| span.start));
        Problem::Syntax { path: path.to_owned(), line, column, message: error.message().to_owned() }
    })?;
    let source = Source { path: Arc::new(path.to_owned()), text };
    Ok(source.table(document.get_ref()))
}

/// A file while its values are taken over.
struct Source<'t> {
    path: Arc<PathBuf>,
    text: &'t str,
}

impl Source<'_> {
    fn table(&self, table: &DeTable<'_>) -> Table {
        let mut taken = Table::default();
        for (key, value) in table {
            let origin = self.origin(key.span().start);
            taken.insert(key.get_ref().to_string(), Found { value: self.value(value.get_ref()), origin });
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
                    .map(|item| Found {
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

/// The digits of a number of any radix as decimal ones.
fn decimal(digits: &str, radix: u32) -> String {
    i128::from_str_radix(digits, radix).map_or_else(|_| digits.to_owned(), |number| number.to_string())
}

/// The line and column of the byte at `offset`, both from 1, the column in characters.
fn line_and_column(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.chars().rev().take_while(|character| *character != '\n').count() + 1;
    (line, column)
}
