//! Pairing that fails or is overridden: the messages name the cause, and nothing is changed.

use nf_transport_kit::chatter::{MIXED, Pattern};
use nf_transport_kit::collector::Collector;
use nf_transport_kit::daemon::Program;

use super::{bare_receiver, bare_sender, invite, join, stderr_of, token};

#[test]
fn unwritable_files_give_out_no_token() {
    let collector = Collector::start(1, Pattern::new(MIXED));
    let (receiver, sender) = (bare_receiver(&collector), bare_sender());
    let arguments = ["brno-edge", "--address", "collector.example.net:2055"];
    let good = token(&receiver, &arguments);
    let blocked = receiver.path("keys");
    std::fs::remove_dir_all(&blocked).unwrap();
    std::fs::write(&blocked, "").unwrap();
    let output = invite(&receiver, &arguments);
    assert_eq!(output.status.code(), Some(73));
    assert!(stderr_of(&output).contains(blocked.to_str().unwrap()) && output.stdout.is_empty(), "{output:?}");

    std::fs::write(sender.path("nf-sender.toml.d"), "").unwrap();
    let joined = join(&sender, &good);
    assert_eq!(joined.status.code(), Some(78));
    assert!(stderr_of(&joined).contains("nf-sender.toml.d") && !sender.path("key").exists(), "{joined:?}");
}

#[test]
fn a_join_overridden_by_other_settings_warns() {
    let collector = Collector::start(1, Pattern::new(MIXED));
    let (receiver, mut sender) = (bare_receiver(&collector), bare_sender());
    let token = token(&receiver, &["brno-edge", "--address", "a.example.net:2055"]);
    sender.set_toml("plaintext = true\n");
    let joined = join(&sender, &token);
    assert_eq!(joined.status.code(), Some(78));
    assert!(stderr_of(&joined).contains("one of plaintext and key-file"), "{joined:?}");
    assert!(stderr_of(&joined).contains("nothing was written"), "{joined:?}");
    assert!(!sender.path("key").exists() && !sender.path("nf-sender.toml.d").exists());

    sender.set_toml("");
    let later = sender.path("nf-sender.toml.d/90-mine.toml");
    std::fs::create_dir(later.parent().unwrap()).unwrap();
    for (text, key) in [
        ("receivers = [\"b.example.net:1\"]\n", "receivers"),
        ("id = \"other\"\n", "id"),
        ("cipher = \"aes-256-gcm\"\n", "cipher"),
        ("key-file = \"/nonexistent/key\"\n", "key-file"),
    ] {
        std::fs::write(&later, text).unwrap();
        let joined = join(&sender, &token);
        assert_eq!(joined.status.code(), Some(78));
        let words = format!("{}:1: {key} is set here", later.display());
        assert!(stderr_of(&joined).contains(&words), "{joined:?}");
        assert!(!sender.path("key").exists());
    }
    std::fs::remove_file(&later).unwrap();
    let settings = sender.path("nf-sender.toml");
    let output = Program::Sender
        .command()
        .args(["-c", settings.to_str().unwrap(), "join", &token])
        .env("NF_SENDER_PLAINTEXT", "true")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(78));
    assert!(
        stderr_of(&output).contains("environment variable NF_SENDER_PLAINTEXT: plaintext is set here"),
        "{output:?}"
    );
    // Several receivers may be intended.
    std::fs::write(&later, "receivers = [\"b.example.net:1\", \"a.example.net:2055\"]\n").unwrap();
    assert!(join(&sender, &token).status.success());
}

#[test]
fn invalid_tokens_and_names_write_nothing() {
    let collector = Collector::start(1, Pattern::new(MIXED));
    let (receiver, sender) = (bare_receiver(&collector), bare_sender());
    let good = token(&receiver, &["brno-edge", "--address", "a.example.net:2055"]);
    for (text, words) in [
        (&good[..good.len() - 1], "cut or mistyped"),
        ("hello", "is not a token"),
        ("", "is not a token"),
        ("nft9_x", "newer"),
    ] {
        let joined = join(&sender, text);
        assert_eq!(joined.status.code(), Some(64));
        assert!(stderr_of(&joined).contains(words), "{joined:?}");
    }
    assert!(!sender.path("key").exists() && !sender.path("nf-sender.toml.d").exists());
    for args in [
        &["../key"][..],
        &["brno-edge", "--address", "nowhere"],
        &["brno-edge", "--address", "0.0.0.0:2055"],
        &["brno-edge.previous", "--address", "a:1"],
        &["x", "--renew", "--revoke"],
    ] {
        assert_eq!(invite(&receiver, args).status.code(), Some(64));
    }
}

#[test]
fn a_hand_written_sender_table_is_not_changed() {
    let collector = Collector::start(1, Pattern::new(MIXED));
    let mut receiver = bare_receiver(&collector);
    // At the default place of an invitation, which the shipped example uses, and elsewhere.
    std::fs::create_dir(receiver.path("keys")).unwrap();
    for name in ["keys/brno-edge", "mine"] {
        let key = receiver.path(name);
        assert!(Program::Receiver.run(&["keygen", key.to_str().unwrap()]).status.success());
        let before = std::fs::read(&key).unwrap();
        receiver.set_toml(&format!("\n[[sender]]\nid = \"brno-edge\"\nkey-file = {key:?}\n"));
        let address = ["--address", "a.example.net:2055"];
        let first = token(&receiver, &[&["brno-edge"], &address[..]].concat());
        assert_eq!(token(&receiver, &[&["brno-edge"], &address[..]].concat()), first);
        for change in [&["--renew", "--address", "a:1"][..], &["--revoke"]] {
            let output = invite(&receiver, &[&["brno-edge"], change].concat());
            assert_eq!(output.status.code(), Some(78));
            let place = format!(
                "{}:3: brno-edge has its own [[sender]] table",
                receiver.path("nf-receiver.toml").display()
            );
            assert!(
                stderr_of(&output).contains(&place) && stderr_of(&output).contains("nothing was changed"),
                "{output:?}"
            );
        }
        assert_eq!(std::fs::read(&key).unwrap(), before);
        assert!(!receiver.path("nf-receiver.toml.d").exists());
    }
}
