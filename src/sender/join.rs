//! `nf-sender join`: writes the settings of a token into the configuration.
//!
//! Always holds: nothing is written unless all of it takes effect, and no existing key is lost.

use std::path::Path;

use nf_transport_core::limits::TOKEN_MAX;
use nf_transport_core::secure::Secret;
use nf_transport_core::secure::token::Token;
use serde::Serialize;
use zeroize::Zeroizing;

use crate::config::{
    self, Environment, HostPort, KeySource, Loaded, Overrides, SENDER, SenderProtection, SenderSettings,
};
use crate::host::credentials::pairing::{ConfigLocation, DropIn};
use crate::host::process::console;
use crate::host::{DaemonError, read_secret_line};
use crate::status::apply_configuration;

const NAME: &str = "50-joined.toml";

/// The content of the drop-in.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct JoinedSettings<'a> {
    receivers: [&'a str; 1],
    id: &'a str,
    key_file: &'a Path,
    cipher: &'a str,
}

/// Joins the receiver that issued the token. `-` reads the token from standard input.
pub(crate) fn run(
    file: Option<&Path>,
    overrides: &Overrides,
    environment: &Environment,
    token: &str,
) -> Result<(), DaemonError> {
    let text = if token == "-" { read_token()? } else { Zeroizing::new(token.to_owned()) };
    let token: Token = text.parse().map_err(DaemonError::usage)?;
    let receiver: HostPort = token.address.parse().map_err(|error| {
        DaemonError::usage(format_args!("the token's address {:?}: {error}", token.address))
    })?;
    let place = ConfigLocation::new(SENDER, file);
    let key_file = place.path_next_to("key");
    let settings = JoinedSettings {
        receivers: [&token.address],
        id: token.id.as_str(),
        key_file: &key_file,
        cipher: token.suite.name(),
    };
    let drop_in = place.drop_in(NAME, "Written by nf-sender join; joining again replaces it.", &settings)?;

    let load = |revision| config::load_revised_sender(place.file(), overrides.clone(), environment, revision);
    let joined = load(Some(drop_in.revision())).map_err(|error| {
        DaemonError::configuration(format_args!(
            "{error}\nnothing was written: together with {} the configuration is invalid: \
             correct it there and join again",
            drop_in.path().display()
        ))
    })?;
    reject_if_overridden(&joined, &receiver, &token, &key_file, &drop_in)?;
    let before = load(None).ok();

    let kept = keep_previous(&place, &key_file, &token)?;
    let written = [place.write_key(&key_file, &token.key)?, place.write_drop_in(&drop_in)?];
    if written == [false, false] {
        console::print_note(&format!("nothing to change: this sender is {} at {receiver} already", token.id));
    } else {
        for change in changes(before.as_ref(), &joined).into_iter().chain(kept) {
            console::print_note(&change);
        }
        console::print_note(&format!(
            "this sender is {} at {receiver}, with key {}",
            token.id,
            token.key.id()
        ));
    }
    console::print_note(&apply_configuration(SENDER, &joined.settings.control, place.path()));
    Ok(())
}

/// Reads the first line of standard input.
fn read_token() -> Result<Zeroizing<String>, DaemonError> {
    read_secret_line("Paste the token and press Enter (it is not shown):", 2 * TOKEN_MAX).map_err(|error| {
        DaemonError::input_output(format_args!("cannot read the token from standard input: {error}"))
    })
}

/// Fails if another source (a later drop-in, a variable, an option) overrides the drop-in, as the token would
/// have no effect.
fn reject_if_overridden(
    joined: &Loaded<SenderSettings>,
    receiver: &HostPort,
    token: &Token,
    key_file: &Path,
    drop_in: &DropIn,
) -> Result<(), DaemonError> {
    let settings = &joined.settings;
    let protected = match &settings.protection {
        SenderProtection::Key { source: KeySource::File(path), suite } if path == key_file => {
            if *suite == token.suite { None } else { Some("cipher") }
        }
        SenderProtection::Key { source: KeySource::StandardInput, .. } => Some("key"),
        SenderProtection::Key { .. } => Some("key-file"),
        SenderProtection::Tls { .. } => Some("tls.certificate"),
        SenderProtection::Plaintext | SenderProtection::LoopbackOnly => Some("plaintext"),
    };
    // The operator may want more receivers than this one.
    let others = (!settings.receivers.contains(receiver)).then_some("receivers");
    let id = (settings.id != token.id).then_some("id");
    let Some(key) = protected.or(id).or(others) else { return Ok(()) };
    let origin = joined.report.origin(key).map_or_else(|| "something".to_owned(), ToString::to_string);
    Err(DaemonError::configuration(format_args!(
        "{origin}: {key} is set here and overrides {}: the token would have no effect, so nothing was \
         written; remove it there and join again",
        drop_in.path().display()
    )))
}

/// Keeps a previous key next to the new one, so that an accidental join can be undone. Returns the note about
/// it.
fn keep_previous(
    place: &ConfigLocation,
    key_file: &Path,
    token: &Token,
) -> Result<Option<String>, DaemonError> {
    let Some(old) = place.secret(key_file)?.filter(|old| *old != Secret::Key(token.key.clone())) else {
        return Ok(None);
    };
    let previous = place.path_next_to("key.previous");
    place.reject_key_in_use(key_file)?;
    place.reject_key_in_use(&previous)?;
    place.write_secret(&previous, &old)?;
    Ok(Some(format!("the previous secret, {old}, is kept in {}", previous.display())))
}

/// Returns the differences from the previous settings, if these could be read.
fn changes(before: Option<&Loaded<SenderSettings>>, now: &Loaded<SenderSettings>) -> Vec<String> {
    let Some(before) = before else { return Vec::new() };
    let (before, now) = (&before.settings, &now.settings);
    let mut changes = Vec::new();
    if before.id != now.id {
        changes.push(format!("id: was {}, is {}", before.id, now.id));
    }
    if before.receivers != now.receivers && !before.receivers.is_empty() {
        let list = |list: &[HostPort]| list.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        changes.push(format!("receivers: were {}, are {}", list(&before.receivers), list(&now.receivers)));
    }
    let suite = |settings: &SenderSettings| match settings.protection {
        SenderProtection::Key { suite, .. } => Some(suite),
        _ => None,
    };
    if let (Some(before), Some(now)) = (suite(before), suite(now))
        && before != now
    {
        changes.push(format!("cipher: was {before}, is {now}"));
    }
    changes
}
