//! Two configurations in one directory: pairing with one of them does not change the keys and the daemon of
//! the other.

use nf_transport_kit::chatter::{MIXED, Pattern};
use nf_transport_kit::collector::Collector;
use nf_transport_kit::pair::STALL;

use crate::isolation::shared;
use crate::pairing::{
    bare_and_running, bare_receiver, bare_sender, invite, invite_by, join, join_by, stderr_of, token,
    token_of,
};

const AT: [&str; 2] = ["--address", "collector.example.net:2055"];

#[test]
fn joining_with_another_file_spares_the_daemon() {
    let _running = shared();
    let pattern = Pattern::new(MIXED);
    let collector = Collector::start(1, pattern);
    let (receiver, sender) = bare_and_running(&collector);
    let address = receiver.addr().to_string();
    let first = token(&receiver, &["brno-edge", "--address", &address]);
    assert!(join(&sender, &first).status.success());
    sender.wait_state("connected", STALL);
    let key = std::fs::read(sender.path("key")).unwrap();

    std::fs::copy(sender.path("nf-sender.toml"), sender.path("dc2.toml")).unwrap();
    let other = token(&receiver, &["prague", "--address", &address]);
    let joined = join_by(&sender, "dc2.toml", &other);
    assert!(joined.status.success(), "{joined:?}");
    let uses = format!("uses {}, so it was not reloaded", sender.path("nf-sender.toml").display());
    assert!(stderr_of(&joined).contains(&uses), "{joined:?}");
    assert_eq!(std::fs::read(sender.path("key")).unwrap(), key);
    assert!(sender.path("dc2.key").exists() && !sender.path("key.previous").exists());
    assert_eq!(sender.status()["id"], "brno-edge");

    // The same file under another path is not another configuration.
    std::os::unix::fs::symlink(sender.path("nf-sender.toml.d"), sender.path("link.toml.d")).unwrap();
    std::os::unix::fs::symlink(sender.path("nf-sender.toml"), sender.path("link.toml")).unwrap();
    assert!(stderr_of(&join_by(&sender, "link.toml", &first)).contains("has applied this"));
}

#[test]
fn a_key_of_another_configuration_is_not_replaced() {
    let collector = Collector::start(1, Pattern::new(MIXED));
    let (receiver, sender) = (bare_receiver(&collector), bare_sender());
    let first = token(&receiver, &[&["brno-edge"], &AT[..]].concat());
    assert!(join(&sender, &first).status.success());
    let key = std::fs::read(sender.path("key")).unwrap();
    let other = sender.path("dc2.toml");
    std::fs::write(&other, format!("key-file = {:?}\n", sender.path("key"))).unwrap();

    assert!(join(&sender, &first).status.success(), "the same key harms nobody");
    let second = token(&receiver, &[&["prague"], &AT[..]].concat());
    let refused = join(&sender, &second);
    assert_eq!(refused.status.code(), Some(78));
    let names = format!("{} uses this key as well: nothing was written", other.display());
    assert!(stderr_of(&refused).contains(&names), "{refused:?}");
    assert_eq!(std::fs::read(sender.path("key")).unwrap(), key);

    std::fs::write(&other, "").unwrap();
    let drop_ins = sender.path("dc2.toml.d");
    std::fs::create_dir(&drop_ins).unwrap();
    std::fs::write(drop_ins.join("10.toml"), format!("key-file = {:?}\n", sender.path("key"))).unwrap();
    assert_eq!(join(&sender, &second).status.code(), Some(78));
}

#[test]
fn inviting_with_another_file_spares_the_keys() {
    let collector = Collector::start(1, Pattern::new(MIXED));
    let receiver = bare_receiver(&collector);
    let invited = [&["brno-edge"], &AT[..]].concat();
    let first = token(&receiver, &invited);
    let (toml, key) = (receiver.path("nf-receiver.toml"), receiver.path("keys/brno-edge"));
    std::fs::copy(&toml, receiver.path("dc2.toml")).unwrap();
    assert_ne!(token_of(&invite_by(&receiver, "dc2.toml", &invited)), first);
    assert!(receiver.path("dc2.keys/brno-edge").exists());

    // A key file that both configurations name, as an earlier version created it.
    let drop_in = |toml: &str| receiver.path(&format!("{toml}.d/sender-brno-edge.toml"));
    std::fs::copy(drop_in("nf-receiver.toml"), drop_in("dc2.toml")).unwrap();
    assert_eq!(token_of(&invite_by(&receiver, "dc2.toml", &invited)), first);
    let renewed = invite_by(&receiver, "dc2.toml", &["brno-edge", "--renew"]);
    assert_eq!(renewed.status.code(), Some(78));
    assert!(stderr_of(&renewed).contains("uses this key as well"), "{renewed:?}");
    let revoked = invite_by(&receiver, "dc2.toml", &["brno-edge", "--revoke"]);
    assert!(revoked.status.success() && !drop_in("dc2.toml").exists(), "{revoked:?}");
    assert!(stderr_of(&revoked).contains(&format!("{} stays", key.display())), "{revoked:?}");
    assert_eq!(token(&receiver, &invited), first);
}

#[test]
fn a_renewal_keeps_the_first_address() {
    let collector = Collector::start(1, Pattern::new(MIXED));
    let (receiver, sender) = (bare_receiver(&collector), bare_sender());
    token(&receiver, &[&["brno-edge"], &AT[..]].concat());
    let at_collector = |token: &str| {
        let joined = join(&sender, token);
        assert!(
            stderr_of(&joined).contains("this sender is brno-edge at collector.example.net:2055"),
            "{joined:?}"
        );
    };
    for change in [&["brno-edge", "--renew"][..], &["brno-edge"]] {
        let output = invite(&receiver, change);
        assert!(!stderr_of(&output).contains("guessed"), "{output:?}");
        at_collector(&token_of(&output));
    }
    let moved = token(&receiver, &["brno-edge", "--address", "new.example.net:2055"]);
    assert!(stderr_of(&join(&sender, &moved)).contains("at new.example.net:2055"));
    let renewed = token(&receiver, &["brno-edge", "--renew"]);
    assert!(stderr_of(&join(&sender, &renewed)).contains("at new.example.net:2055"));
}
