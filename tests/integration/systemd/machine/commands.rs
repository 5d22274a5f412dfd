//! Commands on a running machine: shell, files, units, status and journal.

use std::cell::Cell;
use std::fs::{self, File};
use std::io::Write;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use nf_transport_kit::kernel_socket;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde_json::Value;

use super::host::wait_for_or;
use super::{Machine, PATIENCE};

impl Machine {
    /// Runs a command on the machine.
    pub(crate) fn run(&self, command: &[&str]) -> Output {
        self.command(command).output().unwrap()
    }

    fn command(&self, command: &[&str]) -> Command {
        let mut run = Command::new("nsenter");
        run.args(["-t", &self.inner().to_string(), "-m", "-u", "-i", "-n", "-p", "-C"]);
        run.args(self.is_hardened.then_some("-U")).args(["--", "env", "-i"]);
        run.args(["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8"]);
        run.args(["SYSTEMD_PAGER=cat", "SYSTEMD_COLORS=0", "DEBIAN_FRONTEND=noninteractive"]);
        run.args(command).stdin(Stdio::null());
        run
    }

    /// Runs a shell command that must succeed. Returns its standard output.
    pub(crate) fn sh(&self, script: &str) -> String {
        self.sh_with(script, "")
    }

    /// Does the same with this standard input.
    pub(crate) fn sh_with(&self, script: &str, input: &str) -> String {
        let mut command = self.command(&["sh", "-ec", script]);
        let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let [out, err] =
            [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
        assert!(output.status.success(), "{}: {script}\n{out}{err}\n{}", self.name, self.both_journals());
        out
    }

    /// Runs a shell command that must fail. Returns all its output.
    pub(crate) fn sh_fails(&self, script: &str) -> String {
        let output = self.run(&["sh", "-ec", script]);
        let printed = [output.stdout, output.stderr].concat();
        let printed = String::from_utf8_lossy(&printed).into_owned();
        assert!(!output.status.success(), "{}: {script}\n{printed}", self.name);
        printed
    }

    /// Returns the journal of both services for a failure message.
    fn both_journals(&self) -> String {
        let journal =
            self.run(&["journalctl", "--no-pager", "-o", "short-precise", "-n", "60", "-u", "nf-*"]);
        String::from_utf8_lossy(&journal.stdout).into_owned()
    }

    /// Installs Debian packages.
    pub(crate) fn install(&self, packages: &[PathBuf]) -> String {
        let names: Vec<String> = packages.iter().map(|path| self.put(path)).collect();
        self.sh(&format!("dpkg --install {} 2>&1", names.join(" ")))
    }

    /// Copies a file to the machine and returns its path there.
    pub(crate) fn put(&self, file: &Path) -> String {
        let path = format!("/root/{}", file.file_name().unwrap().to_str().unwrap());
        fs::copy(file, self.host_path(&path)).unwrap();
        path
    }

    /// Writes a file on the machine and creates its directories.
    pub(crate) fn write(&self, path: &str, text: &str) {
        let path = self.host_path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn host_path(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{path}", self.inner()))
    }

    /// Creates a drop-in of a unit, as `systemctl edit` does.
    pub(crate) fn edit(&self, unit: &str, text: &str) {
        self.write(&format!("/etc/systemd/system/{unit}.d/override.conf"), text);
        self.sh("systemctl daemon-reload");
    }

    /// Returns a property of a unit.
    pub(crate) fn property(&self, unit: &str, name: &str) -> String {
        self.sh(&format!("systemctl show {unit} -P {name}")).trim().to_owned()
    }

    /// Waits until a property of a unit is as wanted.
    pub(crate) fn wait_property(&self, unit: &str, name: &str, wanted: &str) {
        let picture = || self.sh(&format!("systemctl show {unit}"));
        wait_for_or(wanted, PATIENCE, picture, || (self.property(unit, name) == wanted).then_some(()));
    }

    /// Returns the status of one of our services; `None` while it does not answer.
    pub(crate) fn status(&self, service: &str) -> Option<Value> {
        let output = self.run(&[service, "status", "--json"]);
        output.status.success().then(|| serde_json::from_slice(&output.stdout).unwrap())
    }

    /// Waits until the status of a service is as wanted.
    pub(crate) fn wait_status(&self, service: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let last = Cell::new(None);
        let picture = || format!("{:#?}\n{}", last.take(), self.both_journals());
        wait_for_or("a status", PATIENCE, picture, || {
            let status = self.status(service)?;
            let is_wanted = wanted(&status);
            last.set(Some(status.clone()));
            is_wanted.then_some(status)
        })
    }

    /// Waits until `systemctl status` of a unit has a line that contains this.
    pub(crate) fn wait_line(&self, unit: &str, wanted: &str) {
        let look = || self.sh(&format!("systemctl status {unit}"));
        wait_for_or(wanted, PATIENCE, look, || look().contains(wanted).then_some(()));
    }

    /// Waits until the segments of nf-sender hold this number of bytes.
    pub(crate) fn wait_spooled(&self, bytes: u64) {
        let sizes = || self.sh("stat --format %s /var/lib/nf-sender/*.segment || true");
        let sum = || sizes().lines().filter_map(|line| line.parse::<u64>().ok()).sum::<u64>();
        wait_for_or("full spool", PATIENCE, sizes, || (sum() >= bytes).then_some(()));
    }

    /// Returns the journal of a unit, as `journalctl -u UNIT` shows it with these options.
    pub(crate) fn journal(&self, unit: &str, options: &str) -> String {
        self.sh(&format!("journalctl --sync; journalctl --no-pager -u {unit} {options}"))
    }

    /// Waits until the journal of a unit has a line with all of these words.
    pub(crate) fn wait_journal(&self, unit: &str, words: &[&str]) -> String {
        let journal = || self.journal(unit, "-o short-precise");
        wait_for_or(&format!("{words:?}"), PATIENCE, journal, || {
            let journal = journal();
            let line = journal.lines().find(|line| words.iter().all(|word| line.contains(word)));
            line.map(str::to_owned)
        })
    }

    /// Runs a function in a thread inside the machine's network, so that its sockets belong to the machine.
    pub(crate) fn inside<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let init = self.inner();
        let enter = move || {
            let network = File::open(format!("/proc/{init}/ns/net")).unwrap();
            move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            kernel_socket::use_tables(format!("/proc/{init}/net"));
            work()
        };
        std::thread::spawn(enter).join().unwrap_or_else(|cause| std::panic::resume_unwind(cause))
    }
}
