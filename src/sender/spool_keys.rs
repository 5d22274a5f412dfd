//! The keys of the spool: brings them from where the settings say that they are, and looks whether they open what the
//! spool holds. Never writes anything.

use std::path::{Path, PathBuf};

use crate::config::SpoolEncryption;
use crate::secure::{KeyId, SpoolKeys};
use crate::service::{KeyTrouble, read_key};
use crate::spool::Survey;
use crate::spool::disk::Disk;

/// The spool is encrypted with a key that is not here. Nothing was changed.
#[derive(Debug, thiserror::Error)]
#[error(
    "the spool in {} is encrypted with the key {missing}, but {given}: name the file that holds that key with \
     spool.previous-key-file, or move the files of the spool away to begin a new stream; nothing was changed",
    directory.display()
)]
pub(crate) struct WrongKey {
    directory: PathBuf,
    missing: KeyId,
    given: String,
}

/// The keys that `settings` name.
pub(crate) fn read(settings: &SpoolEncryption) -> Result<SpoolKeys, KeyTrouble> {
    let key = settings.key.as_ref().map(read_key).transpose()?;
    let previous = settings.previous_key.as_ref().map(read_key).transpose()?;
    Ok(match key {
        Some(key) if settings.encrypt => SpoolKeys::sealing(key, previous),
        key => SpoolKeys::opening(key.into_iter().chain(previous)),
    })
}

/// Whether `keys` open the oldest and the newest segment of the spool in `directory`. A key that a segment between
/// them wants is missed only when the link gets there.
pub(crate) fn check(directory: &Path, survey: &Survey<impl Disk>, keys: &SpoolKeys) -> Result<(), WrongKey> {
    match survey.samples().iter().find_map(|batch| keys.missing(batch)) {
        Some(missing) => Err(WrongKey { directory: directory.to_owned(), missing, given: named(keys) }),
        None => Ok(()),
    }
}

/// Which keys are given, in words.
pub(crate) fn named(keys: &SpoolKeys) -> String {
    let ids: Vec<String> = keys.ids().map(|id| id.to_string()).collect();
    match ids.as_slice() {
        [] => "no key is given".to_owned(),
        [id] => format!("the key given is {id}"),
        ids => format!("the keys given are {}", ids.join(" and ")),
    }
}
