//! Secrecy: flow data and keys are visible neither on the wire nor on the command line nor in the log.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nf_transport_core::secure::Suite;
use nf_transport_core::secure::preface::{Partial, Preface, ReplyStatus, SALTED_REPLY_LEN};
use nf_transport_kit::chatter::{MIXED, Pattern};
use nf_transport_kit::daemon::Program;
use nf_transport_kit::hosts::{QUICK_SENDER, ReceiverHost, key_text, write_secret};
use nf_transport_kit::meddler::{Meddler, Side};
use nf_transport_kit::netflow_tools::have;
use nf_transport_kit::pair::{Pair, STALL};
use nf_transport_kit::samples::count;

use crate::isolation::shared;

const CIPHERS: [&str; 3] = ["blowfish", "chacha20-poly1305", "aes-256-gcm"];

/// Datagrams that each test sends.
const SENT: u32 = 200;

/// Length of a run in bytes. A match of this length is no coincidence.
const RUN: usize = 8;

/// Counts the runs of flow data in `seen`. Runs of few different bytes, such as zeros, are ignored.
fn runs(seen: &[u8], pattern: Pattern) -> usize {
    let mut sent = std::collections::HashSet::new();
    let mut payload = Vec::new();
    for number in 0..SENT {
        pattern.datagram(0, number, &mut payload);
        sent.extend(payload.windows(RUN).filter(|run| is_distinctive(run)).map(<[u8]>::to_vec));
    }
    seen.windows(RUN).filter(|run| sent.contains(*run)).count()
}

fn is_distinctive(run: &[u8]) -> bool {
    run.iter().collect::<std::collections::HashSet<_>>().len() >= 6
}

/// Panics if `seen` contains the key of `key` as bytes or as text.
fn assert_no_key(seen: &[u8], key: &str) {
    let text = key_text(key);
    let bytes: Vec<u8> = key.bytes().cycle().take(32).collect();
    for needle in [text.as_bytes(), &bytes[..16]] {
        assert!(!seen.windows(needle.len()).any(|window| window == needle), "a key is visible");
    }
}

#[test]
fn ciphers_hide_flow_data_and_keys() {
    let _running = shared();
    let pattern = Pattern::new(MIXED);
    for cipher in CIPHERS {
        let mut pair = Pair::new(1, pattern, &format!("cipher = \"{cipher}\"\n{QUICK_SENDER}"));
        let meddler = Meddler::before(pair.receiver.addr());
        pair.sender.set_receiver(Some(meddler.addr().to_string()));
        pair.sender.use_key("a secret of both");
        pair.receiver.use_key("a secret of both");
        pair.receiver.start();
        pair.sender.start();
        let mut exporters = pair.exporters();
        exporters.send(SENT.into());
        pair.assert_all_arrive(&exporters, true);
        let seen = [meddler.seen(Side::Sender).concat(), meddler.seen(Side::Receiver).concat()].concat();
        assert!(seen.len() > 100_000, "{} bytes are not what was sent", seen.len());
        assert_eq!(runs(&seen, pattern), 0, "{cipher}");
        assert_no_key(&seen, "a secret of both");
    }
}

/// A capture of a TCP port on loopback.
struct Capture {
    tool: Child,
    file: tempfile::NamedTempFile,
}

