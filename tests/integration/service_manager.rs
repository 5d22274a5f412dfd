//! The interface to the service manager: passed sockets and notifications.

use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use nf_transport_kit::chatter::{MIXED, Pattern};
use nf_transport_kit::daemon::{Launch, Program};
use nf_transport_kit::exporter::Exporters;
use nf_transport_kit::pair::STALL;
use nix::sys::ptrace;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid as Traced;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::isolation::shared;

/// Exit code of sysexits.h for an error that a restart cannot fix.
const CONFIG: i32 = 78;

/// Returns the options of a daemon with all files in this directory that delivers or connects to `peer`.
fn options(program: Program, directory: &TempDir, peer: &str) -> Vec<String> {
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    std::fs::write(path("settings.toml"), "").unwrap();
    let (store, to) = match program {
        Program::Sender => ("--spool", "-r"),
        Program::Receiver => ("--state", "-C"),
    };
    let control = path("control.sock");
    let given = ["-c", &path("settings.toml"), "--plaintext", store, &path("store"), "--control", &control];
    given.into_iter().chain([to, peer]).map(str::to_owned).collect()
}

/// Asserts that a daemon with these passed sockets exits with 78, and that its message names the found and
/// the required kind.
fn assert_wrong(program: Program, sockets: Vec<OwnedFd>, words: &[&str]) {
    let _running = shared();
    let directory = tempfile::tempdir().unwrap();
    let launch = Launch::new(program)
        .args(options(program, &directory, "127.0.0.1:9"))
        .env("RUNTIME_DIRECTORY", directory.path());
    let launch = sockets.into_iter().fold(launch, |launch, socket| launch.socket("netflow", socket));
    let (status, log) = launch.spawn().wait_exit(STALL);
    assert_eq!(status.code(), Some(CONFIG), "{log}");
    for word in words {
        assert!(log.contains(word), "the message lacks {word:?}:\n{log}");
    }
}

fn udp() -> OwnedFd {
    UdpSocket::bind("127.0.0.1:0").unwrap().into()
}

fn tcp() -> OwnedFd {
    TcpListener::bind("127.0.0.1:0").unwrap().into()
}

fn unix_stream() -> OwnedFd {
    let directory = tempfile::tempdir().unwrap();
    UnixListener::bind(directory.path().join("socket")).unwrap().into()
}

#[test]
fn a_tcp_socket_for_the_sender_is_rejected() {
    let words = ["descriptor 3", "is a TCP socket", "a UDP socket is needed", "ListenDatagram="];
    assert_wrong(Program::Sender, vec![tcp()], &words);
}

#[test]
fn a_udp_socket_for_the_receiver_is_rejected() {
    let words = ["descriptor 3", "is a UDP socket", "a listening TCP socket is needed", "ListenStream="];
    assert_wrong(Program::Receiver, vec![udp()], &words);
}

#[test]
fn unix_sockets_are_rejected_by_either_daemon() {
    assert_wrong(Program::Sender, vec![UnixDatagram::unbound().unwrap().into()], &["is a Unix socket"]);
    assert_wrong(Program::Sender, vec![unix_stream()], &["is a Unix socket"]);
    assert_wrong(Program::Receiver, vec![unix_stream()], &["is a Unix socket"]);
}

#[test]
fn a_connected_tcp_socket_is_rejected() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let connection = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    assert_wrong(Program::Receiver, vec![connection.into()], &["that does not listen", "Accept=yes"]);
}

#[test]
fn a_file_passed_as_a_socket_is_rejected() {
    let file = std::fs::File::open("/dev/null").unwrap();
    assert_wrong(Program::Sender, vec![file.into()], &["descriptor 3", "a UDP socket is needed"]);
}

#[test]
fn one_wrong_socket_is_named_by_its_number() {
    assert_wrong(Program::Sender, vec![udp(), tcp()], &["descriptor 4", "is a TCP socket"]);
}

/// A daemon whose notifications the test reads.
struct NotifyingDaemon {
    child: Child,
    socket: UnixDatagram,
    messages: Vec<String>,
    directory: TempDir,
}

impl NotifyingDaemon {
    fn start(program: Program, listen: &str, peer: &str) -> Self {
        Self::start_with(program, listen, peer, &[])
    }

