//! Two commands pair a sender with a receiver, before or while both run. Another command revokes the pairing.

mod failures;

use std::fs::Permissions;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Output, Stdio};

use nf_transport_kit::chatter::{MIXED, Pattern};
use nf_transport_kit::collector::Collector;
use nf_transport_kit::daemon::Program;
use nf_transport_kit::hosts::{QUICK_SENDER, ReceiverHost, SenderHost};
use nf_transport_kit::pair::STALL;
use nf_transport_kit::samples::{assert_conserved, count};

use crate::isolation::shared;

/// Runs `nf-receiver invite` on this host.
pub(crate) fn invite(host: &ReceiverHost, args: &[&str]) -> Output {
    invite_by(host, "nf-receiver.toml", args)
}

/// Runs `nf-receiver invite` with this configuration file.
pub(crate) fn invite_by(host: &ReceiverHost, toml: &str, args: &[&str]) -> Output {
    let (toml, control) = (host.path(toml), host.control());
    let place = ["-c", toml.to_str().unwrap(), "--control", control.to_str().unwrap(), "invite"];
    Program::Receiver.run(&[&place, args].concat())
}

/// Runs `nf-receiver invite`, which must succeed, and returns the token.
pub(crate) fn token(host: &ReceiverHost, args: &[&str]) -> String {
    token_of(&invite(host, args))
}

/// Returns the token from the output of an invitation.
pub(crate) fn token_of(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    let token = String::from_utf8(output.stdout.clone()).unwrap();
    assert_eq!(token.lines().count(), 1, "{token}");
    token.trim().to_owned()
}

/// Runs `nf-sender join` on this host with the token on standard input.
pub(crate) fn join(host: &SenderHost, token: &str) -> Output {
    join_by(host, "nf-sender.toml", token)
}

