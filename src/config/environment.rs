//! What the defaults take from the process and its host.

use std::path::{Path, PathBuf};
use std::{env, fs};

use nf_transport_core::sequence::SenderId;

/// Directories that the service manager gave, and the name of the host.
#[derive(Clone, Debug, Default)]
pub struct Surroundings {
    /// The first directory of `$STATE_DIRECTORY`.
    pub state_directory: Option<PathBuf>,
    /// The first directory of `$RUNTIME_DIRECTORY`.
    pub runtime_directory: Option<PathBuf>,
    /// The credentials that systemd passed: their names and files.
    pub credentials: Vec<(String, PathBuf)>,
    /// The host's name as the kernel knows it.
    pub host_name: String,
}

impl Surroundings {
    /// Those of this process.
    pub fn of_this_process() -> Self {
        Self {
            state_directory: first_directory("STATE_DIRECTORY"),
            runtime_directory: first_directory("RUNTIME_DIRECTORY"),
            credentials: first_directory("CREDENTIALS_DIRECTORY")
                .map_or_else(Vec::new, |path| files_in(&path)),
            host_name: rustix::system::uname().nodename().to_string_lossy().into_owned(),
        }
    }

    /// Those that `service` would have, for a command that an administrator runs beside it: the credentials are those of
    /// the running service, else those that its unit would load.
    pub fn of_the_service(service: &str) -> Self {
        let mut surroundings = Self::of_this_process();
        if env::var_os("CREDENTIALS_DIRECTORY").is_none() {
            surroundings.credentials = files_in(Path::new(&format!("/run/credentials/{service}.service")));
            if surroundings.credentials.is_empty() {
                surroundings.credentials = stored_for(service, files_in(Path::new("/etc/credstore")));
            }
        }
        surroundings
    }

    pub(super) fn state_path(&self, service: &str) -> PathBuf {
        self.state_directory.clone().unwrap_or_else(|| format!("/var/lib/{service}").into())
    }

    /// The credential of this name, if there is one.
    pub(super) fn credential(&self, name: &str) -> Option<PathBuf> {
        self.credentials.iter().find(|(found, _)| found == name).map(|(_, path)| path.clone())
    }

    pub(super) fn control_path(&self, service: &str) -> PathBuf {
        let directory = self.runtime_directory.clone();
        directory.unwrap_or_else(|| format!("/run/{service}").into()).join("control.sock")
    }

    /// The host name, reduced to what an id may hold; `unnamed` where nothing is left of it.
    pub(super) fn default_id(&self) -> String {
        let allowed = |character: char| character.is_ascii_alphanumeric() || "._-".contains(character);
        let replaced = |character| if allowed(character) { character } else { '-' };
        let id: String = self.host_name.trim_start_matches('.').chars().map(replaced).take(64).collect();
        if id.parse::<SenderId>().is_ok() { id } else { "unnamed".to_owned() }
    }
}

/// The names and paths of the files in `directory`; none if it cannot be read.
fn files_in(directory: &Path) -> Vec<(String, PathBuf)> {
    let named = |entry: fs::DirEntry| Some((entry.file_name().into_string().ok()?, entry.path()));
    fs::read_dir(directory).into_iter().flatten().flatten().filter_map(named).collect()
}

/// Those of `files` that the unit of `service` loads: `nf-sender.key` is the credential `key` of nf-sender.
fn stored_for(service: &str, files: Vec<(String, PathBuf)>) -> Vec<(String, PathBuf)> {
    let of_service = |name: &str| name.strip_prefix(service)?.strip_prefix('.').map(str::to_owned);
    files.into_iter().filter_map(|(name, path)| Some((of_service(&name)?, path))).collect()
}

/// systemd separates several directories by colons.
fn first_directory(variable: &str) -> Option<PathBuf> {
    let value = env::var_os(variable)?;
    env::split_paths(&value).find(|path| !path.as_os_str().is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_id_is_the_host_name_in_characters_that_an_id_may_hold() {
        for (host_name, id) in [
            ("brno-edge.example.net", "brno-edge.example.net"),
            ("Büro 7", "B-ro-7"),
            (".hidden", "hidden"),
            ("", "unnamed"),
            ("...", "unnamed"),
            (&"x".repeat(80), &"x".repeat(64)),
        ] {
            let surroundings = Surroundings { host_name: host_name.to_owned(), ..Surroundings::default() };
            assert_eq!(surroundings.default_id(), id);
        }
    }

    #[test]
    fn stored_credentials_are_those_of_the_service_by_their_names_in_it() {
        let file = |name: &str| (name.to_owned(), PathBuf::from(format!("/etc/credstore/{name}")));
        let files = ["nf-sender.key", "nf-sender.spool-key", "nf-receiver.key", "nf-sender"].map(file).into();
        let surroundings =
            Surroundings { credentials: stored_for("nf-sender", files), ..Surroundings::default() };
        assert_eq!(surroundings.credential("key"), Some("/etc/credstore/nf-sender.key".into()));
        assert_eq!(surroundings.credential("spool-key"), Some("/etc/credstore/nf-sender.spool-key".into()));
        assert_eq!(surroundings.credentials.len(), 2);
    }

    #[test]
    fn directories_of_the_service_manager_come_before_the_usual_ones() {
        let bare = Surroundings::default();
        assert_eq!(bare.state_path("nf-sender"), PathBuf::from("/var/lib/nf-sender"));
        assert_eq!(bare.control_path("nf-sender"), PathBuf::from("/run/nf-sender/control.sock"));
        let given = Surroundings {
            state_directory: Some("/srv/state".into()),
            runtime_directory: Some("/run/mine".into()),
            ..Surroundings::default()
        };
        assert_eq!(given.state_path("nf-sender"), PathBuf::from("/srv/state"));
        assert_eq!(given.control_path("nf-sender"), PathBuf::from("/run/mine/control.sock"));
    }
}
