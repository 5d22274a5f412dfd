//! `templates.json` and `options.json` in the state directory: templates that collectors have seen, kept over
//! a restart.
//!
//! Each file is written to a new file, synced, and renamed over the old one. Without a file, or with a
//! damaged one, collectors wait for the exporters' next refresh.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};

use nf_transport_core::internal_error::note_internal_error;
use nf_transport_core::netflow::Kept;
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};

use crate::receiver::output::OutputName;
use crate::receiver::state::json_file::{self, StateFile};

/// Definitions of one exporter that some collectors of one sender have seen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct TemplateRow {
    pub(super) sender: String,
    pub(super) collectors: Vec<OutputName>,
    #[serde(flatten)]
    pub(super) kept: Kept,
}

/// Content of a file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct TemplateFile {
    exporters: Option<Vec<TemplateRow>>,
    /// Written by a version that did not record senders, so the senders of these exporters are unknown.
    #[serde(rename = "hold")]
    _hold: Option<IgnoredAny>,
    #[serde(rename = "skip")]
    _skip: Option<IgnoredAny>,
}

/// Content of a file to be written.
#[derive(Serialize)]
struct NewTemplateFile {
    exporters: Vec<TemplateRow>,
}

/// Reads the rows of the file with this name, the oldest first. Also returns whether some of them must be
/// stored again.
pub(super) fn read(state_directory: &Path, name: &str) -> (Vec<TemplateRow>, bool) {
    let path = state_directory.join(name);
    let current = match StateFile::<TemplateFile>::read(&path) {
        StateFile::Read(stored) => stored.exporters,
        StateFile::Absent => None,
        StateFile::Newer(error) => {
            json_file::keep(&path, &error);
            None
        }
        StateFile::Unreadable(error) => {
            tracing::warn!(
                %error,
                "cannot read {}: {error}; collectors that restart get no templates until their exporters' \
                 next refresh",
                path.display()
            );
            None
        }
    };
    // Rows of a file that was kept aside are older than those that this version has learned since.
    let kept = json_file::recover_kept::<TemplateFile>(&path).and_then(|stored| stored.exporters);
    let was_kept = kept.is_some();
    (kept.into_iter().chain(current).flatten().collect(), was_kept)
}

/// Reads the rows of the file with this name, and changes nothing. Empty if it cannot be read.
pub(super) fn look(state_directory: &Path, name: &str) -> Vec<TemplateRow> {
    match StateFile::<TemplateFile>::read(&path_of(state_directory, name)) {
        StateFile::Read(stored) => stored.exporters.unwrap_or_default(),
        StateFile::Absent | StateFile::Newer(_) | StateFile::Unreadable(_) => Vec::new(),
    }
}

/// Replaces the file with this name. Rows that differ only in their collectors are merged.
pub(super) fn write(
    state_directory: &Path,
    name: &str,
    rows: impl Iterator<Item = (String, OutputName, Kept)>,
) -> io::Result<()> {
    let mut places: HashMap<(String, Kept), usize> = HashMap::new();
    let mut exporters: Vec<TemplateRow> = Vec::new();
    for (sender, collector, kept) in rows {
        let place = *places.entry((sender, kept)).or_insert_with_key(|(sender, kept)| {
            exporters.push(TemplateRow {
                sender: sender.clone(),
                collectors: Vec::new(),
                kept: kept.clone(),
            });
            exporters.len() - 1
        });
        match exporters.get_mut(place) {
            Some(row) => row.collectors.push(collector),
            None => note_internal_error("a row of the templates was not added"),
        }
    }
    drop(places);
    json_file::write(&path_of(state_directory, name), &NewTemplateFile { exporters })
}

pub(super) fn path_of(state_directory: &Path, name: &str) -> PathBuf {
    state_directory.join(name)
}
