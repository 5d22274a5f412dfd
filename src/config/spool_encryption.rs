//! How the spool is encrypted, and where the keys are to be found that open what is there.

use crate::config::reader::Reader;
use crate::config::{KeySource, Surroundings, kinds};

/// Name of the systemd credential that holds the spool's key.
const SPOOL_KEY_CREDENTIAL: &str = "spool-key";

/// Whether what goes to disk is encrypted, and with which key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SpoolEncryption {
    /// Whether what goes to disk is encrypted from now on. Then there is a `key`.
    pub encrypt: bool,
    /// The key. Without `encrypt` it only opens what the spool holds.
    pub key: Option<KeySource>,
    /// The key before it, which only ever opens.
    pub previous_key: Option<KeySource>,
}

pub(super) fn read(reader: &mut Reader<'_>, surroundings: &Surroundings) -> Option<SpoolEncryption> {
    let encrypt = reader.take("encrypt", false, kinds::boolean);
    let key = reader.optional("key-file", kinds::path);
    let previous_key = reader.optional("previous-key-file", kinds::path);
    let credential = || surroundings.credential(SPOOL_KEY_CREDENTIAL).map(KeySource::Credential);
    let (encrypt, key) = (encrypt?, key?.map(KeySource::File).or_else(credential));
    if encrypt && key.is_none() {
        reader.refuse_taken(
            "encrypt",
            "a key to encrypt with: make one with `nf-sender keygen` and name its file with spool.key-file, \
             or pass it as the systemd credential spool-key",
        );
        return None;
    }
    Some(SpoolEncryption { encrypt, key, previous_key: previous_key?.map(KeySource::File) })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::config::{Overrides, load_sender};

    /// What nf-sender makes of the section `[spool]` with this text, with or without the credential.
    fn read(spool: &str, has_credential: bool) -> Result<SpoolEncryption, String> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("c.toml");
        fs::write(&path, format!("[spool]\n{spool}")).unwrap();
        let credentials =
            if has_credential { vec!["/run/credentials/s/spool-key".into()] } else { Vec::new() };
        let surroundings = Surroundings { credentials, ..Surroundings::default() };
        load_sender(Some(&path), Overrides::default(), &surroundings)
            .map(|loaded| loaded.settings.spool.encryption)
            .map_err(|error| error.to_string().replace(&format!("{}/", directory.path().display()), ""))
    }

    fn file(path: &str) -> KeySource {
        KeySource::File(path.into())
    }

    fn credential() -> KeySource {
        KeySource::Credential("/run/credentials/s/spool-key".into())
    }

    #[test]
    fn nothing_is_encrypted_unless_it_is_said() {
        assert_eq!(read("", false), Ok(SpoolEncryption::default()));
        let opens_only = SpoolEncryption { key: Some(credential()), ..SpoolEncryption::default() };
        assert_eq!(read("", true), Ok(opens_only));
    }

    #[test]
    fn the_key_is_in_the_file_that_is_named_else_in_the_credential() {
        let given = |key| Ok(SpoolEncryption { encrypt: true, key: Some(key), previous_key: None });
        assert_eq!(read("encrypt = true\n", true), given(credential()));
        assert_eq!(read("encrypt = true\nkey-file = \"/k\"\n", true), given(file("/k")));
    }

    #[test]
    fn keys_without_encryption_are_there_to_open() {
        let given = SpoolEncryption { encrypt: false, key: Some(file("/k")), previous_key: Some(file("/p")) };
        assert_eq!(read("key-file = \"/k\"\nprevious-key-file = \"/p\"\n", false), Ok(given));
    }

    #[test]
    fn encryption_without_a_key_is_refused_with_what_to_do() {
        for spool in ["encrypt = true\n", "encrypt = true\nprevious-key-file = \"/p\"\n"] {
            assert_eq!(
                read(spool, false),
                Err("c.toml:2: spool.encrypt: found true, expected a key to encrypt with: make one with \
                     `nf-sender keygen` and name its file with spool.key-file, or pass it as the systemd \
                     credential spool-key"
                    .to_owned())
            );
        }
    }
}
