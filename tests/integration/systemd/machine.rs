//! Machines with a real Debian and systemd as first process, on a network with others.
//!
//! Each machine is a set of namespaces over its own root directory. It boots within a second or two, and can
//! be cut off, crashed and booted again. All networks are created here and have no route to the outside.
//! Needs root and the output of `make test-machine`.

use std::cell::Cell;
use std::fs::{self, File};
use std::io::Write;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Once, OnceLock};
use std::time::{Duration, Instant};

use nf_transport_kit::kernel_socket;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde_json::Value;
use tempfile::TempDir;

/// Longest time for a boot or an action of a unit on a busy host.
const PATIENCE: Duration = Duration::from_secs(60);

/// Options of `unshare`: the namespaces of a machine, and the way it ends.
const NAMESPACES: &[&str] =
    &["--mount", "--pid", "--uts", "--ipc", "--net", "--cgroup", "--fork", "--kill-child"];

/// The same for a hardened machine, whose script creates the other namespaces.
const HARDENED: &[&str] = &["--mount"];

/// Output of `make test-machine`: a fresh Debian and the packages.
#[derive(Clone, Debug)]
pub(crate) struct Parts {
    /// Root directory of the Debian, which no test changes.
    pub(crate) root: PathBuf,
    pub(crate) packages: PathBuf,
}

impl Parts {
    /// Finds the output of `make test-machine`. Prints the missing parts and returns `None` if there are any.
    /// In continuous integration (`CI=true`) they are required.
    pub(crate) fn find() -> Option<Self> {
        let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
        let packages = target.join("packages");
        let root = packages.join("debian");
        let missing = if !rustix::process::geteuid().is_root() {
            "needs root to boot machines"
        } else if !root.join("complete").exists() || !packages.join("deb").exists() {
            "needs packages and a Debian to boot: make test-machine"
        } else {
            return Some(Self { root, packages });
        };
        assert!(std::env::var("CI").as_deref() != Ok("true"), "{missing}");
        eprintln!("skipped: {missing}");
        None
    }

    /// Lists the package files in `directory` whose names end like this.
    pub(crate) fn files(&self, directory: &str, ending: &str) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.packages.join(directory)).unwrap();
        let mut files: Vec<_> = entries
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.to_str().unwrap().ends_with(ending))
            .collect();
        files.sort();
        files
    }

    /// Returns the layer with the installed packages. The first test after a change of the packages creates
    /// it.
    fn installed(&self) -> &'static Path {
        static INSTALLED: OnceLock<PathBuf> = OnceLock::new();
        INSTALLED.get_or_init(|| {
            let (layer, stamp) = (self.packages.join("installed"), self.packages.join("installed.stamp"));
            let made = |path: &PathBuf| fs::metadata(path).and_then(|metadata| metadata.modified()).ok();
            let parts = [self.debs(), vec![self.root.join("complete")]].concat();
            if made(&stamp) <= parts.iter().map(made).max().unwrap() {
                let mut machine = Machine::fresh("image", "10.77.0.250/24", &Network::new(), &self.root);
                machine.boot();
                machine.install(&self.debs());
                machine.halt();
                let upper = machine.disk.path("upper");
                call("rm", &["-rf", layer.to_str().unwrap()]);
                call("cp", &["-a", upper.to_str().unwrap(), layer.to_str().unwrap()]);
                File::create(stamp).unwrap();
            }
            layer
        })
    }

    /// Returns the RPM packages.
    pub(crate) fn rpms(&self) -> Vec<PathBuf> {
        self.files(&format!("rpm/RPMS/{}", std::env::consts::ARCH), ".rpm")
    }

    /// Returns the Debian packages.
    pub(crate) fn debs(&self) -> Vec<PathBuf> {
        let files = self.files("deb", ".deb");
        files.into_iter().filter(|path| !path.to_str().unwrap().contains("-dbgsym")).collect()
    }
}

/// A switch that connects machines.
#[derive(Debug)]
pub(crate) struct Network {
    namespace: String,
}

