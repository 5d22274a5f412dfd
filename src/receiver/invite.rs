//! `nf-receiver invite`: gives a sender a key of its own, and prints the token with which it joins.
//!
//! Always holds: a key that a sender may be using is let in until it is revoked or two renewals old, whatever fails in
//! between.

use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::config::{
    self, HostPort, KeySource, Overrides, RECEIVER, ReceiverSettings, SenderKeys, Surroundings,
};
use crate::secure::token::Token;
use crate::secure::{Key, Suite};
use crate::sequence::SenderId;
use crate::service::pairing::Place;
use crate::service::{DaemonError, console, read_key, safe_file};

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

/// The files of one sender.
struct Files {
    key: PathBuf,
    previous: PathBuf,
    drop_in: PathBuf,
}

/// What a drop-in says.
#[derive(Serialize)]
struct DropIn {
    sender: [Entry; 1],
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Entry {
    id: String,
    key_file: PathBuf,
    #[serde(skip_serializing_if = "Option::is_none")]
    previous_key_file: Option<PathBuf>,
}

/// Does what `change` says about the sender `id`; `address` is where it will connect.
pub(crate) fn run(
    file: Option<&Path>,
    overrides: Overrides,
    surroundings: &Surroundings,
    id: &SenderId,
    address: Option<&str>,
    change: Change,
) -> Result<(), DaemonError> {
    let address: Option<HostPort> = address.map(str::parse).transpose().map_err(|error| {
        DaemonError::usage(format_args!(
            "option --address: a host and a port such as \"collector.example.net:2055\": {error}"
        ))
    })?;
    let settings = config::load_receiver(file, overrides, surroundings)?.settings;
    let place = Place::new(RECEIVER, file);
    let files = Files {
        key: place.beside("keys").join(id.as_str()),
        previous: place.beside("keys").join(format!("{id}.previous")),
        drop_in: place.drop_in(&format!("sender-{id}.toml")),
    };
    let elsewhere =
        settings.protection.senders.iter().find(|sender| sender.id == *id && !files.are_of(sender));
    match (change, elsewhere) {
        (Change::Invite, Some(sender)) => {
            let key = read_key(&sender.keys.current)?;
            return hand_out(&settings, surroundings, id, address, key);
        }
        (Change::Renew | Change::Revoke, Some(sender)) => {
            return Err(DaemonError::configuration(format_args!(
                "{id} has the key file {}, which no invitation wrote: change its [[sender]] table by hand",
                sender.keys.current
            )));
        }
        (Change::Revoke, None) => files.revoke(id)?,
        (Change::Invite, None) => {
            let key = files.invite(&place, id)?;
            hand_out(&settings, surroundings, id, address, key)?;
        }
        (Change::Renew, None) => {
            let key = files.renew(&place, id)?;
            hand_out(&settings, surroundings, id, address, key)?;
        }
    }
    place.take_up(&settings.control);
    Ok(())
}

impl Files {
    /// Whether the keys of `sender` are in these files.
    fn are_of(&self, sender: &SenderKeys) -> bool {
        sender.keys.current == KeySource::File(self.key.clone())
    }

    /// Makes sure that the sender has a key, and that the configuration says so.
    fn invite(&self, place: &Place, id: &SenderId) -> Result<Key, DaemonError> {
        let key = if self.key.exists() {
            place.restrict_key(&self.key)?;
            read_key(&KeySource::File(self.key.clone()))?
        } else {
            let key = Key::generate().map_err(DaemonError::system)?;
            place.write_key(&self.key, &key)?;
            key
        };
        self.write_drop_in(place, id, self.previous.exists())?;
        Ok(key)
    }

    /// Gives the sender another key. The old one is valid as the previous one before the new one takes its place.
    fn renew(&self, place: &Place, id: &SenderId) -> Result<Key, DaemonError> {
        if !self.key.exists() {
            return self.invite(place, id);
        }
        place.restrict_key(&self.key)?;
        let old = read_key(&KeySource::File(self.key.clone()))?;
        place.write_key(&self.previous, &old)?;
        self.write_drop_in(place, id, true)?;
        let key = Key::generate().map_err(DaemonError::system)?;
        place.write_key(&self.key, &key)?;
        console::note(&format!(
            "the key of {id} is new; the one before it stays valid until the next renewal, so that nothing is lost meanwhile"
        ));
        Ok(key)
    }

    fn write_drop_in(&self, place: &Place, id: &SenderId, has_previous: bool) -> Result<(), DaemonError> {
        let entry = Entry {
            id: id.to_string(),
            key_file: self.key.clone(),
            previous_key_file: has_previous.then(|| self.previous.clone()),
        };
        let origin =
            format!("Written by nf-receiver invite {id}; nf-receiver invite --revoke {id} removes it.");
        place.write_drop_in(&self.drop_in, &origin, &DropIn { sender: [entry] })
    }

    /// The drop-in goes first: without its keys it would be an error.
    fn revoke(&self, id: &SenderId) -> Result<(), DaemonError> {
        let mut was_there = false;
        for path in [&self.drop_in, &self.key, &self.previous] {
            was_there |= safe_file::remove(path)?;
        }
        console::note(&if was_there {
            format!("the invitation of {id} is revoked")
        } else {
            format!("{id} had no invitation: there is nothing to revoke")
        });
        Ok(())
    }
}

/// Prints the token.
fn hand_out(
    settings: &ReceiverSettings,
    surroundings: &Surroundings,
    id: &SenderId,
    address: Option<HostPort>,
    key: Key,
) -> Result<(), DaemonError> {
    let address = match address {
        Some(address) => address.to_string(),
        None => guessed_address(settings, surroundings),
    };
    let allowed = &settings.protection.suites;
    let preferred = [Suite::ChaCha20Poly1305, Suite::Aes256Gcm, Suite::Blowfish];
    let suite =
        preferred.into_iter().find(|suite| allowed.contains(suite)).unwrap_or(Suite::ChaCha20Poly1305);
    let token = Token { address, id: id.clone(), key, suite };
    console::note(&format!(
        "this token lets whoever has it in as {id}: treat it like a password. On the sender's machine: nf-sender join TOKEN"
    ));
    console::print(&format!("{}\n", *token.encode()))
}

/// Where senders probably reach this receiver.
fn guessed_address(settings: &ReceiverSettings, surroundings: &Surroundings) -> String {
    let listen = settings.listen.first();
    let port = listen.map_or(2055, |address| address.port());
    let named = listen.filter(|address| !address.ip().is_unspecified() && !address.ip().is_loopback());
    if let Some(address) = named {
        return address.to_string();
    }
    let address = format!("{}:{port}", surroundings.host_name);
    console::note(&format!(
        "the token says {address}, by this machine's name: if senders reach it by another, give --address HOST:PORT"
    ));
    address
}
