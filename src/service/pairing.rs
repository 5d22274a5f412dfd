//! What inviting and joining have in common: where keys and drop-ins lie, how they are written, and that the daemon
//! takes them up.

use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::config;
use crate::secure::Key;
use crate::service::safe_file::{self, FileError, Owner};
use crate::service::{DaemonError, console};
use crate::status::{ControlError, Request, request};

/// Only its owner reads a key; everybody may read a drop-in, which holds none.
const SECRET: u32 = 0o600;
const PUBLIC: u32 = 0o644;
const DIRECTORY: u32 = 0o755;
const SECRET_DIRECTORY: u32 = 0o700;

/// The configuration of a service as a place to write to.
#[derive(Clone, Debug)]
pub struct Place {
    service: &'static str,
    file: PathBuf,
    owner: Owner,
}

impl Place {
    /// Beside the configuration `file` of `service`, or its default one.
    pub fn new(service: &'static str, file: Option<&Path>) -> Self {
        let file = config::file_path(service, file);
        let file = std::path::absolute(&file).unwrap_or(file);
        Self { service, file, owner: Owner::named(service) }
    }

    /// The path of `name` beside the configuration file.
    pub fn beside(&self, name: &str) -> PathBuf {
        self.file.with_file_name(name)
    }

    /// The path of the drop-in `name`.
    pub fn drop_in(&self, name: &str) -> PathBuf {
        config::drop_in_directory(&self.file).join(name)
    }

    /// Writes a key file, and makes its directory if that is not there.
    pub fn write_key(&self, path: &Path, key: &Key) -> Result<(), FileError> {
        if let Some(directory) = path.parent() {
            let is_own = directory != self.file.parent().unwrap_or(Path::new("/"));
            let (mode, owner) =
                if is_own { (SECRET_DIRECTORY, self.owner) } else { (DIRECTORY, Owner::writer()) };
            safe_file::make_directory(directory, mode, owner)?;
        }
        safe_file::write(path, format!("{}\n", *key.to_text()).as_bytes(), SECRET, self.owner)
    }

    /// Makes sure that a key file that is there can be read by the service and nobody else.
    pub fn restrict_key(&self, path: &Path) -> Result<(), FileError> {
        safe_file::restrict(path, SECRET, self.owner)
    }

    /// Writes a drop-in that says `settings`, under a line that says where it comes from.
    pub fn write_drop_in(
        &self,
        path: &Path,
        origin: &str,
        settings: &impl Serialize,
    ) -> Result<(), DaemonError> {
        let settings = toml::to_string(settings).map_err(DaemonError::input_output)?;
        let directory = config::drop_in_directory(&self.file);
        safe_file::make_directory(&directory, DIRECTORY, Owner::writer())?;
        safe_file::write(path, format!("# {origin}\n{settings}").as_bytes(), PUBLIC, Owner::writer())?;
        Ok(())
    }

    /// Makes the daemon behind `control` take up what was written, and says how that went.
    pub fn take_up(&self, control: &Path) {
        let service = self.service;
        match request(control, Request::Reload) {
            Ok(_) => console::note(&format!("the running {service} has taken this up")),
            Err(ControlError::NotThere { .. } | ControlError::NobodyAnswers { .. }) => {
                console::note(&format!("{service} does not run here: it takes this up when it starts"));
            }
            Err(error) => console::note(&format!(
                "warning: the running {service} has not taken this up: {error}: systemctl reload {service}"
            )),
        }
    }
}

/// Prints a new key, or writes it to `file`, which must not be there.
pub fn keygen(file: Option<&Path>) -> Result<(), DaemonError> {
    let key = Key::generate().map_err(DaemonError::system)?;
    let Some(file) = file else { return console::print(&format!("{}\n", *key.to_text())) };
    if file.symlink_metadata().is_ok() {
        return Err(DaemonError::cannot_create(format_args!(
            "{}: something is there already, and keys are not replaced: remove it first, or name another file",
            file.display()
        )));
    }
    let file = std::path::absolute(file).map_err(DaemonError::cannot_create)?;
    safe_file::write(&file, format!("{}\n", *key.to_text()).as_bytes(), SECRET, Owner::writer())?;
    console::print(&format!("key {} is in {}\n", key.id(), file.display()))
}
