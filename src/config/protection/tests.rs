use std::fs;
use std::path::{Path, PathBuf};

use super::*;
use crate::config::{Origin, Overrides, load_receiver, load_sender};

fn environment() -> Environment {
    Environment { host_name: "edge".to_owned(), ..Environment::default() }
}

/// Returns an environment with the credentials `key` and `other`.
fn with_credentials() -> Environment {
    let file = |name: &str| (name.to_owned(), format!("/run/credentials/s/{name}").into());
    let credentials = ["other", "key"].map(file).into();
    Environment { credentials, ..environment() }
}

/// Options, each with its key and text.
fn options(given: &[(&'static str, &str)]) -> Overrides {
    let mut overrides = Overrides::default();
    for (key, word) in given {
        overrides.put(key, vec![(*word).to_owned()], Origin::Option(key));
    }
    overrides
}

/// Writes a file with this text, and returns its directory and path.
fn file(text: &str) -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("c.toml");
    fs::write(&path, text).unwrap();
    (directory, path)
}

fn without_directory(directory: &Path, error: &dyn ToString) -> String {
    error.to_string().replace(&format!("{}/", directory.display()), "")
}

/// Loads the protection of nf-sender from a file with this text and from options.
fn sender(
    text: &str,
    given: &[(&'static str, &str)],
    around: &Environment,
) -> Result<SenderProtection, String> {
    let (directory, path) = file(text);
    load_sender(Some(&path), options(given), around)
        .map(|loaded| loaded.settings.protection)
        .map_err(|error| without_directory(directory.path(), &error))
}

/// Loads the protection of nf-receiver from a file with this text and from options.
fn receiver(text: &str, given: &[(&'static str, &str)]) -> Result<ReceiverProtection, String> {
    let (directory, path) = file(text);
    load_receiver(Some(&path), options(given), &environment())
        .map(|loaded| loaded.settings.protection)
        .map_err(|error| without_directory(directory.path(), &error))
}

fn key(source: KeySource, suite: Suite) -> SenderProtection {
    SenderProtection::Key { source, suite }
}

fn file_source(path: &str) -> KeySource {
    KeySource::File(path.into())
}

#[test]
fn a_key_alone_means_blowfish() {
    let bare = environment();
    assert_eq!(sender("", &[("key", "-")], &bare), Ok(key(KeySource::StandardInput, Suite::Blowfish)));
    assert_eq!(sender("key-file = \"/k\"\n", &[], &bare), Ok(key(file_source("/k"), Suite::Blowfish)));
    let suited = sender("cipher = \"aes-256-gcm\"\nkey-file = \"/k\"\n", &[], &bare);
    assert_eq!(suited, Ok(key(file_source("/k"), Suite::Aes256Gcm)));
    let typed = sender("", &[("key", "-"), ("cipher", "chacha20-poly1305")], &bare);
    assert_eq!(typed, Ok(key(KeySource::StandardInput, Suite::ChaCha20Poly1305)));
}

#[test]
fn the_credential_is_the_default_key() {
    let credential = KeySource::Credential("/run/credentials/s/key".into());
    assert_eq!(sender("", &[], &with_credentials()), Ok(key(credential, Suite::Blowfish)));
    let named = sender("key-file = \"/k\"\n", &[], &with_credentials());
    assert_eq!(named, Ok(key(file_source("/k"), Suite::Blowfish)));
    assert_eq!(sender("", &[], &environment()), Ok(SenderProtection::LoopbackOnly));
    assert_eq!(sender("plaintext = true\n", &[], &with_credentials()), Ok(SenderProtection::Plaintext));
}

#[test]
fn the_higher_layer_selects_key_or_plaintext() {
    let bare = environment();
    let typed = [("key", "-")];
    assert_eq!(
        sender("key-file = \"/k\"\n", &typed, &bare),
        Ok(key(KeySource::StandardInput, Suite::Blowfish))
    );
    assert_eq!(
        sender("plaintext = true\n", &typed, &bare),
        Ok(key(KeySource::StandardInput, Suite::Blowfish))
    );
    let plain = [("plaintext", "true")];
    assert_eq!(sender("key-file = \"/k\"\n", &plain, &bare), Ok(SenderProtection::Plaintext));
}

#[test]
fn key_and_plaintext_in_one_layer_conflict() {
    let bare = environment();
    assert_eq!(
        sender("plaintext = true\nkey-file = \"/k\"\n", &[], &bare),
        Err("c.toml:1: plaintext: found true, expected one of plaintext and key-file (c.toml:2)".to_owned())
    );
    assert_eq!(
        sender("", &[("key", "-"), ("key-file", "/k")], &bare),
        Err("option --key: found \"-\", expected one of key and key-file (option --key-file)".to_owned())
    );
}

#[test]
fn a_key_in_a_file_is_rejected_and_not_shown() {
    let refusal = sender("key = \"hidden\"\n", &[], &environment()).unwrap_err();
    let expected = "a key from the command line only; name a file that holds it with key-file";
    assert!(refusal.ends_with(expected), "{refusal}");
    assert!(!refusal.contains("hidden"), "{refusal}");
}

#[test]
fn senders_of_drop_ins_add_to_those_of_the_file() {
    let (directory, path) = file("[[sender]]\nid = \"a\"\nkey-file = \"/a\"\n");
    fs::create_dir(directory.path().join("c.toml.d")).unwrap();
    let drop_in = "[[sender]]\nid = \"b\"\nkey-file = \"/b\"\nprevious-key-file = \"/old\"\n";
    fs::write(directory.path().join("c.toml.d/b.toml"), drop_in).unwrap();
    let loaded = load_receiver(Some(&path), Overrides::default(), &environment()).unwrap();
    let sender = |id: &str, current, previous: Option<&str>| {
        let keys = KeyPair { current: file_source(current), previous: previous.map(file_source) };
        SenderKeys {
            id: id.parse().unwrap(),
            keys: Some(keys),
            address: None,
            exporters: Prefixes::default(),
        }
    };
    let protection = loaded.settings.protection;
    assert_eq!(protection.senders, [sender("a", "/a", None), sender("b", "/b", Some("/old"))]);
    assert!(protection.can_authenticate());
}

#[test]
fn the_shared_key_may_have_a_previous_one() {
    let protection = receiver("key-file = \"/k\"\nprevious-key-file = \"/old\"\n", &[]).unwrap();
    let pair = KeyPair { current: file_source("/k"), previous: Some(file_source("/old")) };
    assert_eq!(protection.shared, Some(pair));
    assert_eq!(
        receiver("previous-key-file = \"/old\"\n", &[]),
        Err("c.toml:1: previous-key-file: found \"/old\", expected key-file next to it".to_owned())
    );
}

#[test]
fn one_id_has_one_table() {
    let twice = "[[sender]]\nid = \"a\"\nkey-file = \"/a\"\n[[sender]]\nid = \"a\"\nkey-file = \"/b\"\n";
    assert_eq!(
        receiver(twice, &[]),
        Err("c.toml:5: sender.id: found \"a\", expected an id that no other table has".to_owned())
    );
}

#[test]
fn unknown_ciphers_are_reported_with_known_ones() {
    let known = "\"blowfish\" or \"chacha20-poly1305\" or \"aes-256-gcm\"";
    assert_eq!(
        sender("cipher = \"rot13\"\n", &[], &environment()),
        Err(format!("c.toml:1: cipher: found \"rot13\", expected {known}"))
    );
    assert_eq!(
        receiver("ciphers = [\"des\"]\n", &[]),
        Err(format!("c.toml:1: ciphers: found \"des\", expected {known}"))
    );
    assert_eq!(
        receiver("ciphers = []\n", &[]),
        Err("c.toml:1: ciphers: found [], expected at least one entry".to_owned())
    );
}

#[test]
fn tls_needs_three_files_and_replaces_a_key() {
    let files = "[tls]\nauthority = \"/ca\"\ncertificate = \"/c\"\nkey = \"/k\"\n";
    let tls = TlsFiles { authority: "/ca".into(), certificate: "/c".into(), key: "/k".into() };
    let bare = environment();
    let expected = SenderProtection::Tls { files: tls.clone(), server_name: None };
    assert_eq!(sender(files, &[], &bare), Ok(expected.clone()));
    assert_eq!(sender(files, &[], &with_credentials()), Ok(expected));
    assert_eq!(sender(files, &[("key", "-")], &bare), Ok(key(KeySource::StandardInput, Suite::Blowfish)));
    let both = sender(&format!("key-file = \"/f\"\n{files}"), &[], &bare).unwrap_err();
    assert!(both.contains("expected one of tls.certificate and key-file (c.toml:1)"), "{both}");
    assert_eq!(
        sender("[tls]\nauthority = \"/ca\"\n", &[], &bare),
        Err("c.toml:1: 'tls.certificate' is missing here\nc.toml:1: 'tls.key' is missing here".to_owned())
    );
    let protection = receiver(&format!("{files}revoked = [\"/crl\"]\nsenders = [\"a\"]\n"), &[]).unwrap();
    let senders = vec!["a".parse().unwrap()];
    assert_eq!(
        protection.tls,
        Some(ReceiverTlsSettings { files: tls, revoked: vec!["/crl".into()], senders })
    );
    assert!(protection.can_authenticate());
}

#[test]
fn exporters_of_a_sender_are_prefixes() {
    let table = "[[sender]]\nid = \"a\"\nkey-file = \"/a\"\n";
    let protection =
        receiver(&format!("{table}exporters = [\"10.1.2.3/8\", \"2001:db8::1\"]\n"), &[]).unwrap();
    assert_eq!(protection.senders[0].exporters.to_string(), "10.0.0.0/8, 2001:db8::1/128");
    assert_eq!(
        receiver(&format!("{table}exporters = [\"10.0.0.0/33\"]\n"), &[]),
        Err("c.toml:4: sender.exporters: found \"10.0.0.0/33\", expected a prefix such as \"192.0.2.0/24\" \
             or \"2001:db8::/32\""
            .to_owned())
    );
}

#[test]
fn a_sender_with_a_certificate_needs_no_key() {
    let tls = "[tls]\nauthority = \"/ca\"\ncertificate = \"/c\"\nkey = \"/k\"\n";
    let table = "[[sender]]\nid = \"a\"\nexporters = [\"10.0.0.0/8\"]\n";
    let protection = receiver(&format!("{tls}{table}"), &[]).unwrap();
    assert_eq!(protection.senders[0].keys, None);
    assert!(receiver(&format!("{tls}senders = [\"b\", \"a\"]\n{table}"), &[]).is_ok());
    assert_eq!(
        receiver(&format!("{tls}senders = [\"b\"]\n{table}"), &[]),
        Err("c.toml:7: sender.id: found \"a\", expected an id of tls.senders, or key-file next to it"
            .to_owned())
    );
    assert_eq!(receiver(table, &[]), Err("c.toml:1: 'sender.key-file' is missing here".to_owned()));
    assert_eq!(
        receiver(&format!("{tls}[[sender]]\nid = \"a\"\nprevious-key-file = \"/old\"\n"), &[]),
        Err("c.toml:7: sender.previous-key-file: found \"/old\", expected key-file next to it".to_owned())
    );
}

#[test]
fn exporters_with_a_shared_key_are_warned_of() {
    let (directory, path) =
        file("key-file = \"/k\"\n[[sender]]\nid = \"a\"\nkey-file = \"/a\"\nexporters = [\"10.0.0.0/8\"]\n");
    let loaded = load_receiver(Some(&path), Overrides::default(), &environment()).unwrap();
    let warnings: Vec<String> = loaded.report.warnings().to_vec();
    assert!(warnings.iter().any(|warning| warning.contains("any exporter")), "{warnings:?}");
    drop(directory);
}

#[test]
fn unlisted_certificate_ids_are_warned_of() {
    let tls = "[tls]\nauthority = \"/a\"\ncertificate = \"/c\"\nkey = \"/k\"\n";
    for (toml, is_warned) in [
        (format!("plaintext = true\n{tls}"), true),
        (format!("key-file = \"/key\"\n{tls}"), true),
        (format!("plaintext = true\n{tls}senders = [\"edge\"]\n"), false),
        (tls.to_owned(), false),
    ] {
        let (_directory, path) = file(&toml);
        let loaded = load_receiver(Some(&path), Overrides::default(), &environment()).unwrap();
        let warnings = loaded.report.warnings().join("\n");
        assert_eq!(warnings.contains("can use the ids of senders with certificates"), is_warned, "{toml}");
    }
}
