//! The systemd unit of a service: its user, and the paths to which it has access (systemd.exec(5)).

use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::Access;

use crate::host::DaemonError;
use crate::host::systemd::service_identity::ServiceIdentity;

/// Properties of the unit that determine the access of the service.
const PROPERTIES: &str = "LoadState,User,Group,SupplementaryGroups,ProtectSystem,ProtectHome,PrivateTmp,\
                          ReadWritePaths,BindPaths,InaccessiblePaths,StateDirectory,RuntimeDirectory";

/// The properties of a unit that determine the access of its service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceUnit {
    name: String,
    user: Option<String>,
    group: Option<String>,
    supplementary_groups: Vec<String>,
    /// Read-only paths, except for those in `writable`.
    read_only: Vec<PathBuf>,
    writable: Vec<PathBuf>,
    /// Directories that systemd creates for the service.
    own: Vec<PathBuf>,
    /// Paths that are hidden from the service or replaced, each with the setting that does so.
    hidden: Vec<(PathBuf, String)>,
}

impl ServiceUnit {
    /// Reads the unit of `service`. Without systemd, or without such a unit, only a user of that name is
    /// assumed.
    pub fn read(service: &str) -> Self {
        let name = format!("{service}.service");
        let output = Command::new("systemctl").args(["show", &name, "--property", PROPERTIES]).output();
        let text = output.ok().filter(|output| output.status.success()).map(|output| output.stdout);
        let unit = text.and_then(|text| Self::parse(&name, &String::from_utf8_lossy(&text)));
        unit.unwrap_or_else(|| Self { name, user: Some(service.to_owned()), ..Self::default() })
    }

    /// Parses the output of `systemctl show`; `None` if no such unit is loaded.
    fn parse(name: &str, text: &str) -> Option<Self> {
        let value = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        let words = |key: &str| value(key).unwrap_or_default().split_whitespace();
        let text_of = |key| value(key).filter(|value| !value.is_empty()).map(str::to_owned);
        let is_on = |key: &str| value(key).is_some_and(|value| !["no", ""].contains(&value));
        (value("LoadState") == Some("loaded")).then_some(())?;

        let path = |word: &str| PathBuf::from(word.trim_start_matches(['-', '+']));
        // A bind mount is SOURCE:DESTINATION:OPTIONS, or the same path at both.
        let destination = |word: &str| path(word.split(':').nth(1).unwrap_or(word));
        let read_only: &[&str] = match value("ProtectSystem") {
            Some("strict") => &["/"],
            Some("full") => &["/usr", "/boot", "/efi", "/etc"],
            Some("yes") => &["/usr", "/boot", "/efi"],
            _ => &[],
        };
        let homes = || ["/home", "/root", "/run/user"];
        let mut read_only: Vec<PathBuf> = read_only.iter().map(PathBuf::from).collect();
        let mut hidden: Vec<(PathBuf, String)> = Vec::new();
        match value("ProtectHome") {
            Some("read-only") => read_only.extend(homes().map(PathBuf::from)),
            Some(on @ ("yes" | "tmpfs")) => {
                hidden.extend(homes().map(|home| (home.into(), format!("ProtectHome={on}"))));
            }
            _ => {}
        }
        if is_on("PrivateTmp") {
            hidden.extend(["/tmp", "/var/tmp"].map(|place| (place.into(), "PrivateTmp=yes".to_owned())));
        }
        hidden
            .extend(words("InaccessiblePaths").map(|word| (path(word), format!("InaccessiblePaths={word}"))));
        let below = |directory: &'static str| move |word: &str| Path::new(directory).join(word);
        Some(Self {
            name: name.to_owned(),
            user: text_of("User"),
            group: text_of("Group"),
            supplementary_groups: words("SupplementaryGroups").map(str::to_owned).collect(),
            read_only,
            writable: words("ReadWritePaths").map(path).chain(words("BindPaths").map(destination)).collect(),
            own: words("StateDirectory")
                .map(below("/var/lib"))
                .chain(words("RuntimeDirectory").map(below("/run")))
                .collect(),
            hidden,
        })
    }

