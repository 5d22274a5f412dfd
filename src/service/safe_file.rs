//! Files that are whole at every moment: what is written replaces what was there at once, or not at all.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use nix::unistd::User;

/// A file or directory that could not be written or removed. What was there before is there still.
#[derive(Debug, thiserror::Error)]
#[error("{}: cannot be {operation}: {source}{}", path.display(), hint(source))]
pub struct FileError {
    path: PathBuf,
    operation: &'static str,
    source: io::Error,
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => ": run this as root, or name another configuration with -c",
        _ => "",
    }
}

/// Who may read a secret: the user that a service runs as. Only root can give files away.
#[derive(Clone, Copy, Debug)]
pub struct Owner(Option<(u32, u32)>);

impl Owner {
    /// The user called `name`, if there is one and this is root; else nobody but who writes the file.
    pub fn named(name: &str) -> Self {
        let user = || User::from_name(name).ok().flatten();
        let user = if rustix::process::geteuid().is_root() { user() } else { None };
        Self(user.map(|user| (user.uid.as_raw(), user.gid.as_raw())))
    }

    /// Whoever writes the file.
    pub fn writer() -> Self {
        Self(None)
    }

    /// Gives the file or directory at `path` to this owner.
    fn give(self, path: &Path) -> io::Result<()> {
        match self.0 {
            Some((user, group)) => chown(path, Some(user), Some(group)),
            None => Ok(()),
        }
    }
}

/// Writes `content` to `path`, readable as `mode` says, and makes sure that it outlives a power loss.
pub fn write(path: &Path, content: &[u8], mode: u32, owner: Owner) -> Result<(), FileError> {
    let directory = path.parent().unwrap_or(Path::new("/"));
    let replace = || -> io::Result<()> {
        let mut file = tempfile::Builder::new().prefix(".new-").tempfile_in(directory)?;
        file.write_all(content)?;
        file.as_file().set_permissions(Permissions::from_mode(mode))?;
        owner.give(file.path())?;
        file.as_file().sync_all()?;
        file.persist(path)?;
        File::open(directory)?.sync_all()
    };
    replace().map_err(failed(path, "written"))
}

/// Makes sure that the directory at `path` is there, with this mode if it is made now.
pub fn make_directory(path: &Path, mode: u32, owner: Owner) -> Result<(), FileError> {
    let make = || -> io::Result<()> {
        if path.is_dir() {
            return Ok(());
        }
        if let Some(above) = path.parent() {
            fs::create_dir_all(above)?;
        }
        DirBuilder::new().mode(mode).create(path)?;
        owner.give(path)
    };
    make().map_err(failed(path, "made"))
}

/// Makes sure that a file that is there is readable as `mode` says, and by whom.
pub fn restrict(path: &Path, mode: u32, owner: Owner) -> Result<(), FileError> {
    fs::set_permissions(path, Permissions::from_mode(mode))
        .and_then(|()| owner.give(path))
        .map_err(failed(path, "given its mode and owner"))
}

/// Removes a file; whether it was there.
pub fn remove(path: &Path) -> Result<bool, FileError> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(failed(path, "removed")(error)),
    }
}

fn failed(path: &Path, operation: &'static str) -> impl FnOnce(io::Error) -> FileError {
    move |source| FileError { path: path.to_owned(), operation, source }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn a_file_replaces_the_one_before_it_with_its_mode_and_leaves_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        write(&path, b"one", 0o644, Owner::writer()).unwrap();
        write(&path, b"two", 0o600, Owner::writer()).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
        assert!(remove(&path).unwrap() && !remove(&path).unwrap());
    }

    #[test]
    fn what_cannot_be_written_is_told_with_its_path_and_leaves_what_was_there() {
        let directory = tempfile::tempdir().unwrap();
        let taken = directory.path().join("taken");
        fs::create_dir(&taken).unwrap();
        fs::write(taken.join("inside"), "kept").unwrap();
        let told = write(&taken, b"x", 0o600, Owner::writer()).unwrap_err().to_string();
        assert!(told.starts_with(&format!("{}: cannot be written: ", taken.display())), "{told}");
        assert_eq!(fs::read(taken.join("inside")).unwrap(), b"kept");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn directories_are_made_with_their_mode_and_those_that_are_there_stay() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("etc/keys");
        for mode in [0o700, 0o755] {
            make_directory(&path, mode, Owner::writer()).unwrap();
            assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o700);
        }
    }

    #[test]
    fn root_gives_secrets_to_the_user_of_the_service() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        write(&path, b"secret", 0o600, Owner::named("nobody")).unwrap();
        assert_eq!(
            fs::metadata(&path).unwrap().uid(),
            User::from_name("nobody").unwrap().unwrap().uid.as_raw()
        );
        restrict(&path, 0o400, Owner::named("root")).unwrap();
        let metadata = fs::metadata(&path).unwrap();
        assert_eq!((metadata.uid(), metadata.mode() & 0o7777), (0, 0o400));
        write(&path, b"secret", 0o600, Owner::named("no-such-user")).unwrap();
    }
}
