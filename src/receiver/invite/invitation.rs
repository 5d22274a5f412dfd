//! Content of an invitation: the address of this receiver, and the token.

use core::net::SocketAddr;

use nf_transport_core::secure::token::Token;
use nf_transport_core::secure::{Key, Suite};
use nf_transport_core::sequence::SenderId;

use crate::config::{Environment, HostPort, ReceiverSettings};
use crate::host::DaemonError;
use crate::host::process::console;

/// Parses the address of the command line.
pub(crate) fn given_address(text: &str) -> Result<HostPort, DaemonError> {
    let address: HostPort = text.parse().map_err(|error| {
        DaemonError::usage(format_args!(
            "option --address: a host and a port such as \"collector.example.net:2055\": {error}"
        ))
    })?;
    if address.is_unspecified() {
        return Err(DaemonError::usage(format_args!(
            "option --address: senders cannot connect to {address}; name the address at which they reach \
             this machine"
        )));
    }
    Ok(address)
}

/// Guesses the address of this receiver from the host name, and prints a note that it is a guess.
pub(crate) fn guessed_address(
    settings: &ReceiverSettings,
    environment: &Environment,
) -> Result<HostPort, DaemonError> {
    let unknown = |why: &str| {
        DaemonError::usage(format_args!(
            "{why}; name the address at which senders reach this machine \
                                         (--address HOST:PORT)"
        ))
    };
    if settings.listen.iter().all(|address| address.ip().to_canonical().is_loopback()) {
        return Err(unknown("nf-receiver listens on loopback addresses only"));
    }
    let port = settings.listen.first().map_or(0, SocketAddr::port);
    let guess: Option<HostPort> = format!("{}:{port}", environment.host_name).parse().ok();
    let address = guess
        .filter(|guess| !guess.is_loopback() && !guess.is_unspecified())
        .ok_or_else(|| unknown("the host name and the listening port form no valid address"))?;
    console::print_note(&format!(
        "the token names {address}, guessed from the host name; if senders reach this machine at another \
         address, repeat this with --address HOST:PORT"
    ));
    Ok(address)
}

/// Prints the token, and how to use it.
pub(crate) fn hand_out(
    settings: &ReceiverSettings,
    id: &SenderId,
    address: &HostPort,
    key: Key,
) -> Result<(), DaemonError> {
    let token = Token { address: address.to_string(), id: id.clone(), key, suite: suite(settings) };
    console::print_note(&format!(
        "anyone with this token can connect as {id}: treat it like a password. On the sender's machine run: \
         nf-sender join (it asks for the token), or nf-sender join < FILE"
    ));
    let mut line = token.encode();
    line.push('\n');
    console::print(&line)
}

/// Returns the best of the accepted ciphers.
fn suite(settings: &ReceiverSettings) -> Suite {
    let allowed = &settings.protection.suites;
    let preferred = [Suite::ChaCha20Poly1305, Suite::Aes256Gcm, Suite::Blowfish];
    preferred.into_iter().find(|suite| allowed.contains(suite)).unwrap_or(Suite::ChaCha20Poly1305)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::{Overrides, load_receiver};

    fn settings(toml: &str) -> ReceiverSettings {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("c.toml");
        std::fs::write(&path, toml).unwrap();
        load_receiver(Some(Path::new(&path)), Overrides::default(), &Environment::default()).unwrap().settings
    }

    fn guess(host_name: &str, toml: &str) -> Result<String, String> {
        let environment = Environment { host_name: host_name.to_owned(), ..Environment::default() };
        let address = guessed_address(&settings(toml), &environment);
        address.map(|address| address.to_string()).map_err(|error| error.to_string())
    }

    #[test]
    fn host_name_and_first_port_are_guessed() {
        assert_eq!(guess("collector.example.net", "").unwrap(), "collector.example.net:2055");
        let two = "listen = [\"192.0.2.1:9000\", \"127.0.0.1:9001\"]\n";
        assert_eq!(guess("collector", two).unwrap(), "collector:9000");
    }

    #[test]
    fn unreachable_addresses_are_not_guessed() {
        for (host_name, toml) in [
            ("localhost", ""),
            ("", ""),
            ("two words", ""),
            ("0.0.0.0", ""),
            ("collector", "listen = [\"127.0.0.1:2055\", \"[::1]:2055\"]\n"),
            ("collector", "listen = [\"0.0.0.0:0\"]\n"),
        ] {
            let told = guess(host_name, toml).unwrap_err();
            let remedy = "; name the address at which senders reach this machine (--address HOST:PORT)";
            assert!(told.ends_with(remedy), "{told}");
        }
        assert!(given_address("0.0.0.0:2055").is_err() && given_address("[::]:2055").is_err());
        assert_eq!(given_address("127.0.0.1:2055").unwrap().to_string(), "127.0.0.1:2055");
    }

    #[test]
    fn the_token_names_an_accepted_cipher() {
        assert_eq!(suite(&settings("")), Suite::ChaCha20Poly1305);
        assert_eq!(suite(&settings("ciphers = [\"blowfish\", \"aes-256-gcm\"]\n")), Suite::Aes256Gcm);
        assert_eq!(suite(&settings("ciphers = [\"blowfish\"]\n")), Suite::Blowfish);
    }
}