    /// Checks that the service, which is not root, can read `files` and write to `directory`. Only root can
    /// check this; other users get `None`. Returns a note that names the user of the service.
    pub fn check_access(&self, files: &[&Path], directory: &Path) -> Result<Option<String>, DaemonError> {
        self.run_as_service(|identity| {
            let Some(identity) = identity else { return Ok(None) };
            let refused = files.iter().find_map(|file| self.refuses_file(file, identity));
            match refused.or_else(|| self.refuses_directory(directory, identity)) {
                Some(problem) => Err(DaemonError::configuration(problem)),
                None => Ok(Some(format!(
                    "the user {} of {} has access to all files and directories",
                    identity.user(),
                    self.name
                ))),
            }
        })
    }

    /// Runs `work` as the user of the service, and passes its identity, if this process is root and the user
    /// exists.
    fn run_as_service<T: Send>(&self, work: impl FnOnce(Option<&ServiceIdentity>) -> T + Send) -> T {
        let user = self.user.as_deref().filter(|_| rustix::process::geteuid().is_root());
        let identity = user
            .and_then(|user| ServiceIdentity::find(user, self.group.as_deref(), &self.supplementary_groups));
        match identity {
            Some(identity) => identity.run(work),
            None => work(None),
        }
    }

    /// Returns the reason why the service cannot read `path`, with the remedy. Runs as the user of the
    /// service.
    fn refuses_file(&self, path: &Path, identity: &ServiceIdentity) -> Option<String> {
        if let Some(reason) = self.hides(path) {
            return Some(reason);
        }
        let error = std::fs::File::open(path).err()?;
        Some(format!(
            "{}: the user {user} of {} cannot read it: {error}: change its owner (chown {user} {0})",
            path.display(),
            self.name,
            user = identity.user()
        ))
    }

    /// Returns the reason why the service cannot write to the directory `path`, with the remedy. Runs as the
    /// user of the service.
    fn refuses_directory(&self, path: &Path, identity: &ServiceIdentity) -> Option<String> {
        let resolved = resolved(path);
        if self.own.iter().any(|own| resolved.starts_with(own)) {
            return None;
        }
        if let Some(reason) = self.hides(path) {
            return Some(reason);
        }
        if longest(&self.read_only, &resolved) > longest(&self.writable, &resolved) {
            return Some(format!(
                "{path}: {name} cannot write there (ProtectSystem): permit it with \"systemctl edit \
                 {name}\": [Service] ReadWritePaths={path}",
                path = path.display(),
                name = self.name
            ));
        }
        let existing = resolved.ancestors().find(|ancestor| ancestor.exists())?;
        let error = rustix::fs::access(existing, Access::WRITE_OK | Access::EXEC_OK).err()?;
        Some(format!(
            "{}: the user {user} of {} cannot write to {existing}: {error}: change its owner (chown {user} \
             {existing})",
            path.display(),
            self.name,
            user = identity.user(),
            existing = existing.display()
        ))
    }

    /// Returns the reason why `path` is hidden from the service, with the remedy.
    fn hides(&self, path: &Path) -> Option<String> {
        let resolved = resolved(path);
        let (place, setting) = self.hidden.iter().find(|(place, _)| resolved.starts_with(place))?;
        (longest(&self.writable, &resolved) < Some(place)).then(|| {
            format!(
                "{}: {} has no access to {} ({setting}): choose another directory",
                path.display(),
                self.name,
                place.display()
            )
        })
    }
}

/// Returns the longest of `places` that contains `path`.
fn longest<'p>(places: &'p [PathBuf], path: &Path) -> Option<&'p Path> {
    let holding = places.iter().map(PathBuf::as_path).filter(|place| path.starts_with(place));
    holding.max_by_key(|place| place.as_os_str().len())
}

