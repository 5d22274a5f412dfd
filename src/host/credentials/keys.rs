//! Brings keys from where settings say that they are.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nf_transport_core::limits::PASSPHRASE_SHORT;
use nf_transport_core::secure::{Key, KeyError, Passphrase, Secret, Strength, Suite};
use zeroize::Zeroizing;

use crate::config::KeySource;
use crate::limits::{KEY_FILE_MAX, PASSPHRASES_REMEMBERED};

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum KeyTrouble {
    /// What should hold it cannot be read.
    #[error("{place}: cannot be read: {source}{}", hint(source))]
    Unreadable {
        /// Where the key should be.
        place: KeySource,
        /// What the system said.
        source: io::Error,
    },
    /// Others may read it.
    #[error(
        "{}: other users may read this key (its mode is {mode:04o}): chmod 600 {}",
        path.display(),
        path.display()
    )]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// It is far too long, or not text.
    #[error(
        "{0}: this is no key: a key is 64 hexadecimal digits, as `keygen` prints, or a passphrase in one line"
    )]
    NoText(KeySource),
    /// The system refuses what keys need.
    #[error("{0}")]
    System(KeyError),
    /// The text is no key.
    #[error("{place}: {error}")]
    Bad {
        /// Where it is.
        place: KeySource,
        /// What is wrong with it.
        error: KeyError,
    },
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound => ": make a key with `keygen` and put it there, or name another file",
        io::ErrorKind::PermissionDenied => ": give the file to the user that the service runs as",
        _ => "",
    }
}

/// Reads keys again and again. What was typed, or came on standard input, is there only once: it stays.
#[derive(Debug, Default)]
pub struct KeyReader {
    typed: Option<Secret>,
    /// The latest passphrases, with their derived keys: a reload derives only new ones.
    passphrases: Vec<Passphrase>,
}

impl KeyReader {
    /// The key or passphrase at `source`, for these `suites`: a short passphrase only for Blowfish.
    pub fn read(&mut self, source: &KeySource, suites: &[Suite]) -> Result<Secret, KeyTrouble> {
        let secret = match (source, &self.typed) {
            (KeySource::StandardInput, Some(secret)) => secret.clone(),
            (KeySource::StandardInput, None) => self.typed.insert(read_secret(source)?).clone(),
            _ => read_secret(source)?,
        };
        if secret.strength() == Strength::ShortPassphrase {
            if !suites.contains(&Suite::Blowfish) {
                return Err(KeyTrouble::Bad { place: source.clone(), error: KeyError::ShortPassphrase });
            }
            tracing::warn!(
                "{source}: this passphrase has fewer than {PASSPHRASE_SHORT} characters: anyone who records the traffic can \
                 guess it; it is used with the cipher blowfish only; `keygen` makes a key that cannot be guessed"
            );
        }
        Ok(self.with_derived_key(secret))
    }

    /// The same secret; a passphrase that was read before with the key that was derived then.
    fn with_derived_key(&mut self, secret: Secret) -> Secret {
        let Secret::Passphrase(passphrase) = secret else { return secret };
        if let Some(known) = self.passphrases.iter().find(|known| **known == passphrase) {
            return Secret::Passphrase(known.clone());
        }
        if self.passphrases.len() >= PASSPHRASES_REMEMBERED {
            self.passphrases.remove(0);
        }
        self.passphrases.push(passphrase.clone());
        Secret::Passphrase(passphrase)
    }
}

/// The key or passphrase at `source`.
fn read_secret(source: &KeySource) -> Result<Secret, KeyTrouble> {
    Secret::from_text(&read_text(source)?).map_err(|error| KeyTrouble::Bad { place: source.clone(), error })
}

/// The key at `source`, which is no passphrase.
pub fn read_key(source: &KeySource) -> Result<Key, KeyTrouble> {
    Key::from_text(&read_text(source)?).map_err(|error| KeyTrouble::Bad { place: source.clone(), error })
}

/// The bytes of a file that nobody but its owner may read, `most` of them at the most.
pub(in crate::host) fn read_private(path: &Path, most: usize) -> Result<Zeroizing<Vec<u8>>, KeyTrouble> {
    let place = || KeySource::File(path.to_owned());
    let unreadable = |source| KeyTrouble::Unreadable { place: place(), source };
    let file = File::open(path).map_err(unreadable)?;
    check_mode(path, &file)?;
    bounded(file, most).map_err(unreadable)
}

