//! Where names of collectors lead: which to look up when, and what is known of them.

use std::collections::HashMap;
use std::net::SocketAddr;

use tokio::time::{Duration, Instant};

use crate::config::{CollectorSettings, HostPort, WhenDown};
use crate::host::systemd::messages::receiver;
use crate::receiver::output::Resolved;

/// How long after a collector's name did not resolve that is tried again, while nothing is known of it; and how long a
/// collector that is not waited for has time to be found.
pub(super) const TRY_AGAIN: Duration = Duration::from_secs(5);

/// How often names are looked up anew.
pub(super) const LOOK_UP_EVERY: Duration = Duration::from_secs(60);

/// What looking up a name gave, or why it gave nothing.
pub(super) type Answer = Result<Vec<SocketAddr>, String>;

/// What is known of the names that are wanted.
#[derive(Debug, Default)]
pub(super) struct Names {
    wanted: Vec<CollectorSettings>,
    /// Until then those are waited for, too, that are set to skip and of which nothing was heard yet.
    patience_ends: Option<Instant>,
    known: HashMap<HostPort, Name>,
}

/// What is known of one name.
#[derive(Debug)]
struct Name {
    /// Kept while the name cannot be resolved.
    address: Option<SocketAddr>,
    /// Whether it was looked up at least once.
    is_answered: bool,
    /// When to look it up; `None` while that is under way, and for what is an address.
    due: Option<Instant>,
}

/// What is found of the collectors that are wanted.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) collectors: Vec<Resolved>,
    /// Those that the others do not wait for.
    pub(super) missing: Vec<HostPort>,
}

impl Names {
    /// These collectors are wanted from now on.
    pub(super) fn want(&mut self, wanted: &[CollectorSettings], now: Instant) {
        self.wanted = wanted.to_vec();
        self.patience_ends = Some(now + TRY_AGAIN);
        let all: Vec<&HostPort> = wanted.iter().flat_map(names_of).collect();
        self.known.retain(|name, _| all.contains(&name));
        for name in all {
            self.known.entry(name.clone()).or_insert_with(|| Name::new(name, now));
        }
    }

    /// The names to look up now. An answer to each is to be noted.
    pub(super) fn take_due(&mut self, now: Instant) -> Vec<HostPort> {
        let due = self.known.iter_mut().filter_map(|(text, name)| {
            name.due.take_if(|due| *due <= now)?;
            Some(text.clone())
        });
        due.collect()
    }

    /// When something changes without an answer: names are due, or patience ends.
    pub(super) fn next(&self) -> Option<Instant> {
        self.known.values().filter_map(|name| name.due).chain(self.patience_ends).min()
    }

    /// What a look-up gave. An address found before is kept while the name still has it, or does not resolve.
    pub(super) fn note(&mut self, text: &HostPort, answer: Answer, now: Instant) {
        let Some(name) = self.known.get_mut(text) else { return };
        let found = answer.and_then(|found| {
            let kept = name.address.filter(|before| found.contains(before));
            kept.or(found.first().copied()).ok_or_else(|| "it has no address".to_owned())
        });
        name.is_answered = true;
        match found {
            Ok(address) => name.address = Some(address),
            Err(cause) => complain(text, name.address, &cause),
        }
        name.due = Some(now + if name.address.is_some() { LOOK_UP_EVERY } else { TRY_AGAIN });
    }

    /// Where the collectors are; `None` while one of them is waited for: one that is set to hold until it is found, and
    /// others until it is known that they cannot be found now. Without any there would be nobody to deliver to.
    pub(super) fn found(&mut self, now: Instant) -> Option<Found> {
        self.patience_ends = self.patience_ends.filter(|end| *end > now);
        let mut found = Found { collectors: Vec::new(), missing: Vec::new() };
        for settings in &self.wanted {
            match self.resolved(settings) {
                Some(resolved) => found.collectors.push(resolved),
                None if self.is_waited_for(settings) => return None,
                None => found.missing.push(settings.address.clone()),
            }
        }
        Some(found).filter(|found| !found.collectors.is_empty())
    }

    /// Where a collector is, if all of its names are known.
    fn resolved(&self, settings: &CollectorSettings) -> Option<Resolved> {
        let address = |name: &HostPort| self.known.get(name).and_then(|name| name.address);
        let late = match &settings.late {
            Some(late) => Some(address(&late.address)?),
            None => None,
        };
        Some(Resolved { settings: settings.clone(), address: address(&settings.address)?, late })
    }

