//! The privilege of a process to send from addresses of other machines (`IP_TRANSPARENT`), as far as `/proc`
//! shows it.
//!
//! It needs `CAP_NET_RAW` or `CAP_NET_ADMIN` in the user namespace of the network (`capabilities(7)`,
//! `ip(7)`, `user_namespaces(7)`). This module only reads.

use std::ffi::OsString;
use std::fs;

/// `CAP_NET_ADMIN` (12) and `CAP_NET_RAW` (13): either is sufficient.
const SEND_AS_OTHERS: u64 = 1 << 12 | 1 << 13;

/// The privilege and namespaces of one process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Privilege {
    has_capability: bool,
    /// The user namespace; `None`, as for the network, if this user may not read it.
    users: Option<OsString>,
    network: Option<OsString>,
}

impl Privilege {
    /// Reads that of this process; `None` if `/proc` is unreadable.
    pub fn of_this_process() -> Option<Self> {
        Self::read("self")
    }

    /// Reads that of the process `pid`; `None` if it does not exist or is hidden from this user.
    pub fn of_process(pid: u32) -> Option<Self> {
        Self::read(&pid.to_string())
    }

    fn read(process: &str) -> Option<Self> {
        let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
        let namespace = |name| fs::read_link(format!("/proc/{process}/ns/{name}")).ok().map(Into::into);
        Some(Self {
            has_capability: effective(&status)? & SEND_AS_OTHERS != 0,
            users: namespace("user"),
            network: namespace("net"),
        })
    }

    /// Returns whether the process has one of the capabilities, in any namespace.
    pub fn has_capability(&self) -> bool {
        self.has_capability
    }

    /// Returns whether its user namespace certainly differs from that of `other`.
    pub fn has_other_users(&self, other: &Self) -> bool {
        certainly_differ(self.users.as_ref(), other.users.as_ref())
    }

    /// Returns whether its network namespace certainly differs from that of `other`.
    pub fn has_other_network(&self, other: &Self) -> bool {
        certainly_differ(self.network.as_ref(), other.network.as_ref())
    }
}

fn certainly_differ(one: Option<&OsString>, other: Option<&OsString>) -> bool {
    one.zip(other).is_some_and(|(one, other)| one != other)
}

/// Extracts the effective capabilities from the text of `/proc/PID/status`.
fn effective(status: &str) -> Option<u64> {
    let digits = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(digits.trim(), 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn effective_capabilities_are_parsed() {
        let status = "Name:\tnf-receiver\nCapPrm:\t000001ffffffffff\nCapEff:\t0000000000002000\nCapBnd:\t0\n";
        assert_eq!(effective(status), Some(1 << 13));
        assert_eq!(effective("CapEff:\t000001fffeffcfff\n").map(|set| set & SEND_AS_OTHERS), Some(0));
        for broken in ["", "CapEff:\n", "CapEff:\tnone\n", "CapEff:\t1ffffffffffffffff\n"] {
            assert_eq!(effective(broken), None, "{broken:?}");
        }
    }

    #[test]
    fn namespaces_differ_only_where_both_are_known() {
        let privilege = |users: Option<&str>, network: Option<&str>| Privilege {
            has_capability: true,
            users: users.map(Into::into),
            network: network.map(Into::into),
        };
        let own = privilege(Some("user:[1]"), Some("net:[1]"));
        let other = privilege(Some("user:[2]"), Some("net:[2]"));
        assert!(other.has_other_users(&own) && other.has_other_network(&own));
        let hidden = privilege(None, None);
        assert!(!hidden.has_other_users(&own) && !own.has_other_network(&hidden));
        assert!(!own.has_other_users(&own) && !own.has_other_network(&own));
    }

    #[test]
    fn only_existing_processes_have_a_privilege() {
        assert_eq!(Privilege::of_process(std::process::id()), Privilege::of_this_process());
        assert!(Privilege::of_this_process().is_some());
        assert_eq!(Privilege::of_process(u32::MAX), None);
    }
}
