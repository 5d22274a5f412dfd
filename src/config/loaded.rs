//! Loads the settings of a service from files and overrides.

use std::path::{Path, PathBuf};

use crate::config::environment::Environment;
use crate::config::error::ConfigError;
use crate::config::files::{self, ReadFiles, Revision};
use crate::config::parsers;
use crate::config::reader::Reader;
use crate::config::receiver::{self, ReceiverSettings};
use crate::config::report::Report;
use crate::config::sender::{self, SenderSettings};
use crate::config::service_names::{RECEIVER, SENDER};
use crate::config::value::{Origin, SourcedTable};

/// Settings with the report about their origins.
#[derive(Debug)]
pub struct Loaded<S> {
    /// The absolute path of the configuration file. The default one may be absent.
    pub file: PathBuf,
    /// The validated settings.
    pub settings: S,
    /// The files that were read, every value in effect, and warnings.
    pub report: Report,
}

impl Loaded<SenderSettings> {
    /// Returns all files that the service reads: its configuration, keys and certificates.
    pub fn files(&self) -> Vec<&Path> {
        let settings = &self.settings;
        let secrets = settings.protection.files().into_iter().chain(settings.spool.encryption.files());
        self.report.files.iter().map(PathBuf::as_path).chain(secrets).collect()
    }
}

impl Loaded<ReceiverSettings> {
    /// Returns all files that the service reads: its configuration, keys and certificates.
    pub fn files(&self) -> Vec<&Path> {
        let secrets = self.settings.protection.files();
        self.report.files.iter().map(PathBuf::as_path).chain(secrets).collect()
    }
}

/// Values from options and variables, which override those of all files.
#[derive(Clone, Debug, Default)]
pub struct Overrides(SourcedTable);

impl Overrides {
    /// Sets `key` to `arguments` from `origin`. Dots in the key separate sections, as in `spool.directory`.
    pub fn put(&mut self, key: &str, arguments: Vec<String>, origin: Origin) {
        self.0.put_arguments(key, arguments, origin);
    }
}

/// Loads the settings of nf-sender. `file` must exist; without it, the default file may be absent.
pub fn load_sender(
    file: Option<&Path>,
    overrides: Overrides,
    environment: &Environment,
) -> Result<Loaded<SenderSettings>, ConfigError> {
    load_revised_sender(file, overrides, environment, None)
}

/// Loads the settings of nf-sender like [`load_sender`], with a planned change of one drop-in.
pub fn load_revised_sender(
    file: Option<&Path>,
    overrides: Overrides,
    environment: &Environment,
    revision: Option<Revision<'_>>,
) -> Result<Loaded<SenderSettings>, ConfigError> {
    let files = files::read(SENDER, file, revision)?;
    load(files, overrides, |reader| sender::read(reader, environment), SenderSettings::warnings)
}

/// Loads the settings of nf-receiver. `file` must exist; without it, the default file may be absent.
pub fn load_receiver(
    file: Option<&Path>,
    overrides: Overrides,
    environment: &Environment,
) -> Result<Loaded<ReceiverSettings>, ConfigError> {
    load_revised_receiver(file, overrides, environment, None)
}

/// Loads the settings of nf-receiver like [`load_receiver`], with a planned change of one drop-in.
pub fn load_revised_receiver(
    file: Option<&Path>,
    overrides: Overrides,
    environment: &Environment,
    revision: Option<Revision<'_>>,
) -> Result<Loaded<ReceiverSettings>, ConfigError> {
    let files = files::read(RECEIVER, file, revision)?;
    load(files, overrides, |reader| receiver::read(reader, environment), ReceiverSettings::warnings)
}

/// Returns the path of the control socket of `service`, such as [`SENDER`]. Reads the files only if no
/// override sets it, and ignores problems with other keys.
pub fn control_path(
    service: &str,
    file: Option<&Path>,
    overrides: Overrides,
    environment: &Environment,
) -> Result<PathBuf, ConfigError> {
    let mut table = if overrides.0.contains("control") {
        SourcedTable::default()
    } else {
        files::read(service, file, None)?.table
    };
    table.merge(overrides.0);
    let mut problems = Vec::new();
    let control =
        Reader::new(table, &mut problems).read("control", environment.control_path(service), parsers::path);
    control.ok_or(ConfigError(problems))
}

/// Returns the configuration file of `service`: `file`, or else its default one.
pub fn file_path(service: &str, file: Option<&Path>) -> PathBuf {
    file.map_or_else(|| files::default_path(service), Path::to_owned)
}

fn load<S>(
    files: ReadFiles,
    overrides: Overrides,
    read: impl FnOnce(&mut Reader<'_>) -> Option<S>,
    warnings: impl FnOnce(&S) -> Vec<String>,
) -> Result<Loaded<S>, ConfigError> {
    let ReadFiles { path: file, read: files, mut table } = files;
    table.merge(overrides.0);
    let mut problems = Vec::new();
    let mut reader = Reader::new(table, &mut problems);
    let settings = read(&mut reader);
    let values = reader.finish();
    match settings {
        Some(settings) if problems.is_empty() => {
            let warnings = warnings(&settings);
            let report = Report { files, values, notes: Vec::new(), warnings };
            Ok(Loaded { file, settings, report })
        }
        _ => Err(ConfigError(problems)),
    }
}