impl Network {
    pub(crate) fn new() -> Arc<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        static SWEPT: Once = Once::new();
        SWEPT.call_once(sweep);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let network = Self { namespace: format!("nf-{}-{count}", std::process::id()) };
        call("ip", &["netns", "add", &network.namespace]);
        network.ip(&["link", "add", "switch", "type", "bridge"]);
        network.ip(&["link", "set", "switch", "up"]);
        Arc::new(network)
    }

    fn ip(&self, args: &[&str]) {
        call("ip", &[&["-n", &self.namespace], args].concat());
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        drop(Command::new("ip").args(["netns", "del", &self.namespace]).status());
    }
}

/// A machine. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct Machine {
    name: String,
    address: String,
    network: Arc<Network>,
    disk: MachineDisk,
    /// Control groups of the machine.
    group: PathBuf,
    /// User namespaces are disabled.
    is_hardened: bool,
    running: Option<RunningMachine>,
}

/// The disk of a machine, which survives a crash.
#[derive(Debug)]
struct MachineDisk {
    lower: String,
    directory: TempDir,
}

#[derive(Debug)]
struct RunningMachine {
    /// The process `unshare`, with which the whole machine ends.
    outer: Child,
    /// The machine's first process, as the host numbers it.
    init: u32,
}

impl MachineDisk {
    fn new(lower: String) -> Self {
        let name = format!("nf-{}-", std::process::id());
        let directory =
            tempfile::Builder::new().prefix(&name).tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        // The upper layer of an overlay must not be on an overlay, which the build directory may be.
        call("mount", &["-t", "tmpfs", "-o", "mode=755", "machine", directory.path().to_str().unwrap()]);
        for name in ["upper", "work", "root"] {
            fs::create_dir(directory.path().join(name)).unwrap();
        }
        Self { lower, directory }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }
}

impl Drop for MachineDisk {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("-l").arg(self.directory.path()).status());
    }
}

impl Machine {
    /// Creates a machine with this Debian only, not booted.
    pub(crate) fn fresh(name: &str, address: &str, network: &Arc<Network>, root: &Path) -> Self {
        Self::on(name, address, network, MachineDisk::new(root.to_str().unwrap().to_owned()))
    }

    /// Creates a machine with both packages installed and boots it.
    pub(crate) fn installed(name: &str, address: &str, network: &Arc<Network>, parts: &Parts) -> Self {
        let mut machine = Self::off(name, address, network, parts);
        machine.boot();
        machine
    }

    /// Does the same without user namespaces, as hardening guides recommend: `user.max_user_namespaces` is 0.
    pub(crate) fn hardened(name: &str, address: &str, network: &Arc<Network>, parts: &Parts) -> Self {
        let mut machine = Self::off(name, address, network, parts);
        machine.is_hardened = true;
        machine.boot();
        machine
    }

    /// Creates a machine with both packages installed, not booted.
    fn off(name: &str, address: &str, network: &Arc<Network>, parts: &Parts) -> Self {
        let lower = format!("{}:{}", parts.installed().display(), parts.root.display());
        Self::on(name, address, network, MachineDisk::new(lower))
    }

    fn on(name: &str, address: &str, network: &Arc<Network>, disk: MachineDisk) -> Self {
        fs::create_dir_all(disk.path("upper/etc")).unwrap();
        fs::write(disk.path("upper/etc/hostname"), format!("{name}\n")).unwrap();
        Self {
            name: name.to_owned(),
            address: address.to_owned(),
            network: network.clone(),
            disk,
            group: cgroups().join(format!("{}-{name}", network.namespace)),
            is_hardened: false,
            running: None,
        }
    }

    /// Returns the machine's address on the network.
    pub(crate) fn ip(&self) -> &str {
        self.address.split('/').next().unwrap()
    }

