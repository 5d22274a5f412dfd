use core::net::SocketAddr;
use core::time::Duration;
use std::fs;

use nf_transport_core::batch::Compression;
use nf_transport_core::secure::Suite;
use nf_transport_core::spool::{MinFree, Policy, WhenFull};
use tempfile::TempDir;

use super::*;

fn surroundings() -> Surroundings {
    Surroundings { host_name: "brno-edge".to_owned(), ..Surroundings::default() }
}

/// A configuration file in a directory of its own.
struct File {
    directory: TempDir,
    path: PathBuf,
}

impl File {
    fn new(text: &str) -> Self {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("c.toml");
        fs::write(&path, text).unwrap();
        Self { directory, path }
    }

    fn drop_in(&self, name: &str, text: &str) {
        let directory = self.directory.path().join("c.toml.d");
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join(name), text).unwrap();
    }

    fn sender(&self) -> Result<Loaded<SenderSettings>, ConfigError> {
        load_sender(Some(&self.path), Overrides::default(), &surroundings())
    }

    /// `text` without the name of the temporary directory.
    fn without_directory(&self, text: &str) -> String {
        text.replace(&format!("{}/", self.directory.path().display()), "")
    }
}

/// What nf-sender says about a file with this text.
fn sender_refusal(text: &str) -> String {
    let file = File::new(text);
    file.without_directory(&file.sender().unwrap_err().to_string())
}

/// What nf-receiver says about a file with this text.
fn receiver_refusal(text: &str) -> String {
    let file = File::new(text);
    let error = load_receiver(Some(&file.path), Overrides::default(), &surroundings()).unwrap_err();
    file.without_directory(&error.to_string())
}

fn overrides(key: &str, words: &[&str], origin: Origin) -> Overrides {
    let mut overrides = Overrides::default();
    overrides.put(key, words.iter().map(|word| (*word).to_owned()).collect(), origin);
    overrides
}

#[test]
fn an_empty_file_gives_the_documented_defaults_of_nf_sender() {
    let settings = File::new("").sender().unwrap().settings;
    assert_eq!(settings.listen, ["[::]:2055".parse::<SocketAddr>().unwrap()]);
    assert_eq!((settings.allow.len(), settings.receivers.len()), (0, 0));
    assert_eq!(settings.protection, SenderProtection::LoopbackOnly);
    assert_eq!(settings.id.as_str(), "brno-edge");
    assert_eq!(settings.heartbeat, Duration::from_secs(5));
    assert_eq!(settings.control, PathBuf::from("/run/nf-sender/control.sock"));
    assert_eq!(settings.spool.directory, PathBuf::from("/var/lib/nf-sender"));
    assert_eq!(settings.spool.policy, Policy::default());
    assert_eq!(settings.spool.sync_after, Duration::from_secs(1));
    assert_eq!(settings.spool.compression, Compression::None);
    let delays: Vec<u64> = settings.reconnect.schedule().take(7).map(|delay| delay.as_secs()).collect();
    assert_eq!(delays, [1, 3, 9, 27, 81, 243, 243]);
}

#[test]
fn an_empty_file_gives_the_documented_defaults_of_nf_receiver() {
    let file = File::new("");
    let settings = load_receiver(Some(&file.path), Overrides::default(), &surroundings()).unwrap().settings;
    assert_eq!(settings.listen, ["[::]:2055".parse::<SocketAddr>().unwrap()]);
    assert_eq!(settings.state, PathBuf::from("/var/lib/nf-receiver"));
    assert_eq!(settings.control, PathBuf::from("/run/nf-receiver/control.sock"));
    let collectors: Vec<String> =
        settings.collectors.iter().map(|collector| collector.address.to_string()).collect();
    assert_eq!(collectors, ["127.0.0.1:9995"]);
    let protection = ReceiverProtection {
        plaintext: false,
        suites: vec![Suite::Blowfish, Suite::ChaCha20Poly1305, Suite::Aes256Gcm],
        shared: None,
        senders: Vec::new(),
        tls: None,
    };
    assert_eq!((settings.protection, settings.connections), (protection, 10_000));
    assert_eq!(settings.handshake_timeout, Duration::from_secs(10));
}

/// The text of a shipped file with every default made a value.
fn uncommented(text: &str) -> String {
    let lines = text.lines().map(|line| match line.strip_prefix('#') {
        Some(rest) if !rest.is_empty() && !rest.starts_with(' ') => rest,
        _ => line,
    });
    // A value before the first section stays where it is; the array of tables ends the top level.
    lines.collect::<Vec<_>>().join("\n")
}