/// Runs `nf-sender join` with this configuration file.
pub(crate) fn join_by(host: &SenderHost, toml: &str, token: &str) -> Output {
    let (toml, control) = (host.path(toml), host.control());
    let mut command = Program::Sender.command();
    command.args(["-c", toml.to_str().unwrap(), "--control", control.to_str().unwrap(), "join", "-"]);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(token.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

pub(crate) fn stderr_of(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

/// Creates a receiver with one collector and no arguments for keys or clear text.
pub(crate) fn bare_receiver(collector: &Collector) -> ReceiverHost {
    let mut receiver = ReceiverHost::new(&[collector.addr()], "");
    receiver.protect(&[]);
    receiver
}

/// Creates a sender without id, receiver and key.
pub(crate) fn bare_sender() -> SenderHost {
    let mut sender = SenderHost::new("", &"", QUICK_SENDER);
    sender.set_receiver(None);
    sender.omit_id();
    sender.protect(&[]);
    sender
}

/// Starts both.
pub(crate) fn bare_and_running(collector: &Collector) -> (ReceiverHost, SenderHost) {
    let (mut receiver, mut sender) = (bare_receiver(collector), bare_sender());
    receiver.start();
    sender.start();
    (receiver, sender)
}

#[test]
fn running_daemons_are_paired_and_revoked() {
    let _running = shared();
    let pattern = Pattern::new(MIXED);
    let collector = Collector::start(1, pattern);
    let (receiver, sender) = bare_and_running(&collector);
    let mut exporters = sender.exporters(1, pattern);
    exporters.send(50);

    let address = receiver.addr().to_string();
    let first = token(&receiver, &["brno-edge", "--address", &address]);
    let joined = join(&sender, &first);
    assert!(joined.status.success() && stderr_of(&joined).contains("has applied this"), "{joined:?}");
    collector.wait_for(50, STALL);
    let status = sender.wait_state("connected", STALL);
    assert_eq!(
        (status["id"].as_str(), status["cipher"].as_str()),
        (Some("brno-edge"), Some("chacha20-poly1305"))
    );

    assert_eq!(token(&receiver, &["brno-edge", "--address", &address]), first, "the same key again");
    assert!(join(&sender, &first).status.success());
    exporters.send(50);
    collector.wait_for(100, STALL);

    let renewed = token(&receiver, &["brno-edge", "--address", &address, "--renew"]);
    assert_ne!(renewed, first);
    exporters.send(50); // the previous key is accepted until the sender has the new one
    collector.wait_for(150, STALL);
    assert!(join(&sender, &renewed).status.success());
    assert!(sender.path("key.previous").exists());
    exporters.send(50);
    collector.wait_for(200, STALL);

    assert!(invite(&receiver, &["brno-edge", "--revoke"]).status.success());
    sender.wait_status(STALL, |status| status["state"] == "refused");
    exporters.send(50);
    sender.wait_status(STALL, |status| count(status, "/queued/datagrams") == 50);
    assert!(stderr_of(&invite(&receiver, &["brno-edge", "--revoke"])).contains("nothing to revoke"));

    let again = token(&receiver, &["brno-edge", "--address", &address]);
    assert!(again != first && again != renewed);
    assert!(join(&sender, &again).status.success());
    collector.wait_for_all(exporters.sent(), STALL).assert_exact(exporters.sent());
    assert_conserved(&sender.wait_status(STALL, |status| count(status, "/queued/datagrams") == 0));
}

#[test]
fn pairing_before_the_start_writes_valid_files() {
    let collector = Collector::start(1, Pattern::new(MIXED));
    let (receiver, sender) = (bare_receiver(&collector), bare_sender());
    let invited = invite(&receiver, &["brno-edge", "--address", "collector.example.net:2055"]);
    assert!(stderr_of(&invited).contains("applies this at its next start"), "{invited:?}");
    let joined = join(&sender, &String::from_utf8(invited.stdout).unwrap());
    assert!(joined.status.success(), "{joined:?}");
    for (path, expected) in [
        (receiver.path("keys"), 0o700),
        (receiver.path("keys/brno-edge"), 0o600),
        (receiver.path("nf-receiver.toml.d/sender-brno-edge.toml"), 0o644),
        (sender.path("key"), 0o600),
        (sender.path("nf-sender.toml.d/50-joined.toml"), 0o644),
    ] {
        assert_eq!(mode(&path), expected, "{}", path.display());
    }
    let key = std::fs::read(sender.path("key")).unwrap();
    assert_eq!(key, std::fs::read(receiver.path("keys/brno-edge")).unwrap());
    let check = |program: Program, file: &Path| {
        let output = program.run(&["check", "-c", file.to_str().unwrap()]);
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let sender_says = check(Program::Sender, &sender.path("nf-sender.toml"));
    assert!(sender_says.contains("collector.example.net:2055"), "{sender_says}");
    let receiver_says = check(Program::Receiver, &receiver.path("nf-receiver.toml"));
    assert!(receiver_says.contains("brno-edge"), "{receiver_says}");
    let key = String::from_utf8(key).unwrap();
    assert!(!sender_says.contains(key.trim()) && !receiver_says.contains(key.trim()));
}

#[test]
fn a_repeated_invite_repairs_and_keeps_the_token() {
    let collector = Collector::start(1, Pattern::new(MIXED));
    let receiver = bare_receiver(&collector);
    let arguments = ["brno-edge", "--address", "collector.example.net:2055"];
    let first = token(&receiver, &arguments);
    assert!(stderr_of(&invite(&receiver, &arguments)).contains("is invited already, and keeps its key"));

    let (keys, key) = (receiver.path("keys"), receiver.path("keys/brno-edge"));
    let drop_in = receiver.path("nf-receiver.toml.d/sender-brno-edge.toml");
    let text = std::fs::read(&drop_in).unwrap();
    let chmod = |path: &Path, mode| std::fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    let harms: [&dyn Fn(); 5] = [
        &|| std::fs::remove_file(&drop_in).unwrap(),
        &|| std::fs::write(&drop_in, "[[sender").unwrap(),
        &|| chmod(&drop_in, 0o600),
        &|| chmod(&key, 0o644),
        &|| chmod(&keys, 0o755),
    ];
    for harm in harms {
        harm();
        assert_eq!(token(&receiver, &arguments), first);
        assert_eq!((mode(&keys), mode(&key), mode(&drop_in)), (0o700, 0o600, 0o644));
        assert_eq!(std::fs::read(&drop_in).unwrap(), text);
    }
    assert_eq!(std::fs::read_dir(&keys).unwrap().count(), 1);
}

#[test]
fn a_symbolic_link_as_key_is_never_followed() {
    let collector = Collector::start(1, Pattern::new(MIXED));
    let receiver = bare_receiver(&collector);
    let arguments = ["brno-edge", "--address", "collector.example.net:2055"];
    token(&receiver, &arguments);
    let (key, precious) = (receiver.path("keys/brno-edge"), receiver.path("precious"));
    std::fs::rename(&key, &precious).unwrap();
    std::fs::set_permissions(&precious, Permissions::from_mode(0o644)).unwrap();
    std::os::unix::fs::symlink(&precious, &key).unwrap();
    for change in [&[][..], &["--renew"]] {
        let output = invite(&receiver, &[&arguments[..], change].concat());
        assert_eq!(output.status.code(), Some(73));
        assert!(
            stderr_of(&output).contains("it is a symbolic link") && output.stdout.is_empty(),
            "{output:?}"
        );
    }
    assert_eq!(mode(&precious), 0o644);
    assert!(invite(&receiver, &["brno-edge", "--revoke"]).status.success());
    assert!(precious.exists() && !key.is_symlink(), "the link is revoked, not what it names");
}

#[test]
fn a_renewal_keeps_the_exporters_of_a_sender() {
    let receiver = ReceiverHost::new(&[], "");
    token(&receiver, &["brno-edge", "--address", "collector.example.net:2055"]);
    let drop_in = receiver.path("nf-receiver.toml.d/sender-brno-edge.toml");
    let restricted = std::fs::read_to_string(&drop_in).unwrap() + "exporters = [\"10.0.0.0/8\"]\n";
    std::fs::write(&drop_in, restricted).unwrap();
    token(&receiver, &["brno-edge", "--renew"]);
    let renewed = std::fs::read_to_string(&drop_in).unwrap();
    assert!(renewed.contains("exporters = [\"10.0.0.0/8\"]"), "{renewed}");
}

#[test]
fn revoking_removes_both_keys_of_a_renewal() {
    let collector = Collector::start(1, Pattern::new(MIXED));
    let receiver = bare_receiver(&collector);
    let renew = ["brno-edge", "--address", "collector.example.net:2055", "--renew"];
    let (key, previous) = (receiver.path("keys/brno-edge"), receiver.path("keys/brno-edge.previous"));
    let drop_in = receiver.path("nf-receiver.toml.d/sender-brno-edge.toml");
    let mut tokens = vec![token(&receiver, &renew)];
    assert!(!previous.exists(), "the first key has none before it");
    for _ in 0..2 {
        let old = std::fs::read(&key).unwrap();
        tokens.push(token(&receiver, &renew));
        assert_eq!((std::fs::read(&previous).unwrap(), mode(&previous)), (old, 0o600));
        assert!(std::fs::read_to_string(&drop_in).unwrap().contains("previous-key-file"));
    }
    assert_eq!(token(&receiver, &renew[..3]), tokens[2], "inviting again shows the newest");
    tokens.dedup();
    assert_eq!(tokens.len(), 3);

    std::fs::remove_file(&previous).unwrap();
    assert_eq!(token(&receiver, &renew[..3]), tokens[2]);
    assert!(!std::fs::read_to_string(&drop_in).unwrap().contains("previous-key-file"));

    token(&receiver, &renew);
    let revoked = invite(&receiver, &["brno-edge", "--revoke"]);
    assert!(stderr_of(&revoked).contains("revoked: removed"), "{revoked:?}");
    assert!(![key, previous, drop_in].iter().any(|path| path.exists()));
    let settings = receiver.path("nf-receiver.toml");
    let check = Program::Receiver.run(&["check", "-c", settings.to_str().unwrap()]);
    assert!(check.status.success(), "{check:?}");
}

#[test]
fn a_repeated_join_reports_the_change() {
    let collector = Collector::start(1, Pattern::new(MIXED));
    let (receiver, sender) = (bare_receiver(&collector), bare_sender());
    let invited = |name: &str, address: &str| token(&receiver, &[name, "--address", address]);
    let first = invited("brno-edge", "a.example.net:2055");
    assert!(
        stderr_of(&join(&sender, &first))
            .contains("this sender is brno-edge at a.example.net:2055, with key ")
    );
    let again = join(&sender, &first);
    assert!(stderr_of(&again).contains("nothing to change: this sender is brno-edge"), "{again:?}");
    assert!(!sender.path("key.previous").exists());

    let old = std::fs::read(sender.path("key")).unwrap();
    let other = join(&sender, &invited("brno-core", "b.example.net:2055"));
    for words in [
        "id: was brno-edge, is brno-core",
        "receivers: were a.example.net:2055, are b.example.net:2055",
        "is kept in ",
    ] {
        assert!(stderr_of(&other).contains(words), "{other:?}");
    }
    assert_eq!(std::fs::read(sender.path("key.previous")).unwrap(), old);
    assert_eq!(mode(&sender.path("key.previous")), 0o600);
}

#[test]
fn a_generated_key_never_replaces_a_file() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("key");
    for program in [Program::Sender, Program::Receiver] {
        let output = program.run(&["keygen"]);
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(
            text.trim().len() == 64 && text.trim().bytes().all(|byte| byte.is_ascii_hexdigit()),
            "{text}"
        );
    }
    assert!(Program::Sender.run(&["keygen", file.to_str().unwrap()]).status.success());
    assert_eq!(mode(&file), 0o600);
    let before = std::fs::read(&file).unwrap();
    let again = Program::Sender.run(&["keygen", file.to_str().unwrap()]);
    assert_eq!(again.status.code(), Some(73));
    assert!(stderr_of(&again).contains("never replaced"), "{again:?}");
    assert_eq!(std::fs::read(&file).unwrap(), before);
}