    /// Boots the machine. Returns once its systemd has started all units.
    pub(crate) fn boot(&mut self) {
        assert!(self.running.is_none(), "{} is up", self.name);
        let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/integration/systemd");
        let group = &self.group;
        fs::create_dir_all(group).unwrap();
        let console = File::create(self.disk.path("console")).unwrap();
        let path = |name| self.disk.path(name).to_str().unwrap().to_owned();
        let mut outer = Command::new("sh")
            // The machine's control groups start at this shell's group when the namespace is created.
            .args(["-ec", "echo $$ > \"$0/cgroup.procs\"; exec \"$@\"", group.to_str().unwrap()])
            .args(["setpriv", "--pdeathsig", "KILL", "unshare"])
            .args(if self.is_hardened { HARDENED } else { NAMESPACES })
            .arg("sh")
            .arg(scripts.join(if self.is_hardened { "boot_hardened.sh" } else { "boot.sh" }))
            .args([&self.name, &self.disk.lower, &path("upper"), &path("work"), &path("root")])
            .stdin(Stdio::null())
            .stdout(console.try_clone().unwrap())
            .stderr(console)
            .spawn()
            .unwrap();
        if self.is_hardened {
            map_users(outer.id());
        }
        let init = wait_for("its first process", || {
            assert_eq!(outer.try_wait().unwrap(), None, "{}", self.console());
            let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", outer.id())).ok()?;
            let processes = |of: &str| fs::read_link(format!("/proc/{of}/ns/pid")).ok();
            let mut children = children.split_whitespace();
            let init =
                children.find(|child| processes(child).is_some_and(|its| Some(its) != processes("self")));
            init?.parse().ok()
        });
        self.running = Some(RunningMachine { outer, init });
        self.connect(init);
        wait_for_or(
            "systemd",
            PATIENCE,
            || self.console(),
            || {
                let state = self.run(&["systemctl", "is-system-running"]);
                let state = String::from_utf8_lossy(&state.stdout).trim().to_owned();
                ["running", "degraded"].contains(&state.as_str()).then_some(())
            },
        );
    }

    fn connect(&self, init: u32) {
        let link = self.link();
        let init = init.to_string();
        self.network.ip(&["link", "add", &link, "type", "veth", "peer", "name", "eth0", "netns", &init]);
        self.network.ip(&["link", "set", &link, "master", "switch", "up"]);
        let inside = |args: &[&str]| call("nsenter", &[&["-t", &init, "-n", "ip"], args].concat());
        // Like a real network card the machine keeps its hardware address, which other machines remember.
        inside(&["link", "set", "eth0", "address", &self.hardware_address()]);
        inside(&["address", "add", &self.address, "dev", "eth0"]);
        inside(&["link", "set", "eth0", "up"]);
        inside(&["link", "set", "lo", "up"]);
    }

    /// Returns a locally administered hardware address derived from the IP address.
    fn hardware_address(&self) -> String {
        let [a, b, c, d] = self.ip().parse::<Ipv4Addr>().unwrap().octets();
        format!("02:00:{a:02x}:{b:02x}:{c:02x}:{d:02x}")
    }

    /// Name of the machine's end of the network.
    fn link(&self) -> String {
        format!("to-{}", self.name)
    }

    fn console(&self) -> String {
        fs::read_to_string(self.disk.path("console")).unwrap_or_default()
    }

    /// Takes the machine's network link down.
    pub(crate) fn cut(&self) {
        self.network.ip(&["link", "set", &self.link(), "down"]);
    }

    /// Brings the machine's network link up again.
    pub(crate) fn mend(&self) {
        self.network.ip(&["link", "set", &self.link(), "up"]);
    }

    /// Kills all processes of the machine, like a power failure. Its disk stays.
    pub(crate) fn crash(&mut self) {
        assert!(self.end(), "{} does not end", self.name);
    }

