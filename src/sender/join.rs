//! `nf-sender join`: writes what a token says into the configuration.

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::Serialize;
use zeroize::Zeroizing;

use crate::config::{self, HostPort, KeySource, Overrides, SENDER, SenderProtection, Surroundings};
use crate::limits::TOKEN_MAX;
use crate::secure::token::Token;
use crate::service::pairing::Place;
use crate::service::{DaemonError, console, read_key};

/// What the drop-in says.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct DropIn<'a> {
    receivers: [&'a str; 1],
    id: &'a str,
    key_file: &'a Path,
    cipher: &'a str,
}

/// Joins the receiver that invited this sender. `-` stands for a token on standard input.
pub(crate) fn run(
    file: Option<&Path>,
    overrides: &Overrides,
    surroundings: &Surroundings,
    token: &str,
) -> Result<(), DaemonError> {
    let text = if token == "-" { typed()? } else { Zeroizing::new(token.to_owned()) };
    let token: Token = text.parse().map_err(DaemonError::usage)?;
    let receiver: HostPort = token.address.parse().map_err(|error| {
        DaemonError::usage(format_args!("the token's address {}: {error}", token.address))
    })?;
    let place = Place::new(SENDER, file);
    let key_file = place.beside("key");
    keep_previous(&place, &key_file, &token)?;
    place.write_key(&key_file, &token.key)?;
    let settings = DropIn {
        receivers: [&token.address],
        id: token.id.as_str(),
        key_file: &key_file,
        cipher: token.suite.name(),
    };
    let origin = "Written by nf-sender join; joining again replaces it.";
    place.write_drop_in(&place.drop_in("50-joined.toml"), origin, &settings)?;
    console::note(&format!("this sender is {} at {receiver}, with key {}", token.id, token.key.id()));

    let loaded = config::load_sender(file, overrides.clone(), surroundings)?.settings;
    let wanted = SenderProtection::Key { source: KeySource::File(key_file), suite: token.suite };
    let in_effect = loaded.receivers == [receiver] && loaded.id == token.id && loaded.protection == wanted;
    if !in_effect {
        return Err(DaemonError::configuration(
            "what was written is not in effect: an option, a variable or a later drop-in says something else; \
             nf-sender check shows which",
        ));
    }
    place.take_up(&loaded.control);
    Ok(())
}

fn typed() -> Result<Zeroizing<String>, DaemonError> {
    let mut text = Zeroizing::new(String::with_capacity(2 * TOKEN_MAX));
    let most = u64::try_from(2 * TOKEN_MAX).unwrap_or(u64::MAX);
    io::stdin().lock().take(most).read_to_string(&mut text).map_err(|error| {
        DaemonError::input_output(format_args!("the token cannot be read from standard input: {error}"))
    })?;
    Ok(text)
}

/// Another key than the token's stays beside the new one: whoever joined by mistake can go back.
fn keep_previous(place: &Place, key_file: &PathBuf, token: &Token) -> Result<(), DaemonError> {
    if !key_file.exists() {
        return Ok(());
    }
    place.restrict_key(key_file)?;
    let old = read_key(&KeySource::File(key_file.clone()))?;
    if old != token.key {
        let previous = place.beside("key.previous");
        place.write_key(&previous, &old)?;
        console::note(&format!("the key before, {}, is kept in {}", old.id(), previous.display()));
    }
    Ok(())
}