fn read_text(source: &KeySource) -> Result<Zeroizing<String>, KeyTrouble> {
    let unreadable = |error| KeyTrouble::Unreadable { place: source.clone(), source: error };
    let bytes = match source {
        KeySource::StandardInput => bounded(io::stdin().lock(), KEY_FILE_MAX).map_err(unreadable),
        KeySource::File(path) => read_private(path, KEY_FILE_MAX),
        KeySource::Credential(path) => {
            File::open(path).and_then(|file| bounded(file, KEY_FILE_MAX)).map_err(unreadable)
        }
    };
    let bytes = bytes?;
    let text = str::from_utf8(&bytes).ok().filter(|text| !text.trim().contains(char::is_control));
    match text {
        Some(text) if bytes.len() <= KEY_FILE_MAX => Ok(Zeroizing::new(text.to_owned())),
        _ => Err(KeyTrouble::NoText(source.clone())),
    }
}

/// What `reader` holds; one byte more than a key may have tells that it is too long.
fn bounded(reader: impl Read, most: usize) -> io::Result<Zeroizing<Vec<u8>>> {
    // Room for all of it at once, so that no copy is left behind when it grows.
    let mut bytes = Zeroizing::new(Vec::with_capacity(2 * KEY_FILE_MAX));
    reader.take(u64::try_from(most).unwrap_or(u64::MAX).saturating_add(1)).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Only its owner may read a key. Credentials are not looked at here: systemd lets its service read them by an
/// access list, which shows as the rights of a group, and keeps everybody else out of their directory.
fn check_mode(path: &Path, file: &File) -> Result<(), KeyTrouble> {
    let metadata = file
        .metadata()
        .map_err(|source| KeyTrouble::Unreadable { place: KeySource::File(path.to_owned()), source })?;
    let mode = metadata.mode() & 0o7777;
    if metadata.is_file() && mode & 0o077 != 0 {
        return Err(KeyTrouble::Exposed { path: path.to_owned(), mode });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    use nf_transport_core::secure::Salt;
    use nf_transport_core::secure::passphrase::SALT_LEN;

    use super::*;

    const HEX: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";

    /// A file of this mode that holds `text`.
    fn file(text: &[u8], mode: u32) -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        (directory, path)
    }

    fn refusal(text: &[u8], mode: u32) -> String {
        let (directory, path) = file(text, mode);
        let told = read_key(&KeySource::File(path)).unwrap_err().to_string();
        told.replace(&format!("{}/", directory.path().display()), "")
    }

    #[test]
    fn a_key_in_a_file_of_its_owner_alone_is_read() {
        for mode in [0o600, 0o400] {
            let (_directory, path) = file(format!("{HEX}\n").as_bytes(), mode);
            assert_eq!(*read_key(&KeySource::File(path)).unwrap().to_text(), HEX);
        }
    }

    #[test]
    fn a_passphrase_that_is_read_again_is_not_derived_again() {
        let (_directory, path) = file(b"correct horse battery staple", 0o600);
        let (source, salt) = (KeySource::File(path), Salt([7; SALT_LEN]));
        let mut keys = KeyReader::default();
        let key = keys.read(&source, &[Suite::Aes256Gcm]).unwrap().derive(salt).unwrap();
        let Secret::Passphrase(again) = keys.read(&source, &[Suite::Aes256Gcm]).unwrap() else {
            panic!("a key")
        };
        assert_eq!(again.last_key(salt), Some(key));
    }

    #[test]
    fn a_file_that_others_may_read_is_refused_with_the_command_that_helps() {
        for mode in [0o640, 0o644, 0o604, 0o620] {
            assert_eq!(
                refusal(HEX.as_bytes(), mode),
                format!("key: other users may read this key (its mode is 0{mode:o}): chmod 600 key")
            );
        }
    }

    #[test]
    fn a_credential_may_show_the_rights_of_a_group() {
        let (_directory, path) = file(HEX.as_bytes(), 0o440);
        assert_eq!(*read_key(&KeySource::Credential(path)).unwrap().to_text(), HEX);
    }

    #[test]
    fn what_is_no_key_is_told_with_its_place() {
        assert_eq!(refusal(b"\n", 0o600), "key: the key is empty");
        assert_eq!(
            refusal(&HEX.as_bytes()[1..], 0o600),
            "key: this looks like a key, but has 63 hexadecimal digits instead of 64: it is cut or mistyped"
        );
        for text in [b"two\nlines".as_slice(), b"\xff\xfe", &[b'x'; KEY_FILE_MAX + 1]] {
            assert!(refusal(text, 0o600).starts_with("key: this is no key: "), "{}", text.escape_ascii());
        }
        let absent = read_key(&KeySource::File("/nonexistent/key".into())).unwrap_err().to_string();
        assert_eq!(
            absent,
            "/nonexistent/key: cannot be read: No such file or directory (os error 2): \
             make a key with `keygen` and put it there, or name another file"
        );
    }
}
