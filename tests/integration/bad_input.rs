//! Errors of operators and unauthenticated clients: each message names the problem, its place and the remedy.

use std::fs::Permissions;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nf_transport_kit::chatter::{MIXED, Pattern};
use nf_transport_kit::daemon::{Launch, Program};
use nf_transport_kit::hosts::{QUICK_SENDER, SenderHost};
use nf_transport_kit::pair::{Pair, STALL};
use tempfile::TempDir;

use crate::isolation::shared;

/// Longest time until a daemon exits or closes a connection.
const REFUSAL: Duration = Duration::from_secs(20);

/// Exit codes of sysexits.h.
const USAGE: i32 = 64;
const CANNOT_CREATE: i32 = 73;
const CONFIG: i32 = 78;

/// Creates a directory with a settings file of this text.
fn settings(toml: &str) -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("settings.toml");
    std::fs::write(&file, toml).unwrap();
    (directory, file)
}

/// Returns the settings of a valid start with all files below this directory.
fn launch(program: Program, directory: &TempDir, file: &Path) -> Launch {
    let path = |name: &str| directory.path().join(name).into_os_string();
    let store = if program == Program::Sender { "--spool" } else { "--state" };
    Launch::new(program)
        .args(["-c".into(), file.as_os_str().to_owned(), "--plaintext".into()])
        .args([store.into(), path("store"), "--control".into(), path("control.sock")])
        .env("RUNTIME_DIRECTORY", directory.path())
}

/// Panics unless the daemon exits by itself with a message that contains all of these words. Returns its exit
/// code.
fn assert_rejected(launch: Launch, words: &[&str]) -> i32 {
    let (status, log) = launch.spawn().wait_exit(REFUSAL);
    let code = status.code().unwrap();
    assert_ne!(code, 0, "{log}");
    assert_words(&log, words);
    code
}

fn assert_words(text: &str, words: &[&str]) {
    let lower = text.to_lowercase();
    let missing: Vec<_> = words.iter().filter(|word| !lower.contains(&word.to_lowercase())).collect();
    assert!(missing.is_empty(), "the message lacks {missing:?}:\n{text}");
}

/// Asserts that the daemon and its `check` command reject these settings with these words.
fn assert_settings_rejected(program: Program, toml: &str, words: &[&str]) {
    let _running = shared();
    let (directory, file) = settings(toml);
    assert_eq!(assert_rejected(launch(program, &directory, &file), words), CONFIG);
    let checked = program.run(&["check", "-c", file.to_str().unwrap()]);
    assert_eq!(checked.status.code(), Some(CONFIG));
    assert_words(&String::from_utf8_lossy(&checked.stderr), words);
}

#[test]
fn an_unknown_key_is_named_with_file_and_line() {
    assert_settings_rejected(
        Program::Sender,
        "heartbeat = \"5s\"\ncolour = 1\n",
        &["settings.toml", "2", "colour"],
    );
    assert_settings_rejected(Program::Receiver, "\n\ncolour = 1\n", &["settings.toml", "3", "colour"]);
}

#[test]
fn an_unknown_key_in_a_table_is_named() {
    assert_settings_rejected(Program::Sender, "[spool]\ncolour = 1\n", &["settings.toml", "2", "colour"]);
    assert_settings_rejected(Program::Receiver, "[[collector]]\ncolour = 1\n", &["settings.toml", "colour"]);
}

#[test]
fn a_mistyped_key_lists_the_valid_keys() {
    assert_settings_rejected(Program::Sender, "[spool]\nmax-sise = \"8GiB\"\n", &["max-sise", "max-size"]);
    assert_settings_rejected(
        Program::Receiver,
        "[[collector]]\nadress = \"127.0.0.1:1\"\n",
        &["adress", "address"],
    );
}

#[test]
fn an_invalid_value_is_named_with_its_key() {
    let sender = [
        ("[spool]\nmax-size = \"many\"\n", vec!["max-size", "many"]),
        ("[spool]\nwhen-full = \"explode\"\n", vec!["when-full", "explode", "drop-oldest", "drop-newest"]),
        ("heartbeat = \"0s\"\n", vec!["heartbeat"]),
        ("listen = [\"nowhere\"]\n", vec!["listen", "nowhere"]),
        ("allow = [\"10.0.0.0/99\"]\n", vec!["allow", "10.0.0.0/99"]),
        ("[reconnect]\nfirst = \"soon\"\n", vec!["first", "soon"]),
    ];
    for (toml, words) in sender {
        assert_settings_rejected(Program::Sender, toml, &words);
    }
    let collector = "[[collector]]\naddress = \"nowhere\"\n";
    assert_settings_rejected(Program::Receiver, collector, &["address", "nowhere"]);
}