/// Resolves the links of `path`, as far as it exists.
fn resolved(path: &Path) -> PathBuf {
    let existing = path.ancestors().find_map(|ancestor| Some((ancestor, ancestor.canonicalize().ok()?)));
    match existing {
        Some((ancestor, canonical)) => match path.strip_prefix(ancestor) {
            Ok(rest) if !rest.as_os_str().is_empty() => canonical.join(rest),
            _ => canonical,
        },
        None => path.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHOWN: &str = "User=nf-sender
Group=nf-sender
SupplementaryGroups=ssl-cert adm
\
                         ProtectSystem=strict
ProtectHome=yes
PrivateTmp=yes
\
                         ReadWritePaths=-/srv/flows +/data
BindPaths=/a:/mnt/b:rbind
InaccessiblePaths=
\
                         StateDirectory=nf-sender
RuntimeDirectory=nf-sender
LoadState=loaded
";

    fn unit() -> ServiceUnit {
        ServiceUnit::parse("nf-sender.service", SHOWN).unwrap()
    }

    fn identity() -> ServiceIdentity {
        ServiceIdentity::unprivileged("nf-sender")
    }

    fn refused(path: &str) -> Option<String> {
        unit().refuses_directory(Path::new(path), &identity())
    }

    #[test]
    fn a_strict_unit_writes_only_to_its_paths() {
        let text = refused("/opt/no-such/spool").unwrap();
        assert_eq!(
            text,
            "/opt/no-such/spool: nf-sender.service cannot write there (ProtectSystem): permit it with \
             \"systemctl edit nf-sender.service\": [Service] ReadWritePaths=/opt/no-such/spool"
        );
        assert_eq!(refused("/var/lib/nf-sender"), None, "systemd creates it");
        assert!(!refused("/srv/flows/spool").is_some_and(|text| text.contains("ProtectSystem")));
        assert!(!refused("/mnt/b").is_some_and(|text| text.contains("ProtectSystem")));
    }

    #[test]
    fn homes_and_temporary_files_are_hidden() {
        for (path, setting) in [("/root/spool", "ProtectHome=yes"), ("/tmp/spool", "PrivateTmp=yes")] {
            let text = refused(path).unwrap();
            assert!(text.contains(setting) && text.contains("has no access to"), "{text}");
        }
    }

    #[test]
    fn a_longer_path_takes_precedence() {
        let text = SHOWN.replace("ReadWritePaths=-/srv/flows", "ReadWritePaths=/root/spool");
        let unit = ServiceUnit::parse("nf-sender.service", &text).unwrap();
        let refused = unit.refuses_directory(Path::new("/root/spool/a"), &identity());
        assert!(!refused.is_some_and(|text| text.contains("ProtectHome")));
    }

    #[test]
    fn a_unit_that_is_not_loaded_is_ignored() {
        assert_eq!(ServiceUnit::parse("x.service", "LoadState=not-found\nUser=\n"), None);
        assert_eq!(ServiceUnit::parse("x.service", ""), None);
    }

    #[test]
    fn root_checks_the_access_of_the_service_user() {
        let unit = ServiceUnit {
            user: Some("nobody".to_owned()),
            name: "nf-x.service".to_owned(),
            ..ServiceUnit::default()
        };
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("key");
        std::fs::write(&file, "").unwrap();
        let checked = || unit.check_access(&[&file], directory.path()).map_err(|error| error.to_string());
        if !rustix::process::geteuid().is_root() {
            assert_eq!(checked(), Ok(None));
            return;
        }
        let set_mode = |path: &Path, mode| {
            std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
        };
        set_mode(directory.path(), 0o755);
        set_mode(&file, 0o600);
        let unreadable = checked().unwrap_err();
        assert!(unreadable.contains("the user nobody of nf-x.service cannot read it: Permission denied"));
        set_mode(&file, 0o644);
        assert!(checked().unwrap_err().contains(": the user nobody of nf-x.service cannot write to /"));
        set_mode(directory.path(), 0o777);
        assert_eq!(
            checked(),
            Ok(Some("the user nobody of nf-x.service has access to all files and directories".to_owned()))
        );
        assert!(rustix::process::geteuid().is_root(), "this thread keeps its identity");
    }
}
