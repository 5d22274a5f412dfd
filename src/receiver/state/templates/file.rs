//! `templates.json` and `options.json` in the state directory: what collectors have seen, over a restart.
//!
//! Each is written whole beside the file before it, forced to disk, and renamed. Without a file, or with a damaged one,
//! collectors wait for the exporters' next refresh.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use nf_transport_core::netflow::Kept;
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};

use crate::host::files::atomic_file::{self, FileOwner};
use crate::receiver::state::newer::{self, State};

/// What an exporter has defined, as it reached some collectors of one sender.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Row {
    pub(super) sender: String,
    pub(super) collectors: Vec<SocketAddr>,
    #[serde(flatten)]
    pub(super) kept: Kept,
}

/// The content of a file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    exporters: Option<Vec<Row>>,
    /// These are of a version that knew no senders, so that nobody can tell whose exporters they are of.
    #[serde(rename = "hold")]
    _hold: Option<IgnoredAny>,
    #[serde(rename = "skip")]
    _skip: Option<IgnoredAny>,
}

/// The content of a file, to be written.
#[derive(Serialize)]
struct ToStore {
    exporters: Vec<Row>,
}

/// Reads the rows of the file with this name, the oldest first. Returns also whether some of them are to be stored again.
pub(super) fn read(state_directory: &Path, name: &str) -> (Vec<Row>, bool) {
    let path = state_directory.join(name);
    let current = match State::<Stored>::read(&path) {
        State::Read(stored) => stored.exporters,
        State::Absent => None,
        State::Newer(error) => {
            newer::keep(&path, &error);
            None
        }
        State::Unreadable(error) => {
            tracing::warn!(
                %error,
                "{}: cannot be read, so that collectors which restart wait for their exporters' templates: {error}",
                path.display()
            );
            None
        }
    };
    // What was kept is older than what this version has learned since.
    let kept = newer::take_up_kept::<Stored>(&path).and_then(|stored| stored.exporters);
    let was_kept = kept.is_some();
    (kept.into_iter().chain(current).flatten().collect(), was_kept)
}

/// Reads the rows of the file with this name, and changes nothing. Empty if it cannot be read.
pub(super) fn look(state_directory: &Path, name: &str) -> Vec<Row> {
    match State::<Stored>::read(&path_of(state_directory, name)) {
        State::Read(stored) => stored.exporters.unwrap_or_default(),
        State::Absent | State::Newer(_) | State::Unreadable(_) => Vec::new(),
    }
}

/// Replaces the file with this name by one with these rows. Those that differ in their collectors alone become one.
pub(super) fn write(
    state_directory: &Path,
    name: &str,
    rows: impl Iterator<Item = (String, SocketAddr, Kept)>,
) -> io::Result<()> {
    let mut places: HashMap<(String, Kept), usize> = HashMap::new();
    let mut exporters: Vec<Row> = Vec::new();
    for (sender, collector, kept) in rows {
        let place = *places.entry((sender, kept)).or_insert_with_key(|(sender, kept)| {
            exporters.push(Row { sender: sender.clone(), collectors: Vec::new(), kept: kept.clone() });
            exporters.len() - 1
        });
        if let Some(row) = exporters.get_mut(place) {
            row.collectors.push(collector);
        }
    }
    drop(places);
    let fill = |file: &mut File| -> io::Result<()> {
        let mut out = BufWriter::new(file);
        serde_json::to_writer(&mut out, &ToStore { exporters })?;
        out.flush()
    };
    let path = path_of(state_directory, name);
    atomic_file::write_with(&path, 0o600, FileOwner::writer(), fill).map_err(io::Error::other)
}

pub(super) fn path_of(state_directory: &Path, name: &str) -> PathBuf {
    state_directory.join(name)
}