#[test]
fn invalid_toml_is_rejected_with_the_line() {
    assert_settings_rejected(Program::Sender, "heartbeat = \"5s\"\n[spool\n", &["settings.toml", "2"]);
}

#[test]
fn an_unreadable_settings_file_is_named() {
    let _running = shared();
    let (directory, file) = settings("");
    let absent = directory.path().join("absent.toml");
    for program in [Program::Sender, Program::Receiver] {
        assert_rejected(launch(program, &directory, &absent), &["absent.toml", "no such file"]);
        // Even root cannot read a directory as a file.
        assert_rejected(launch(program, &directory, directory.path()), &[directory.path().to_str().unwrap()]);
    }
    drop(file);
}

#[test]
fn an_unknown_option_is_a_usage_error() {
    let _running = shared();
    for program in [Program::Sender, Program::Receiver] {
        let output = program.run(&["--colour"]);
        assert_eq!(output.status.code(), Some(USAGE));
        assert_words(&String::from_utf8_lossy(&output.stderr), &["--colour"]);
    }
}

#[test]
fn a_udp_port_in_use_is_named() {
    let _running = shared();
    let (directory, file) = settings("");
    let holder = UdpSocket::bind("127.0.0.1:0").unwrap();
    let addr = holder.local_addr().unwrap().to_string();
    let launch = launch(Program::Sender, &directory, &file).args(["-l", &addr]);
    assert_rejected(launch, &[&addr, "in use"]);
}

#[test]
fn a_tcp_port_in_use_is_named() {
    let _running = shared();
    let (directory, file) = settings("");
    let holder = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = holder.local_addr().unwrap().to_string();
    let launch = launch(Program::Receiver, &directory, &file).args(["-l", &addr]);
    assert_rejected(launch, &[&addr, "in use"]);
}

#[test]
fn an_unwritable_spool_directory_is_named() {
    let _running = shared();
    let (directory, file) = settings("");
    // Even root cannot create a directory below a file.
    let spool = file.join("spool");
    let spool = spool.to_str().unwrap();
    let launch = Launch::new(Program::Sender)
        .args(["-c", file.to_str().unwrap(), "--plaintext", "-l", "127.0.0.1:0", "--spool", spool])
        .args(["--control", directory.path().join("control.sock").to_str().unwrap()])
        .env("RUNTIME_DIRECTORY", directory.path());
    assert_rejected(launch, &[spool]);
}

#[test]
fn a_spool_directory_without_permission_is_named() {
    let _running = shared();
    if rustix::process::geteuid().is_root() {
        eprintln!("skipped: root can write everywhere");
        return;
    }
    let (directory, file) = settings("");
    let spool = directory.path().join("store");
    std::fs::create_dir(&spool).unwrap();
    std::fs::set_permissions(&spool, Permissions::from_mode(0o500)).unwrap();
    let launch = launch(Program::Sender, &directory, &file).args(["-l", "127.0.0.1:0"]);
    assert_rejected(launch, &[spool.to_str().unwrap(), "permission"]);
}

#[test]
fn directories_writable_by_others_are_rejected() {
    let _running = shared();
    let set_mode = |path: &Path, mode| std::fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    for (program, name) in [
        (Program::Sender, "store"),
        (Program::Sender, "store/newer"),
        (Program::Sender, "run"),
        (Program::Receiver, "store"),
        (Program::Receiver, "store/positions"),
    ] {
        let (directory, file) = settings("");
        let open = directory.path().join(name);
        std::fs::create_dir_all(&open).unwrap();
        std::fs::create_dir_all(directory.path().join("run")).unwrap();
        set_mode(&open, 0o777);
        let launch = launch(program, &directory, &file)
            .args(["-l", "127.0.0.1:0"])
            .env("RUNTIME_DIRECTORY", directory.path().join("run"));
        let remedy = format!("chmod go-w {}", open.display());
        assert_eq!(assert_rejected(launch, &["other users", "0777", &remedy]), CANNOT_CREATE);
    }
}

#[test]
fn a_symbolic_link_as_lock_is_not_followed() {
    let _running = shared();
    for program in [Program::Sender, Program::Receiver] {
        let (directory, file) = settings("");
        let (store, precious) = (directory.path().join("store"), directory.path().join("precious"));
        std::fs::create_dir(&store).unwrap();
        std::fs::write(&precious, "secret").unwrap();
        symlink(&precious, store.join("lock")).unwrap();
        let launch = launch(program, &directory, &file).args(["-l", "127.0.0.1:0"]);
        assert_eq!(assert_rejected(launch, &["`lock`", "symbolic link"]), CANNOT_CREATE);
        assert_eq!(std::fs::read(&precious).unwrap(), b"secret");
    }
}

