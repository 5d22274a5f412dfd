//! `nf-receiver invite`: gives a sender a key of its own, and prints the token with which it joins.
//!
//! Always holds: a key that a sender may be using is let in until it is revoked or two renewals old, whatever fails in
//! between; and no drop-in names a key file that is not there.

pub(crate) mod invitation;

use std::path::{Path, PathBuf};

use nf_transport_core::prefixes::Prefixes;
use nf_transport_core::secure::Key;
use nf_transport_core::sequence::SenderId;
use serde::Serialize;

use crate::config::{
    self, ConfigError, Environment, HostPort, KeySource, Loaded, Overrides, RECEIVER, ReceiverSettings,
    Revision, SenderKeys,
};
use crate::host::credentials::pairing::{ConfigLocation, DropIn};
use crate::host::files::atomic_file;
use crate::host::process::console;
use crate::host::{DaemonError, read_key};
use crate::status::apply_configuration;

/// What the file with a sender's key before the present one ends in. No sender is called so.
const PREVIOUS: &str = ".previous";

/// What is to be done about a sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// It gets a key, or keeps the one that it has.
    Invite,
    /// It gets another key; the one before it stays valid.
    Renew,
    /// It loses its keys.
    Revoke,
}

/// What a drop-in says.
#[derive(Serialize)]
struct Settings {
    sender: [Entry; 1],
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Entry {
    id: String,
    key_file: PathBuf,
    #[serde(skip_serializing_if = "Option::is_none")]
    previous_key_file: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    exporters: Vec<String>,
}

/// One sender, as far as invitations are about it: its files, and the configuration around them.
struct Guest<'a> {
    id: &'a SenderId,
    place: ConfigLocation,
    key: PathBuf,
    previous: PathBuf,
    /// Where it connects, if the operator has said so.
    address: Option<HostPort>,
    /// Exporters whose datagrams it may deliver, if the operator has restricted them.
    exporters: Prefixes,
    overrides: Overrides,
    environment: &'a Environment,
}

/// Does what `change` says about the sender `id`; `address` is where it will connect.
pub(crate) fn run(
    file: Option<&Path>,
    overrides: Overrides,
    environment: &Environment,
    id: &SenderId,
    address: Option<&str>,
    change: Change,
) -> Result<(), DaemonError> {
    if id.as_str().ends_with(PREVIOUS) {
        return Err(DaemonError::usage(format_args!(
            "{id}: no sender can be invited by a name that ends in {PREVIOUS}: old keys are called so"
        )));
    }
    let address = address.map(invitation::given_address).transpose()?;
    let mut guest = Guest::new(file, overrides, environment, id);
    // A sender with a table in another file is found even if that names the same key file.
    let rest = guest.configuration(None)?;
    let by_hand = rest.settings.protection.senders.iter().find(|sender| sender.id == *id);
    if change == Change::Revoke {
        if let Some(sender) = by_hand {
            return Err(guest.not_ours(&rest, sender, "remove that table, and the key file"));
        }
        guest.revoke(&rest.settings)?;
    } else {
        let in_table = by_hand.and_then(|sender| sender.address.clone());
        guest.address = address.or(in_table).or(guest.address);
        let address = match &guest.address {
            Some(address) => address.clone(),
            None => invitation::guessed_address(&rest.settings, environment)?,
        };
        let key = match by_hand {
            Some(sender) if change == Change::Renew => {
                let how = "put a new key into that file (nf-receiver keygen), and name the old one as previous-key-file";
                return Err(guest.not_ours(&rest, sender, how));
            }
            Some(sender) => {
                let how = "add key-file to it (nf-receiver keygen makes keys), and repeat this";
                let keys = sender.keys.as_ref().ok_or_else(|| guest.not_ours(&rest, sender, how))?;
                let key = read_key(&keys.current)?;
                console::note(&format!("{}: nothing was written", guest.table(&rest, sender)));
                return invitation::hand_out(&rest.settings, id, &address, key);
            }
            None => {
                // Two at once must not hand out two keys, of which one is none.
                let _alone = guest.place.lock_keys(guest.key.parent().unwrap_or(Path::new("/")))?;
                if change == Change::Renew { guest.renew()? } else { guest.invite()? }
            }
        };
        invitation::hand_out(&rest.settings, id, &address, key)?;
    }
    console::note(&apply_configuration(RECEIVER, &rest.settings.control, guest.place.path()));
    Ok(())
}

impl<'a> Guest<'a> {
    /// The sender `id`, with the key file and the address that its invitation names, if it has one.
    fn new(
        file: Option<&Path>,
        overrides: Overrides,
        environment: &'a Environment,
        id: &'a SenderId,
    ) -> Self {
        let place = ConfigLocation::new(RECEIVER, file);
        let key = place.path_next_to("keys").join(id.as_str());
        let mut guest = Self {
            id,
            place,
            key,
            previous: PathBuf::new(),
            address: None,
            exporters: Prefixes::default(),
            overrides,
            environment,
        };
        if guest.drop_in_path().exists()
            && let Some(invited) = guest.invited()
        {
            guest.address = invited.address;
            guest.exporters = invited.exporters;
            if let Some(KeySource::File(path)) = invited.keys.map(|keys| keys.current) {
                guest.key = path;
            }
        }
        guest.previous = guest.key.with_file_name(format!("{id}{PREVIOUS}"));
        guest
    }

