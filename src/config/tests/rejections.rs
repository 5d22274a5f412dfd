//! Invalid configurations and their messages.

use super::*;

#[test]
fn unknown_keys_are_reported_with_known_ones() {
    assert_eq!(
        sender_errors("# receivers\n\nrecievers = []\n"),
        "c.toml:3: unknown key 'recievers'; known keys here: listen, allow, receivers, plaintext, key, \
         key-file, cipher, tls, id, heartbeat, max-delay, control, metrics, reconnect, spool"
    );
    assert_eq!(
        sender_errors("[spool]\nmax_size = \"1GiB\"\n"),
        "c.toml:2: unknown key 'spool.max_size'; known keys here: directory, rotate-every, rotate-size, \
         max-size, max-age, min-free, when-full, sync-after, compression, encrypt, key-file, \
         previous-key-file"
    );
    assert_eq!(
        receiver_errors("[[collector]]\naddress = \"a:1\"\nwhen-dwon = \"skip\"\n"),
        "c.toml:3: unknown key 'collector.when-dwon'; known keys here: address, source, when-down, \
         exporters, senders, group, rate-limit, catch-up-limit, catch-up-pace, late-after, late-address, \
         repeat-templates"
    );
}

#[test]
fn late_addresses_are_unique() {
    let table = |address: &str, late: &str| {
        format!("[[collector]]\naddress = \"{address}\"\nlate-after = \"1min\"\nlate-address = \"{late}\"\n")
    };
    for (tables, line, found) in [
        (table("a:1", "a:1"), 4, "a:1"),
        (table("a:1", "b:1") + &table("b:1", "c:1"), 4, "b:1"),
        (table("a:1", "c:1") + &table("b:1", "c:1"), 8, "c:1"),
    ] {
        let expected = format!(
            "c.toml:{line}: collector.late-address: found \"{found}\", expected an address that is no other \
             address or late-address"
        );
        assert_eq!(receiver_errors(&tables), expected);
    }
    let apart = ConfigFile::new(&(table("a:1", "a:2") + &table("b:1", "b:2")));
    load_receiver(Some(&apart.path), Overrides::default(), &environment()).unwrap();
}

#[test]
fn unsupported_keys_are_unknown() {
    for key in ["exporters", "rate-limit"] {
        let refusal = sender_errors(&format!("{key} = \"x\"\n"));
        assert!(refusal.starts_with(&format!("c.toml:1: unknown key '{key}'")), "{refusal}");
    }
}

