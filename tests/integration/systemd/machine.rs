//! Machines with a real Debian and systemd as first process, on a network with others.
//!
//! Each machine is a set of namespaces over its own root directory. It boots within a second or two, and can
//! be cut off, crashed and booted again. All networks are created here and have no route to the outside.
//! Needs root and the output of `make test-machine`.

mod commands;
mod host;
mod parts;

use std::fs::{self, File};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Once};
use std::time::Duration;

use tempfile::TempDir;

use host::{call, cgroups, look_for, map_users, remove_group, sweep, wait_for, wait_for_or};
pub(crate) use parts::Parts;

/// Longest time for a boot or an action of a unit on a busy host.
const PATIENCE: Duration = Duration::from_secs(60);

/// Options of `unshare`: the namespaces of a machine, and the way it ends.
const NAMESPACES: &[&str] =
    &["--mount", "--pid", "--uts", "--ipc", "--net", "--cgroup", "--fork", "--kill-child"];

/// The same for a hardened machine, whose script creates the other namespaces.
const HARDENED: &[&str] = &["--mount"];

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
    pub(crate) fn restore(&self) {
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
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.end();
        remove_group(&self.group);
    }
}
