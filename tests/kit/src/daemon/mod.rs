//! The daemons as processes. Tests start them as systemd does, and stop them as operators and crashes do.

mod launch;
mod log;

use std::fs;
use std::io::PipeReader;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

pub use launch::{Launch, NOBODY};
use log::{Log, follow_log};

/// Longest start of a daemon. Generous, because the machine may be busy.
const START: Duration = Duration::from_secs(20);

/// Longest shutdown of a daemon, whose own grace period is 5 s.
const STOP: Duration = Duration::from_secs(12);

/// One of the two daemons.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    Sender,
    Receiver,
}

impl Program {
    pub fn name(self) -> &'static str {
        match self {
            Self::Sender => "nf-sender",
            Self::Receiver => "nf-receiver",
        }
    }

    /// Returns the path at which Cargo built the program: the directory of the running test or demo, or its
    /// parent.
    pub fn path(self) -> PathBuf {
        let own = std::env::current_exe().unwrap();
        let built = own.ancestors().skip(1).take(2).map(|place| place.join(self.name()));
        built.clone().find(|path| path.is_file()).unwrap_or_else(|| panic!("no {} in {built:?}", self.name()))
    }

    /// Returns a command without the environment variables that a service manager would set.
    pub fn command(self) -> Command {
        command(&self.path())
    }

    /// Runs one of the program's other commands until it exits.
    pub fn run(self, args: &[&str]) -> Output {
        self.command().args(args).stdin(Stdio::null()).output().unwrap()
    }

    /// Returns the output of `status --json`; `None` while no daemon answers at `control`.
    pub fn status(self, control: &Path) -> Option<Value> {
        status(&self.path(), control)
    }
}

fn command(path: &Path) -> Command {
    let mut command = Command::new(path);
    clear_service_environment(&mut command);
    command
}

/// Returns the output of `status --json` of the program at `path`; `None` while no daemon answers at
/// `control`.
pub(crate) fn status(path: &Path, control: &Path) -> Option<Value> {
    let args = ["status", "--json", "--control", control.to_str().unwrap()];
    let output = command(path).args(args).stdin(Stdio::null()).output().unwrap();
    let parsed = serde_json::from_slice(&output.stdout);
    output.status.success().then(|| parsed.expect("status --json prints JSON"))
}

fn clear_service_environment(command: &mut Command) {
    let service = ["LISTEN_", "NOTIFY_", "WATCHDOG_", "JOURNAL_", "INVOCATION_", "NF_"];
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if service.iter().any(|prefix| text.starts_with(prefix)) || text.ends_with("_DIRECTORY") {
            command.env_remove(&name);
        }
    }
}

/// Events of a running daemon.
enum DaemonEvent {
    /// A message to the service manager.
    Notify(String),
    /// Standard error was closed, so the process has ended.
    Ended,
}

/// A running daemon. Dropping it kills it.
pub struct Daemon {
    program: Program,
    child: Child,
    started: Instant,
    ready_after: Option<Duration>,
    log: Arc<Log>,
    /// The unread standard error and the channel for its end; `None` once a thread reads it.
    unread: Option<(PipeReader, Sender<DaemonEvent>)>,
    notify: UnixDatagram,
    events: Receiver<DaemonEvent>,
    _directory: tempfile::TempDir,
}

impl Daemon {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Returns the time from the start of the process to `READY=1`.
    pub fn ready_after(&self) -> Duration {
        self.ready_after.expect("the daemon has reported READY=1")
    }

    /// Starts to read the daemon's standard error.
    pub fn read_stderr(&mut self) {
        if let Some((stderr, events)) = self.unread.take() {
            follow_log(stderr, Arc::clone(&self.log), events);
        }
    }

    /// Sends SIGTERM and waits until the daemon exits, without reading its standard error.
    pub fn terminate_unread(mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.wait_exit_unread(STOP)
    }

    /// Waits until the daemon exits by itself, without reading its standard error.
    pub fn wait_exit_unread(&mut self, patience: Duration) -> ExitStatus {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "{} still runs after {patience:?}", self.program.name());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Returns the last lines of the daemon's standard error.
    pub fn log(&self) -> String {
        self.log.text()
    }

