//! The daemons as processes: started as systemd starts them, stopped as operators and accidents stop them.

use std::ffi::OsString;
use std::fs;
use std::io::{self, BufRead, BufReader, PipeReader, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::chown;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use command_fds::{CommandFdExt, FdMapping};
use rustix::fs::{OFlags, fcntl_setfl};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// How long a daemon may take to start. Generous, for machines that do other things too.
const START: Duration = Duration::from_secs(20);

/// How long a daemon may take to end when told to: its grace is 5 s.
const STOP: Duration = Duration::from_secs(12);

/// Which of the two.
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

    /// Returns the path at which Cargo built it: in the directory of the running test or demo, or above it.
    pub fn path(self) -> PathBuf {
        let own = std::env::current_exe().unwrap();
        let built = own.ancestors().skip(1).take(2).map(|place| place.join(self.name()));
        built.clone().find(|path| path.is_file()).unwrap_or_else(|| panic!("no {} in {built:?}", self.name()))
    }

    /// A command with nothing of the environment that a service manager would set.
    pub fn command(self) -> Command {
        let mut command = Command::new(self.path());
        clear_service_environment(&mut command);
        command
    }

    /// Runs one of the program's other commands to its end.
    pub fn run(self, args: &[&str]) -> Output {
        self.command().args(args).stdin(Stdio::null()).output().unwrap()
    }

    /// What `status --json` says; nothing while no daemon answers there.
    pub fn status(self, control: &Path) -> Option<Value> {
        let output = self.run(&["status", "--json", "--control", control.to_str().unwrap()]);
        let parsed = serde_json::from_slice(&output.stdout);
        output.status.success().then(|| parsed.expect("status --json prints JSON"))
    }
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

/// How to start a daemon.
pub struct Launch {
    program: Program,
    args: Vec<OsString>,
    environment: Vec<(&'static str, OsString)>,
    sockets: Vec<(&'static str, OwnedFd)>,
    /// Words before the program, by which another one runs it.
    before: Vec<&'static str>,
    has_stuck_stderr: bool,
}

/// The user and the group that own nothing.
pub const NOBODY: u32 = 65_534;

/// Runs a program as nobody, who may do nothing that needs a privilege but send as if from others.
const NOBODY_WITH_NET_RAW: &[&str] = &[
    "setpriv",
    "--reuid=65534",
    "--regid=65534",
    "--clear-groups",
    "--inh-caps=-all,+net_raw",
    "--ambient-caps=-all,+net_raw",
    "--bounding-set=-all,+net_raw",
    "--",
];

/// Runs a program of root's where two more hours have passed since the boot, by the clock that counts that.
const TWO_HOURS_LATER: &[&str] = &["unshare", "--time", "--boottime=7200", "--"];

/// Runs a program of root's without the right to have larger buffers than the system allows.
const WITHOUT_NET_ADMIN: &[&str] = &["setpriv", "--bounding-set=-net_admin", "--"];

impl Launch {
    pub fn new(program: Program) -> Self {
        Self {
            program,
            args: Vec::new(),
            environment: Vec::new(),
            sockets: Vec::new(),
            before: Vec::new(),
            has_stuck_stderr: false,
        }
    }

    pub fn args<A: Into<OsString>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    pub fn env(mut self, name: &'static str, value: impl Into<OsString>) -> Self {
        self.environment.push((name, value.into()));
        self
    }

    /// Passes a socket by `LISTEN_FDS`, as systemd does, under this name.
    pub fn socket(mut self, name: &'static str, socket: impl Into<OwnedFd>) -> Self {
        self.sockets.push((name, socket.into()));
        self
    }

    /// Runs the daemon as nobody with `CAP_NET_RAW` and nothing else. Takes root.
    pub fn for_nobody_with_net_raw(mut self) -> Self {
        self.before = NOBODY_WITH_NET_RAW.to_vec();
        self
    }

    /// Runs the daemon without `CAP_NET_ADMIN`, which only root's would have.
    pub fn without_net_admin(mut self) -> Self {
        if rustix::process::geteuid().is_root() {
            self.before = WITHOUT_NET_ADMIN.to_vec();
        }
        self
    }

    /// Standard error is a full pipe that nobody reads, until [`Daemon::read_stderr`].
    pub fn with_stuck_stderr(mut self) -> Self {
        self.has_stuck_stderr = true;
        self
    }

    /// Runs the daemon with at most so many open files, as `--nofile=NUMBER`.
    pub fn with_open_files(mut self, limit: &'static str) -> Self {
        self.before = vec!["prlimit", limit, "--"];
        self
    }

    /// Runs the daemon where two more hours have passed since the boot. Takes root.
    pub fn two_hours_later(mut self) -> Self {
        self.before = TWO_HOURS_LATER.to_vec();
        self
    }

    /// Starts the daemon and waits until it says that it is ready.
    pub fn start(self) -> Daemon {
        let mut daemon = self.spawn();
        daemon.wait_ready();
        daemon
    }

    /// Starts the daemon and waits for nothing.
    pub fn spawn(self) -> Daemon {
        let program = self.program;
        let directory = tempfile::tempdir().unwrap();
        let notify_path = directory.path().join("notify");
        let notify = UnixDatagram::bind(&notify_path).unwrap();
        if self.before == NOBODY_WITH_NET_RAW {
            chown(directory.path(), Some(NOBODY), Some(NOBODY)).unwrap();
            chown(&notify_path, Some(NOBODY), Some(NOBODY)).unwrap();
        }
        let (stderr, mut writer) = io::pipe().unwrap();
        if self.has_stuck_stderr {
            fill(&mut writer);
        }
        let is_read = !self.has_stuck_stderr;
        let mut command = self.command();
        command.env("NOTIFY_SOCKET", &notify_path).stdin(Stdio::null()).stderr(writer);
        let started = Instant::now();
        let child = command.spawn().unwrap();
        drop(command); // it holds the sockets and the end of the pipe that it passed
        let (events, incoming) = channel();
        let log = Arc::new(Log::default());
        follow_notify(notify.try_clone().unwrap(), events.clone());
        let mut daemon = Daemon {
            program,
            child,
            started,
            ready_after: None,
            log,
            unread: Some((stderr, events)),
            notify,
            events: incoming,
            _directory: directory,
        };
        if is_read {
            daemon.read_stderr();
        }
        daemon
    }

    /// `LISTEN_PID` must be the daemon's own, which a shell knows and keeps when it turns into the daemon.
    fn command(self) -> Command {
        let program = self.program.path();
        let mut words = self.before.iter().map(OsString::from).chain([program.into_os_string()]);
        let mut command = if self.sockets.is_empty() {
            Command::new(words.next().unwrap())
        } else {
            let mut shell = Command::new("sh");
            shell.args(["-c", r#"LISTEN_PID=$$ exec "$0" "$@""#]);
            shell
        };
        clear_service_environment(&mut command);
        if !self.sockets.is_empty() {
            let names: Vec<_> = self.sockets.iter().map(|(name, _)| *name).collect();
            command.env("LISTEN_FDS", names.len().to_string()).env("LISTEN_FDNAMES", names.join(":"));
            let mapping = |(parent_fd, child_fd)| FdMapping { parent_fd, child_fd };
            let sockets = self.sockets.into_iter().map(|(_, socket)| socket);
            command.fd_mappings(sockets.zip(3..).map(mapping).collect()).unwrap();
        }
        command.args(words).args(self.args).envs(self.environment);
        command
    }
}

/// What a daemon tells while it runs.
enum Event {
    /// A message to the service manager.
    Notify(String),
    /// Its standard error ended: so has the process.
    Ended,
}

/// A running daemon. Dropping it kills it.
pub struct Daemon {
    program: Program,
    child: Child,
    started: Instant,
    ready_after: Option<Duration>,
    log: Arc<Log>,
    /// Its standard error, and whom to tell that it ended, while nobody reads it.
    unread: Option<(PipeReader, Sender<Event>)>,
    notify: UnixDatagram,
    events: Receiver<Event>,
    _directory: tempfile::TempDir,
}

impl Daemon {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// From start to READY.
    pub fn ready_after(&self) -> Duration {
        self.ready_after.expect("the daemon has not said that it is ready")
    }

    /// Begins to read its standard error.
    pub fn read_stderr(&mut self) {
        if let Some((stderr, events)) = self.unread.take() {
            follow_log(stderr, Arc::clone(&self.log), events);
        }
    }

    /// Asks it to end, and waits until it has, without reading what it writes to standard error.
    pub fn terminate_unread(mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.wait_exit_unread(STOP)
    }

    /// Waits until it ends by itself, without reading what it writes to standard error.
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

    /// The last lines that it wrote to standard error.
    pub fn log(&self) -> String {
        self.log.text()
    }

    /// Waits until one line of the log holds all of these words.
    pub fn wait_for_log(&self, words: &[&str], patience: Duration) {
        let found = self.log.wait_for(words, 0, patience);
        assert!(found, "{} did not log {words:?} within {patience:?}:\n{}", self.program.name(), self.log());
    }

    /// The address that the log line with this word names.
    pub fn logged_address(&self, word: &str) -> std::net::SocketAddr {
        let log = self.log();
        let line = log.lines().find(|line| line.contains(word)).expect("a line with that word");
        let mut words = line.split([' ', ',', '/']);
        words.find_map(|word| word.parse().ok()).expect("an address in it")
    }

    /// The lines of the log that hold all of these words.
    pub fn logged(&self, words: &[&str]) -> Vec<String> {
        let lines = self.log.lines.lock().unwrap();
        lines.iter().filter(|line| words.iter().all(|word| line.contains(word))).cloned().collect()
    }

    /// How many lines of the log hold all of these words.
    pub fn count_log(&self, words: &[&str]) -> usize {
        self.log.count(words)
    }

    /// Makes it take up its settings anew, and waits until it has, or has said that it does not.
    pub fn reload(&self) {
        let said = self.count_log(&["reloaded"]);
        self.signal(Signal::HUP);
        assert!(self.log.wait_for(&["reloaded"], said, START), "no reload:\n{}", self.log());
    }

    /// Ends it at once, as a crash would.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Asks it to end, and waits until it has.
    pub fn terminate(self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.wait_exit(STOP).0
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits until it ends by itself; returns its status and all that it logged.
    pub fn wait_exit(mut self, patience: Duration) -> (ExitStatus, String) {
        let ended = self.wait_event(patience, |event| matches!(event, Event::Ended));
        assert!(ended.is_some(), "{} still runs after {patience:?}:\n{}", self.program.name(), self.log());
        (self.child.wait().unwrap(), self.log())
    }

    /// How many files it has open.
    pub fn open_files(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.pid())).unwrap().count()
    }

    /// The most memory that it has ever had resident, in bytes.
    pub fn memory_peak(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a running process");
        let kibibytes: u64 = line.trim().trim_end_matches(" kB").parse().unwrap();
        kibibytes * 1024
    }

    /// The time for which it has computed so far, in hundredths of a second as the kernel counts it.
    pub fn cpu_time(&self) -> Duration {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap();
        // The name of the program, in parentheses, may hold anything; the state follows it, and 11 words on the times are.
        let (_, words) = stat.rsplit_once(')').expect("a running process");
        let times = words.split_whitespace().skip(11).take(2);
        let hundredths: u64 = times.map(|time| time.parse::<u64>().unwrap()).sum();
        Duration::from_millis(10 * hundredths)
    }

    fn wait_ready(&mut self) {
        let started = self.started;
        let ready = |event: &Event| match event {
            Event::Notify(message) => message.lines().any(|line| line == "READY=1"),
            Event::Ended => true,
        };
        let event = self.wait_event(START, ready);
        let is_ready = matches!(event, Some(Event::Notify(_)));
        assert!(is_ready, "{} did not get ready:\n{}", self.program.name(), self.log());
        self.ready_after = Some(started.elapsed());
    }

    fn wait_event(&mut self, patience: Duration, wanted: impl Fn(&Event) -> bool) -> Option<Event> {
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
        drop(self.notify.shutdown(std::net::Shutdown::Both)); // ends the thread that reads it
    }
}

/// The lines of a standard error, as they come.
#[derive(Default)]
struct Log {
    lines: Mutex<Vec<String>>,
    grown: Condvar,
}

impl Log {
    /// The last lines are enough for a message: daemons under test are killed hundreds of times.
    const SHOWN: usize = 40;

    fn text(&self) -> String {
        let lines = self.lines.lock().unwrap();
        lines[lines.len().saturating_sub(Self::SHOWN)..].join("\n")
    }

    fn push(&self, line: String) {
        self.lines.lock().unwrap().push(line);
        self.grown.notify_all();
    }

    fn count(&self, words: &[&str]) -> usize {
        count(&self.lines.lock().unwrap(), words)
    }

    fn wait_for(&self, words: &[&str], more_than: usize, patience: Duration) -> bool {
        let absent = |lines: &mut Vec<String>| count(lines, words) <= more_than;
        let lines = self.lines.lock().unwrap();
        !self.grown.wait_timeout_while(lines, patience, absent).unwrap().1.timed_out()
    }
}

/// How many of the lines hold all of these words, whatever their case.
fn count(lines: &[String], words: &[&str]) -> usize {
    let holds = |line: &&String| words.iter().all(|word| line.to_lowercase().contains(&word.to_lowercase()));
    lines.iter().filter(holds).count()
}

/// Fills a pipe with empty lines.
fn fill(pipe: &mut io::PipeWriter) {
    fcntl_setfl(&*pipe, OFlags::NONBLOCK).unwrap();
    while pipe.write(b"\n").is_ok() {}
    fcntl_setfl(&*pipe, OFlags::empty()).unwrap();
}

fn follow_log(stderr: impl Read + Send + 'static, log: Arc<Log>, events: Sender<Event>) {
    std::thread::spawn(move || {
        for line in BufReader::new(stderr).split(b'\n').map_while(Result::ok) {
            log.push(String::from_utf8_lossy(&line).into_owned());
        }
        drop(events.send(Event::Ended));
    });
}

fn follow_notify(notify: UnixDatagram, events: Sender<Event>) {
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(length @ 1..) = notify.recv(&mut buffer) {
            let message = String::from_utf8_lossy(&buffer[..length]).into_owned();
            if events.send(Event::Notify(message)).is_err() {
                break;
            }
        }
    });
}
