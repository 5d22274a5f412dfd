//! What the defaults take from the process and its host.

use std::env;
use std::fs;
use std::path::PathBuf;

use crate::sequence::SenderId;

/// Directories that the service manager gave, and the name of the host.
#[derive(Clone, Debug, Default)]
pub struct Surroundings {
    /// The first directory of `$STATE_DIRECTORY`.
    pub state_directory: Option<PathBuf>,
    /// The first directory of `$RUNTIME_DIRECTORY`.
    pub runtime_directory: Option<PathBuf>,
    /// The files that systemd passed as credentials in `$CREDENTIALS_DIRECTORY`.
    pub credentials: Vec<PathBuf>,
    /// The host's name as the kernel knows it.
    pub host_name: String,
}

impl Surroundings {
    /// Those of this process.
    pub fn of_this_process() -> Self {
        Self {
            state_directory: first_directory("STATE_DIRECTORY"),
            runtime_directory: first_directory("RUNTIME_DIRECTORY"),
            credentials: files_in(first_directory("CREDENTIALS_DIRECTORY")),
            host_name: rustix::system::uname().nodename().to_string_lossy().into_owned(),
        }
    }

    pub(super) fn state_path(&self, service: &str) -> PathBuf {
        self.state_directory.clone().unwrap_or_else(|| format!("/var/lib/{service}").into())
    }

    /// The credential of this name, if there is one.
    pub(super) fn credential(&self, name: &str) -> Option<PathBuf> {
        self.credentials.iter().find(|path| path.file_name().is_some_and(|file| file == name)).cloned()
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

/// The files in `directory`; none if it cannot be read.
fn files_in(directory: Option<PathBuf>) -> Vec<PathBuf> {
    let entries = directory.and_then(|directory| fs::read_dir(directory).ok());
    entries.into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path())).collect()
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