#[test]
fn invalid_values_are_reported_with_valid_ones() {
    for (text, refusal) in [
        (
            "[spool]\nmax-size = \"8 gigs\"\n",
            "c.toml:2: spool.max-size: found \"8 gigs\", expected a size from \"128 KiB\" to \"1 PiB\", \
             such as \"64MiB\" or \"8GiB\"",
        ),
        (
            "heartbeat = 5\n",
            "c.toml:1: heartbeat: found 5, expected a duration from \"10ms\" to \"1m\", \
             such as \"5s\" or \"10min\"",
        ),
        (
            "[spool]\nmax-age = \"for ever\"\n",
            "c.toml:2: spool.max-age: found \"for ever\", expected \"unlimited\" or a duration from \
             \"100ms\" to \"10years\", such as \"5s\" or \"10min\"",
        ),
        ("plaintext = \"yes\"\n", "c.toml:1: plaintext: found \"yes\", expected true or false"),
        (
            "[reconnect]\nfactor = 0\n",
            "c.toml:2: reconnect.factor: found 0, expected a whole number from 1 to 1000",
        ),
        (
            "[reconnect]\nfactor = 2.5\n",
            "c.toml:2: reconnect.factor: found 2.5, expected a whole number from 1 to 1000",
        ),
        (
            "[reconnect]\njitter = 2\n",
            "c.toml:2: reconnect.jitter: found 2, expected a number from 0.0 to 1.0",
        ),
        (
            "[spool]\nwhen-full = \"panic\"\n",
            "c.toml:2: spool.when-full: found \"panic\", expected \"drop-oldest\" or \"drop-newest\"",
        ),
        (
            "[spool]\ndirectory = \"spool\"\n",
            "c.toml:2: spool.directory: found \"spool\", expected an absolute path",
        ),
        ("spool = 1\n", "c.toml:1: spool: found 1, expected a table [spool]"),
        (
            "listen = \"[::]:2055\"\n",
            "c.toml:1: listen: found \"[::]:2055\", expected a list of entries, each an address and a port \
             such as \"[::]:2055\" or \"192.0.2.1:2055\"",
        ),
        (
            "receivers = [\n  \"a:1\",\n  \"b\",\n]\n",
            "c.toml:3: receivers: found \"b\", expected a host and a port such as \
             \"collector.example.net:2055\": the port is missing, as in \"host:2055\"",
        ),
        (
            "allow = [\"192.0.2.0/33\"]\n",
            "c.toml:1: allow: found \"192.0.2.0/33\", expected a prefix such as \"192.0.2.0/24\" or \
             \"2001:db8::/32\"",
        ),
        (
            "id = \"a/b\"\n",
            "c.toml:1: id: found \"a/b\", expected an id such as \"brno-edge\": a sender id is 1 to 64 of \
             the characters A-Z a-z 0-9 . _ - and does not start with a dot",
        ),
        ("id = 1979-05-27\n", "c.toml:1: id: found 1979-05-27, expected an id such as \"brno-edge\""),
    ] {
        assert_eq!(sender_errors(text), refusal);
    }
}

#[test]
fn invalid_values_of_nf_receiver_are_reported() {
    for (text, refusal) in [
        (
            "[limits]\nconnections = 0x0\n",
            "c.toml:2: limits.connections: found 0, expected a whole number from 1 to 100000",
        ),
        (
            "collector = \"a:1\"\n",
            "c.toml:1: collector: found \"a:1\", expected one table [[collector]] for each",
        ),
        ("collector = []\n", "c.toml:1: collector: found [], expected at least one entry"),
        (
            "[[collector]]\naddress = \"a:1\"\n[[collector]]\naddress = \"a:1\"\n",
            "c.toml:3: collector: found a table, expected no entry twice",
        ),
        ("\n[[collector]]\n", "c.toml:2: 'collector.address' is missing here"),
        (
            "[[collector]]\naddress = \"a:0\"\n",
            "c.toml:2: collector.address: found \"a:0\", expected a host and a port such as \
             \"collector.example.net:2055\": the port must be a number from 1 to 65535",
        ),
    ] {
        assert_eq!(receiver_errors(text), refusal);
    }
}

#[test]
fn empty_and_repeating_lists_are_rejected() {
    assert_eq!(sender_errors("listen = []\n"), "c.toml:1: listen: found [], expected at least one entry");
    assert_eq!(
        sender_errors("receivers = [\"a:1\", \"b:1\", \"a:1\"]\n"),
        "c.toml:1: receivers: found \"a:1\", expected no entry twice"
    );
    let many = vec!["\"a:1\""; 65].join(",").replace("a:1", "x");
    assert!(sender_errors(&format!("listen = [{many}]\n")).contains("expected an address and a port"));
}

#[test]
fn contradictions_are_reported_with_both_places() {
    assert_eq!(
        sender_errors("[reconnect]\nfirst = \"10min\"\n"),
        "c.toml:2: reconnect.first: found \"10min\", expected at most reconnect.longest, which is \
         \"243s\" (default)"
    );
    let file = ConfigFile::new("[spool]\nrotate-size = \"2GiB\"\n");
    file.drop_in("a.toml", "[spool]\nmax-size = \"1GiB\"\n");
    assert_eq!(
        file.without_directory(&file.sender().unwrap_err().to_string()),
        "c.toml.d/a.toml:2: spool.max-size: found \"1GiB\", expected at least spool.rotate-size, which is \
         \"2GiB\" (c.toml:2)"
    );
}