    /// Does the same with these environment variables.
    fn start_with(program: Program, listen: &str, peer: &str, variables: &[(&str, &str)]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        let mut command = program.command();
        command.args(options(program, &directory, peer)).args(["-l", listen]);
        command.env("NOTIFY_SOCKET", &path).env("RUNTIME_DIRECTORY", directory.path());
        command.envs(variables.iter().copied());
        let child = command.stdin(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        Self { child, socket, messages: Vec::new(), directory }
    }

    /// Waits for a notification that is as wanted.
    fn wait_for(&mut self, description: &str, mut wanted: impl FnMut(&str) -> bool) -> String {
        let deadline = Instant::now() + STALL;
        loop {
            let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
            self.socket.set_read_timeout(Some(left)).unwrap();
            let mut buffer = [0; 4096];
            let received = self.socket.recv(&mut buffer);
            let length = received.unwrap_or_else(|_| panic!("no {description} in {:#?}", self.messages));
            let message = String::from_utf8(buffer[..length].to_vec()).unwrap();
            self.messages.push(message.clone());
            if wanted(&message) {
                return message;
            }
        }
    }

    fn wait_for_status(&mut self, words: &[&str]) -> String {
        self.wait_for(&format!("status with {words:?}"), |message| {
            message.starts_with("STATUS=") && words.iter().all(|word| message.contains(word))
        })
    }

    /// Stops the daemon. It must send STOPPING=1 and exit with 0.
    fn stop(mut self) -> Vec<String> {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        self.wait_for("STOPPING=1", |message| message.lines().any(|line| line == "STOPPING=1"));
        let status = self.child.wait().unwrap();
        assert_eq!(status.code(), Some(0));
        self.socket.set_nonblocking(true).unwrap();
        let mut buffer = [0; 4096];
        while let Ok(length) = self.socket.recv(&mut buffer) {
            self.messages.push(String::from_utf8(buffer[..length].to_vec()).unwrap());
        }
        std::mem::take(&mut self.messages)
    }
}

impl Drop for NotifyingDaemon {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Returns a UDP address that is free at the moment.
fn free_udp() -> SocketAddr {
    UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

#[test]
fn the_sender_notifies_the_service_manager() {
    let _running = shared();
    let dead = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let listen = free_udp();
    let mut sender = NotifyingDaemon::start(Program::Sender, &listen.to_string(), &dead);
    let first = sender.wait_for("READY=1", |_| true);
    assert_eq!(first.trim_end(), "READY=1", "what comes first is that it is ready");
    let status = sender.wait_for("status", |message| message.starts_with("STATUS="));
    assert!(status.contains(&dead), "the first status names the receiver: {status}");
    sender.wait_for_status(&["not connected", &dead, "refused", "retry in", "0 datagrams queued"]);
    Exporters::new(0..1, listen, Pattern::new(MIXED)).send(7);
    sender.wait_for_status(&["7 datagrams queued"]);
    let messages = sender.stop();
    println!("{messages:#?}");
    assert!(messages.iter().all(|message| message.trim_end().lines().count() == 1), "{messages:#?}");
    let last = messages.last().unwrap();
    assert!(last.starts_with("STATUS=stopping") && last.contains("7 datagrams queued"), "{messages:#?}");
}

#[test]
fn a_sender_without_a_receiver_notifies_spooling() {
    let _running = shared();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    let all = options(Program::Sender, &directory, "-");
    let mut command = Program::Sender.command();
    command.args(&all[..all.len() - 2]).args(["-l", "127.0.0.1:0"]);
    command.env("NOTIFY_SOCKET", &path).env("RUNTIME_DIRECTORY", directory.path());
    let child = command.stdin(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let mut sender = NotifyingDaemon { child, socket, messages: Vec::new(), directory };
    let status = sender.wait_for_status(&["no receiver configured", "spooling only"]);
    assert_eq!(status.matches("no receiver").count(), 1, "{status}");
    sender.stop();
}

#[test]
fn the_receiver_notifies_the_service_manager() {
    let _running = shared();
    let collector = UdpSocket::bind("127.0.0.1:0").unwrap();
    let addr = collector.local_addr().unwrap().to_string();
    let mut receiver = NotifyingDaemon::start(Program::Receiver, "127.0.0.1:0", &addr);
    let first = receiver.wait_for("READY=1", |_| true);
    assert_eq!(first.trim_end(), "READY=1", "what comes first is that it is ready");
    receiver.wait_for_status(&["0 senders connected", "0 datagrams delivered"]);
    println!("{:#?}", receiver.stop());
}

/// Environment of a watchdog with a period of a few seconds.
const WATCHDOG: [(&str, &str); 1] = [("WATCHDOG_USEC", "4000000")];

#[test]
fn reloads_are_notified_at_start_and_end() {
    let _running = shared();
    for (program, listen) in
        [(Program::Sender, free_udp().to_string()), (Program::Receiver, "127.0.0.1:0".to_owned())]
    {
        let mut daemon = NotifyingDaemon::start(program, &listen, "127.0.0.1:9");
        daemon.wait_for("READY=1", |message| message.trim_end() == "READY=1");
        let settings = daemon.directory.path().join("settings.toml");
        for text in ["", "no-such-key = 1\n"] {
            std::fs::write(&settings, text).unwrap();
            kill_process(Pid::from_child(&daemon.child), Signal::HUP).unwrap();
            let begun = daemon.wait_for("RELOADING=1", |message| message.starts_with("RELOADING=1"));
            let when = begun.lines().find_map(|line| line.strip_prefix("MONOTONIC_USEC=")).unwrap();
            assert!(when.parse::<u64>().unwrap() > 0, "{begun}");
            daemon.wait_for("READY=1", |message| message.trim_end() == "READY=1");
        }
        daemon.stop();
    }
}

#[test]
fn the_watchdog_is_fed_while_idle() {
    let _running = shared();
    for (program, listen) in
        [(Program::Sender, free_udp().to_string()), (Program::Receiver, "127.0.0.1:0".to_owned())]
    {
        let mut daemon = NotifyingDaemon::start_with(program, &listen, "127.0.0.1:9", &WATCHDOG);
        for _ in 0..5 {
            daemon.wait_for("WATCHDOG=1", |message| message.trim_end() == "WATCHDOG=1");
        }
        daemon.stop();
    }
}

/// Finds the thread with this name. A thread sets its name only once it runs.
fn find_thread(process: u32, name: &str) -> Option<Traced> {
    let mut threads = std::fs::read_dir(format!("/proc/{process}/task")).unwrap().map(Result::unwrap);
    // A thread that has ended meanwhile has no name.
    let is_it = |path: PathBuf| std::fs::read_to_string(path).is_ok_and(|found| found.trim() == name);
    let thread = threads.find(|thread| is_it(thread.path().join("comm")))?;
    Some(Traced::from_raw(thread.file_name().to_str().unwrap().parse().unwrap()))
}

/// Stops one thread as a debugger does, while the others run.
fn stop_thread(thread: Traced) {
    ptrace::seize(thread, ptrace::Options::empty()).unwrap();
    ptrace::interrupt(thread).unwrap();
}

#[test]
fn one_stuck_thread_stops_the_watchdog_messages() {
    let _running = shared();
    for name in ["ingest", "flusher"] {
        let listen = free_udp().to_string();
        let mut sender = NotifyingDaemon::start_with(Program::Sender, &listen, "127.0.0.1:9", &WATCHDOG);
        let (process, mut thread) = (sender.child.id(), None);
        sender.wait_for(&format!("WATCHDOG=1 with a thread {name}"), |message| {
            thread = find_thread(process, name);
            message.starts_with("WATCHDOG=1") && thread.is_some()
        });
        let thread = thread.unwrap();
        stop_thread(thread);
        // The status is sent every second, as the watchdog message was.
        let mut hungry = 0;
        sender.wait_for("four seconds without WATCHDOG=1", |message| {
            hungry = if message.starts_with("WATCHDOG=1") { 0 } else { hungry + 1 };
            hungry == 4
        });
        sender.child.kill().unwrap();
        // The tracer of a thread must wait for its end.
        while !matches!(waitpid(thread, Some(WaitPidFlag::__WALL)), Ok(WaitStatus::Signaled(..)) | Err(_)) {}
    }
}

#[test]
fn a_slow_start_extends_its_time_out() {
    let _running = shared();
    let directory = tempfile::tempdir().unwrap();
    let notify = directory.path().join("notify");
    let key = directory.path().join("spool-key");
    rustix::fs::mkfifoat(rustix::fs::CWD, &key, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR).unwrap();
    let settings = directory.path().join("long.toml");
    let text = format!("[spool]\nencrypt = true\nkey-file = {:?}\n", key.to_str().unwrap());
    std::fs::write(&settings, text).unwrap();
    let socket = UnixDatagram::bind(&notify).unwrap();
    let all = options(Program::Sender, &directory, "127.0.0.1:9");
    let mut command = Program::Sender.command();
    command.args(["-c", settings.to_str().unwrap()]).args(&all[2..]).args(["-l", "127.0.0.1:0"]);
    command.env("NOTIFY_SOCKET", &notify).env("RUNTIME_DIRECTORY", directory.path());
    let child = command.stdin(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let mut sender = NotifyingDaemon { child, socket, messages: Vec::new(), directory };
    sender.wait_for("EXTEND_TIMEOUT_USEC", |message| message.starts_with("EXTEND_TIMEOUT_USEC=15000000"));
    assert!(!sender.messages.iter().any(|message| message.contains("READY=1")), "{:#?}", sender.messages);
    // The key arrives at last.
    std::fs::write(&key, "0123456789abcdef".repeat(4)).unwrap();
    sender.wait_for("READY=1", |message| message.trim_end() == "READY=1");
    sender.stop();
}
