//! `nf-receiver invite`: gives a sender a key of its own, and prints the token with which it joins.
//!
//! Two invariants hold, after a failure at any step as well:
//! - a key that a sender may be using is accepted until it is revoked or two renewals old;
//! - no drop-in names a key file that does not exist.

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

/// Suffix of the file with a sender's previous key. No sender id may end in it.
const PREVIOUS: &str = ".previous";

/// Change to a sender's invitation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum InvitationChange {
    /// Gives it a key, or keeps the one that it has.
    Invite,
    /// Gives it a new key; the previous one stays valid.
    Renew,
    /// Removes its keys.
    Revoke,
}

/// Content of a drop-in.
#[derive(Serialize)]
struct SenderDropIn {
    sender: [DropInSender; 1],
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct DropInSender {
    id: String,
    key_file: PathBuf,
    #[serde(skip_serializing_if = "Option::is_none")]
    previous_key_file: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    exporters: Vec<String>,
}

/// The files of one invited sender, and the configuration around them.
struct InvitedSender<'a> {
    id: &'a SenderId,
    place: ConfigLocation,
    key: PathBuf,
    previous: PathBuf,
    /// Address to which it connects, if the operator named one.
    address: Option<HostPort>,
    /// Exporters whose datagrams it may deliver, if the operator restricted them.
    exporters: Prefixes,
    overrides: Overrides,
    environment: &'a Environment,
}

/// Applies `change` to the sender `id`, which will connect to `address`.
pub(crate) fn run(
    file: Option<&Path>,
    overrides: Overrides,
    environment: &Environment,
    id: &SenderId,
    address: Option<&str>,
    change: InvitationChange,
) -> Result<(), DaemonError> {
    if id.as_str().ends_with(PREVIOUS) {
        return Err(DaemonError::usage(format_args!(
            "sender id {id} is invalid: the suffix {PREVIOUS} is reserved for previous keys"
        )));
    }
    let address = address.map(invitation::given_address).transpose()?;
    let mut guest = InvitedSender::new(file, overrides, environment, id);
    // A sender with a table in another file is found even if that table names the same key file.
    let rest = guest.configuration(None)?;
    let by_hand = rest.settings.protection.senders.iter().find(|sender| sender.id == *id);
    if change == InvitationChange::Revoke {
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
            Some(sender) if change == InvitationChange::Renew => {
                let how = "put a new key into that file (nf-receiver keygen), and name the old one as \
                           previous-key-file";
                return Err(guest.not_ours(&rest, sender, how));
            }
            Some(sender) => {
                let how = "add key-file to it (nf-receiver keygen makes keys), and repeat this";
                let keys = sender.keys.as_ref().ok_or_else(|| guest.not_ours(&rest, sender, how))?;
                let key = read_key(&keys.current)?;
                console::print_note(&format!("{}: nothing was written", guest.table(&rest, sender)));
                return invitation::hand_out(&rest.settings, id, &address, key);
            }
            None => {
                // Two runs at once must not hand out two keys, of which one is overwritten.
                let _alone = guest.place.lock_keys(guest.key.parent().unwrap_or(Path::new("/")))?;
                if change == InvitationChange::Renew { guest.renew()? } else { guest.invite()? }
            }
        };
        invitation::hand_out(&rest.settings, id, &address, key)?;
    }
    console::print_note(&apply_configuration(RECEIVER, &rest.settings.control, guest.place.path()));
    Ok(())
}

impl<'a> InvitedSender<'a> {
    /// Returns the sender `id`, with the key file and the address of its invitation, if it has one.
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

    /// Returns the sender's table in the current configuration.
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

    /// Loads the configuration with this drop-in in place of the existing one; without any for `None`.
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

    /// Builds the drop-in for the keys, and checks the configuration with it.
    fn drop_in(&self, has_previous: bool) -> Result<DropIn, DaemonError> {
        let entry = DropInSender {
            id: self.id.to_string(),
            key_file: self.key.clone(),
            previous_key_file: has_previous.then(|| self.previous.clone()),
            address: self.address.as_ref().map(ToString::to_string),
            exporters: self.exporters.iter().map(ToString::to_string).collect(),
        };
        let id = self.id;
        let origin =
            format!("Written by nf-receiver invite {id}; nf-receiver invite --revoke {id} removes it.");
        let drop_in = self.place.drop_in(&self.drop_in_name(), &origin, &SenderDropIn { sender: [entry] })?;
        self.configuration(Some(&drop_in))?;
        Ok(drop_in)
    }

    /// Ensures that the sender has a key with the required mode and owner, and that the configuration names
    /// it.
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
        console::print_note(&match (is_new, written) {
            (true, _) => format!("{} is invited: its new key is in {}", self.id, self.key.display()),
            (false, true) => {
                format!("{} keeps its key; its files were repaired", self.id)
            }
            (false, false) => format!("{} is invited already, and keeps its key", self.id),
        });
        Ok(key)
    }

    /// Gives the sender a new key. The old key is valid as the previous one before the new one replaces it.
    fn renew(&self) -> Result<Key, DaemonError> {
        let Some(old) = self.place.key(&self.key)? else { return self.invite() };
        self.place.reject_key_in_use(&self.key)?;
        let drop_in = self.drop_in(true)?;
        let key = Key::generate().map_err(DaemonError::system)?;
        self.place.write_key(&self.previous, &old)?;
        self.place.write_drop_in(&drop_in)?;
        self.place.write_key(&self.key, &key)?;
        console::print_note(&format!(
            "{id} has a new key; its previous key {} stays accepted until the next renewal, so that no \
             datagrams are lost. To remove it once {id} has joined: rm {}, then nf-receiver invite {id}",
            old.id(),
            self.previous.display(),
            id = self.id,
        ));
        Ok(key)
    }

    /// Removes the drop-in first: without its key files it would be an error.
    fn revoke(&self, rest: &ReceiverSettings) -> Result<(), DaemonError> {
        let mut removed = Vec::new();
        for path in [&self.drop_in_path(), &self.key, &self.previous] {
            if let Some(other) = config::other_file_naming(path, self.place.path()) {
                console::print_note(&format!("{} stays: {} names it, too", path.display(), other.display()));
            } else if atomic_file::remove(path)? {
                removed.push(path.display().to_string());
            }
        }
        let id = self.id;
        console::print_note(&if removed.is_empty() {
            format!("{id} has no invitation: nothing to revoke")
        } else {
            format!("the invitation of {id} is revoked: removed {}", removed.join(", "))
        });
        let protection = &rest.protection;
        if protection.shared.is_some() {
            console::print_note(&format!("warning: anyone with the shared key can still connect as {id}"));
        }
        if protection.plaintext {
            console::print_note(&format!(
                "warning: anyone can still connect as {id} in clear text (plaintext = true)"
            ));
        }
        Ok(())
    }

    /// Describes a table that no invitation wrote: its place, and the key that it names.
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
            "{table}, which no invitation wrote; nothing was changed; {how}"
        ))
    }
}
