//! Two commands pair a sender with a receiver, while both run or before; another takes it back.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Output, Stdio};

use crate::running::shared;
use crate::support::chatter::{MIXED, Pattern};
use crate::support::collector::Collector;
use crate::support::daemon::Program;
use crate::support::hosts::{QUICK_SENDER, ReceiverHost, SenderHost};
use crate::support::pair::STALL;
use crate::support::samples::{assert_conserved, count};

/// Runs `nf-receiver invite` at this host.
fn invite(host: &ReceiverHost, args: &[&str]) -> Output {
    let (toml, control) = (host.path("nf-receiver.toml"), host.control());
    let place = ["-c", toml.to_str().unwrap(), "--control", control.to_str().unwrap(), "invite"];
    Program::Receiver.run(&[&place, args].concat())
}

/// The token of an invitation that must work.
fn token(host: &ReceiverHost, args: &[&str]) -> String {
    let output = invite(host, args);
    assert!(output.status.success(), "{output:?}");
    let token = String::from_utf8(output.stdout).unwrap();
    assert_eq!(token.lines().count(), 1, "{token}");
    token.trim().to_owned()
}

/// Runs `nf-sender join` at this host, with the token on standard input.
fn join(host: &SenderHost, token: &str) -> Output {
    let (toml, control) = (host.path("nf-sender.toml"), host.control());
    let mut command = Program::Sender.command();
    command.args(["-c", toml.to_str().unwrap(), "--control", control.to_str().unwrap(), "join", "-"]);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(token.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

fn told(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

/// A receiver with one collector that says nothing of keys or clear text.
fn bare_receiver(collector: &Collector) -> ReceiverHost {
    let mut receiver = ReceiverHost::new(&[collector.addr()], "");
    receiver.protect(&[]);
    receiver
}

/// A sender that knows nothing yet.
fn bare_sender() -> SenderHost {
    let mut sender = SenderHost::new("", &"", QUICK_SENDER);
    sender.set_receiver(None);
    sender.forget_id();
    sender.protect(&[]);
    sender
}

#[test]
fn two_commands_pair_what_runs_already_and_revoking_ends_it_without_a_loss() {
    let _running = shared();
    let pattern = Pattern::new(MIXED);
    let collector = Collector::start(1, pattern);
    let mut receiver = bare_receiver(&collector);
    receiver.start();
    let mut sender = bare_sender();
    sender.start();
    let mut exporters = sender.exporters(1, pattern);
    exporters.send(50);

    let address = receiver.addr().to_string();
    let first = token(&receiver, &["brno-edge", "--address", &address]);
    let joined = join(&sender, &first);
    assert!(joined.status.success() && told(&joined).contains("has taken this up"), "{joined:?}");
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
    exporters.send(50); // the key before is let in until the sender has the new one
    collector.wait_for(150, STALL);
    assert!(join(&sender, &renewed).status.success());
    assert!(sender.path("key.previous").exists());
    exporters.send(50);
    collector.wait_for(200, STALL);

    assert!(invite(&receiver, &["brno-edge", "--revoke"]).status.success());
    sender.wait_status(STALL, |status| status["state"] == "refused");
    exporters.send(50);
    sender.wait_status(STALL, |status| count(status, "/queued/datagrams") == 50);
    assert!(told(&invite(&receiver, &["brno-edge", "--revoke"])).contains("nothing to revoke"));

    let again = token(&receiver, &["brno-edge", "--address", &address]);
    assert!(again != first && again != renewed);
    assert!(join(&sender, &again).status.success());
    collector.wait_for_all(exporters.sent(), STALL).assert_exact(exporters.sent());
    assert_conserved(&sender.wait_status(STALL, |status| count(status, "/queued/datagrams") == 0));
}

#[test]
fn what_is_written_has_the_right_modes_and_is_good_before_anything_runs() {
    let collector = Collector::start(1, Pattern::new(MIXED));
    let (receiver, sender) = (bare_receiver(&collector), bare_sender());
    let invited = invite(&receiver, &["brno-edge", "--address", "collector.example.net:2055"]);
    assert!(told(&invited).contains("takes this up when it starts"), "{invited:?}");
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

    // A mode that somebody loosened is mended by inviting again.
    let file = receiver.path("keys/brno-edge");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
    token(&receiver, &["brno-edge"]);
    assert_eq!(mode(&file), 0o600);
}

#[test]
fn a_join_that_something_else_overrules_is_told_so() {
    let collector = Collector::start(1, Pattern::new(MIXED));
    let (receiver, mut sender) = (bare_receiver(&collector), bare_sender());
    let token = token(&receiver, &["brno-edge", "--address", "a.example.net:2055"]);
    sender.set_toml("plaintext = true\n");
    let joined = join(&sender, &token);
    assert_eq!(joined.status.code(), Some(78));
    assert!(told(&joined).contains("one of plaintext and key-file"), "{joined:?}");
    sender.set_toml("");
    std::fs::write(sender.path("nf-sender.toml.d/90-mine.toml"), "receivers = [\"b.example.net:1\"]\n")
        .unwrap();
    let joined = join(&sender, &token);
    assert_eq!(joined.status.code(), Some(78));
    assert!(told(&joined).contains("not in effect"), "{joined:?}");
}

#[test]
fn tokens_and_names_that_are_none_are_refused_and_nothing_is_written() {
    let collector = Collector::start(1, Pattern::new(MIXED));
    let (receiver, sender) = (bare_receiver(&collector), bare_sender());
    let good = token(&receiver, &["brno-edge"]);
    for (text, words) in [
        (&good[..good.len() - 1], "cut or mistyped"),
        ("hello", "is no token"),
        ("", "is no token"),
        ("nft9_x", "newer"),
    ] {
        let joined = join(&sender, text);
        assert_eq!(joined.status.code(), Some(64));
        assert!(told(&joined).contains(words), "{joined:?}");
    }
    assert!(!sender.path("key").exists() && !sender.path("nf-sender.toml.d").exists());
    for args in [&["../key"][..], &["brno-edge", "--address", "nowhere"], &["x", "--renew", "--revoke"]] {
        assert_eq!(invite(&receiver, args).status.code(), Some(64));
    }
}

#[test]
fn a_sender_that_the_operator_wrote_by_hand_is_not_changed() {
    let collector = Collector::start(1, Pattern::new(MIXED));
    let mut receiver = bare_receiver(&collector);
    let key = receiver.path("mine");
    assert!(Program::Receiver.run(&["keygen", key.to_str().unwrap()]).status.success());
    receiver.set_toml(&format!("[[sender]]\nid = \"brno-edge\"\nkey-file = {key:?}\n"));
    token(&receiver, &["brno-edge"]);
    assert!(!receiver.path("keys").exists(), "its own key is in the token");
    for change in ["--renew", "--revoke"] {
        let output = invite(&receiver, &["brno-edge", change]);
        assert_eq!(output.status.code(), Some(78));
        assert!(told(&output).contains("change its [[sender]] table by hand"), "{output:?}");
    }
    assert!(key.exists());
}

#[test]
fn keys_are_made_for_a_reader_or_a_file_and_never_replaced() {
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
    assert!(told(&again).contains("keys are not replaced"), "{again:?}");
    assert_eq!(std::fs::read(&file).unwrap(), before);
}