    /// The sender's table in the configuration as it is.
    fn invited(&self) -> Option<SenderKeys> {
        let file = self.place.file();
        let loaded = config::load_receiver(file, self.overrides.clone(), self.environment).ok()?;
        loaded.settings.protection.senders.into_iter().find(|sender| sender.id == *self.id)
    }

    fn drop_in_name(&self) -> String {
        format!("sender-{}.toml", self.id)
    }

    fn drop_in_path(&self) -> PathBuf {
        self.place.drop_in_path(&self.drop_in_name())
    }

    /// The configuration with this drop-in in the place of the one that may be there; with none at all for `None`.
    fn configuration(&self, drop_in: Option<&DropIn>) -> Result<Loaded<ReceiverSettings>, ConfigError> {
        let path = self.drop_in_path();
        let revision = drop_in.map_or(Revision { path: &path, text: None }, DropIn::revision);
        config::load_revised_receiver(
            self.place.file(),
            self.overrides.clone(),
            self.environment,
            Some(revision),
        )
    }

    /// The drop-in for the keys that there will be. The configuration is good with it.
    fn drop_in(&self, has_previous: bool) -> Result<DropIn, DaemonError> {
        let entry = Entry {
            id: self.id.to_string(),
            key_file: self.key.clone(),
            previous_key_file: has_previous.then(|| self.previous.clone()),
            address: self.address.as_ref().map(ToString::to_string),
            exporters: self.exporters.iter().map(ToString::to_string).collect(),
        };
        let id = self.id;
        let origin =
            format!("Written by nf-receiver invite {id}; nf-receiver invite --revoke {id} removes it.");
        let drop_in = self.place.drop_in(&self.drop_in_name(), &origin, &Settings { sender: [entry] })?;
        self.configuration(Some(&drop_in))?;
        Ok(drop_in)
    }

    /// Makes sure that the sender has a key, with the mode and owner that it must have, and that the configuration
    /// says so.
    fn invite(&self) -> Result<Key, DaemonError> {
        let had_key = self.place.key(&self.key)?;
        let previous = self.place.key(&self.previous)?;
        let drop_in = self.drop_in(previous.is_some())?;
        let is_new = had_key.is_none();
        let key = had_key.map_or_else(Key::generate, Ok).map_err(DaemonError::system)?;
        let mut written = self.place.write_key(&self.key, &key)?;
        if let Some(previous) = previous {
            written |= self.place.write_key(&self.previous, &previous)?;
        }
        written |= self.place.write_drop_in(&drop_in)?;
        console::note(&match (is_new, written) {
            (true, _) => format!("{} is invited: its new key is in {}", self.id, self.key.display()),
            (false, true) => {
                format!("{} keeps its key; its files are as they must be again", self.id)
            }
            (false, false) => format!("{} is invited already, and keeps its key", self.id),
        });
        Ok(key)
    }

    /// Gives the sender another key. The old one is valid as the previous one before the new one takes its place.
    fn renew(&self) -> Result<Key, DaemonError> {
        let Some(old) = self.place.key(&self.key)? else { return self.invite() };
        self.place.reject_key_in_use(&self.key)?;
        let drop_in = self.drop_in(true)?;
        let key = Key::generate().map_err(DaemonError::system)?;
        self.place.write_key(&self.previous, &old)?;
        self.place.write_drop_in(&drop_in)?;
        self.place.write_key(&self.key, &key)?;
        console::note(&format!(
            "the key of {id} is new; the one before, {}, is let in as well until the next renewal, so that nothing is \
             lost meanwhile. To end it once {id} has joined: rm {}, then nf-receiver invite {id}",
            old.id(),
            self.previous.display(),
            id = self.id,
        ));
        Ok(key)
    }

    /// The drop-in goes first: without its keys it would be an error.
    fn revoke(&self, rest: &ReceiverSettings) -> Result<(), DaemonError> {
        let mut removed = Vec::new();
        for path in [&self.drop_in_path(), &self.key, &self.previous] {
            if let Some(other) = config::other_file_naming(path, self.place.path()) {
                console::note(&format!("{} stays: {} names it, too", path.display(), other.display()));
            } else if atomic_file::remove(path)? {
                removed.push(path.display().to_string());
            }
        }
        let id = self.id;
        console::note(&if removed.is_empty() {
            format!("{id} had no invitation: there is nothing to revoke")
        } else {
            format!("the invitation of {id} is revoked: removed {}", removed.join(", "))
        });
        let protection = &rest.protection;
        if protection.shared.is_some() {
            console::note(&format!("warning: whoever has the shared key can still come as {id}"));
        }
        if protection.plaintext {
            console::note(&format!(
                "warning: in clear text, anybody can still come as {id} (plaintext = true)"
            ));
        }
        Ok(())
    }

    /// Where a table stands that no invitation wrote, and which key it names.
    fn table(&self, rest: &Loaded<ReceiverSettings>, sender: &SenderKeys) -> String {
        let origin = rest.report.origin_among("sender.id", self.id.as_str());
        let origin = origin.map_or_else(|| "the configuration".to_owned(), ToString::to_string);
        let key = match &sender.keys {
            Some(keys) => format!("with the key in {}", keys.current),
            None => "without a key".to_owned(),
        };
        format!("{origin}: {} has its own [[sender]] table here, {key}", self.id)
    }

    fn not_ours(&self, rest: &Loaded<ReceiverSettings>, sender: &SenderKeys, how: &str) -> DaemonError {
        let table = self.table(rest, sender);
        DaemonError::configuration(format_args!(
            "{table}, and no invitation wrote it: nothing was changed: {how}, by hand"
        ))
    }
}
