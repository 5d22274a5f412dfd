use core::net::SocketAddr;
use core::time::Duration;
use std::fs;
use std::path::{Path, PathBuf};

use nf_transport_core::batch::Compression;
use nf_transport_core::secure::Suite;
use nf_transport_core::spool::{MinFree, Policy, WhenFull};
use tempfile::TempDir;

use super::*;

mod rejections;

fn environment() -> Environment {
    Environment { host_name: "brno-edge".to_owned(), ..Environment::default() }
}

/// A configuration file in a directory of its own.
struct ConfigFile {
    directory: TempDir,
    path: PathBuf,
}

impl ConfigFile {
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
        load_sender(Some(&self.path), Overrides::default(), &environment())
    }

    /// `text` without the name of the temporary directory.
    fn without_directory(&self, text: &str) -> String {
        text.replace(&format!("{}/", self.directory.path().display()), "")
    }
}

/// Returns the errors of nf-sender about a file with this text.
fn sender_errors(text: &str) -> String {
    let file = ConfigFile::new(text);
    file.without_directory(&file.sender().unwrap_err().to_string())
}

/// Returns the errors of nf-receiver about a file with this text.
fn receiver_errors(text: &str) -> String {
    let file = ConfigFile::new(text);
    let error = load_receiver(Some(&file.path), Overrides::default(), &environment()).unwrap_err();
    file.without_directory(&error.to_string())
}

fn overrides(key: &str, arguments: &[&str], origin: Origin) -> Overrides {
    let mut overrides = Overrides::default();
    overrides.put(key, arguments.iter().map(|word| (*word).to_owned()).collect(), origin);
    overrides
}

#[test]
fn defaults_of_nf_sender_are_as_documented() {
    let settings = ConfigFile::new("").sender().unwrap().settings;
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
fn defaults_of_nf_receiver_are_as_documented() {
    let file = ConfigFile::new("");
    let settings = load_receiver(Some(&file.path), Overrides::default(), &environment()).unwrap().settings;
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
fn the_shipped_sender_file_shows_all_defaults() {
    let shown = ConfigFile::new(&uncommented(include_str!("../../etc/nf-sender.toml"))).sender().unwrap();
    let bare = ConfigFile::new("").sender().unwrap();
    assert_eq!(values(&shown.report), values(&bare.report));
    assert!(shown.report.values.iter().all(|value| value.origin != Origin::Default));
    let shipped = ConfigFile::new(include_str!("../../etc/nf-sender.toml")).sender().unwrap();
    assert!(shipped.report.values.iter().all(|value| value.origin == Origin::Default));
}

#[test]
fn the_shipped_receiver_file_shows_all_defaults() {
    let report = |text: &str| {
        let file = ConfigFile::new(text);
        load_receiver(Some(&file.path), Overrides::default(), &environment()).unwrap().report
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
    let settings = ConfigFile::new(text).sender().unwrap().settings;
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
fn later_layers_override_earlier_ones() {
    let file = ConfigFile::new(
        "receivers = [\"file:1\", \"file:2\"]\nid = \"file\"\n[spool]\nmax-size = \"1GiB\"\n",
    );
    file.drop_in("20-b.toml", "id = \"second\"\n[spool]\nrotate-size = \"2MiB\"\n");
    file.drop_in("10-a.toml", "id = \"first\"\nreceivers = [\"drop-in:1\"]\n");
    file.drop_in("30-c.conf", "not read");
    file.drop_in(".40-d.toml", "not read");
    let option = overrides("spool.directory", &["/srv/mine"], Origin::Option("spool"));
    let loaded = load_sender(Some(&file.path), option, &environment()).unwrap();
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
fn collector_options_replace_collector_tables() {
    let file = ConfigFile::new("[[collector]]\naddress = \"a:1\"\n[[collector]]\naddress = \"b:2\"\n");
    let collectors = |overrides| {
        let loaded = load_receiver(Some(&file.path), overrides, &environment()).unwrap();
        loaded.settings.collectors.iter().map(|entry| entry.address.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(collectors(Overrides::default()), ["a:1", "b:2"]);
    let option = overrides("collector", &["c:3", "d:4"], Origin::Option("collector"));
    assert_eq!(collectors(option), ["c:3", "d:4"]);
}

#[test]
fn a_variable_can_turn_off_a_setting_of_the_file() {
    let file = ConfigFile::new("plaintext = true\n");
    let off = overrides("plaintext", &["no"], Origin::Variable("NF_SENDER_PLAINTEXT"));
    let loaded = load_sender(Some(&file.path), off, &environment()).unwrap();
    assert_eq!(loaded.settings.protection, SenderProtection::LoopbackOnly);
}

#[test]
fn the_report_shows_values_origins_and_warnings() {
    let file =
        ConfigFile::new("receivers = [\"collector.example.net:2055\"]\n\n[spool]\nmax-size = \"2GiB\"\n");
    let report = file.without_directory(&file.sender().unwrap().report.to_string());
    for line in [
        "read c.toml\n",
        "  listen             = [\"[::]:2055\"]                   (default)\n",
        "  receivers          = [\"collector.example.net:2055\"]  (c.toml:1)\n",
        "  spool.max-size     = \"2GiB\"                          (c.toml:4)\n",
        "warning: collector.example.net:2055 may be another machine, and without a key nothing is sent there: \
         join it (nf-sender join TOKEN), give both sides a key (key-file), or set plaintext = true \
         (--plaintext)\n",
    ] {
        assert!(report.contains(line), "{line:?} is not in:\n{report}");
    }
    assert!(report.ends_with("configuration is valid\n"));
    let warnings = ConfigFile::new("").sender().unwrap().report.warnings().to_vec();
    assert_eq!(warnings, ["no receiver is configured: datagrams will be spooled only"]);
}

#[test]
fn invalid_keys_do_not_hide_the_control_socket() {
    let file = ConfigFile::new("control = \"/tmp/c.sock\"\nrecievers = []\n");
    let path = |overrides| control_path(SENDER, Some(&file.path), overrides, &environment());
    assert_eq!(path(Overrides::default()).unwrap(), PathBuf::from("/tmp/c.sock"));
    let option = overrides("control", &["/tmp/other.sock"], Origin::Option("control"));
    let unread = control_path(SENDER, Some(Path::new("/nonexistent")), option, &environment());
    assert_eq!(unread.unwrap(), PathBuf::from("/tmp/other.sock"));
}

#[test]
fn a_planned_drop_in_is_loaded_before_it_exists() {
    let file = ConfigFile::new("id = \"a\"\n");
    file.drop_in("50-mine.toml", "id = \"b\"\n");
    let path = file.directory.path().join("c.toml.d/50-mine.toml");
    let revised = |path: &Path, text: Option<&str>| {
        let revision = Some(Revision { path, text });
        load_revised_sender(Some(&file.path), Overrides::default(), &environment(), revision)
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
fn prefixes_of_mapped_ipv4_addresses_are_ipv4() {
    let allow = |prefix: &str| {
        let file = ConfigFile::new(&format!("allow = [\"{prefix}\"]\n"));
        let loaded = load_sender(Some(&file.path), Overrides::default(), &environment());
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
