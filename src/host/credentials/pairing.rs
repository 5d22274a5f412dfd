//! What inviting and joining have in common: where keys and drop-ins lie, how they are read and written, and whose
//! they are.

use std::fs::File;
use std::path::{Path, PathBuf};

use nf_transport_core::secure::{Key, KeyError, Secret};
use serde::Serialize;
use zeroize::Zeroizing;

use crate::config::{self, KeySource, Revision};
use crate::host::files::atomic_file::{self, FileError, Owner};
use crate::host::process::console;
use crate::host::{DaemonError, KeyTrouble};
use crate::limits::KEY_FILE_MAX;

/// Only its owner reads a key; everybody may read a drop-in, which holds none.
const SECRET: u32 = 0o600;
const PUBLIC: u32 = 0o644;

/// The configuration of a service as a place to write to.
#[derive(Clone, Debug)]
pub struct Place {
    /// The service.
    service: &'static str,
    /// The configuration file; absolute.
    file: PathBuf,
    /// Whether it was named, and so must be there.
    is_named: bool,
    /// Whose keys are.
    owner: Owner,
}

/// A drop-in before it is written.
#[derive(Clone, Debug)]
pub struct DropIn {
    path: PathBuf,
    text: String,
}

impl DropIn {
    /// Where it goes.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The change that it makes to a configuration.
    pub fn revision(&self) -> Revision<'_> {
        Revision { path: &self.path, text: Some(&self.text) }
    }
}

impl Place {
    /// Beside the configuration `file` of `service`, or its default one.
    pub fn new(service: &'static str, file: Option<&Path>) -> Self {
        let path = config::file_path(service, file);
        let path = std::path::absolute(&path).unwrap_or(path);
        Self { service, file: path, is_named: file.is_some(), owner: Owner::named(service) }
    }

    /// The configuration file, if one was named: what paths of drop-ins begin with.
    pub fn file(&self) -> Option<&Path> {
        self.is_named.then_some(&self.file)
    }

    /// The configuration file, named or not.
    pub fn path(&self) -> &Path {
        &self.file
    }

    /// The path of `name` next to the configuration file. Several services may have their files in one directory, so
    /// `dc2.toml` has `dc2.key` where the service's usual file has `key`.
    pub fn beside(&self, name: &str) -> PathBuf {
        let stem = self.file.file_stem().unwrap_or_default();
        if stem == self.service {
            return self.file.with_file_name(name);
        }
        let mut own = stem.to_owned();
        own.push(".");
        own.push(name);
        self.file.with_file_name(own)
    }

    /// Fails if the file at `path` is there and another configuration in the directory names it: that service would lose
    /// the key that it uses.
    pub fn refuse_key_of_another(&self, path: &Path) -> Result<(), DaemonError> {
        match config::other_that_names(path, &self.file).filter(|_| path.exists()) {
            Some(other) => Err(DaemonError::configuration(format_args!(
                "{}: {} names this key, too: nothing was written: give one of the two configurations a key file of its \
                 own, and try again",
                path.display(),
                other.display()
            ))),
            None => Ok(()),
        }
    }

    /// The path of the drop-in `name`.
    pub fn drop_in_path(&self, name: &str) -> PathBuf {
        config::drop_in_directory(&self.file).join(name)
    }

    /// The drop-in `name` that says `settings`, under a line that says where it comes from.
    pub fn drop_in(
        &self,
        name: &str,
        origin: &str,
        settings: &impl Serialize,
    ) -> Result<DropIn, DaemonError> {
        let path = self.drop_in_path(name);
        let settings = toml::to_string(settings).map_err(|error| {
            DaemonError::configuration(format_args!("{}: cannot be written as text: {error}", path.display()))
        })?;
        Ok(DropIn { path, text: format!("# {origin}\n{settings}") })
    }

    /// Writes a drop-in; whether it was not so already.
    pub fn write_drop_in(&self, drop_in: &DropIn) -> Result<bool, FileError> {
        atomic_file::make_directory(&config::drop_in_directory(&self.file))?;
        atomic_file::write(&drop_in.path, drop_in.text.as_bytes(), PUBLIC, Owner::writer())
    }

    /// The key or passphrase in the file at `path`, if there is one. Its mode does not matter: writing corrects it.
    pub fn secret(&self, path: &Path) -> Result<Option<Secret>, DaemonError> {
        let Some(content) = atomic_file::read(path)? else { return Ok(None) };
        let source = || KeySource::File(path.to_owned());
        let text = str::from_utf8(&content).ok().filter(|_| content.len() <= KEY_FILE_MAX);
        let text = text.ok_or_else(|| KeyTrouble::NoText(source()))?;
        let secret = Secret::from_text(text).map_err(|error| KeyTrouble::Bad { place: source(), error })?;
        Ok(Some(secret))
    }

    /// The key in the file at `path`, if there is one. A passphrase is an error.
    pub fn key(&self, path: &Path) -> Result<Option<Key>, DaemonError> {
        match self.secret(path)? {
            None => Ok(None),
            Some(Secret::Key(key)) => Ok(Some(key)),
            Some(Secret::Passphrase(_)) => {
                let place = KeySource::File(path.to_owned());
                Err(KeyTrouble::Bad { place, error: KeyError::IsPassphrase }.into())
            }
        }
    }

    /// Writes a key file beside the configuration or into the directory of keys; whether it was not so already, with
    /// its mode and owner.
    pub fn write_key(&self, path: &Path, key: &Key) -> Result<bool, FileError> {
        self.write_secret(path, &Secret::Key(key.clone()))
    }

    /// As [`Self::write_key`], for a key or a passphrase.
    pub fn write_secret(&self, path: &Path, secret: &Secret) -> Result<bool, FileError> {
        atomic_file::make_directory(path.parent().unwrap_or(Path::new("/")))?;
        atomic_file::write(path, text_of(&secret.to_text()).as_bytes(), SECRET, self.owner)
    }

    /// Makes sure that there is a directory of keys at `path`, and keeps every other process that does so waiting as
    /// long as what this gives is there.
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

/// The content of a key file with this `secret`.
fn text_of(secret: &str) -> Zeroizing<String> {
    let mut text = Zeroizing::new(String::with_capacity(secret.len() + 1));
    text.push_str(secret);
    text.push('\n');
    text
}

/// Prints a new key, or writes it to `file`, which must not be there.
pub fn keygen(file: Option<&Path>) -> Result<(), DaemonError> {
    let key = Key::generate().map_err(DaemonError::system)?;
    let text = text_of(&key.to_text());
    let Some(file) = file else { return console::print(&text) };
    let file = std::path::absolute(file).map_err(DaemonError::cannot_create)?;
    atomic_file::create(&file, text.as_bytes(), SECRET)?;
    console::print(&format!("key {} is in {}\n", key.id(), file.display()))
}