/// The lines of a report without the origins.
fn values(report: &Report) -> Vec<(String, String)> {
    let text = |text: &str| text.trim_start_matches('[').trim_end_matches(']').to_owned();
    report.values.iter().map(|value| (value.key.clone(), text(&value.text))).collect()
}

#[test]
fn the_shipped_file_of_nf_sender_shows_every_key_with_its_default() {
    let shown = File::new(&uncommented(include_str!("../../etc/nf-sender.toml"))).sender().unwrap();
    let bare = File::new("").sender().unwrap();
    assert_eq!(values(&shown.report), values(&bare.report));
    assert!(shown.report.values.iter().all(|value| value.origin != Origin::Default));
    let shipped = File::new(include_str!("../../etc/nf-sender.toml")).sender().unwrap();
    assert!(shipped.report.values.iter().all(|value| value.origin == Origin::Default));
}

#[test]
fn the_shipped_file_of_nf_receiver_shows_every_key_with_its_default() {
    let report = |text: &str| {
        let file = File::new(text);
        load_receiver(Some(&file.path), Overrides::default(), &surroundings()).unwrap().report
    };
    let shown = report(&uncommented(include_str!("../../etc/nf-receiver.toml")));
    assert_eq!(values(&shown), values(&report("")));
    assert!(shown.values.iter().all(|value| value.origin != Origin::Default));
}

#[test]
fn every_key_of_nf_sender_is_taken_over() {
    let text = r#"
        listen = ["192.0.2.1:9995", "[::1]:2055"]
        allow = ["192.0.2.7/24", "2001:db8::/32", "198.51.100.9"]
        receivers = ["a.example.net:2055", "[2001:db8::1]:2056"]
        plaintext = true
        id = "r1"
        heartbeat = "200ms"
        control = "/tmp/c.sock"
        [reconnect]
        first = "2s"
        factor = 2
        longest = "1min"
        jitter = 0.25
        [spool]
        directory = "/srv/spool"
        rotate-every = "1min"
        rotate-size = "1MiB"
        max-size = "2GB"
        max-age = "7days"
        min-free = "0B"
        when-full = "drop-newest"
        sync-after = "0s"
        compression = "zstd"
    "#;
    let settings = File::new(text).sender().unwrap().settings;
    assert_eq!(settings.listen.len(), 2);
    let allow: Vec<String> = settings.allow.iter().map(ToString::to_string).collect();
    assert_eq!(allow, ["192.0.2.0/24", "2001:db8::/32", "198.51.100.9/32"]);
    let receivers: Vec<String> = settings.receivers.iter().map(ToString::to_string).collect();
    assert_eq!(receivers, ["a.example.net:2055", "[2001:db8::1]:2056"]);
    assert_eq!(settings.protection, SenderProtection::Plaintext);
    assert_eq!((settings.id.as_str(), settings.heartbeat), ("r1", Duration::from_millis(200)));
    assert_eq!(settings.control, PathBuf::from("/tmp/c.sock"));
    let reconnect = Reconnect {
        first: Duration::from_secs(2),
        factor: 2,
        longest: Duration::from_secs(60),
        jitter: 0.25,
    };
    assert_eq!(settings.reconnect, reconnect);
    assert_eq!(settings.spool.directory, PathBuf::from("/srv/spool"));
    let policy = Policy {
        rotate_every: Duration::from_secs(60),
        rotate_size: 1 << 20,
        max_size: 2_000_000_000,
        max_age: Some(Duration::from_secs(7 * 86_400)),
        min_free: MinFree::Bytes(0),
        when_full: WhenFull::DropNewest,
    };
    assert_eq!(settings.spool.policy, policy);
    assert_eq!(settings.spool.sync_after, Duration::ZERO);
    assert_eq!(settings.spool.compression, Compression::Zstd);
}

#[test]
fn an_option_stands_above_drop_ins_and_those_above_the_file_and_lists_replace() {
    let file =
        File::new("receivers = [\"file:1\", \"file:2\"]\nid = \"file\"\n[spool]\nmax-size = \"1GiB\"\n");
    file.drop_in("20-b.toml", "id = \"second\"\n[spool]\nrotate-size = \"2MiB\"\n");
    file.drop_in("10-a.toml", "id = \"first\"\nreceivers = [\"drop-in:1\"]\n");
    file.drop_in("30-c.conf", "not read");
    file.drop_in(".40-d.toml", "not read");
    let option = overrides("spool.directory", &["/srv/mine"], Origin::Option("spool"));
    let loaded = load_sender(Some(&file.path), option, &surroundings()).unwrap();
    let settings = loaded.settings;
    assert_eq!(settings.id.as_str(), "second");
    assert_eq!(settings.receivers, ["drop-in:1".parse::<HostPort>().unwrap()]);
    assert_eq!((settings.spool.policy.max_size, settings.spool.policy.rotate_size), (1 << 30, 2 << 20));
    assert_eq!(settings.spool.directory, PathBuf::from("/srv/mine"));
    let report = file.without_directory(&loaded.report.to_string());
    let files: Vec<&str> = report.lines().take(3).collect();
    assert_eq!(files, ["read c.toml", "read c.toml.d/10-a.toml", "read c.toml.d/20-b.toml"]);
}

