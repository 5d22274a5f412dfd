//! The common part of `invite` and `join`: places of keys and drop-ins, reading and writing them, and their
//! owner.

use std::fs::File;
use std::path::{Path, PathBuf};

use nf_transport_core::secure::{Key, KeyError, Secret};
use serde::Serialize;
use zeroize::Zeroizing;

use crate::config::{self, KeySource, Revision};
use crate::host::files::atomic_file::{self, FileError, FileOwner};
use crate::host::process::console;
use crate::host::{DaemonError, KeyFileError};
use crate::limits::KEY_FILE_MAX;

/// Mode of key files, which only their owner may read.
const SECRET: u32 = 0o600;
/// Mode of drop-ins, which contain no key.
const PUBLIC: u32 = 0o644;

/// The place of a service's configuration, for writing keys and drop-ins next to it.
#[derive(Clone, Debug)]
pub struct ConfigLocation {
    /// The service.
    service: &'static str,
    /// The absolute path of the configuration file.
    file: PathBuf,
    /// The file was named, so it must exist.
    is_named: bool,
    /// The owner of key files.
    owner: FileOwner,
}

/// A drop-in before it is written.
#[derive(Clone, Debug)]
pub struct DropIn {
    path: PathBuf,
    text: String,
}

impl DropIn {
    /// Returns the path of the drop-in.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the change of the configuration by this drop-in.
    pub fn revision(&self) -> Revision<'_> {
        Revision { path: &self.path, text: Some(&self.text) }
    }
}

impl ConfigLocation {
    /// Returns the place of the configuration `file` of `service`, or of its default one.
    pub fn new(service: &'static str, file: Option<&Path>) -> Self {
        let path = config::file_path(service, file);
        let path = std::path::absolute(&path).unwrap_or(path);
        Self { service, file: path, is_named: file.is_some(), owner: FileOwner::named(service) }
    }

    /// Returns the configuration file if one was named. The paths of drop-ins begin with it.
    pub fn file(&self) -> Option<&Path> {
        self.is_named.then_some(&self.file)
    }

    /// Returns the configuration file, named or not.
    pub fn path(&self) -> &Path {
        &self.file
    }

    /// Returns the path of `name` next to the configuration file. Several services may share a directory, so
    /// the key of `dc2.toml` is `dc2.key`, and that of the service's default file is `key`.
    pub fn path_next_to(&self, name: &str) -> PathBuf {
        let stem = self.file.file_stem().unwrap_or_default();
        if stem == self.service {
            return self.file.with_file_name(name);
        }
        let mut own = stem.to_owned();
        own.push(".");
        own.push(name);
        self.file.with_file_name(own)
    }

    /// Fails if the file at `path` exists and another configuration in the directory names it: its service
    /// would lose its key.
    pub fn reject_key_in_use(&self, path: &Path) -> Result<(), DaemonError> {
        match config::other_file_naming(path, &self.file).filter(|_| path.exists()) {
            Some(other) => Err(DaemonError::configuration(format_args!(
                "{}: {} uses this key as well: nothing was written: give one of the two configurations a key \
                 file of its own, and try again",
                path.display(),
                other.display()
            ))),
            None => Ok(()),
        }
    }

    /// Returns the path of the drop-in `name`.
    pub fn drop_in_path(&self, name: &str) -> PathBuf {
        config::drop_in_directory(&self.file).join(name)
    }

    /// Returns the drop-in `name` with `settings`, after a comment that states its origin.
    pub fn drop_in(
        &self,
        name: &str,
        origin: &str,
        settings: &impl Serialize,
    ) -> Result<DropIn, DaemonError> {
        let path = self.drop_in_path(name);
        let settings = toml::to_string(settings).map_err(|error| {
            DaemonError::configuration(format_args!(
                "{}: cannot be converted to TOML: {error}",
                path.display()
            ))
        })?;
        Ok(DropIn { path, text: format!("# {origin}\n{settings}") })
    }

    /// Writes a drop-in. Returns false if it existed with this content.
    pub fn write_drop_in(&self, drop_in: &DropIn) -> Result<bool, FileError> {
        atomic_file::make_directory(&config::drop_in_directory(&self.file))?;
        atomic_file::write(&drop_in.path, drop_in.text.as_bytes(), PUBLIC, FileOwner::writer())
    }

    /// Reads the key or passphrase in the file at `path`, if it exists. Its mode does not matter: writing
    /// corrects it.
    pub fn secret(&self, path: &Path) -> Result<Option<Secret>, DaemonError> {
        let Some(content) = atomic_file::read(path)? else { return Ok(None) };
        let source = || KeySource::File(path.to_owned());
        let text = str::from_utf8(&content).ok().filter(|_| content.len() <= KEY_FILE_MAX);
        let text = text.ok_or_else(|| KeyFileError::NotText(source()))?;
        let secret =
            Secret::from_text(text).map_err(|error| KeyFileError::Invalid { place: source(), error })?;
        Ok(Some(secret))
    }

    /// Reads the key in the file at `path`, if it exists. A passphrase is an error.
    pub fn key(&self, path: &Path) -> Result<Option<Key>, DaemonError> {
        match self.secret(path)? {
            None => Ok(None),
            Some(Secret::Key(key)) => Ok(Some(key)),
            Some(Secret::Passphrase(_)) => {
                let place = KeySource::File(path.to_owned());
                Err(KeyFileError::Invalid { place, error: KeyError::IsPassphrase }.into())
            }
        }
    }

    /// Writes a key file next to the configuration or into the directory of keys. Returns false if it existed
    /// with this content, mode and owner.
    pub fn write_key(&self, path: &Path, key: &Key) -> Result<bool, FileError> {
        self.write_secret(path, &Secret::Key(key.clone()))
    }

    /// As [`Self::write_key`], for a key or a passphrase.
    pub fn write_secret(&self, path: &Path, secret: &Secret) -> Result<bool, FileError> {
        atomic_file::make_directory(path.parent().unwrap_or(Path::new("/")))?;
        atomic_file::write(path, text_of(&secret.to_text()).as_bytes(), SECRET, self.owner)
    }

    /// Creates the directory of keys at `path` if needed, and locks it. Other processes that do so wait until
    /// the returned file is dropped.
    pub fn lock_keys(&self, path: &Path) -> Result<File, DaemonError> {
        atomic_file::make_secret_directory(path, self.owner)?;
        let locked = || {
            let directory = File::open(path)?;
            directory.lock()?;
            Ok(directory)
        };
        locked().map_err(|error: std::io::Error| {
            DaemonError::cannot_create(format_args!("{}: cannot be locked: {error}", path.display()))
        })
    }
}

/// Returns the content of a key file with this `secret`.
fn text_of(secret: &str) -> Zeroizing<String> {
    let mut text = Zeroizing::new(String::with_capacity(secret.len() + 1));
    text.push_str(secret);
    text.push('\n');
    text
}

/// Prints a new key, or writes it to `file`, which must not exist.
pub fn keygen(file: Option<&Path>) -> Result<(), DaemonError> {
    let key = Key::generate().map_err(DaemonError::system)?;
    let text = text_of(&key.to_text());
    let Some(file) = file else { return console::print(&text) };
    let file = std::path::absolute(file).map_err(DaemonError::cannot_create)?;
    atomic_file::create(&file, text.as_bytes(), SECRET)?;
    console::print(&format!("key {} written to {}\n", key.id(), file.display()))
}
