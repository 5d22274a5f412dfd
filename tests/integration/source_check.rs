//! `nf-receiver check` of collectors that are to see the exporters' own addresses: it tries that, and names what is in the
//! way.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nf_transport_kit::daemon::Program;
use tempfile::TempDir;

use crate::running::{in_a_network, shared};

/// Exit code of sysexits.h.
const CONFIG: i32 = 78;

/// Commands before a program, which then cannot send as if from others.
const WITHOUT_CAPABILITY: &[&str] =
    &["setpriv", "--bounding-set=-net_raw,-net_admin", "--inh-caps=-all", "--ambient-caps=-all"];
const IN_ITS_OWN_USER_NAMESPACE: &[&str] = &["unshare", "--user", "--map-root-user"];

/// A network where addresses of this machine can be given rules of routing.
const NETWORK: &str = "ip link set lo up; \
     for family in -4 -6; do ip $family rule add pref 100 lookup local; ip $family rule del pref 0; done";

/// An nf-receiver's configuration and directories.
struct Receiver {
    directory: TempDir,
    /// What runs as the service.
    service: Option<Child>,
}

impl Receiver {
    /// One that delivers to these collectors with the exporters' own addresses.
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

    /// The program after the commands `before`, with these arguments.
    fn command(&self, before: &[&str], args: &[&str]) -> Command {
        let program = Program::Receiver.path();
        let mut words = before.iter().map(PathBuf::from).chain([program]);
        let mut command = Command::new(words.next().unwrap());
        command.args(words).arg("-c").arg(self.path("receiver.toml"));
        command.arg("--control").arg(self.path("control.sock")).arg("--state").arg(self.path("state"));
        command.args(args).stdin(Stdio::null());
        command
    }

    /// Checks it after the commands `before`: the exit code, and all that was said.
    fn check(&self, before: &[&str]) -> (i32, String) {
        let output = self.command(before, &["check"]).output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        (output.status.code().unwrap(), String::from_utf8_lossy(&said).into_owned())
    }

