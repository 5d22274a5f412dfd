//! The exporters that a collector gets: those in its prefixes and, in a group, its share of them.
//!
//! A group shares by rendezvous hashing: each exporter goes to the member with the highest hash of member and
//! exporter. A new member takes its share from all others, and a removed one leaves its share to all others.
//! Nothing else moves. The hash function must not change between versions.

use core::hash::Hasher;
use core::net::IpAddr;

use ipnet::IpNet;
use siphasher::sip::SipHasher13;

use crate::config::CollectorSettings;

/// The exporters that a collector gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Share {
    own: Member,
    /// The other members of its group.
    others: Vec<Member>,
}

/// A collector as a member of its group.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Member {
    name: String,
    prefixes: Vec<IpNet>,
}

impl Member {
    fn of(settings: &CollectorSettings) -> Self {
        Self { name: settings.address.to_string(), prefixes: settings.exporters.clone() }
    }

    fn admits(&self, exporter: IpAddr) -> bool {
        self.prefixes.is_empty() || self.prefixes.iter().any(|prefix| prefix.contains(&exporter))
    }

    /// Returns this member's bid for the exporter. No two members bid the same.
    fn bid(&self, exporter: IpAddr) -> (u64, &str) {
        let mut hasher = SipHasher13::new();
        match exporter {
            IpAddr::V4(v4) => hasher.write(&v4.octets()),
            IpAddr::V6(v6) => hasher.write(&v6.octets()),
        }
        hasher.write(self.name.as_bytes());
        (hasher.finish(), &self.name)
    }
}

impl Share {
    /// Returns the share of the collector with these `settings` among `all`.
    pub(super) fn of(settings: &CollectorSettings, all: &[&CollectorSettings]) -> Self {
        let is_other = |other: &&&CollectorSettings| {
            settings.group.is_some() && other.group == settings.group && other.address != settings.address
        };
        let others = all.iter().filter(is_other).map(|other| Member::of(other)).collect();
        Self { own: Member::of(settings), others }
    }

    /// Returns whether every exporter is in this share, or in that of another member of the group.
    pub(super) fn is_any(&self) -> bool {
        self.own.prefixes.is_empty()
    }

    /// Returns whether the collector gets the datagrams of this exporter.
    pub(super) fn admits(&self, exporter: IpAddr) -> bool {
        let exporter = exporter.to_canonical();
        if !self.own.admits(exporter) {
            return false;
        }
        // Most collectors are in no group. A bid costs a hash, for each run of datagrams and each collector.
        if self.others.is_empty() {
            return true;
        }
        let rivals = self.others.iter().filter(|other| other.admits(exporter));
        let own = self.own.bid(exporter);
        rivals.map(|other| other.bid(exporter)).all(|bid| bid < own)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn collector(address: &str, group: &str, prefixes: &[&str]) -> CollectorSettings {
        CollectorSettings {
            group: Some(group.to_owned()),
            exporters: prefixes.iter().map(|prefix| prefix.parse().unwrap()).collect(),
            ..CollectorSettings::at(&address)
        }
    }

    /// Indexes of those of `collectors` that get `exporter`.
    fn takers(collectors: &[CollectorSettings], exporter: IpAddr) -> Vec<usize> {
        let all: Vec<&CollectorSettings> = collectors.iter().collect();
        let gets = |place: &usize| Share::of(&collectors[*place], &all).admits(exporter);
        (0..collectors.len()).filter(gets).collect()
    }

    fn exporters() -> impl Iterator<Item = IpAddr> {
        let v4 = (0..3000u32).map(|number| IpAddr::V4((0x0A00_0000 + number).into()));
        let v6 = (0..3000u128).map(|number| IpAddr::V6(((0x2001_0db8 << 96) + number).into()));
        v4.chain(v6)
    }

    #[test]
    fn a_collector_without_prefixes_gets_all() {
        let alone = [CollectorSettings::at(&"a:1"), CollectorSettings::at(&"b:1")];
        for exporter in exporters() {
            assert_eq!(takers(&alone, exporter), [0, 1]);
        }
    }

    #[test]
    fn prefixes_admit_v4_mapped_addresses() {
        let edges = [
            CollectorSettings { group: None, ..collector("a:1", "", &["192.0.2.0/24", "2001:db8::/32"]) },
            CollectorSettings { group: None, ..collector("b:1", "", &["198.51.100.7/32"]) },
        ];
        for (exporter, expected) in [
            ("192.0.2.255", vec![0]),
            ("::ffff:192.0.2.1", vec![0]),
            ("2001:db8:ffff::1", vec![0]),
            ("198.51.100.7", vec![1]),
            ("198.51.100.8", vec![]),
            ("2001:db9::1", vec![]),
        ] {
            assert_eq!(takers(&edges, exporter.parse().unwrap()), expected, "{exporter}");
        }
    }

    #[test]
    fn group_shares_are_disjoint_and_about_equal() {
        let group = ["a:1", "b:1", "c:1"].map(|name| collector(name, "g", &[]));
        let mut counts = [0; 3];
        for exporter in exporters() {
            let takers = takers(&group, exporter);
            assert_eq!(takers.len(), 1, "{exporter}");
            counts[takers[0]] += 1;
        }
        assert!(counts.iter().all(|count| (1800..2200).contains(count)), "{counts:?}");
    }

    #[test]
    fn a_new_member_moves_only_its_own_share() {
        let before = ["a:1", "b:1", "c:1"].map(|name| collector(name, "g", &[]));
        let after = ["a:1", "b:1", "c:1", "d:1"].map(|name| collector(name, "g", &[]));
        let mut moved = 0;
        for exporter in exporters() {
            let (old, new) = (takers(&before, exporter), takers(&after, exporter));
            assert!(new == old || new == [3], "{exporter}: from {old:?} to {new:?}");
            moved += usize::from(new != old);
        }
        assert!((1300..1700).contains(&moved), "{moved} of 6,000");
    }

    #[test]
    fn members_share_only_common_prefixes() {
        let group = [collector("a:1", "g", &["10.0.0.0/8"]), collector("b:1", "g", &[])];
        assert_eq!(takers(&group, "192.0.2.1".parse().unwrap()), [1]);
        let in_both = (0..100u32).map(|number| takers(&group, IpAddr::V4((0x0A00_0000 + number).into())));
        let by_first = in_both.filter(|takers| takers == &[0]).count();
        assert!((30..70).contains(&by_first), "{by_first}");
    }

    #[test]
    fn an_open_share_leaves_no_exporter_out() {
        let group = [collector("a:1", "g", &["10.0.0.0/8"]), collector("b:1", "g", &[])];
        let all: Vec<&CollectorSettings> = group.iter().collect();
        assert_eq!(group.each_ref().map(|settings| Share::of(settings, &all).is_any()), [false, true]);
        assert!(exporters().all(|exporter| takers(&group, exporter).len() == 1));
    }

    #[test]
    fn groups_are_independent() {
        let two = [collector("a:1", "g", &[]), collector("b:1", "h", &[])];
        assert!(exporters().all(|exporter| takers(&two, exporter) == [0, 1]));
    }

    #[test]
    fn the_hash_never_changes() {
        let bid = Member::of(&CollectorSettings::at(&"collector.example.net:9995"))
            .bid("192.0.2.1".parse().unwrap())
            .0;
        assert_eq!(bid, 6_366_954_465_039_294_489);
    }
}