    /// Does the same and returns whether the machine was running.
    fn end(&mut self) -> bool {
        let Some(mut running) = self.running.take() else { return true };
        drop(running.outer.kill());
        drop(running.outer.wait());
        // The network namespace and its link disappear after the last process has ended.
        let path = format!("/proc/{}", running.init);
        let has_ended = look_for(PATIENCE, || (!Path::new(&path).exists()).then_some(())).is_some();
        drop(Command::new("ip").args(["-n", &self.network.namespace, "link", "del", &self.link()]).output());
        has_ended
    }

    /// Shuts the machine down cleanly.
    pub(crate) fn halt(&mut self) {
        let init = self.running.as_ref().unwrap().init;
        self.run(&["systemctl", "halt", "--no-wall"]);
        let path = format!("/proc/{init}");
        wait_for("its end", || (!Path::new(&path).exists()).then_some(()));
        self.crash();
    }

    fn inner(&self) -> u32 {
        self.running.as_ref().unwrap_or_else(|| panic!("{} is down", self.name)).init
    }

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
        assert!(output.status.success(), "{}: {script}\n{out}{err}\n{}", self.name, self.story());
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
    fn story(&self) -> String {
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
        let picture = || format!("{:#?}\n{}", last.take(), self.story());
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

impl Drop for Machine {
    fn drop(&mut self) {
        self.end();
        remove_group(&self.group);
    }
}

/// Finds the unified control group hierarchy.
fn cgroups() -> PathBuf {
    let unified = PathBuf::from("/sys/fs/cgroup/unified");
    if unified.is_dir() { unified } else { "/sys/fs/cgroup".into() }
}

/// Removes control groups from the leaves up. Those in use stay.
fn remove_group(group: &Path) {
    for entry in fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            remove_group(&entry.path());
        }
    }
    drop(fs::remove_dir(group));
}

/// Maps all users and groups into the user namespace that a process is about to create.
fn map_users(process: u32) {
    let namespace = |process: &str| fs::read_link(format!("/proc/{process}/ns/user")).unwrap();
    let process = process.to_string();
    wait_for("a user namespace", || (namespace(&process) != namespace("self")).then_some(()));
    for map in ["uid_map", "gid_map"] {
        fs::write(format!("/proc/{process}/{map}"), "0 0 4294967295").unwrap();
    }
}

fn call(program: &str, args: &[&str]) {
    let output = Command::new(program).args(args).output().unwrap();
    assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn wait_for<T>(what: &str, look: impl FnMut() -> Option<T>) -> T {
    wait_for_or(what, PATIENCE, String::new, look)
}

/// Polls until a value is available. Panics with `picture` after the usual time-out.
fn wait_for_or<T>(
    what: &str,
    patience: Duration,
    picture: impl Fn() -> String,
    look: impl FnMut() -> Option<T>,
) -> T {
    look_for(patience, look).unwrap_or_else(|| panic!("no {what} within {patience:?}\n{}", picture()))
}

/// Polls until a value is available, for at most `patience`.
fn look_for<T>(patience: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + patience;
    loop {
        let found = look();
        if found.is_some() || Instant::now() >= deadline {
            return found;
        }
        std::thread::sleep(Duration::from_millis(25));
    }
}

/// Removes the leftovers of killed runs: networks and disks named after the process.
fn sweep() {
    let is_left = |name: &str| {
        let process = name.strip_prefix("nf-")?.split('-').next()?;
        process.parse::<u32>().ok()?;
        (!Path::new("/proc").join(process).exists()).then_some(())
    };
    let names = |directory: &Path| -> Vec<String> {
        let entries = fs::read_dir(directory).into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        names.filter(|name| is_left(name).is_some()).collect()
    };
    for name in names(Path::new("/run/netns")) {
        drop(Command::new("ip").args(["netns", "del", &name]).output());
    }
    let disks = Path::new(env!("CARGO_TARGET_TMPDIR"));
    for name in names(disks) {
        drop(Command::new("umount").arg("-l").arg(disks.join(&name)).output());
        drop(fs::remove_dir(disks.join(&name)));
    }
    for name in names(&cgroups()) {
        remove_group(&cgroups().join(name));
    }
}