#[test]
fn the_collectors_of_options_replace_those_of_files() {
    let file = File::new("[[collector]]\naddress = \"a:1\"\n[[collector]]\naddress = \"b:2\"\n");
    let collectors = |overrides| {
        let loaded = load_receiver(Some(&file.path), overrides, &surroundings()).unwrap();
        loaded.settings.collectors.iter().map(|entry| entry.address.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(collectors(Overrides::default()), ["a:1", "b:2"]);
    let option = overrides("collector", &["c:3", "d:4"], Origin::Option("collector"));
    assert_eq!(collectors(option), ["c:3", "d:4"]);
}

#[test]
fn an_unknown_key_is_refused_with_its_line_and_the_known_ones() {
    assert_eq!(
        sender_refusal("# receivers\n\nrecievers = []\n"),
        "c.toml:3: unknown key 'recievers'; known keys here: \
         listen, allow, receivers, plaintext, key, key-file, cipher, tls, id, heartbeat, control, metrics, reconnect, spool"
    );
    assert_eq!(
        sender_refusal("[spool]\nmax_size = \"1GiB\"\n"),
        "c.toml:2: unknown key 'spool.max_size'; known keys here: directory, rotate-every, rotate-size, \
         max-size, max-age, min-free, when-full, sync-after, compression, encrypt, key-file, previous-key-file"
    );
    assert_eq!(
        receiver_refusal("[[collector]]\naddress = \"a:1\"\nwhen-dwon = \"skip\"\n"),
        "c.toml:3: unknown key 'collector.when-dwon'; known keys here: address, source, when-down, exporters, senders, group, \
         rate-limit, catch-up-limit, catch-up-pace, late-after, late-address, repeat-templates"
    );
}

#[test]
fn an_address_for_late_datagrams_is_that_of_nobody_else() {
    let table = |address: &str, late: &str| {
        format!("[[collector]]\naddress = \"{address}\"\nlate-after = \"1min\"\nlate-address = \"{late}\"\n")
    };
    for (tables, line, found) in [
        (table("a:1", "a:1"), 4, "a:1"),
        (table("a:1", "b:1") + &table("b:1", "c:1"), 4, "b:1"),
        (table("a:1", "c:1") + &table("b:1", "c:1"), 8, "c:1"),
    ] {
        let expected = format!(
            "c.toml:{line}: collector.late-address: found \"{found}\", expected one that is no other address or \
             late-address"
        );
        assert_eq!(receiver_refusal(&tables), expected);
    }
    let apart = File::new(&(table("a:1", "a:2") + &table("b:1", "b:2")));
    load_receiver(Some(&apart.path), Overrides::default(), &surroundings()).unwrap();
}

#[test]
fn what_is_not_built_yet_is_unknown() {
    for key in ["exporters", "rate-limit"] {
        let refusal = sender_refusal(&format!("{key} = \"x\"\n"));
        assert!(refusal.starts_with(&format!("c.toml:1: unknown key '{key}'")), "{refusal}");
    }
}

#[test]
fn a_value_of_the_wrong_kind_is_refused_with_what_was_found_and_what_is_allowed() {
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
            "c.toml:2: spool.max-age: found \"for ever\", expected \"unlimited\" or a duration from \"100ms\" \
             to \"10years\", such as \"5s\" or \"10min\"",
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
            "c.toml:1: id: found \"a/b\", expected an id such as \"brno-edge\": a sender id is 1 to 64 of the \
             characters A-Z a-z 0-9 . _ - and does not start with a dot",
        ),
        ("id = 1979-05-27\n", "c.toml:1: id: found 1979-05-27, expected an id such as \"brno-edge\""),
    ] {
        assert_eq!(sender_refusal(text), refusal);
    }
}

#[test]
fn impossible_values_of_nf_receiver_are_refused() {
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
        assert_eq!(receiver_refusal(text), refusal);
    }
}

