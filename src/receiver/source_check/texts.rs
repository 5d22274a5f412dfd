//! Texts of this check. Each names the finding, the collectors, and the remedy.

use core::fmt::{self, Display};
use core::net::{IpAddr, SocketAddr};
use std::io;

/// The commands that give the installed service the capability.
const REMEDY: &str = "put /usr/share/doc/nf-receiver/examples/nf-receiver-source-address.conf in place \
                      (systemctl edit nf-receiver.service), then systemctl restart nf-receiver";

/// Strict value of `rp_filter`. RFC 3704, section 2.2.
const STRICT: u8 = 1;

/// Family of IP addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum IpFamily {
    V4,
    V6,
}

impl IpFamily {
    pub(super) fn of(address: SocketAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    fn other(self) -> Self {
        match self {
            Self::V4 => Self::V6,
            Self::V6 => Self::V4,
        }
    }
}

impl Display for IpFamily {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

pub(super) fn arrived(names: &[String], family: IpFamily) -> String {
    format!("{}: tested, {} arrive with their own addresses", names.join(", "), datagrams_of(family))
}

pub(super) fn elsewhere(names: &[String], family: IpFamily) -> String {
    format!(
        "{}: on another machine, so nf-receiver cannot test from here whether {} arrive with their own \
         addresses. Routers on the path and the collector's machine must pass such sources (rp_filter; \
         filters by BCP 38, RFC 2827). ICMP errors go to the exporters: nf-receiver does not notice that \
         such a collector is down, and datagrams sent meanwhile are lost",
        names.join(", "),
        datagrams_of(family)
    )
}

/// A collector is reached in one family only.
fn datagrams_of(family: IpFamily) -> String {
    format!(
        "datagrams of {family} exporters (those of {} exporters have an address of this machine)",
        family.other()
    )
}

pub(super) fn lost(names: &[String], exporter: IpAddr, strict_filter: Option<&str>) -> String {
    let filter = strict_filter.map_or_else(String::new, |setting| {
        format!("; if none does, the strict reverse path filter may ({setting}); 2 is loose, 0 is off")
    });
    format!(
        "{}: a datagram sent from {exporter}, a test address, did not arrive within a second, so exporters' \
         datagrams would not: a packet filter or a policy drops foreign source addresses; check nft list \
         ruleset, iptables-save, ip rule and ip xfrm policy, and accept such datagrams to this \
         address{filter}",
        names.join(", ")
    )
}

pub(super) fn long_lost(names: &[String], exporter: IpAddr, length: usize) -> String {
    format!(
        "{}: a datagram of {length} bytes sent from {exporter}, a test address, did not arrive within a \
         second, though a short one did, so exporters' long datagrams would not: a packet filter drops \
         fragments or long packets; check nft list ruleset and iptables-save",
        names.join(", ")
    )
}

pub(super) fn rewritten(names: &[String], exporter: SocketAddr, seen_as: SocketAddr) -> String {
    format!(
        "{}: a datagram sent from {exporter}, a test address, arrived from {seen_as}: this machine \
         translates sources (snat or masquerade in nft list ruleset or iptables-save); exempt datagrams to \
         this address",
        names.join(", ")
    )
}

pub(super) fn refused(names: &[String], exporter: IpAddr, error: &io::Error) -> String {
    let rule = if exporter.is_ipv4() { "ip rule and ip route" } else { "ip -6 rule and ip -6 route" };
    let cause = match error.raw_os_error() {
        Some(libc::EACCES) => format!("a routing rule prohibits it; check {rule}"),
        Some(libc::EINVAL) => format!("a routing rule discards it (blackhole); check {rule}"),
        Some(libc::ENETUNREACH | libc::EHOSTUNREACH) => {
            format!("a routing rule makes it unreachable; check {rule}")
        }
        Some(libc::EPERM) => {
            "a packet filter or a policy forbids it; check nft list ruleset, iptables-save and ip xfrm \
             policy"
                .to_owned()
        }
        Some(libc::EADDRINUSE) => "no port is free for that address; check ss -lun".to_owned(),
        _ => "check the routes and packet filters of this machine".to_owned(),
    };
    format!(
        "{}: the kernel does not send from {exporter}, a test address, so it would not send from exporters' \
         addresses: {error}: {cause}",
        names.join(", ")
    )
}

pub(super) fn not_tried(names: &[String], error: &io::Error) -> String {
    format!("{}: cannot test whether datagrams arrive with exporters' addresses: {error}", names.join(", "))
}

pub(super) fn unresolved(name: &impl Display, cause: &str) -> String {
    format!("{name}: cannot resolve the name: {cause}; nothing is delivered there until it resolves")
}

/// This process may not run the test, with or without the capability.
pub(super) fn not_permitted(has_capability: bool) -> String {
    let (without, remedy) = if has_capability {
        (
            "in a user namespace of its own (PrivateUsers=), where CAP_NET_RAW does not apply to the \
             network,",
            "run this command as root outside of it",
        )
    } else {
        ("without CAP_NET_RAW", "run this command as root")
    };
    format!("{without} this command cannot test whether datagrams arrive with exporters' addresses; {remedy}")
}

pub(super) fn not_running() -> String {
    format!("nf-receiver is not running; the service needs CAP_NET_RAW for this; unless it has it, {REMEDY}")
}

pub(super) fn service_lacks_capability(process: u32) -> String {
    format!(
        "the running nf-receiver (process {process}) lacks CAP_NET_RAW, so it cannot send from exporters' \
         addresses; {REMEDY}"
    )
}

pub(super) fn service_is_apart(process: u32) -> String {
    format!(
        "the running nf-receiver (process {process}) is in a user namespace of its own (PrivateUsers=yes), \
         where CAP_NET_RAW does not apply to the network, so it cannot send from exporters' addresses; \
         {REMEDY}"
    )
}

pub(super) fn other_network(process: u32) -> String {
    format!(
        "the running nf-receiver (process {process}) is in a network namespace of its own, so this command \
         cannot test here whether datagrams arrive with exporters' addresses; run nsenter \
         --net=/proc/{process}/ns/net nf-receiver check"
    )
}

/// Returns the setting that makes the filter strict at `interface`. The greater value of the interface's own
/// setting and that for all interfaces applies.
pub(super) fn strict_filter(all: u8, interface: &str, own: u8) -> Option<String> {
    (all.max(own) == STRICT).then(|| {
        let name = if own == STRICT { interface } else { "all" };
        format!("net.ipv4.conf.{name}.rp_filter = {STRICT}")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXPORTER: IpAddr = IpAddr::V4(core::net::Ipv4Addr::new(192, 0, 2, 1));

    fn names() -> Vec<String> {
        ["127.0.0.1:9995", "localhost:9996"].map(str::to_owned).into()
    }

    #[test]
    fn the_greater_rp_filter_setting_applies() {
        for (all, own, expected) in [
            (0, 0, None),
            (1, 0, Some("net.ipv4.conf.all.rp_filter = 1")),
            (0, 1, Some("net.ipv4.conf.lo.rp_filter = 1")),
            (1, 1, Some("net.ipv4.conf.lo.rp_filter = 1")),
            (1, 2, None),
            (2, 1, None),
        ] {
            assert_eq!(strict_filter(all, "lo", own).as_deref(), expected, "{all} {own}");
        }
    }

    #[test]
    fn a_loss_names_filters_and_strict_rp_filter() {
        let plain = lost(&names(), EXPORTER, None);
        assert!(plain.starts_with("127.0.0.1:9995, localhost:9996: a datagram sent from 192.0.2.1,"));
        assert!(plain.contains("nft list ruleset") && !plain.contains("reverse"), "{plain}");
        let strict = lost(&names(), EXPORTER, Some("net.ipv4.conf.all.rp_filter = 1"));
        assert!(strict.contains("(net.ipv4.conf.all.rp_filter = 1)"), "{strict}");
    }

    #[test]
    fn a_kernel_error_names_its_cause() {
        for (code, cause) in [
            (libc::EACCES, "routing rule prohibits it"),
            (libc::EINVAL, "blackhole"),
            (libc::ENETUNREACH, "unreachable"),
            (libc::EPERM, "packet filter"),
            (libc::EADDRINUSE, "no port is free"),
            (libc::ENOBUFS, "routes and packet filters"),
        ] {
            let error = io::Error::from_raw_os_error(code);
            let told = refused(&names(), EXPORTER, &error);
            assert!(told.contains(cause) && told.contains(&error.to_string()), "{told}");
        }
        let error = io::Error::from_raw_os_error(libc::EACCES);
        assert!(refused(&names(), "2001:db8::1".parse().unwrap(), &error).contains("ip -6 rule"));
    }

    #[test]
    fn the_family_decides_which_exporters_pass() {
        let v4 = arrived(&names(), IpFamily::V4);
        let expected =
            "datagrams of IPv4 exporters (those of IPv6 exporters have an address of this machine) arrive";
        assert!(v4.contains(expected), "{v4}");
        let v6 = elsewhere(&names(), IpFamily::V6);
        assert!(v6.contains("datagrams of IPv6 exporters (those of IPv4 exporters have"), "{v6}");
    }

    #[test]
    fn a_missing_permission_names_its_cause() {
        assert!(not_permitted(false).contains("without CAP_NET_RAW"));
        assert!(not_permitted(true).contains("PrivateUsers="));
    }
}