    fn is_waited_for(&self, settings: &CollectorSettings) -> bool {
        let is_open = |name: &HostPort| self.known.get(name).is_some_and(|name| !name.is_answered);
        settings.when_down == WhenDown::Hold
            || (self.patience_ends.is_some() && names_of(settings).any(is_open))
    }
}

impl Name {
    fn new(text: &HostPort, now: Instant) -> Self {
        match text.host().parse() {
            Ok(ip) => Self { address: Some(SocketAddr::new(ip, text.port())), is_answered: true, due: None },
            Err(_) => Self { address: None, is_answered: false, due: Some(now) },
        }
    }
}

/// Where a collector listens, and where for late datagrams.
fn names_of(settings: &CollectorSettings) -> impl Iterator<Item = &HostPort> {
    let late = settings.late.as_ref().map(|late| &late.address);
    [Some(&settings.address), late].into_iter().flatten()
}

fn complain(name: &HostPort, before: Option<SocketAddr>, cause: &str) {
    let (again, taken_to_be) = match before {
        Some(before) => (LOOK_UP_EVERY, format!("; it is taken to be at {before} as before")),
        None => (TRY_AGAIN, String::new()),
    };
    tracing::error!(
        message_id = receiver::COLLECTOR_UNKNOWN,
        collector = %name,
        "the name of the collector {name} cannot be resolved: {cause}{taken_to_be}; trying again in {} s",
        again.as_secs()
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::LateSettings;

    fn settings(address: &str, when_down: WhenDown) -> CollectorSettings {
        CollectorSettings { when_down, ..CollectorSettings::at(&address) }
    }

    fn at(address: &str) -> Vec<SocketAddr> {
        vec![address.parse().unwrap()]
    }

    fn failed() -> Answer {
        Err("no such name".to_owned())
    }

    fn name(text: &str) -> HostPort {
        text.parse().unwrap()
    }

    /// Where the collectors are that are found.
    fn addresses(names: &mut Names, now: Instant) -> Option<Vec<String>> {
        let found = names.found(now)?;
        Some(found.collectors.iter().map(|collector| collector.address.to_string()).collect())
    }

    #[test]
    fn all_names_are_looked_up_at_once_and_addresses_never() {
        let (mut names, now) = (Names::default(), Instant::now());
        let all = ["a.example:1", "192.0.2.1:2", "[2001:db8::1]:3", "b.example:4"];
        names.want(&all.map(|text| settings(text, WhenDown::Hold)), now);
        let mut due = names.take_due(now);
        due.sort_by_key(ToString::to_string);
        assert_eq!(due, [name("a.example:1"), name("b.example:4")]);
        assert!(names.take_due(now + LOOK_UP_EVERY).is_empty(), "both are under way");
        assert_eq!(addresses(&mut names, now), None);
        names.note(&due[1], Ok(at("192.0.2.4:4")), now);
        names.note(&due[0], Ok(at("192.0.2.9:1")), now);
        let expected = ["192.0.2.9:1", "192.0.2.1:2", "[2001:db8::1]:3", "192.0.2.4:4"];
        assert_eq!(addresses(&mut names, now).unwrap(), expected);
    }

    #[test]
    fn an_address_found_before_is_kept_while_the_name_still_has_it_or_does_not_resolve() {
        let (mut names, now) = (Names::default(), Instant::now());
        let collector = name("a.example:1");
        names.want(&[settings("a.example:1", WhenDown::Hold)], now);
        let [first, second] = ["192.0.2.1:1", "192.0.2.2:1"].map(|text| text.parse().unwrap());
        for (answer, expected) in [
            (Ok(vec![first, second]), first),
            (Ok(vec![second, first]), first),
            (failed(), first),
            (Ok(Vec::new()), first),
            (Ok(vec![second]), second),
            (failed(), second),
        ] {
            names.note(&collector, answer, now);
            assert_eq!(addresses(&mut names, now).unwrap(), [expected.to_string()]);
            assert!(names.take_due(now + TRY_AGAIN).is_empty(), "what is known is looked up once a minute");
            assert_eq!(names.take_due(now + LOOK_UP_EVERY), std::slice::from_ref(&collector));
        }
    }

    #[test]
    fn a_collector_set_to_skip_that_is_not_found_is_done_without_and_taken_in_later() {
        let (mut names, now) = (Names::default(), Instant::now());
        let missing = name("gone.example:1");
        let all = [settings("gone.example:1", WhenDown::Skip), settings("192.0.2.2:2", WhenDown::Hold)];
        names.want(&all, now);
        assert_eq!(names.take_due(now), std::slice::from_ref(&missing));
        assert_eq!(names.found(now), None, "it may be found in a moment");
        names.note(&missing, failed(), now);
        let found = names.found(now).unwrap();
        assert_eq!((found.collectors.len(), found.missing), (1, vec![missing.clone()]));
        assert!(names.take_due(now).is_empty());
        assert_eq!(names.take_due(now + TRY_AGAIN), std::slice::from_ref(&missing));
        names.note(&missing, Ok(at("192.0.2.1:1")), now + TRY_AGAIN);
        assert_eq!(addresses(&mut names, now).unwrap(), ["192.0.2.1:1", "192.0.2.2:2"]);
    }

    #[test]
    fn a_look_up_that_takes_long_keeps_others_waiting_for_so_long_only() {
        let (mut names, now) = (Names::default(), Instant::now());
        let all = [settings("slow.example:1", WhenDown::Skip), settings("192.0.2.2:2", WhenDown::Skip)];
        names.want(&all, now);
        names.take_due(now);
        let until = names.next().unwrap();
        assert_eq!((until, names.found(now)), (now + TRY_AGAIN, None));
        assert_eq!(addresses(&mut names, until).unwrap(), ["192.0.2.2:2"]);
        assert_eq!(names.next(), None, "only the answer is waited for");
        names.note(&name("slow.example:1"), Ok(at("192.0.2.1:1")), until);
        assert_eq!(addresses(&mut names, until).unwrap(), ["192.0.2.1:1", "192.0.2.2:2"]);
    }

    #[test]
    fn a_collector_set_to_hold_is_waited_for_and_any_if_none_is_found() {
        for when_down in [WhenDown::Hold, WhenDown::Skip] {
            let (mut names, mut now) = (Names::default(), Instant::now());
            let mut all = vec![settings("gone.example:1", when_down)];
            if when_down == WhenDown::Hold {
                all.push(settings("192.0.2.2:2", WhenDown::Skip));
            }
            names.want(&all, now);
            for _ in 0..100 {
                assert_eq!(names.take_due(now), [name("gone.example:1")]);
                names.note(&name("gone.example:1"), failed(), now);
                now += TRY_AGAIN;
                assert_eq!(names.found(now), None);
            }
            names.note(&name("gone.example:1"), Ok(at("192.0.2.1:1")), now);
            assert_eq!(names.found(now).unwrap().collectors.len(), all.len());
        }
    }

    #[test]
    fn without_its_address_for_late_datagrams_a_collector_is_not_found() {
        for when_down in [WhenDown::Hold, WhenDown::Skip] {
            let (mut names, now) = (Names::default(), Instant::now());
            let address = name("late.example:3");
            let mut late = settings("192.0.2.1:1", when_down);
            late.late = Some(LateSettings { after: Duration::from_secs(60), address: address.clone() });
            names.want(&[late, settings("192.0.2.2:2", WhenDown::Hold)], now);
            names.note(&address, failed(), now);
            let without = (when_down == WhenDown::Skip).then(|| vec!["192.0.2.2:2".to_owned()]);
            assert_eq!(addresses(&mut names, now), without);
            names.note(&address, Ok(at("192.0.2.1:3")), now);
            let found = names.found(now).unwrap();
            assert_eq!(found.collectors[0].late, Some("192.0.2.1:3".parse().unwrap()));
            assert_eq!(found.missing, []);
        }
    }

    #[test]
    fn a_reload_keeps_what_is_known_and_forgets_what_is_not_wanted_any_more() {
        let (mut names, now) = (Names::default(), Instant::now());
        names.want(&["a.example:1", "b.example:2"].map(|text| settings(text, WhenDown::Hold)), now);
        for (text, address) in [("a.example:1", "192.0.2.1:1"), ("b.example:2", "192.0.2.2:2")] {
            names.note(&name(text), Ok(at(address)), now);
        }
        names.want(&[settings("a.example:1", WhenDown::Skip)], now);
        assert_eq!(addresses(&mut names, now).unwrap(), ["192.0.2.1:1"]);
        names.note(&name("b.example:2"), failed(), now);
        assert_eq!(names.take_due(now + LOOK_UP_EVERY), [name("a.example:1")]);
    }
}
