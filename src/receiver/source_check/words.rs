//! The sentences of this check: each says what was found, of which collectors, and what to do about it.

use core::fmt::{self, Display};
use core::net::{IpAddr, SocketAddr};
use std::io;

/// What gives the service the capability, as it is installed, and how.
const REMEDY: &str = "put /usr/share/doc/nf-receiver/examples/nf-receiver-source-address.conf in place (systemctl edit \
                      nf-receiver.service), then systemctl restart nf-receiver";

/// The value of `rp_filter` that is strict. RFC 3704, section 2.2.
const STRICT: u8 = 1;

/// Of IP addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    V4,
    V6,
}

impl Family {
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

impl Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

pub(super) fn arrived(names: &[String], family: Family) -> String {
    format!("{}: tried, {} arrive with their own addresses", names.join(", "), datagrams_of(family))
}

pub(super) fn elsewhere(names: &[String], family: Family) -> String {
    format!(
        "{}: on another machine, so that it cannot be tried from here whether {} arrive with their own addresses. Routers on \
         the way and the collector's machine must let such sources pass (rp_filter; filters by BCP 38, RFC 2827). ICMP \
         errors go to the exporters: nf-receiver does not notice that a collector there is down, and what is sent meanwhile \
         is lost",
        names.join(", "),
        datagrams_of(family)
    )
}

/// A collector is reached in one family only.
fn datagrams_of(family: Family) -> String {
    format!(
        "datagrams of {family} exporters (those of {} exporters have an address of this machine)",
        family.other()
    )
}

pub(super) fn lost(names: &[String], exporter: IpAddr, strict_filter: Option<&str>) -> String {
    let filter = strict_filter.map_or_else(String::new, |setting| {
        format!("; if none does, the strict filter for reverse paths may ({setting}): 2 is loose, 0 is off")
    });
    format!(
        "{}: a datagram that was sent as if from {exporter}, an address for tests, did not arrive within a second, so those \
         of exporters would not: a packet filter or a policy drops what has an address that is not this machine's: look at \
         nft list ruleset, iptables-save, ip rule and ip xfrm policy, and let it pass to this address{filter}",
        names.join(", ")
    )
}

pub(super) fn long_lost(names: &[String], exporter: IpAddr, length: usize) -> String {
    format!(
        "{}: a datagram of {length} bytes that was sent as if from {exporter}, an address for tests, did not arrive within a \
         second, though a short one did, so long ones of exporters would not: a packet filter drops fragments, or what is \
         so long: look at nft list ruleset and iptables-save",
        names.join(", ")
    )
}

pub(super) fn rewritten(names: &[String], exporter: SocketAddr, seen_as: SocketAddr) -> String {
    format!(
        "{}: a datagram that was sent as if from {exporter}, an address for tests, arrived as if from {seen_as}: this machine \
         translates sources (snat or masquerade in nft list ruleset or iptables-save): except what goes to this address",
        names.join(", ")
    )
}

pub(super) fn refused(names: &[String], exporter: IpAddr, error: &io::Error) -> String {
    let rule = if exporter.is_ipv4() { "ip rule and ip route" } else { "ip -6 rule and ip -6 route" };
    let cause = match error.raw_os_error() {
        Some(libc::EACCES) => format!("a rule of routing prohibits it: look at {rule}"),
        Some(libc::EINVAL) => format!("a rule of routing makes it vanish (blackhole): look at {rule}"),
        Some(libc::ENETUNREACH | libc::EHOSTUNREACH) => {
            format!("a rule of routing makes it unreachable: look at {rule}")
        }
        Some(libc::EPERM) => {
            "a packet filter or a policy forbids it: look at nft list ruleset, iptables-save, and ip xfrm \
                              policy"
                .to_owned()
        }
        Some(libc::EADDRINUSE) => "no port is free for that address: look at ss -lun".to_owned(),
        _ => "look at the routes and packet filters of this machine".to_owned(),
    };
    format!(
        "{}: the kernel does not send as if from {exporter}, an address for tests, so it would not for exporters: {error}: \
         {cause}",
        names.join(", ")
    )
}

pub(super) fn not_tried(names: &[String], error: &io::Error) -> String {
    format!(
        "{}: it cannot be tried whether datagrams arrive with the addresses of exporters: {error}",
        names.join(", ")
    )
}

pub(super) fn unresolved(name: &impl Display, cause: &str) -> String {
    format!("{name}: the name cannot be resolved, so that nothing is delivered there until it can: {cause}")
}

/// This process may not try it, with or without the capability.
pub(super) fn not_permitted(has_capability: bool) -> String {
    let (without, remedy) = if has_capability {
        (
            "in a user namespace of its own (PrivateUsers=), where CAP_NET_RAW does not count for the network,",
            "run this as root outside of it",
        )
    } else {
        ("without CAP_NET_RAW", "run this as root")
    };
    format!("{without} it cannot be tried whether datagrams arrive with the addresses of exporters: {remedy}")
}

pub(super) fn not_running() -> String {
    format!(
        "nf-receiver does not run; as a service it needs CAP_NET_RAW for this: unless that was done, {REMEDY}"
    )
}

pub(super) fn service_lacks_capability(process: u32) -> String {
    format!(
        "the running nf-receiver (process {process}) lacks CAP_NET_RAW, without which nothing leaves with the addresses of \
         exporters: {REMEDY}"
    )
}

pub(super) fn service_is_apart(process: u32) -> String {
    format!(
        "the running nf-receiver (process {process}) is in a user namespace of its own (PrivateUsers=yes), where CAP_NET_RAW \
         does not count for the network, so that nothing leaves with the addresses of exporters: {REMEDY}"
    )
}

pub(super) fn other_network(process: u32) -> String {
    format!(
        "the running nf-receiver (process {process}) is in a network namespace of its own, so that it cannot be tried here \
         whether datagrams arrive with the addresses of exporters: nsenter --net=/proc/{process}/ns/net nf-receiver check"
    )
}

/// The setting that makes the filter strict which holds at `interface`: the greater one of its own and that for all.
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
    fn the_filter_for_reverse_paths_is_as_strict_as_the_greater_setting() {
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
    fn what_was_lost_is_blamed_on_packet_filters_and_a_strict_filter_for_reverse_paths_is_named() {
        let plain = lost(&names(), EXPORTER, None);
        assert!(
            plain.starts_with(
                "127.0.0.1:9995, localhost:9996: a datagram that was sent as if from 192.0.2.1,"
            )
        );
        assert!(plain.contains("nft list ruleset") && !plain.contains("reverse"), "{plain}");
        let strict = lost(&names(), EXPORTER, Some("net.ipv4.conf.all.rp_filter = 1"));
        assert!(strict.contains("(net.ipv4.conf.all.rp_filter = 1)"), "{strict}");
    }

    #[test]
    fn an_error_of_the_kernel_is_told_with_what_causes_it() {
        for (code, cause) in [
            (libc::EACCES, "rule of routing prohibits it"),
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
    fn which_exporters_keep_their_address_follows_from_the_family_of_the_collector() {
        let v4 = arrived(&names(), Family::V4);
        let expected =
            "datagrams of IPv4 exporters (those of IPv6 exporters have an address of this machine) arrive";
        assert!(v4.contains(expected), "{v4}");
        let v6 = elsewhere(&names(), Family::V6);
        assert!(v6.contains("datagrams of IPv6 exporters (those of IPv4 exporters have"), "{v6}");
    }

    #[test]
    fn a_process_that_may_not_try_it_is_told_why() {
        assert!(not_permitted(false).contains("without CAP_NET_RAW"));
        assert!(not_permitted(true).contains("PrivateUsers="));
    }
}
