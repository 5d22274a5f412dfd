use std::os::unix::fs::{chown, symlink};

use super::*;

fn metadata(path: &Path) -> (u32, u32) {
    let metadata = fs::metadata(path).unwrap();
    (metadata.uid(), metadata.mode() & 0o7777)
}

fn nobody() -> u32 {
    User::from_name("nobody").unwrap().unwrap().uid.as_raw()
}

/// What lies in a directory, beside what a test has put there.
fn count(directory: &Path) -> usize {
    fs::read_dir(directory).unwrap().count()
}

#[test]
fn a_file_replaces_the_one_before_it_with_its_mode_and_leaves_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("key");
    write(&path, b"one", 0o644, Owner::writer()).unwrap();
    write(&path, b"two", 0o600, Owner::writer()).unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"two");
    assert_eq!(metadata(&path).1, 0o600);
    assert_eq!(count(directory.path()), 1);
    assert!(remove(&path).unwrap() && !remove(&path).unwrap());
}

#[test]
fn what_a_killed_run_left_unfinished_is_removed() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("key");
    write(&path, b"one", 0o600, Owner::writer()).unwrap();
    std::mem::forget(prepared(&path, 0o600, Owner::writer(), |file| file.write_all(b"tw")).unwrap());
    assert_eq!(count(directory.path()), 2);
    remove_unfinished(directory.path()).unwrap();
    assert_eq!(count(directory.path()), 1);
    assert_eq!(fs::read(&path).unwrap(), b"one");
}

#[test]
fn what_is_so_already_is_not_written_again_but_content_and_mode_must_both_be_right() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("key");
    let written = |content: &[u8], mode| write(&path, content, mode, Owner::writer()).unwrap();
    assert!(written(b"one", 0o600) && !written(b"one", 0o600));
    fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
    assert!(written(b"one", 0o600) && !written(b"one", 0o600));
    assert!(written(b"one, and more", 0o600) && written(b"one", 0o600));
    assert_eq!(**read(&path).unwrap().unwrap(), *b"one");
    assert!(read(&directory.path().join("absent")).unwrap().is_none());
}

#[test]
fn a_failure_half_way_leaves_the_old_content_and_nothing_beside_it() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("key");
    write(&path, b"old", 0o600, Owner::writer()).unwrap();
    let half = |file: &mut File| {
        file.write_all(b"ne")?;
        Err(io::ErrorKind::StorageFull.into())
    };
    let told = replace(&path, None, 0o600, Owner::writer(), half).unwrap_err().to_string();
    let expected =
        format!("{}: cannot be written: no storage space: make room there, and try again", path.display());
    assert_eq!(told, expected);
    assert_eq!((fs::read(&path).unwrap(), count(directory.path())), (b"old".to_vec(), 1));
}

#[test]
fn what_is_no_file_is_neither_read_nor_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let (taken, precious, link) =
        (directory.path().join("taken"), directory.path().join("precious"), directory.path().join("link"));
    fs::create_dir(&taken).unwrap();
    fs::write(&precious, "secret").unwrap();
    fs::set_permissions(&precious, Permissions::from_mode(0o604)).unwrap();
    symlink(&precious, &link).unwrap();
    for path in [&taken, &link] {
        let told = write(path, b"x", 0o600, Owner::writer()).unwrap_err().to_string();
        assert!(told.starts_with(&format!("{}: cannot be replaced: it is ", path.display())), "{told}");
        assert!(read(path).is_err());
    }
    assert_eq!((fs::read(&precious).unwrap(), metadata(&precious).1), (b"secret".to_vec(), 0o604));
    assert_eq!(count(directory.path()), 3);
}

#[test]
fn what_is_created_replaces_nothing_not_even_a_link_into_nowhere() {
    let directory = tempfile::tempdir().unwrap();
    let (path, link) = (directory.path().join("key"), directory.path().join("link"));
    create(&path, b"one", 0o600).unwrap();
    assert_eq!(metadata(&path).1, 0o600);
    symlink("/nonexistent", &link).unwrap();
    for path in [&path, &link] {
        let told = create(path, b"two", 0o600).unwrap_err().to_string();
        assert!(told.contains("never replaced"), "{told}");
    }
    assert_eq!((fs::read(&path).unwrap(), count(directory.path())), (b"one".to_vec(), 2));
}

#[test]
fn directories_are_made_with_their_mode_and_only_the_secret_one_is_mended() {
    let directory = tempfile::tempdir().unwrap();
    let (open, secret) = (directory.path().join("etc/drop-ins"), directory.path().join("etc/keys"));
    for _ in 0..2 {
        make_directory(&open).unwrap();
        make_secret_directory(&secret, Owner::writer()).unwrap();
        assert_eq!((metadata(&open).1, metadata(&secret).1), (0o755, 0o700));
        fs::set_permissions(&secret, Permissions::from_mode(0o755)).unwrap();
    }
    fs::set_permissions(&open, Permissions::from_mode(0o750)).unwrap();
    make_directory(&open).unwrap();
    assert_eq!(metadata(&open).1, 0o750);
    let link = directory.path().join("link");
    symlink(&open, &link).unwrap();
    make_secret_directory(&link, Owner::writer()).unwrap_err();
    assert_eq!(metadata(&open).1, 0o750, "what a link names is not touched");
}

#[test]
fn a_file_in_the_way_of_a_directory_is_told_with_what_to_do() {
    let file = NamedTempFile::new().unwrap();
    let told = make_secret_directory(&file.path().join("keys"), Owner::writer()).unwrap_err().to_string();
    assert!(told.contains("cannot be made: ") && told.contains(&*file.path().to_string_lossy()), "{told}");
}

#[test]
fn root_gives_secrets_to_the_user_of_the_service_and_mends_what_has_another_owner() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let (keys, path) = (directory.path().join("keys"), directory.path().join("keys/key"));
    let owner = Owner::named("nobody");
    for _ in 0..2 {
        make_secret_directory(&keys, owner).unwrap();
        assert!(write(&path, b"secret", 0o600, owner).unwrap());
        assert!(!write(&path, b"secret", 0o600, owner).unwrap());
        assert_eq!((metadata(&keys), metadata(&path)), ((nobody(), 0o700), (nobody(), 0o600)));
        for path in [&keys, &path] {
            chown(path, Some(0), Some(0)).unwrap();
        }
    }
    write(&path, b"other", 0o600, Owner::named("no-such-user")).unwrap();
    assert_eq!(metadata(&path).0, 0);
}

#[test]
fn root_leaves_a_file_to_the_user_who_had_it_where_no_other_is_named() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("key");
    write(&path, b"one", 0o600, Owner::named("nobody")).unwrap();
    write(&path, b"two", 0o600, Owner::writer()).unwrap();
    assert_eq!(metadata(&path), (nobody(), 0o600));
}