#[test]
fn lists_are_neither_empty_where_they_must_not_be_nor_repeat_themselves() {
    assert_eq!(sender_refusal("listen = []\n"), "c.toml:1: listen: found [], expected at least one entry");
    assert_eq!(
        sender_refusal("receivers = [\"a:1\", \"b:1\", \"a:1\"]\n"),
        "c.toml:1: receivers: found \"a:1\", expected no entry twice"
    );
    let many = vec!["\"a:1\""; 65].join(",").replace("a:1", "x");
    assert!(sender_refusal(&format!("listen = [{many}]\n")).contains("expected an address and a port"));
}

#[test]
fn values_that_contradict_each_other_are_refused_with_both_places() {
    assert_eq!(
        sender_refusal("[reconnect]\nfirst = \"10min\"\n"),
        "c.toml:2: reconnect.first: found \"10min\", expected at most reconnect.longest, which is \
         \"243s\" (default)"
    );
    let file = File::new("[spool]\nrotate-size = \"2GiB\"\n");
    file.drop_in("a.toml", "[spool]\nmax-size = \"1GiB\"\n");
    assert_eq!(
        file.without_directory(&file.sender().unwrap_err().to_string()),
        "c.toml.d/a.toml:2: spool.max-size: found \"1GiB\", expected at least spool.rotate-size, which is \
         \"2GiB\" (c.toml:2)"
    );
}

#[test]
fn everything_that_is_wrong_is_said_at_once() {
    let refusal = sender_refusal("heartbeat = \"1ms\"\n[spool]\nmax-size = 1\nrotate = 2\n");
    assert_eq!(refusal.lines().count(), 3, "{refusal}");
}

#[test]
fn what_is_no_toml_is_refused_with_line_and_column() {
    let refusal = sender_refusal("id = \"a\"\nheartbeat = = \"5s\"\n");
    assert!(refusal.starts_with("c.toml:2:13: not valid TOML: "), "{refusal}");
    let refusal = sender_refusal("id = \"a\"\nid = \"b\"\n");
    assert!(refusal.starts_with("c.toml:2:1: not valid TOML: duplicate key"), "{refusal}");
}

#[test]
fn a_bad_drop_in_is_named() {
    let file = File::new("");
    file.drop_in("10-site.toml", "\nspool.max-sise = \"1GiB\"\n");
    let refusal = file.without_directory(&file.sender().unwrap_err().to_string());
    assert!(refusal.starts_with("c.toml.d/10-site.toml:2: unknown key 'spool.max-sise'"), "{refusal}");
}

#[test]
fn a_file_that_was_named_must_be_there_and_readable() {
    let missing = load_sender(Some(Path::new("/nonexistent/c.toml")), Overrides::default(), &surroundings());
    assert_eq!(
        missing.unwrap_err().to_string(),
        "/nonexistent/c.toml: cannot be read: No such file or directory (os error 2)"
    );
    let directory = TempDir::new().unwrap();
    let refused = load_sender(Some(directory.path()), Overrides::default(), &surroundings());
    assert!(refused.unwrap_err().to_string().ends_with("cannot be read: Is a directory (os error 21)"));
    let file = File::new("");
    fs::write(&file.path, b"id = \"\xff\"").unwrap();
    assert!(file.sender().unwrap_err().to_string().contains("UTF-8"));
}

#[test]
fn drop_ins_that_cannot_be_read_are_not_passed_over() {
    let file = File::new("");
    fs::write(file.directory.path().join("c.toml.d"), "a file, not a directory").unwrap();
    let refusal = file.without_directory(&file.sender().unwrap_err().to_string());
    assert_eq!(refusal, "c.toml.d: cannot be read: Not a directory (os error 20)");
}