    /// Waits until one line of the log contains all of these words.
    pub fn wait_for_log(&self, words: &[&str], patience: Duration) {
        let found = self.log.wait_for(words, 0, patience);
        assert!(found, "{} did not log {words:?} within {patience:?}:\n{}", self.program.name(), self.log());
    }

    /// Returns the address in the log line that contains this word.
    pub fn logged_address(&self, word: &str) -> std::net::SocketAddr {
        let log = self.log();
        let line = log.lines().find(|line| line.contains(word)).expect("a line with that word");
        let mut words = line.split([' ', ',', '/']);
        words.find_map(|word| word.parse().ok()).expect("an address in it")
    }

    /// Returns the lines of the log that contain all of these words.
    pub fn logged(&self, words: &[&str]) -> Vec<String> {
        let lines = self.log.lines.lock().unwrap();
        lines.iter().filter(|line| words.iter().all(|word| line.contains(word))).cloned().collect()
    }

    /// Counts the lines of the log that contain all of these words.
    pub fn count_log(&self, words: &[&str]) -> usize {
        self.log.count(words)
    }

    /// Sends SIGHUP and waits until the log reports a reload, successful or rejected.
    pub fn reload(&self) {
        let reports = self.count_log(&["reloaded"]);
        self.signal(Signal::HUP);
        assert!(self.log.wait_for(&["reloaded"], reports, START), "no reload:\n{}", self.log());
    }

    /// Kills the daemon with SIGKILL, as a crash would end it.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Sends SIGTERM and waits until the daemon exits.
    pub fn terminate(self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.wait_exit(STOP).0
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits until the daemon exits by itself. Returns its exit status and the end of its log.
    pub fn wait_exit(mut self, patience: Duration) -> (ExitStatus, String) {
        let ended = self.wait_event(patience, |event| matches!(event, DaemonEvent::Ended));
        assert!(ended.is_some(), "{} still runs after {patience:?}:\n{}", self.program.name(), self.log());
        (self.child.wait().unwrap(), self.log())
    }

    /// Counts the daemon's open files.
    pub fn open_files(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.pid())).unwrap().count()
    }

    /// Returns the daemon's peak resident memory, in bytes.
    pub fn memory_peak(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a running process");
        let kibibytes: u64 = line.trim().trim_end_matches(" kB").parse().unwrap();
        kibibytes * 1024
    }

    /// Returns the CPU time that the daemon has used, in the kernel's steps of 10 ms.
    pub fn cpu_time(&self) -> Duration {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap();
        // The program's name stands in parentheses and may contain any character. The state follows, and 11
        // words after it the two times.
        let (_, words) = stat.rsplit_once(')').expect("a running process");
        let times = words.split_whitespace().skip(11).take(2);
        let hundredths: u64 = times.map(|time| time.parse::<u64>().unwrap()).sum();
        Duration::from_millis(10 * hundredths)
    }

    fn wait_ready(&mut self) {
        let started = self.started;
        let ready = |event: &DaemonEvent| match event {
            DaemonEvent::Notify(message) => message.lines().any(|line| line == "READY=1"),
            DaemonEvent::Ended => true,
        };
        let event = self.wait_event(START, ready);
        let is_ready = matches!(event, Some(DaemonEvent::Notify(_)));
        assert!(is_ready, "{} did not get ready:\n{}", self.program.name(), self.log());
        self.ready_after = Some(started.elapsed());
    }

    fn wait_event(
        &mut self,
        patience: Duration,
        wanted: impl Fn(&DaemonEvent) -> bool,
    ) -> Option<DaemonEvent> {
        let deadline = Instant::now() + patience;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let event = self.events.recv_timeout(left).ok()?;
            if wanted(&event) {
                return Some(event);
            }
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
        drop(self.notify.shutdown(std::net::Shutdown::Both)); // ends the thread that reads the socket
    }
}
