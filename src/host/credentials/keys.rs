//! Reads the keys that the settings name.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nf_transport_core::limits::PASSPHRASE_SHORT;
use nf_transport_core::secure::{Key, KeyError, Passphrase, Secret, Strength, Suite};
use zeroize::Zeroizing;

use crate::config::KeySource;
use crate::limits::{KEY_FILE_MAX, PASSPHRASES_REMEMBERED};

/// Errors in a key or its file.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// The file is not readable.
    #[error("{place}: cannot be read: {source}{}", hint(source))]
    Unreadable {
        /// The place of the key.
        place: KeySource,
        /// The system's error.
        source: io::Error,
    },
    /// Other users may read the file.
    #[error(
        "{}: other users may read this key (its mode is {mode:04o}): chmod 600 {}",
        path.display(),
        path.display()
    )]
    Exposed {
        /// The file.
        path: PathBuf,
        /// The mode of the file.
        mode: u32,
    },
    /// The content is much too long, or not text.
    #[error(
        "{0}: not a key: a key is 64 hexadecimal digits, as `keygen` prints, or a passphrase in one line"
    )]
    NotText(KeySource),
    /// The system lacks a resource for keys, such as random numbers.
    #[error("{0}")]
    System(KeyError),
    /// The text is not a key.
    #[error("{place}: {error}")]
    Invalid {
        /// The place of the key.
        place: KeySource,
        /// The problem.
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

/// Reads keys repeatedly. It remembers a key from standard input, which can be read only once.
#[derive(Debug, Default)]
pub struct KeyReader {
    typed: Option<Secret>,
    /// The latest passphrases with their derived keys: a reload derives only new ones.
    passphrases: Vec<Passphrase>,
}

impl KeyReader {
    /// Reads the key or passphrase at `source` for these `suites`. Accepts a short passphrase only for
    /// Blowfish.
    pub fn read(&mut self, source: &KeySource, suites: &[Suite]) -> Result<Secret, KeyFileError> {
        let secret = match (source, &self.typed) {
            (KeySource::StandardInput, Some(secret)) => secret.clone(),
            (KeySource::StandardInput, None) => self.typed.insert(read_secret(source)?).clone(),
            _ => read_secret(source)?,
        };
        if secret.strength() == Strength::ShortPassphrase {
            if !suites.contains(&Suite::Blowfish) {
                return Err(KeyFileError::Invalid {
                    place: source.clone(),
                    error: KeyError::ShortPassphrase,
                });
            }
            tracing::warn!(
                "{source}: this passphrase has fewer than {PASSPHRASE_SHORT} characters: anyone who records \
                 the traffic can guess it; only the cipher blowfish uses it; `keygen` makes a key that \
                 cannot be guessed"
            );
        }
        Ok(self.with_derived_key(secret))
    }

    /// Returns `secret`. A passphrase that was read before comes with its derived key.
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

/// Reads the key or passphrase at `source`.
fn read_secret(source: &KeySource) -> Result<Secret, KeyFileError> {
    Secret::from_text(&read_text(source)?)
        .map_err(|error| KeyFileError::Invalid { place: source.clone(), error })
}

/// Reads the key at `source`. A passphrase is an error.
pub fn read_key(source: &KeySource) -> Result<Key, KeyFileError> {
    Key::from_text(&read_text(source)?)
        .map_err(|error| KeyFileError::Invalid { place: source.clone(), error })
}

/// Reads a file that only its owner may read: at most `most` bytes, and one more if it is longer.
pub(in crate::host) fn read_private(path: &Path, most: usize) -> Result<Zeroizing<Vec<u8>>, KeyFileError> {
    let place = || KeySource::File(path.to_owned());
    let unreadable = |source| KeyFileError::Unreadable { place: place(), source };
    let file = File::open(path).map_err(unreadable)?;
    check_mode(path, &file)?;
    bounded(file, most).map_err(unreadable)
}

fn read_text(source: &KeySource) -> Result<Zeroizing<String>, KeyFileError> {
    let unreadable = |error| KeyFileError::Unreadable { place: source.clone(), source: error };
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
        _ => Err(KeyFileError::NotText(source.clone())),
    }
}

/// Reads at most `most` bytes of `reader`, and one more if it is longer, so that callers notice.
fn bounded(reader: impl Read, most: usize) -> io::Result<Zeroizing<Vec<u8>>> {
    // Allocated in full, so that growing does not leave a copy of the secret in memory.
    let mut bytes = Zeroizing::new(Vec::with_capacity(2 * KEY_FILE_MAX));
    reader.take(u64::try_from(most).unwrap_or(u64::MAX).saturating_add(1)).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Checks that only the owner may read a key. Credentials are not checked: systemd grants its service access
/// by an access list, which shows as group permissions, and denies all others access to their directory.
fn check_mode(path: &Path, file: &File) -> Result<(), KeyFileError> {
    let metadata = file
        .metadata()
        .map_err(|source| KeyFileError::Unreadable { place: KeySource::File(path.to_owned()), source })?;
    let mode = metadata.mode() & 0o7777;
    if metadata.is_file() && mode & 0o077 != 0 {
        return Err(KeyFileError::Exposed { path: path.to_owned(), mode });
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
        let message = read_key(&KeySource::File(path)).unwrap_err().to_string();
        message.replace(&format!("{}/", directory.path().display()), "")
    }

    #[test]
    fn a_private_key_file_is_read() {
        for mode in [0o600, 0o400] {
            let (_directory, path) = file(format!("{HEX}\n").as_bytes(), mode);
            assert_eq!(*read_key(&KeySource::File(path)).unwrap().to_text(), HEX);
        }
    }

    #[test]
    fn a_known_passphrase_is_not_derived_again() {
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
    fn a_key_file_others_may_read_is_rejected() {
        for mode in [0o640, 0o644, 0o604, 0o620] {
            assert_eq!(
                refusal(HEX.as_bytes(), mode),
                format!("key: other users may read this key (its mode is 0{mode:o}): chmod 600 key")
            );
        }
    }

    #[test]
    fn a_credential_may_have_group_permissions() {
        let (_directory, path) = file(HEX.as_bytes(), 0o440);
        assert_eq!(*read_key(&KeySource::Credential(path)).unwrap().to_text(), HEX);
    }

    #[test]
    fn invalid_keys_are_rejected_with_their_place() {
        assert_eq!(refusal(b"\n", 0o600), "key: the key is empty");
        assert_eq!(
            refusal(&HEX.as_bytes()[1..], 0o600),
            "key: this looks like a key, but has 63 hexadecimal digits instead of 64: it is cut or mistyped"
        );
        for text in [b"two\nlines".as_slice(), b"\xff\xfe", &[b'x'; KEY_FILE_MAX + 1]] {
            assert!(refusal(text, 0o600).starts_with("key: not a key: "), "{}", text.escape_ascii());
        }
        let absent = read_key(&KeySource::File("/nonexistent/key".into())).unwrap_err().to_string();
        assert_eq!(
            absent,
            "/nonexistent/key: cannot be read: No such file or directory (os error 2): \
             make a key with `keygen` and put it there, or name another file"
        );
    }
}