    /// Runs it as the service would be, after the commands `before`, until its control socket answers.
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

impl Drop for Receiver {
    fn drop(&mut self) {
        if let Some(mut service) = self.service.take() {
            drop(service.kill());
            drop(service.wait());
        }
    }
}

/// Panics unless what was said has all of these words.
fn assert_said(said: &str, words: &[&str]) {
    let missing: Vec<_> = words.iter().filter(|word| !said.contains(**word)).collect();
    assert!(missing.is_empty(), "{missing:?} not in\n{said}");
}

fn is_root() -> bool {
    let is_root = rustix::process::geteuid().is_root();
    if !is_root {
        eprintln!("skipped: needs root to send as if from others");
    }
    is_root
}

/// Runs `ip` with these words; says whether the kernel can do that.
fn ip(words: &str) -> bool {
    let output = Command::new("ip").args(words.split_whitespace()).output().unwrap();
    if !output.status.success() {
        eprintln!("skipped: ip {words}: {}", String::from_utf8_lossy(&output.stderr));
    }
    output.status.success()
}

#[test]
fn collectors_of_the_machines_own_addresses_are_never_tried() {
    let _running = shared();
    let receiver = Receiver::with(&["127.0.0.1:9995"]);
    std::fs::write(receiver.path("receiver.toml"), "plaintext = true\nsource = \"own\"\n").unwrap();
    let (code, said) = receiver.check(&[]);
    assert_eq!(code, 0, "{said}");
    assert!(!said.contains("addresses") && !said.contains("warning"), "{said}");
}

#[test]
fn datagrams_with_addresses_of_others_arrive_in_both_families() {
    let _running = shared();
    in_a_network(NETWORK, "source_check::inside_they_arrive");
}

#[test]
#[ignore = "runs in a network namespace that the other test makes"]
fn inside_they_arrive() {
    assert!(ip("address add 10.77.0.1/32 dev lo"));
    let receiver = Receiver::with(&["127.0.0.1:9995", "localhost:9996", "10.77.0.1:9995", "[::1]:9995"]);
    let (code, said) = receiver.check(&[]);
    assert_eq!(code, 0, "{said}");
    for line in [
        "10.77.0.1:9995: tested, datagrams of IPv4 exporters (those of IPv6 exporters have an address of this machine) arrive",
        "[::1]:9995: tested, datagrams of IPv6 exporters (those of IPv4 exporters have an address of this machine) arrive",
    ] {
        assert_said(&said, &[line]);
    }
    assert_said(&said, &["127.0.0.1:9995", ": tested", "nf-receiver is not running"]);
    assert!(said.ends_with("configuration is good\n") && !said.contains("warning"), "{said}");
}

#[test]
fn a_strict_filter_for_reverse_paths_and_short_links_do_not_stop_datagrams_within_the_machine() {
    let _running = shared();
    in_a_network(NETWORK, "source_check::inside_a_strict_filter");
}

#[test]
#[ignore = "runs in a network namespace that the other test makes"]
fn inside_a_strict_filter() {
    std::fs::write("/proc/sys/net/ipv4/conf/all/rp_filter", "1").unwrap();
    assert!(ip("link set lo mtu 1500") && ip("route add unreachable 192.0.2.0/24"));
    let (code, said) = Receiver::with(&["127.0.0.1:9995", "[::1]:9995"]).check(&[]);
    assert_eq!(code, 0, "{said}");
    assert_eq!(said.matches(": tested").count(), 2, "{said}");
}

#[test]
fn a_rule_of_routing_that_refuses_addresses_of_others_is_named() {
    let _running = shared();
    in_a_network(NETWORK, "source_check::inside_rules_of_routing");
}

#[test]
#[ignore = "runs in a network namespace that the other test makes"]
fn inside_rules_of_routing() {
    let receiver = Receiver::with(&["127.0.0.1:9995", "[::1]:9995"]);
    for (rule, cause) in
        [("prohibit", "prohibits it"), ("unreachable", "makes it unreachable"), ("blackhole", "blackhole")]
    {
        for (family, prefix) in [("-4", "192.0.2.0/24"), ("-6", "2001:db8::/32")] {
            assert!(ip(&format!("{family} rule add pref 10 from {prefix} {rule}")));
        }
        let (code, said) = receiver.check(&[]);
        assert_eq!(code, CONFIG, "{said}");
        assert_said(&said, &["127.0.0.1:9995: the kernel does not send from 192.0.2.1", "ip rule"]);
        assert_said(&said, &["[::1]:9995: the kernel does not send from 2001:db8::1", "ip -6 rule"]);
        assert_eq!(said.matches(cause).count(), 2, "{said}");
        assert!(!said.contains("configuration is valid"), "{said}");
        assert!(ip("-4 rule del pref 10") && ip("-6 rule del pref 10"));
    }
}

#[test]
fn what_drops_addresses_of_others_on_their_way_is_suspected() {
    let _running = shared();
    in_a_network(NETWORK, "source_check::inside_something_that_drops");
}

#[test]
#[ignore = "runs in a network namespace that the other test makes"]
fn inside_something_that_drops() {
    // A policy of IPsec drops without a word, and needs no tool but ip.
    std::fs::write("/proc/sys/net/ipv4/conf/lo/disable_policy", "0").unwrap();
    if !ip("xfrm policy add src 192.0.2.0/24 dst 127.0.0.0/8 dir in action block") {
        return;
    }
    let receiver = Receiver::with(&["127.0.0.1:9995"]);
    let (code, said) = receiver.check(&[]);
    assert_eq!(code, CONFIG, "{said}");
    assert_said(
        &said,
        &["127.0.0.1:9995", "from 192.0.2.1", "did not arrive", "packet filter", "nft list ruleset"],
    );
    assert!(!said.contains("reverse path filter"), "{said}");
    std::fs::write("/proc/sys/net/ipv4/conf/all/rp_filter", "1").unwrap();
    assert_said(&receiver.check(&[]).1, &["reverse path filter", "net.ipv4.conf.all.rp_filter = 1"]);
}

#[test]
fn a_collector_elsewhere_is_not_tried_and_what_must_be_right_there_is_told() {
    let _running = shared();
    in_a_network(
        &format!(
            "{NETWORK}; ip link add here type veth peer name there; ip link set here up; \
                  ip address add 10.77.0.1/24 dev here"
        ),
        "source_check::inside_a_collector_elsewhere",
    );
}

#[test]
#[ignore = "runs in a network namespace that the other test makes"]
fn inside_a_collector_elsewhere() {
    let (code, said) = Receiver::with(&["10.77.0.2:9995", "10.77.0.3:9995"]).check(&[]);
    assert_eq!(code, 0, "{said}");
    let told =
        ["10.77.0.2:9995, 10.77.0.3:9995: on another machine", "rp_filter", "RFC 2827", "ICMP", "lost"];
    assert_said(&said, &told);
    assert!(!said.contains("warning"), "{said}");
}

#[test]
fn a_check_that_may_not_try_it_says_so_and_is_no_error() {
    let _running = shared();
    if !is_root() {
        return;
    }
    let receiver = Receiver::with(&["127.0.0.1:9995", "[::1]:9995"]);
    for (before, words) in [
        (WITHOUT_CAPABILITY, "warning: without CAP_NET_RAW this command cannot test"),
        (IN_ITS_OWN_USER_NAMESPACE, "warning: in a user namespace of its own (PrivateUsers=)"),
    ] {
        let (code, said) = receiver.check(before);
        assert_eq!(code, 0, "{said}");
        assert_said(&said, &[words, "as root", "configuration is valid"]);
        assert_eq!(said.matches("warning").count(), 1, "{said}");
    }
}

#[test]
fn a_running_service_without_the_capability_is_an_error_whoever_checks() {
    let _running = shared();
    if !is_root() {
        return;
    }
    for (before, words) in [
        (WITHOUT_CAPABILITY, "lacks CAP_NET_RAW"),
        (IN_ITS_OWN_USER_NAMESPACE, "is in a user namespace of its own (PrivateUsers=yes)"),
    ] {
        let mut receiver = Receiver::with(&["127.0.0.1:9995"]);
        let process = receiver.serve(before);
        let (code, said) = receiver.check(&[]);
        assert_eq!(code, CONFIG, "{said}");
        let running = format!("the running nf-receiver (process {process}) {words}");
        assert_said(&said, &[&running, "nf-receiver-source-address.conf", "systemctl edit"]);
    }
    let mut receiver = Receiver::with(&["127.0.0.1:9995"]);
    receiver.serve(WITHOUT_CAPABILITY);
    let (code, said) = receiver.check(WITHOUT_CAPABILITY);
    assert_eq!(code, CONFIG, "{said}");
    assert_said(&said, &["lacks CAP_NET_RAW"]);
}

#[test]
fn a_running_service_that_can_do_it_needs_no_word() {
    let _running = shared();
    if !is_root() {
        return;
    }
    let mut receiver = Receiver::with(&["127.0.0.1:9995"]);
    receiver.serve(&[]);
    let (code, said) = receiver.check(&[]);
    assert_eq!(code, 0, "{said}");
    assert_said(&said, &["127.0.0.1:9995: tried"]);
    assert!(!said.contains("running"), "{said}");
}

#[test]
fn a_service_in_another_network_is_to_be_checked_there() {
    let _running = shared();
    if !is_root() {
        return;
    }
    let mut receiver = Receiver::with(&["127.0.0.1:9995"]);
    let process = receiver.serve(&["unshare", "--net"]);
    let (code, said) = receiver.check(&[]);
    assert_eq!(code, 0, "{said}");
    assert_said(&said, &["warning: ", &format!("nsenter --net=/proc/{process}/ns/net nf-receiver check")]);
    assert!(!said.contains(": tested"), "{said}");
}
