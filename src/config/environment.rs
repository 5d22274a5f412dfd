//! The process environment and host name, from which defaults are derived.

use std::path::{Path, PathBuf};
use std::{env, fs};

use nf_transport_core::sequence::SenderId;

/// Directories from the service manager, and the host name.
#[derive(Clone, Debug, Default)]
pub struct Environment {
    /// The first directory of `$STATE_DIRECTORY`.
    pub state_directory: Option<PathBuf>,
    /// The first directory of `$RUNTIME_DIRECTORY`.
    pub runtime_directory: Option<PathBuf>,
    /// Names and files of the credentials that systemd passed.
    pub credentials: Vec<(String, PathBuf)>,
    /// The host name from the kernel.
    pub host_name: String,
}

impl Environment {
    /// Reads the environment of this process.
    pub fn of_this_process() -> Self {
        Self {
            state_directory: first_directory("STATE_DIRECTORY"),
            runtime_directory: first_directory("RUNTIME_DIRECTORY"),
            credentials: first_directory("CREDENTIALS_DIRECTORY")
                .map_or_else(Vec::new, |path| files_in(&path)),
            host_name: rustix::system::uname().nodename().to_string_lossy().into_owned(),
        }
    }

    /// Returns the environment that `service` would have, for a command of an administrator: with the
    /// credentials of the running service, else those that its unit would load.
    pub fn of_the_service(service: &str) -> Self {
        let mut environment = Self::of_this_process();
        if env::var_os("CREDENTIALS_DIRECTORY").is_none() {
            environment.credentials = files_in(Path::new(&format!("/run/credentials/{service}.service")));
            if environment.credentials.is_empty() {
                environment.credentials = stored_for(service, files_in(Path::new("/etc/credstore")));
            }
        }
        environment
    }

    pub(super) fn state_path(&self, service: &str) -> PathBuf {
        self.state_directory.clone().unwrap_or_else(|| format!("/var/lib/{service}").into())
    }

    /// Returns the file of the credential `name`, if it exists.
    pub(super) fn credential(&self, name: &str) -> Option<PathBuf> {
        self.credentials.iter().find(|(found, _)| found == name).map(|(_, path)| path.clone())
    }

    pub(super) fn control_path(&self, service: &str) -> PathBuf {
        let directory = self.runtime_directory.clone();
        directory.unwrap_or_else(|| format!("/run/{service}").into()).join("control.sock")
    }

    /// Returns the host name, reduced to the characters of an id, or `unnamed` if none is left.
    pub(super) fn default_id(&self) -> String {
        let allowed = |character: char| character.is_ascii_alphanumeric() || "._-".contains(character);
        let replaced = |character| if allowed(character) { character } else { '-' };
        let id: String = self.host_name.trim_start_matches('.').chars().map(replaced).take(64).collect();
        if id.parse::<SenderId>().is_ok() { id } else { "unnamed".to_owned() }
    }
}

/// Returns names and paths of the files in `directory`; none if it cannot be read.
fn files_in(directory: &Path) -> Vec<(String, PathBuf)> {
    let named = |entry: fs::DirEntry| Some((entry.file_name().into_string().ok()?, entry.path()));
    fs::read_dir(directory).into_iter().flatten().flatten().filter_map(named).collect()
}

/// Selects the `files` that the unit of `service` loads: `nf-sender.key` is the credential `key` of
/// nf-sender.
fn stored_for(service: &str, files: Vec<(String, PathBuf)>) -> Vec<(String, PathBuf)> {
    let of_service = |name: &str| name.strip_prefix(service)?.strip_prefix('.').map(str::to_owned);
    files.into_iter().filter_map(|(name, path)| Some((of_service(&name)?, path))).collect()
}

/// Returns the first directory of `variable`. systemd separates several by colons.
fn first_directory(variable: &str) -> Option<PathBuf> {
    let value = env::var_os(variable)?;
    env::split_paths(&value).find(|path| !path.as_os_str().is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_id_is_the_sanitized_host_name() {
        for (host_name, id) in [
            ("brno-edge.example.net", "brno-edge.example.net"),
            ("Büro 7", "B-ro-7"),
            (".hidden", "hidden"),
            ("", "unnamed"),
            ("...", "unnamed"),
            (&"x".repeat(80), &"x".repeat(64)),
        ] {
            let environment = Environment { host_name: host_name.to_owned(), ..Environment::default() };
            assert_eq!(environment.default_id(), id);
        }
    }

    #[test]
    fn stored_credentials_lose_the_service_prefix() {
        let file = |name: &str| (name.to_owned(), PathBuf::from(format!("/etc/credstore/{name}")));
        let files = ["nf-sender.key", "nf-sender.spool-key", "nf-receiver.key", "nf-sender"].map(file).into();
        let environment =
            Environment { credentials: stored_for("nf-sender", files), ..Environment::default() };
        assert_eq!(environment.credential("key"), Some("/etc/credstore/nf-sender.key".into()));
        assert_eq!(environment.credential("spool-key"), Some("/etc/credstore/nf-sender.spool-key".into()));
        assert_eq!(environment.credentials.len(), 2);
    }

    #[test]
    fn service_manager_directories_take_precedence() {
        let bare = Environment::default();
        assert_eq!(bare.state_path("nf-sender"), PathBuf::from("/var/lib/nf-sender"));
        assert_eq!(bare.control_path("nf-sender"), PathBuf::from("/run/nf-sender/control.sock"));
        let given = Environment {
            state_directory: Some("/srv/state".into()),
            runtime_directory: Some("/run/mine".into()),
            ..Environment::default()
        };
        assert_eq!(given.state_path("nf-sender"), PathBuf::from("/srv/state"));
        assert_eq!(given.control_path("nf-sender"), PathBuf::from("/run/mine/control.sock"));
    }
}