#[test]
fn a_spool_in_use_is_rejected_with_the_pid() {
    let _running = shared();
    let mut first = SenderHost::new("edge", &"127.0.0.1:9", QUICK_SENDER);
    let pid = first.start().pid().to_string();
    let (directory, file) = settings("");
    let spool = first.path("spool");
    let spool = spool.to_str().unwrap();
    let second = Launch::new(Program::Sender)
        .args(["-c", file.to_str().unwrap(), "--plaintext", "-l", "127.0.0.1:0", "--spool", spool])
        .args(["--control", directory.path().join("control.sock").to_str().unwrap()])
        .env("RUNTIME_DIRECTORY", directory.path());
    assert_rejected(second, &[spool, &pid]);
    first.status();
}

#[test]
fn an_unresolved_receiver_name_is_reported() {
    let _running = shared();
    let name = "no-such-host.invalid";
    let mut sender = SenderHost::new("edge", &format!("{name}:2055"), QUICK_SENDER);
    sender.start();
    let mut exporters = sender.exporters(1, Pattern::new(MIXED));
    exporters.send(5);
    sender.wait_status(STALL, |status| {
        let reason = status["reason"].as_str().unwrap_or_default();
        let is_reported = reason.contains("resolve") && status.to_string().contains(name);
        is_reported && status["queued"]["datagrams"] == 5
    });
    sender.daemon().wait_for_log(&[name], STALL);
}

/// Sends bytes to the receiver as an unauthenticated client, and waits until it closes the connection.
fn send_unauthenticated(addr: SocketAddr, bytes: &[u8]) {
    let mut stream = TcpStream::connect(addr).unwrap();
    stream.set_read_timeout(Some(REFUSAL)).unwrap();
    stream.write_all(bytes).unwrap();
    let mut answer = [0; 4096];
    loop {
        match stream.read(&mut answer) {
            Ok(0) => break,
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => break,
            Err(error) => panic!("the receiver did not close the connection: {error}"),
        }
    }
}

/// Asserts that a connected pair still carries datagrams after clients sent these inputs, and that the log
/// has these words.
fn assert_survives(inputs: &[&[u8]], words: &[&str]) {
    let _running = shared();
    let pair = Pair::connected(1, Pattern::new(MIXED), QUICK_SENDER);
    for bytes in inputs {
        send_unauthenticated(pair.receiver.addr(), bytes);
    }
    pair.receiver.daemon().wait_for_log(words, STALL);
    let mut exporters = pair.exporters();
    exporters.send(10);
    pair.assert_all_arrive(&exporters, true);
}

#[test]
fn garbage_on_the_tcp_port_is_logged() {
    assert_survives(&[&[0xa5; 64], &[0; 64], b"SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12u3\r\n"], &["127.0.0.1"]);
}

#[test]
fn repeated_protocol_errors_do_not_flood_the_log() {
    let _running = shared();
    let pair = Pair::connected(1, Pattern::new(MIXED), QUICK_SENDER);
    let hostile = [b"NFR1\x01\0\0\0\0\x04edge".as_slice(), &[0xff; 64]].concat();
    for _ in 0..50 {
        send_unauthenticated(pair.receiver.addr(), &hostile);
    }
    pair.receiver.daemon().wait_for_log(&["session of", "unknown type 255"], STALL);
    let lines = pair.receiver.daemon().log().matches("unknown type 255").count();
    assert!(lines < 10, "{lines} lines");
}

#[test]
fn excessive_lengths_need_no_memory() {
    let memory = {
        let _running = shared();
        let pair = Pair::connected(1, Pattern::new(MIXED), QUICK_SENDER);
        for _ in 0..50 {
            send_unauthenticated(pair.receiver.addr(), &[0xff; 64]);
        }
        pair.receiver.status();
        pair.receiver.daemon().memory_peak()
    };
    assert!(memory < 64 << 20, "nf-receiver used {} MiB for announced lengths", memory >> 20);
}

#[test]
fn an_http_request_on_the_tcp_port_is_recognized() {
    assert_survives(&[b"GET / HTTP/1.1\r\nHost: collector.example.net\r\n\r\n"], &["http", "127.0.0.1"]);
}

#[test]
fn a_missing_control_socket_is_named() {
    let _running = shared();
    let directory = tempfile::tempdir().unwrap();
    let absent = directory.path().join("absent.sock");
    let absent = absent.to_str().unwrap();
    for program in [Program::Sender, Program::Receiver] {
        let output = program.run(&["status", "--control", absent]);
        assert!(!output.status.success());
        assert_words(&String::from_utf8_lossy(&output.stderr), &[absent, program.name()]);
    }
    let output = Program::Sender.run(&["reconnect", "--control", absent]);
    assert!(!output.status.success());
    assert_words(&String::from_utf8_lossy(&output.stderr), &[absent]);
}
