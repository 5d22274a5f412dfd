//! `nf-receiver check` of collectors with the exporters' source addresses: it sends a test datagram and names
//! the obstacle.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nf_transport_kit::daemon::Program;
use tempfile::TempDir;

use crate::isolation::{in_a_network, shared};

/// Exit code of sysexits.h.
const CONFIG: i32 = 78;

/// Commands that run a program without the right to send from foreign addresses.
const WITHOUT_CAPABILITY: &[&str] =
    &["setpriv", "--bounding-set=-net_raw,-net_admin", "--inh-caps=-all", "--ambient-caps=-all"];
const IN_ITS_OWN_USER_NAMESPACE: &[&str] = &["unshare", "--user", "--map-root-user"];

/// Script for a network where routing rules can precede the table of local addresses.
const NETWORK: &str = "ip link set lo up; \
     for family in -4 -6; do ip $family rule add pref 100 lookup local; ip $family rule del pref 0; done";

/// Configuration and directories of an nf-receiver.
struct CheckedReceiver {
    directory: TempDir,
    /// The process that runs as the service.
    service: Option<Child>,
}

impl CheckedReceiver {
    /// Creates a receiver that delivers to these collectors from the exporters' addresses.
    fn with(collectors: &[&str]) -> Self {
        let receiver = Self { directory: tempfile::tempdir().unwrap(), service: None };
        let tables = collectors.iter().map(|address| format!("[[collector]]\naddress = {address:?}\n"));
        let toml = ["plaintext = true\nsource = \"exporter\"\n".to_owned()]
            .into_iter()
            .chain(tables)
            .collect::<String>();
        std::fs::write(receiver.path("receiver.toml"), toml).unwrap();
        receiver
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Returns the program's command with these arguments, run by the command `before`.
    fn command(&self, before: &[&str], args: &[&str]) -> Command {
        let program = Program::Receiver.path();
        let mut words = before.iter().map(PathBuf::from).chain([program]);
        let mut command = Command::new(words.next().unwrap());
        command.args(words).arg("-c").arg(self.path("receiver.toml"));
        command.arg("--control").arg(self.path("control.sock")).arg("--state").arg(self.path("state"));
        command.args(args).stdin(Stdio::null());
        command
    }

    /// Runs `check` under the command `before`. Returns the exit code and all output.
    fn check(&self, before: &[&str]) -> (i32, String) {
        let output = self.command(before, &["check"]).output().unwrap();
        let printed = [output.stdout, output.stderr].concat();
        (output.status.code().unwrap(), String::from_utf8_lossy(&printed).into_owned())
    }

    /// Runs the daemon under the command `before` until its control socket answers. Returns its process id.
    fn serve(&mut self, before: &[&str]) -> u32 {
        let mut command = self.command(before, &["--listen", "[::]:0"]);
        let service = self.service.insert(command.stderr(Stdio::null()).spawn().unwrap());
        let process = service.id();
        let deadline = Instant::now() + Duration::from_secs(20);
        while Program::Receiver.status(&self.path("control.sock")).is_none() {
            assert!(Instant::now() < deadline, "nf-receiver does not answer");
            std::thread::sleep(Duration::from_millis(25));
        }
        process
    }
}

impl Drop for CheckedReceiver {
    fn drop(&mut self) {
        if let Some(mut service) = self.service.take() {
            drop(service.kill());
            drop(service.wait());
        }
    }
}

/// Panics unless the output contains all of these words.
fn assert_printed(printed: &str, words: &[&str]) {
    let missing: Vec<_> = words.iter().filter(|word| !printed.contains(**word)).collect();
    assert!(missing.is_empty(), "{missing:?} not in\n{printed}");
}

fn is_root() -> bool {
    let is_root = rustix::process::geteuid().is_root();
    if !is_root {
        eprintln!("skipped: needs root to send from foreign addresses");
    }
    is_root
}

/// Runs `ip` with these arguments. Returns whether the kernel supports it.
fn ip(words: &str) -> bool {
    let output = Command::new("ip").args(words.split_whitespace()).output().unwrap();
    if !output.status.success() {
        eprintln!("skipped: ip {words}: {}", String::from_utf8_lossy(&output.stderr));
    }
    output.status.success()
}

#[test]
fn check_skips_collectors_without_source_address() {
    let _running = shared();
    let receiver = CheckedReceiver::with(&["127.0.0.1:9995"]);
    std::fs::write(receiver.path("receiver.toml"), "plaintext = true\nsource = \"own\"\n").unwrap();
    let (code, printed) = receiver.check(&[]);
    assert_eq!(code, 0, "{printed}");
    assert!(!printed.contains("addresses") && !printed.contains("warning"), "{printed}");
}

#[test]
fn check_passes_in_both_address_families() {
    let _running = shared();
    in_a_network(NETWORK, "source_check::inside_both_address_families");
}

#[test]
#[ignore = "runs in a network namespace of another test"]
fn inside_both_address_families() {
    assert!(ip("address add 10.77.0.1/32 dev lo"));
    let receiver =
        CheckedReceiver::with(&["127.0.0.1:9995", "localhost:9996", "10.77.0.1:9995", "[::1]:9995"]);
    let (code, printed) = receiver.check(&[]);
    assert_eq!(code, 0, "{printed}");
    for line in [
        "10.77.0.1:9995: tested, datagrams of IPv4 exporters (those of IPv6 exporters have an address of this machine) arrive",
        "[::1]:9995: tested, datagrams of IPv6 exporters (those of IPv4 exporters have an address of this machine) arrive",
    ] {
        assert_printed(&printed, &[line]);
    }
    assert_printed(&printed, &["127.0.0.1:9995", ": tested", "nf-receiver is not running"]);
    assert!(printed.ends_with("configuration is valid\n") && !printed.contains("warning"), "{printed}");
}

#[test]
fn strict_rp_filter_allows_local_delivery() {
    let _running = shared();
    in_a_network(NETWORK, "source_check::inside_a_strict_rp_filter");
}

#[test]
#[ignore = "runs in a network namespace of another test"]
fn inside_a_strict_rp_filter() {
    std::fs::write("/proc/sys/net/ipv4/conf/all/rp_filter", "1").unwrap();
    assert!(ip("link set lo mtu 1500") && ip("route add unreachable 192.0.2.0/24"));
    let (code, printed) = CheckedReceiver::with(&["127.0.0.1:9995", "[::1]:9995"]).check(&[]);
    assert_eq!(code, 0, "{printed}");
    assert_eq!(printed.matches(": tested").count(), 2, "{printed}");
}

#[test]
fn check_names_a_routing_rule_that_rejects() {
    let _running = shared();
    in_a_network(NETWORK, "source_check::inside_routing_rules");
}

#[test]
#[ignore = "runs in a network namespace of another test"]
fn inside_routing_rules() {
    let receiver = CheckedReceiver::with(&["127.0.0.1:9995", "[::1]:9995"]);
    for (rule, cause) in
        [("prohibit", "prohibits it"), ("unreachable", "makes it unreachable"), ("blackhole", "blackhole")]
    {
        for (family, prefix) in [("-4", "192.0.2.0/24"), ("-6", "2001:db8::/32")] {
            assert!(ip(&format!("{family} rule add pref 10 from {prefix} {rule}")));
        }
        let (code, printed) = receiver.check(&[]);
        assert_eq!(code, CONFIG, "{printed}");
        assert_printed(&printed, &["127.0.0.1:9995: the kernel does not send from 192.0.2.1", "ip rule"]);
        assert_printed(&printed, &["[::1]:9995: the kernel does not send from 2001:db8::1", "ip -6 rule"]);
        assert_eq!(printed.matches(cause).count(), 2, "{printed}");
        assert!(!printed.contains("configuration is valid"), "{printed}");
        assert!(ip("-4 rule del pref 10") && ip("-6 rule del pref 10"));
    }
}

#[test]
fn check_suspects_a_silent_filter() {
    let _running = shared();
    in_a_network(NETWORK, "source_check::inside_a_silent_filter");
}

#[test]
#[ignore = "runs in a network namespace of another test"]
fn inside_a_silent_filter() {
    // An IPsec policy drops silently, and needs only the tool `ip`.
    std::fs::write("/proc/sys/net/ipv4/conf/lo/disable_policy", "0").unwrap();
    if !ip("xfrm policy add src 192.0.2.0/24 dst 127.0.0.0/8 dir in action block") {
        return;
    }
    let receiver = CheckedReceiver::with(&["127.0.0.1:9995"]);
    let (code, printed) = receiver.check(&[]);
    assert_eq!(code, CONFIG, "{printed}");
    assert_printed(
        &printed,
        &["127.0.0.1:9995", "from 192.0.2.1", "did not arrive", "packet filter", "nft list ruleset"],
    );
    assert!(!printed.contains("reverse path filter"), "{printed}");
    std::fs::write("/proc/sys/net/ipv4/conf/all/rp_filter", "1").unwrap();
    assert_printed(&receiver.check(&[]).1, &["reverse path filter", "net.ipv4.conf.all.rp_filter = 1"]);
}

#[test]
fn check_lists_the_needs_of_a_remote_collector() {
    let _running = shared();
    in_a_network(
        &format!(
            "{NETWORK}; ip link add here type veth peer name there; ip link set here up; \
                  ip address add 10.77.0.1/24 dev here"
        ),
        "source_check::inside_a_remote_collector",
    );
}

#[test]
#[ignore = "runs in a network namespace of another test"]
fn inside_a_remote_collector() {
    let (code, printed) = CheckedReceiver::with(&["10.77.0.2:9995", "10.77.0.3:9995"]).check(&[]);
    assert_eq!(code, 0, "{printed}");
    let lines =
        ["10.77.0.2:9995, 10.77.0.3:9995: on another machine", "rp_filter", "RFC 2827", "ICMP", "lost"];
    assert_printed(&printed, &lines);
    assert!(!printed.contains("warning"), "{printed}");
}

#[test]
fn check_without_the_capability_only_warns() {
    let _running = shared();
    if !is_root() {
        return;
    }
    let receiver = CheckedReceiver::with(&["127.0.0.1:9995", "[::1]:9995"]);
    for (before, words) in [
        (WITHOUT_CAPABILITY, "warning: without CAP_NET_RAW this command cannot test"),
        (IN_ITS_OWN_USER_NAMESPACE, "warning: in a user namespace of its own (PrivateUsers=)"),
    ] {
        let (code, printed) = receiver.check(before);
        assert_eq!(code, 0, "{printed}");
        assert_printed(&printed, &[words, "as root", "configuration is valid"]);
        assert_eq!(printed.matches("warning").count(), 1, "{printed}");
    }
}

#[test]
fn a_service_without_the_capability_is_an_error() {
    let _running = shared();
    if !is_root() {
        return;
    }
    for (before, words) in [
        (WITHOUT_CAPABILITY, "lacks CAP_NET_RAW"),
        (IN_ITS_OWN_USER_NAMESPACE, "is in a user namespace of its own (PrivateUsers=yes)"),
    ] {
        let mut receiver = CheckedReceiver::with(&["127.0.0.1:9995"]);
        let process = receiver.serve(before);
        let (code, printed) = receiver.check(&[]);
        assert_eq!(code, CONFIG, "{printed}");
        let running = format!("the running nf-receiver (process {process}) {words}");
        assert_printed(&printed, &[&running, "nf-receiver-source-address.conf", "systemctl edit"]);
    }
    let mut receiver = CheckedReceiver::with(&["127.0.0.1:9995"]);
    receiver.serve(WITHOUT_CAPABILITY);
    let (code, printed) = receiver.check(WITHOUT_CAPABILITY);
    assert_eq!(code, CONFIG, "{printed}");
    assert_printed(&printed, &["lacks CAP_NET_RAW"]);
}

#[test]
fn a_service_with_the_capability_needs_no_advice() {
    let _running = shared();
    if !is_root() {
        return;
    }
    let mut receiver = CheckedReceiver::with(&["127.0.0.1:9995"]);
    receiver.serve(&[]);
    let (code, printed) = receiver.check(&[]);
    assert_eq!(code, 0, "{printed}");
    assert_printed(&printed, &["127.0.0.1:9995: tested"]);
    assert!(!printed.contains("running"), "{printed}");
}

#[test]
fn a_service_in_another_network_causes_a_warning() {
    let _running = shared();
    if !is_root() {
        return;
    }
    let mut receiver = CheckedReceiver::with(&["127.0.0.1:9995"]);
    let process = receiver.serve(&["unshare", "--net"]);
    let (code, printed) = receiver.check(&[]);
    assert_eq!(code, 0, "{printed}");
    assert_printed(
        &printed,
        &["warning: ", &format!("nsenter --net=/proc/{process}/ns/net nf-receiver check")],
    );
    assert!(!printed.contains(": tested"), "{printed}");
}
