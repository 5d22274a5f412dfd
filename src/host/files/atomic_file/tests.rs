use std::os::unix::fs::{chown, symlink};

use super::*;

fn metadata(path: &Path) -> (u32, u32) {
    let metadata = fs::metadata(path).unwrap();
    (metadata.uid(), metadata.mode() & 0o7777)
}

fn nobody() -> u32 {
    User::from_name("nobody").unwrap().unwrap().uid.as_raw()
}

/// Returns the number of files in a directory.
fn count(directory: &Path) -> usize {
    fs::read_dir(directory).unwrap().count()
}

#[test]
fn a_file_replaces_the_previous_one_and_its_mode() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("key");
    write(&path, b"one", 0o644, FileOwner::writer()).unwrap();
    write(&path, b"two", 0o600, FileOwner::writer()).unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"two");
    assert_eq!(metadata(&path).1, 0o600);
    assert_eq!(count(directory.path()), 1);
    assert!(remove(&path).unwrap() && !remove(&path).unwrap());
}

#[test]
fn temporary_files_of_a_killed_run_are_removed() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("key");
    write(&path, b"one", 0o600, FileOwner::writer()).unwrap();
    std::mem::forget(
        write_temporary(&path, 0o600, FileOwner::writer(), |file| file.write_all(b"tw")).unwrap(),
    );
    assert_eq!(count(directory.path()), 2);
    remove_unfinished(directory.path()).unwrap();
    assert_eq!(count(directory.path()), 1);
    assert_eq!(fs::read(&path).unwrap(), b"one");
}

#[test]
fn equal_content_and_mode_are_not_written_again() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("key");
    let written = |content: &[u8], mode| write(&path, content, mode, FileOwner::writer()).unwrap();
    assert!(written(b"one", 0o600) && !written(b"one", 0o600));
    fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
    assert!(written(b"one", 0o600) && !written(b"one", 0o600));
    assert!(written(b"one, and more", 0o600) && written(b"one", 0o600));
    assert_eq!(**read(&path).unwrap().unwrap(), *b"one");
    assert!(read(&directory.path().join("absent")).unwrap().is_none());
}

#[test]
fn a_failed_write_leaves_the_old_content() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("key");
    write(&path, b"old", 0o600, FileOwner::writer()).unwrap();
    let half = |file: &mut File| {
        file.write_all(b"ne")?;
        Err(io::ErrorKind::StorageFull.into())
    };
    let message = replace(&path, None, 0o600, FileOwner::writer(), half).unwrap_err().to_string();
    let expected =
        format!("{}: cannot be written: no storage space: free space there, and try again", path.display());
    assert_eq!(message, expected);
    assert_eq!((fs::read(&path).unwrap(), count(directory.path())), (b"old".to_vec(), 1));
}

#[test]
fn directories_and_links_are_not_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let (taken, precious, link) =
        (directory.path().join("taken"), directory.path().join("precious"), directory.path().join("link"));
    fs::create_dir(&taken).unwrap();
    fs::write(&precious, "secret").unwrap();
    fs::set_permissions(&precious, Permissions::from_mode(0o604)).unwrap();
    symlink(&precious, &link).unwrap();
    for path in [&taken, &link] {
        let message = write(path, b"x", 0o600, FileOwner::writer()).unwrap_err().to_string();
        assert!(message.starts_with(&format!("{}: cannot be replaced: it is ", path.display())), "{message}");
        assert!(read(path).is_err());
    }
    assert_eq!((fs::read(&precious).unwrap(), metadata(&precious).1), (b"secret".to_vec(), 0o604));
    assert_eq!(count(directory.path()), 3);
}

#[test]
fn create_replaces_neither_files_nor_links() {
    let directory = tempfile::tempdir().unwrap();
    let (path, link) = (directory.path().join("key"), directory.path().join("link"));
    create(&path, b"one", 0o600).unwrap();
    assert_eq!(metadata(&path).1, 0o600);
    symlink("/nonexistent", &link).unwrap();
    for path in [&path, &link] {
        let message = create(path, b"two", 0o600).unwrap_err().to_string();
        assert!(message.contains("never replaced"), "{message}");
    }
    assert_eq!((fs::read(&path).unwrap(), count(directory.path())), (b"one".to_vec(), 2));
}

#[test]
fn only_secret_directories_are_corrected() {
    let directory = tempfile::tempdir().unwrap();
    let (open, secret) = (directory.path().join("etc/drop-ins"), directory.path().join("etc/keys"));
    for _ in 0..2 {
        make_directory(&open).unwrap();
        make_secret_directory(&secret, FileOwner::writer()).unwrap();
        assert_eq!((metadata(&open).1, metadata(&secret).1), (0o755, 0o700));
        fs::set_permissions(&secret, Permissions::from_mode(0o755)).unwrap();
    }
    fs::set_permissions(&open, Permissions::from_mode(0o750)).unwrap();
    make_directory(&open).unwrap();
    assert_eq!(metadata(&open).1, 0o750);
    let link = directory.path().join("link");
    symlink(&open, &link).unwrap();
    make_secret_directory(&link, FileOwner::writer()).unwrap_err();
    assert_eq!(metadata(&open).1, 0o750, "the target of a link is unchanged");
}

#[test]
fn a_file_in_place_of_a_directory_is_named() {
    let file = NamedTempFile::new().unwrap();
    let message =
        make_secret_directory(&file.path().join("keys"), FileOwner::writer()).unwrap_err().to_string();
    assert!(
        message.contains("cannot be created: ") && message.contains(&*file.path().to_string_lossy()),
        "{message}"
    );
}

#[test]
fn root_gives_secrets_to_the_service_user() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let (keys, path) = (directory.path().join("keys"), directory.path().join("keys/key"));
    let owner = FileOwner::named("nobody");
    for _ in 0..2 {
        make_secret_directory(&keys, owner).unwrap();
        assert!(write(&path, b"secret", 0o600, owner).unwrap());
        assert!(!write(&path, b"secret", 0o600, owner).unwrap());
        assert_eq!((metadata(&keys), metadata(&path)), ((nobody(), 0o700), (nobody(), 0o600)));
        for path in [&keys, &path] {
            chown(path, Some(0), Some(0)).unwrap();
        }
    }
    write(&path, b"other", 0o600, FileOwner::named("no-such-user")).unwrap();
    assert_eq!(metadata(&path).0, 0);
}

#[test]
fn root_keeps_the_owner_of_a_replaced_file() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("key");
    write(&path, b"one", 0o600, FileOwner::named("nobody")).unwrap();
    write(&path, b"two", 0o600, FileOwner::writer()).unwrap();
    assert_eq!(metadata(&path), (nobody(), 0o600));
}