#[test]
fn all_problems_are_reported_at_once() {
    let refusal = sender_errors("heartbeat = \"1ms\"\n[spool]\nmax-size = 1\nrotate = 2\n");
    assert_eq!(refusal.lines().count(), 3, "{refusal}");
}

#[test]
fn syntax_errors_are_reported_with_their_place() {
    let refusal = sender_errors("id = \"a\"\nheartbeat = = \"5s\"\n");
    assert!(refusal.starts_with("c.toml:2:13: not valid TOML: "), "{refusal}");
    let refusal = sender_errors("id = \"a\"\nid = \"b\"\n");
    assert!(refusal.starts_with("c.toml:2:1: not valid TOML: duplicate key"), "{refusal}");
}

#[test]
fn an_invalid_drop_in_is_named() {
    let file = ConfigFile::new("");
    file.drop_in("10-site.toml", "\nspool.max-sise = \"1GiB\"\n");
    let refusal = file.without_directory(&file.sender().unwrap_err().to_string());
    assert!(refusal.starts_with("c.toml.d/10-site.toml:2: unknown key 'spool.max-sise'"), "{refusal}");
}

#[test]
fn a_named_file_must_exist_and_be_readable() {
    let missing = load_sender(Some(Path::new("/nonexistent/c.toml")), Overrides::default(), &environment());
    assert_eq!(
        missing.unwrap_err().to_string(),
        "/nonexistent/c.toml: cannot be read: No such file or directory (os error 2)"
    );
    let directory = TempDir::new().unwrap();
    let refused = load_sender(Some(directory.path()), Overrides::default(), &environment());
    assert!(refused.unwrap_err().to_string().ends_with("cannot be read: Is a directory (os error 21)"));
    let file = ConfigFile::new("");
    fs::write(&file.path, b"id = \"\xff\"").unwrap();
    assert!(file.sender().unwrap_err().to_string().contains("UTF-8"));
}

#[test]
fn unreadable_drop_ins_are_reported() {
    let file = ConfigFile::new("");
    fs::write(file.directory.path().join("c.toml.d"), "a file, not a directory").unwrap();
    let refusal = file.without_directory(&file.sender().unwrap_err().to_string());
    assert_eq!(refusal, "c.toml.d: cannot be read: Not a directory (os error 20)");
}

#[test]
fn invalid_overrides_name_option_or_variable() {
    let file = ConfigFile::new("");
    let refusal =
        |overrides| load_sender(Some(&file.path), overrides, &environment()).unwrap_err().to_string();
    assert_eq!(
        refusal(overrides("listen", &["2055"], Origin::Option("listen"))),
        "option --listen: found \"2055\", expected an address and a port such as \"[::]:2055\" or \
         \"192.0.2.1:2055\""
    );
    assert_eq!(
        refusal(overrides("plaintext", &["maybe"], Origin::Variable("NF_SENDER_PLAINTEXT"))),
        "environment variable NF_SENDER_PLAINTEXT: found \"maybe\", expected true or false"
    );
}

#[test]
fn members_of_a_group_have_the_same_senders() {
    let member = |address: &str, senders: &str| {
        format!("[[collector]]\naddress = \"{address}\"\ngroup = \"g\"\nsenders = [{senders}]\n")
    };
    let two = |second: &str| member("a:1", "\"one\", \"two\"") + &member("b:1", second);
    assert_eq!(
        receiver_errors(&two("\"one\"")),
        "c.toml:6: collector.address: found \"b:1\", expected the same senders as the first collector of its \
         group"
    );
    let file = ConfigFile::new(&two("\"two\", \"one\""));
    assert!(load_receiver(Some(&file.path), Overrides::default(), &environment()).is_ok());
}