impl Capture {
    /// Starts the capture and waits until the tool reports that it captures.
    fn start(port: u16) -> Self {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::set_permissions(file.path(), std::os::unix::fs::PermissionsExt::from_mode(0o666)).unwrap();
        let mut tool = Command::new("tshark")
            .args(["-i", "lo", "-q", "-f", &format!("tcp port {port}"), "-F", "pcap", "-w"])
            .arg(file.path())
            .stderr(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let mut messages = std::io::BufReader::new(tool.stderr.take().unwrap());
        let mut line = String::new();
        while std::io::BufRead::read_line(&mut messages, &mut line).unwrap() > 0
            && !line.contains("Capturing on")
        {}
        assert!(line.contains("Capturing on"), "{line}");
        // The message comes a little too early. The capture has started once the file's header is written.
        while fs::metadata(file.path()).unwrap().len() == 0 {
            std::thread::yield_now();
        }
        std::thread::spawn(move || std::io::copy(&mut messages, &mut std::io::sink()));
        Self { tool, file }
    }

    /// Returns the captured bytes once there are more than `bytes`: the tool writes with a delay.
    fn finish(mut self, bytes: u64) -> Vec<u8> {
        let deadline = Instant::now() + STALL;
        while fs::metadata(self.file.path()).unwrap().len() < bytes {
            assert!(Instant::now() < deadline, "the capture stays shorter than what was sent");
            std::thread::sleep(Duration::from_millis(20));
        }
        rustix::process::kill_process(
            rustix::process::Pid::from_child(&self.tool),
            rustix::process::Signal::INT,
        )
        .unwrap();
        self.tool.wait().unwrap();
        fs::read(self.file.path()).unwrap()
    }
}

#[test]
fn a_capture_shows_only_clear_text() {
    if !have(&["tshark"]) || !rustix::process::geteuid().is_root() {
        eprintln!("skipped: needs tshark (Debian package tshark) and root");
        return;
    }
    let _running = shared();
    let pattern = Pattern::new(MIXED);
    for cipher in ["none"].into_iter().chain(CIPHERS) {
        let settings = if cipher == "none" { String::new() } else { format!("cipher = \"{cipher}\"\n") };
        let mut pair = Pair::new(1, pattern, &format!("{settings}{QUICK_SENDER}"));
        if cipher != "none" {
            pair.sender.use_key("a secret of both");
            pair.receiver.use_key("a secret of both");
        }
        let capture = Capture::start(pair.receiver.addr().port());
        pair.receiver.start();
        pair.sender.start();
        let mut exporters = pair.exporters();
        exporters.send(SENT.into());
        pair.assert_all_arrive(&exporters, true);
        let sent = count(&pair.sender.status(), "/acknowledged/bytes");
        let seen = capture.finish(sent);
        assert_eq!(runs(&seen, pattern) > 0, cipher == "none", "{cipher}");
        assert_no_key(&seen, "a secret of both");
    }
}

/// Returns the command line and the environment of a process.
fn visible(pid: u32) -> Vec<u8> {
    let read = |name: &str| fs::read(format!("/proc/{pid}/{name}")).unwrap();
    [read("cmdline"), read("environ")].concat()
}

#[test]
fn a_key_on_the_command_line_is_erased() {
    let _running = shared();
    let key = "a passphrase of two daemons";
    let mut pair = Pair::new(1, Pattern::new(MIXED), QUICK_SENDER);
    for args in [&["-k", key][..], &["--key=a passphrase of two daemons"]] {
        pair.sender.protect(args);
        pair.receiver.protect(args);
        pair.receiver.start();
        pair.sender.start();
        assert_eq!(pair.sender.wait_state("connected", STALL)["cipher"], "blowfish");
        for daemon in [pair.sender.daemon(), pair.receiver.daemon()] {
            let seen = String::from_utf8_lossy(&visible(daemon.pid())).into_owned();
            assert!(!seen.contains(key) && seen.contains("-k\0-\0"), "{seen}");
            daemon.wait_for_log(&["--key-file", "credential", "-k -"], STALL);
            assert_eq!(daemon.count_log(&["passphrase of two"]), 0, "{}", daemon.log());
        }
        pair.sender.take_daemon().terminate();
        pair.receiver.take_daemon().terminate();
    }
}

/// Creates a token for sender `edge`.
fn token() -> String {
    let receiver = ReceiverHost::new(&["127.0.0.1:9".parse().unwrap()], "");
    crate::pairing::token(&receiver, &["edge", "--address", "collector.example.net:2055"])
}

#[test]
fn a_token_on_the_command_line_is_hidden() {
    let (token, directory) = (token(), tempfile::tempdir().unwrap());
    // A process that opens this configuration blocks until it is written.
    let configuration = directory.path().join("nf-sender.toml");
    assert!(Command::new("mkfifo").arg(&configuration).status().unwrap().success());
    let mut command = Program::Sender.command();
    command.args(["-c", configuration.to_str().unwrap(), "join", &token]).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let deadline = Instant::now() + STALL;
    let hidden = |seen: &[u8]| seen.ends_with(b"join\0-\0");
    while !hidden(&fs::read(format!("/proc/{}/cmdline", child.id())).unwrap()) {
        assert!(Instant::now() < deadline, "the token stays on the command line");
        std::thread::yield_now();
    }
    assert!(!String::from_utf8_lossy(&visible(child.id())).contains(&token));
    child.kill().unwrap();
    let message = String::from_utf8(child.wait_with_output().unwrap().stderr).unwrap();
    assert!(message.contains("token was on the command line") && !message.contains(&token), "{message}");
}

/// Runs `nf-sender join` in a terminal and types these bytes at its prompt. Returns all output of the
/// terminal, the exit status of `join`, and the settings of the terminal afterwards.
fn join_on_a_terminal(configuration: &Path, typed: &str) -> String {
    fs::write(configuration, "").unwrap();
    let sender = Program::Sender.path();
    let join = format!("{} -c {} join; echo status $?; stty -a", sender.display(), configuration.display());
    let mut terminal = Command::new("script")
        .args(["--quiet", "--flush", "--command", &join, "/dev/null"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut output = terminal.stdout.take().unwrap();
    let (mut shown, mut buffer) = (String::new(), [0; 4096]);
    while !shown.contains("(it is not shown):") {
        let count = output.read(&mut buffer).unwrap();
        assert_ne!(count, 0, "{shown}");
        shown += &String::from_utf8_lossy(&buffer[..count]);
    }
    let mut input = terminal.stdin.take().unwrap();
    input.write_all(typed.as_bytes()).unwrap();
    output.read_to_string(&mut shown).unwrap();
    terminal.wait().unwrap();
    shown
}

#[test]
fn a_typed_token_is_not_shown() {
    let (token, directory) = (token(), tempfile::tempdir().unwrap());
    let shown = join_on_a_terminal(&directory.path().join("nf-sender.toml"), &format!("{token}\n"));
    assert!(shown.contains("this sender is edge at collector.example.net:2055"), "{shown}");
    assert!(shown.contains("status 0") && !shown.contains(&token[..20]), "{shown}");
    assert!(directory.path().join("key").exists());
}

#[test]
fn an_interrupted_prompt_restores_the_terminal() {
    let directory = tempfile::tempdir().unwrap();
    let shown = join_on_a_terminal(&directory.path().join("nf-sender.toml"), "nft1\x03");
    assert!(shown.contains("interrupted") && !shown.contains("status 0"), "{shown}");
    for setting in ["echo", "isig", "icanon"] {
        assert!(shown.split_whitespace().any(|shown| shown == setting), "{setting}: {shown}");
    }
    assert!(!directory.path().join("key").exists());
}

#[test]
fn a_key_is_read_from_stdin_and_from_a_credential() {
    let directory = tempfile::tempdir().unwrap();
    let credential = directory.path().join("key");
    fs::write(&credential, key_text("one")).unwrap();
    let check = |program: Program, args: &[&str], credentials: Option<&Path>| {
        let mut command = program.command();
        command.args(args).arg("check").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.envs(credentials.map(|path| ("CREDENTIALS_DIRECTORY", path)));
        let mut child = command.spawn().unwrap();
        // A command that needs no key does not read it.
        drop(child.stdin.take().unwrap().write_all(b"two\n"));
        String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap()
    };
    for program in [Program::Sender, Program::Receiver] {
        assert!(check(program, &["-k", "-"], None).contains("key"), "{}", program.name());
        let receiver: &[&str] =
            if program == Program::Sender { &["--receiver", "collector.example.net:2055"] } else { &[] };
        assert!(check(program, receiver, None).contains("warning"), "{}", program.name());
        assert!(!check(program, receiver, Some(directory.path())).contains("warning"), "{}", program.name());
    }
}

/// Returns the salt that a receiver sends to a sender with a passphrase.
fn salt_of(receiver: SocketAddr) -> [u8; 16] {
    let mut tcp = TcpStream::connect(receiver).unwrap();
    tcp.write_all(&Preface::encode_passphrase(&"edge".parse().unwrap(), Suite::Aes256Gcm)).unwrap();
    let mut reply = [0; SALTED_REPLY_LEN];
    tcp.read_exact(&mut reply).unwrap();
    let Partial::Complete(salt) = ReplyStatus::parse_salt(&reply) else { panic!("no salt") };
    salt.0
}

#[test]
fn a_passphrase_works_with_a_new_salt_per_start() {
    let _running = shared();
    let mut pair = Pair::new(1, Pattern::new(MIXED), &format!("cipher = \"aes-256-gcm\"\n{QUICK_SENDER}"));
    let file = pair.sender.path("passphrase");
    write_secret(&file, "a passphrase of two daemons");
    pair.sender.protect(&["--key-file", file.to_str().unwrap()]);
    pair.receiver.protect(&["--key-file", file.to_str().unwrap()]);
    pair.receiver.start();
    pair.sender.start();
    let mut exporters = pair.exporters();
    exporters.send(SENT.into());
    pair.assert_all_arrive(&exporters, false);
    let first = salt_of(pair.receiver.addr());
    assert_eq!(salt_of(pair.receiver.addr()), first, "one salt for one run");
    pair.receiver.take_daemon().terminate();
    pair.receiver.start();
    exporters.send(SENT.into());
    pair.assert_all_arrive(&exporters, true);
    assert_ne!(salt_of(pair.receiver.addr()), first);
}

#[test]
fn a_weak_passphrase_is_rejected() {
    let directory = tempfile::tempdir().unwrap();
    let (short, long) = (directory.path().join("short"), directory.path().join("long"));
    write_secret(&short, "tajne");
    write_secret(&long, "correct horse battery staple");
    let file = directory.path().join("settings.toml");
    let check = |program: Program, toml: &str, key: &Path| {
        fs::write(&file, toml).unwrap();
        let mut command = program.command();
        command.arg("-c").arg(&file).arg("--key-file").arg(key).arg("check");
        let output = command.output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    for (program, toml) in [
        (Program::Sender, "cipher = \"aes-256-gcm\"\nreceivers = [\"collector.example.net:2055\"]\n"),
        (Program::Receiver, "ciphers = [\"aes-256-gcm\", \"chacha20-poly1305\"]\n"),
    ] {
        let (code, stderr) = check(program, toml, &short);
        assert_eq!(code, Some(78), "{stderr}");
        assert!(stderr.contains("short: this passphrase has fewer than 16 characters"), "{stderr}");
        assert_ne!(check(program, toml, &long).0, Some(78), "{}", program.name());
        let (_, blowfish) = toml.split_once('\n').unwrap();
        assert_ne!(check(program, blowfish, &short).0, Some(78), "{}", program.name());
    }
    let spool = format!("[spool]\nencrypt = true\nkey-file = \"{}\"\n", long.display());
    let (code, stderr) = check(Program::Sender, &spool, &long);
    assert_eq!(code, Some(78), "{stderr}");
    assert!(stderr.contains("long: this is a passphrase, but a key is needed here"), "{stderr}");
}
