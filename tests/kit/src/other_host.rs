//! Another machine, as a network namespace at the end of a cable or behind a switch.

use std::fs::File;
use std::os::fd::AsFd;
use std::process::{Child, Command, Stdio};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Script for `in_a_network` that creates this machine's end of the cable: device `here`, address 10.77.0.1.
pub const NETWORK: &str = "ip link set lo up; ip link add here type veth peer name there; \
     ip address add 10.77.0.1/24 dev here; ip link set here up";

/// Script for `in_a_network` that creates this machine's end of a cable to a switch.
pub const NETWORK_WITH_SWITCH: &str = "ip link set lo up; ip link add here type veth peer name port; \
     ip address add 10.77.0.1/24 dev here; ip link set here up";

/// The other machine, with device `there` and address 10.77.0.2. Its process only keeps the network namespace
/// alive.
pub struct OtherHost(Child);

impl OtherHost {
    /// Creates the machine and connects it to this machine's network.
    pub fn connected() -> Self {
        let there = Self::alone();
        shell(&format!("ip link set there netns {}", there.0.id()));
        there.shell("ip address add 10.77.0.2/24 dev there; ip link set there up");
        there
    }

    /// Creates the machine and connects it by a separate cable. This machine's end is the device `here` with
    /// the address `fe80::2`; the other machine has the address `fe80::1`.
    pub fn on_link(here: &str) -> Self {
        let there = Self::alone();
        shell(&format!("ip link add {here} type veth peer name there netns {}", there.0.id()));
        shell(&format!("ip address add fe80::2/64 dev {here} nodad; ip link set {here} up"));
        there.shell("ip address add fe80::1/64 dev there nodad; ip link set there up");
        there
    }

    /// Creates the machine and connects it to this machine's network by a switch. Returns the machine and the
    /// switch.
    /// The switch silently drops frames with packets of more than `mtu` bytes to the machine, although both
    /// machines use an MTU of 1,500: a path MTU black hole.
    pub fn behind_a_switch(mtu: u32) -> (Self, Self) {
        let (there, switch) = (Self::alone(), Self::alone());
        shell(&format!("ip link set port netns {}", switch.0.id()));
        // The kernel would pass large TCP segments through the switch whole.
        shell("ip link set dev here gso_max_segs 1");
        switch.shell(&format!(
            "ip link add switch type bridge; ip link set switch up; ip link set port master switch up; \
             ip link add other mtu {mtu} type veth peer name there mtu 1500 netns {}; \
             ip link set other master switch up",
            there.0.id()
        ));
        there.shell("ip address add 10.77.0.2/24 dev there; ip link set there up");
        (there, switch)
    }

    /// Creates a machine without a network.
    fn alone() -> Self {
        let mut holder = Command::new("unshare")
            .args(["--net", "sh", "-ec", "ip link set lo up; echo ready; exec cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut word = [0; 6];
        std::io::Read::read_exact(holder.stdout.as_mut().unwrap(), &mut word).unwrap();
        Self(holder)
    }

    /// Runs a shell script in the machine's network.
    pub fn shell(&self, script: &str) {
        shell(&format!("nsenter --net=/proc/{}/ns/net sh -ec '{script}'", self.0.id()));
    }

    /// Runs `work` in a thread inside the machine's network. `work` gets the id of a process there.
    pub fn run<T: Send + 'static>(&self, work: impl FnOnce(u32) -> T + Send + 'static) -> T {
        let id = self.0.id();
        let inside = move || {
            let network = File::open(format!("/proc/{id}/ns/net")).unwrap();
            move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            work(id)
        };
        std::thread::spawn(inside).join().unwrap_or_else(|cause| std::panic::resume_unwind(cause))
    }
}

impl Drop for OtherHost {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Runs a shell script in the network of this process.
pub fn shell(script: &str) {
    let output = Command::new("sh").args(["-ec", script]).output().unwrap();
    assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
}
