//! From files, variables and options to settings that cannot be wrong.
//!
//! Every layer becomes a [`Table`] of values that remember where they came from; later layers are laid over
//! earlier ones; then one reader turns the result into settings, or says everything that is wrong with it:
//! where it stands, what was found, what is allowed. It reads the files it is told to, and nothing else.

mod collector;
mod environment;
mod error;
mod files;
mod host_port;
mod parsers;
mod protection;
mod reader;
mod receiver;
mod reconnect;
mod report;
mod sender;
mod value;

use std::path::{Path, PathBuf};

pub use collector::{CollectorSettings, LateSettings, Limit, Source, WhenDown};
pub use error::{ConfigError, Problem};
pub use files::Revision;
pub use host_port::{HostPort, HostPortError};
pub use protection::{
    KeyPair, KeySource, ReceiverProtection, ReceiverTlsSettings, SenderKeys, SenderProtection,
    SpoolEncryption, TlsFiles,
};
use reader::Reader;
pub use receiver::ReceiverSettings;
pub use reconnect::Reconnect;
pub use report::Report;
pub use sender::{SenderSettings, SpoolSettings};
pub use value::Origin;
use value::Table;

pub use crate::config::environment::Surroundings;

/// The name of the sender's service: its files and directories are called so.
pub const SENDER: &str = "nf-sender";

/// The name of the receiver's service: its files and directories are called so.
pub const RECEIVER: &str = "nf-receiver";

/// Values that options and variables gave; they stand above those of all files.
#[derive(Clone, Debug, Default)]
pub struct Overrides(Table);

impl Overrides {
    /// Sets `key` (dots lead into sections, as in `spool.directory`) to `words`, which `origin` gave.
    pub fn put(&mut self, key: &str, words: Vec<String>, origin: Origin) {
        self.0.put_words(key, words, origin);
    }
}

/// Settings, and what there is to tell about them.
#[derive(Debug)]
pub struct Loaded<S> {
    /// The configuration file, which may be absent if it is the default one; absolute.
    pub file: PathBuf,
    /// The settings, checked.
    pub settings: S,
    /// Which files were read, every value in effect, and warnings.
    pub report: Report,
}

impl Loaded<SenderSettings> {
    /// All files that the service reads: its configuration, keys and certificates.
    pub fn files(&self) -> Vec<&Path> {
        let settings = &self.settings;
        let secrets = settings.protection.files().into_iter().chain(settings.spool.encryption.files());
        self.report.files.iter().map(PathBuf::as_path).chain(secrets).collect()
    }
}

impl Loaded<ReceiverSettings> {
    /// All files that the service reads: its configuration, keys and certificates.
    pub fn files(&self) -> Vec<&Path> {
        let secrets = self.settings.protection.files();
        self.report.files.iter().map(PathBuf::as_path).chain(secrets).collect()
    }
}

/// The settings of nf-sender. `file` must exist; without it the default file is read if it is there.
pub fn load_sender(
    file: Option<&Path>,
    overrides: Overrides,
    surroundings: &Surroundings,
) -> Result<Loaded<SenderSettings>, ConfigError> {
    revised_sender(file, overrides, surroundings, None)
}

/// The settings of nf-sender as [`load_sender`] gives them, with one drop-in as it is about to be.
pub fn revised_sender(
    file: Option<&Path>,
    overrides: Overrides,
    surroundings: &Surroundings,
    revision: Option<Revision<'_>>,
) -> Result<Loaded<SenderSettings>, ConfigError> {
    let files = files::read(SENDER, file, revision)?;
    load(files, overrides, |reader| sender::read(reader, surroundings), SenderSettings::warnings)
}

/// The settings of nf-receiver. `file` must exist; without it the default file is read if it is there.
pub fn load_receiver(
    file: Option<&Path>,
    overrides: Overrides,
    surroundings: &Surroundings,
) -> Result<Loaded<ReceiverSettings>, ConfigError> {
    revised_receiver(file, overrides, surroundings, None)
}

/// The settings of nf-receiver as [`load_receiver`] gives them, with one drop-in as it is about to be.
pub fn revised_receiver(
    file: Option<&Path>,
    overrides: Overrides,
    surroundings: &Surroundings,
    revision: Option<Revision<'_>>,
) -> Result<Loaded<ReceiverSettings>, ConfigError> {
    let files = files::read(RECEIVER, file, revision)?;
    load(files, overrides, |reader| receiver::read(reader, surroundings), ReceiverSettings::warnings)
}

/// Where `service` (such as [`SENDER`]) has its control socket. The files are read only if nothing above them
/// says so, and what else is wrong with them does not matter here.
pub fn control_path(
    service: &str,
    file: Option<&Path>,
    overrides: Overrides,
    surroundings: &Surroundings,
) -> Result<PathBuf, ConfigError> {
    let mut table = if overrides.0.contains("control") {
        Table::default()
    } else {
        files::read(service, file, None)?.table
    };
    table.lay_over(overrides.0);
    let mut problems = Vec::new();
    let control =
        Reader::new(table, &mut problems).take("control", surroundings.control_path(service), parsers::path);
    control.ok_or(ConfigError(problems))
}

/// The configuration file of `service`: `file`, or else its default one.
pub fn file_path(service: &str, file: Option<&Path>) -> PathBuf {
    file.map_or_else(|| files::default_path(service), Path::to_owned)
}

/// Where the drop-ins of the configuration `file` are.
pub fn drop_in_directory(file: &Path) -> PathBuf {
    files::drop_in_directory(file)
}

/// Another configuration than `file`, in the same directory, in which `path` is the value of some key, such as `key-file`.
pub fn other_that_names(path: &Path, file: &Path) -> Option<PathBuf> {
    files::other_that_names(path, file)
}

fn load<S>(
    files: files::Files,
    overrides: Overrides,
    read: impl FnOnce(&mut Reader<'_>) -> Option<S>,
    warnings: impl FnOnce(&S) -> Vec<String>,
) -> Result<Loaded<S>, ConfigError> {
    let files::Files { path: file, read: files, mut table } = files;
    table.lay_over(overrides.0);
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

/// The keys of which it is true that they differ.
fn that_differ<const N: usize>(keys: [(&'static str, bool); N]) -> Vec<&'static str> {
    keys.into_iter().filter_map(|(key, differs)| differs.then_some(key)).collect()
}

#[cfg(test)]
mod tests;