#[test]
fn bad_values_of_options_and_variables_name_them() {
    let file = File::new("");
    let refusal =
        |overrides| load_sender(Some(&file.path), overrides, &surroundings()).unwrap_err().to_string();
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
fn a_variable_can_turn_off_what_the_file_turned_on() {
    let file = File::new("plaintext = true\n");
    let off = overrides("plaintext", &["no"], Origin::Variable("NF_SENDER_PLAINTEXT"));
    let loaded = load_sender(Some(&file.path), off, &surroundings()).unwrap();
    assert_eq!(loaded.settings.protection, SenderProtection::LoopbackOnly);
}

#[test]
fn the_report_shows_files_values_origins_and_warnings() {
    let file = File::new("receivers = [\"collector.example.net:2055\"]\n\n[spool]\nmax-size = \"2GiB\"\n");
    let report = file.without_directory(&file.sender().unwrap().report.to_string());
    for line in [
        "read c.toml\n",
        "  listen             = [\"[::]:2055\"]                   (default)\n",
        "  receivers          = [\"collector.example.net:2055\"]  (c.toml:1)\n",
        "  spool.max-size     = \"2GiB\"                          (c.toml:4)\n",
        "warning: collector.example.net:2055 may be another machine, to which nothing goes without a key: \
         join it (nf-sender join TOKEN), give both sides a key (key-file), or set plaintext = true \
         (--plaintext)\n",
    ] {
        assert!(report.contains(line), "{line:?} is not in:\n{report}");
    }
    assert!(report.ends_with("configuration is good\n"));
    let warnings = File::new("").sender().unwrap().report.warnings().to_vec();
    assert_eq!(warnings, ["no receiver is configured: datagrams will be spooled only"]);
}

#[test]
fn the_control_socket_is_found_even_if_the_rest_of_the_file_is_wrong() {
    let file = File::new("control = \"/tmp/c.sock\"\nrecievers = []\n");
    let path = |overrides| control_path(SENDER, Some(&file.path), overrides, &surroundings());
    assert_eq!(path(Overrides::default()).unwrap(), PathBuf::from("/tmp/c.sock"));
    let option = overrides("control", &["/tmp/other.sock"], Origin::Option("control"));
    let unread = control_path(SENDER, Some(Path::new("/nonexistent")), option, &surroundings());
    assert_eq!(unread.unwrap(), PathBuf::from("/tmp/other.sock"));
}

#[test]
fn what_a_drop_in_would_change_is_known_before_it_is_written() {
    let file = File::new("id = \"a\"\n");
    file.drop_in("50-mine.toml", "id = \"b\"\n");
    let path = file.directory.path().join("c.toml.d/50-mine.toml");
    let revised = |path: &Path, text: Option<&str>| {
        let revision = Some(Revision { path, text });
        revised_sender(Some(&file.path), Overrides::default(), &surroundings(), revision)
    };
    let id = |path: &Path, text| revised(path, text).unwrap().settings.id.to_string();
    assert_eq!(id(&path, Some("id = \"c\"\n")), "c");
    assert_eq!(id(&path, None), "a");
    let (earlier, later) = (path.with_file_name("10.toml"), path.with_file_name("90.toml"));
    assert_eq!(id(&earlier, Some("id = \"c\"\n")), "b");
    assert_eq!(id(&later, Some("id = \"c\"\n")), "c");
    let report = revised(&path, Some("\nid = \"c\"\n")).unwrap().report;
    assert_eq!(file.without_directory(&report.origin("id").unwrap().to_string()), "c.toml.d/50-mine.toml:2");
    let refused = revised(&path, Some("plaintext = 1\n")).unwrap_err().to_string();
    assert!(refused.contains("50-mine.toml:1: plaintext: found 1"), "{refused}");
    assert_eq!(file.sender().unwrap().settings.id.as_str(), "b");
}

#[test]
fn members_of_a_group_have_the_same_senders() {
    let member = |address: &str, senders: &str| {
        format!("[[collector]]\naddress = \"{address}\"\ngroup = \"g\"\nsenders = [{senders}]\n")
    };
    let two = |second: &str| member("a:1", "\"one\", \"two\"") + &member("b:1", second);
    assert_eq!(
        receiver_refusal(&two("\"one\"")),
        "c.toml:6: collector.address: found \"b:1\", expected the same senders as the first collector of its group"
    );
    let file = File::new(&two("\"two\", \"one\""));
    assert!(load_receiver(Some(&file.path), Overrides::default(), &surroundings()).is_ok());
}

#[test]
fn prefixes_of_mapped_ipv4_addresses_are_ipv4() {
    let allow = |prefix: &str| {
        let file = File::new(&format!("allow = [\"{prefix}\"]\n"));
        let loaded = load_sender(Some(&file.path), Overrides::default(), &surroundings());
        loaded.map(|loaded| loaded.settings.allow[0].to_string()).map_err(|error| error.to_string())
    };
    for (given, expected) in [
        ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
        ("::ffff:10.1.2.3", "10.1.2.3/32"),
        ("::ffff:0.0.0.0/96", "0.0.0.0/0"),
        ("::/0", "::/0"),
        ("2001:db8::/32", "2001:db8::/32"),
    ] {
        assert_eq!(allow(given).unwrap(), expected);
    }
    for refused in ["::ffff:0:0/95", "::ffff:10.0.0.0/80", "::/64", "::/1"] {
        let error = allow(refused).unwrap_err();
        assert!(error.contains("IPv4 prefixes in their own form"), "{refused}: {error}");
    }
}
