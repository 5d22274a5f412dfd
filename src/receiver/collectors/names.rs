//! Name resolution of collectors: schedule of look-ups, and their results.

use std::collections::HashMap;
use std::net::SocketAddr;

use tokio::time::{Duration, Instant};

use crate::config::{CollectorSettings, HostPort, WhenDown};
use crate::host::systemd::messages::receiver;
use crate::receiver::output::ResolvedCollector;

/// Interval between look-ups of a name without a known address. Also the time for which the start waits for
/// collectors set to skip.
pub(super) const TRY_AGAIN: Duration = Duration::from_secs(5);

/// Interval between look-ups of a name with a known address.
pub(super) const LOOK_UP_EVERY: Duration = Duration::from_secs(60);

/// Result of a look-up: addresses, or the reason for the failure.
pub(super) type LookUpResult = Result<Vec<SocketAddr>, String>;

/// Names of the configured collectors.
#[derive(Debug, Default)]
pub(super) struct CollectorNames {
    wanted: Vec<CollectorSettings>,
    /// Until this time, collectors set to skip without an answer are waited for as well.
    skip_timeout: Option<Instant>,
    known: HashMap<HostPort, NameState>,
}

/// State of one name.
#[derive(Debug)]
struct NameState {
    /// Kept while the name cannot be resolved.
    address: Option<SocketAddr>,
    /// True if it was looked up at least once.
    is_answered: bool,
    /// Time of the next look-up; `None` during a look-up, and for literal addresses.
    due: Option<Instant>,
}

/// Resolved collectors.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ResolvedNames {
    pub(super) collectors: Vec<ResolvedCollector>,
    /// Unresolved collectors that the others do not wait for.
    pub(super) missing: Vec<HostPort>,
}

impl CollectorNames {
    /// Sets the configured collectors.
    pub(super) fn want(&mut self, wanted: &[CollectorSettings], now: Instant) {
        self.wanted = wanted.to_vec();
        self.skip_timeout = Some(now + TRY_AGAIN);
        let all: Vec<&HostPort> = wanted.iter().flat_map(names_of).collect();
        self.known.retain(|name, _| all.contains(&name));
        for name in all {
            self.known.entry(name.clone()).or_insert_with(|| NameState::new(name, now));
        }
    }

    /// Takes the names that must be looked up now. Each result must be passed to [`Self::note_answer`].
    pub(super) fn take_due(&mut self, now: Instant) -> Vec<HostPort> {
        let due = self.known.iter_mut().filter_map(|(text, name)| {
            name.due.take_if(|due| *due <= now)?;
            Some(text.clone())
        });
        due.collect()
    }

    /// Returns the time of the next change without an answer: a look-up is due, or the wait for collectors
    /// set to skip ends.
    pub(super) fn next(&self) -> Option<Instant> {
        self.known.values().filter_map(|name| name.due).chain(self.skip_timeout).min()
    }

    /// Notes the result of a look-up. A known address is kept while the name still has it, or does not
    /// resolve.
    pub(super) fn note_answer(&mut self, text: &HostPort, answer: LookUpResult, now: Instant) {
        let Some(name) = self.known.get_mut(text) else { return };
        let found = answer.and_then(|found| {
            let kept = name.address.filter(|before| found.contains(before));
            kept.or(found.first().copied()).ok_or_else(|| "the name has no address".to_owned())
        });
        name.is_answered = true;
        match found {
            Ok(address) => name.address = Some(address),
            Err(cause) => complain(text, name.address, &cause),
        }
        name.due = Some(now + if name.address.is_some() { LOOK_UP_EVERY } else { TRY_AGAIN });
    }

    /// Returns the resolved collectors; `None` while one of them must be waited for. Collectors set to hold
    /// are always waited for. Others are waited for until a look-up failed or the wait ends. If no collector
    /// is resolved, there is no destination, so the result is `None` as well.
    pub(super) fn found(&mut self, now: Instant) -> Option<ResolvedNames> {
        self.skip_timeout = self.skip_timeout.filter(|end| *end > now);
        let mut found = ResolvedNames { collectors: Vec::new(), missing: Vec::new() };
        for settings in &self.wanted {
            match self.resolved(settings) {
                Some(resolved) => found.collectors.push(resolved),
                None if self.is_waited_for(settings) => return None,
                None => found.missing.push(settings.address.clone()),
            }
        }
        Some(found).filter(|found| !found.collectors.is_empty())
    }

    /// Returns the collector's addresses, if all of its names are resolved.
    fn resolved(&self, settings: &CollectorSettings) -> Option<ResolvedCollector> {
        let address = |name: &HostPort| self.known.get(name).and_then(|name| name.address);
        let late = match &settings.late {
            Some(late) => Some(address(&late.address)?),
            None => None,
        };
        Some(ResolvedCollector { settings: settings.clone(), address: address(&settings.address)?, late })
    }

    fn is_waited_for(&self, settings: &CollectorSettings) -> bool {
        let is_open = |name: &HostPort| self.known.get(name).is_some_and(|name| !name.is_answered);
        settings.when_down == WhenDown::Hold
            || (self.skip_timeout.is_some() && names_of(settings).any(is_open))
    }
}

impl NameState {
    fn new(text: &HostPort, now: Instant) -> Self {
        match text.host().parse() {
            Ok(ip) => Self { address: Some(SocketAddr::new(ip, text.port())), is_answered: true, due: None },
            Err(_) => Self { address: None, is_answered: false, due: Some(now) },
        }
    }
}

/// Iterates over the names of a collector: its main address and the one for late datagrams.
fn names_of(settings: &CollectorSettings) -> impl Iterator<Item = &HostPort> {
    let late = settings.late.as_ref().map(|late| &late.address);
    [Some(&settings.address), late].into_iter().flatten()
}

fn complain(name: &HostPort, before: Option<SocketAddr>, cause: &str) {
    let (again, taken_to_be) = match before {
        Some(before) => (LOOK_UP_EVERY, format!("; still using its last address {before}")),
        None => (TRY_AGAIN, String::new()),
    };
    tracing::error!(
        message_id = receiver::COLLECTOR_UNKNOWN,
        collector = %name,
        "cannot resolve the name of collector {name}: {cause}{taken_to_be}; retrying in {} s",
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

    fn failed() -> LookUpResult {
        Err("no such name".to_owned())
    }

    fn name(text: &str) -> HostPort {
        text.parse().unwrap()
    }

    /// The main addresses of the resolved collectors.
    fn addresses(names: &mut CollectorNames, now: Instant) -> Option<Vec<String>> {
        let found = names.found(now)?;
        Some(found.collectors.iter().map(|collector| collector.address.to_string()).collect())
    }

    #[test]
    fn names_are_looked_up_at_once_addresses_never() {
        let (mut names, now) = (CollectorNames::default(), Instant::now());
        let all = ["a.example:1", "192.0.2.1:2", "[2001:db8::1]:3", "b.example:4"];
        names.want(&all.map(|text| settings(text, WhenDown::Hold)), now);
        let mut due = names.take_due(now);
        due.sort_by_key(ToString::to_string);
        assert_eq!(due, [name("a.example:1"), name("b.example:4")]);
        assert!(names.take_due(now + LOOK_UP_EVERY).is_empty(), "both are under way");
        assert_eq!(addresses(&mut names, now), None);
        names.note_answer(&due[1], Ok(at("192.0.2.4:4")), now);
        names.note_answer(&due[0], Ok(at("192.0.2.9:1")), now);
        let expected = ["192.0.2.9:1", "192.0.2.1:2", "[2001:db8::1]:3", "192.0.2.4:4"];
        assert_eq!(addresses(&mut names, now).unwrap(), expected);
    }

    #[test]
    fn a_known_address_is_kept() {
        let (mut names, now) = (CollectorNames::default(), Instant::now());
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
            names.note_answer(&collector, answer, now);
            assert_eq!(addresses(&mut names, now).unwrap(), [expected.to_string()]);
            assert!(names.take_due(now + TRY_AGAIN).is_empty(), "what is known is looked up once a minute");
            assert_eq!(names.take_due(now + LOOK_UP_EVERY), std::slice::from_ref(&collector));
        }
    }

    #[test]
    fn a_missing_skipping_collector_joins_later() {
        let (mut names, now) = (CollectorNames::default(), Instant::now());
        let missing = name("gone.example:1");
        let all = [settings("gone.example:1", WhenDown::Skip), settings("192.0.2.2:2", WhenDown::Hold)];
        names.want(&all, now);
        assert_eq!(names.take_due(now), std::slice::from_ref(&missing));
        assert_eq!(names.found(now), None, "it may be found in a moment");
        names.note_answer(&missing, failed(), now);
        let found = names.found(now).unwrap();
        assert_eq!((found.collectors.len(), found.missing), (1, vec![missing.clone()]));
        assert!(names.take_due(now).is_empty());
        assert_eq!(names.take_due(now + TRY_AGAIN), std::slice::from_ref(&missing));
        names.note_answer(&missing, Ok(at("192.0.2.1:1")), now + TRY_AGAIN);
        assert_eq!(addresses(&mut names, now).unwrap(), ["192.0.2.1:1", "192.0.2.2:2"]);
    }

    #[test]
    fn a_slow_look_up_delays_others_briefly() {
        let (mut names, now) = (CollectorNames::default(), Instant::now());
        let all = [settings("slow.example:1", WhenDown::Skip), settings("192.0.2.2:2", WhenDown::Skip)];
        names.want(&all, now);
        names.take_due(now);
        let until = names.next().unwrap();
        assert_eq!((until, names.found(now)), (now + TRY_AGAIN, None));
        assert_eq!(addresses(&mut names, until).unwrap(), ["192.0.2.2:2"]);
        assert_eq!(names.next(), None, "only the answer is waited for");
        names.note_answer(&name("slow.example:1"), Ok(at("192.0.2.1:1")), until);
        assert_eq!(addresses(&mut names, until).unwrap(), ["192.0.2.1:1", "192.0.2.2:2"]);
    }

    #[test]
    fn a_holding_collector_is_waited_for() {
        for when_down in [WhenDown::Hold, WhenDown::Skip] {
            let (mut names, mut now) = (CollectorNames::default(), Instant::now());
            let mut all = vec![settings("gone.example:1", when_down)];
            if when_down == WhenDown::Hold {
                all.push(settings("192.0.2.2:2", WhenDown::Skip));
            }
            names.want(&all, now);
            for _ in 0..100 {
                assert_eq!(names.take_due(now), [name("gone.example:1")]);
                names.note_answer(&name("gone.example:1"), failed(), now);
                now += TRY_AGAIN;
                assert_eq!(names.found(now), None);
            }
            names.note_answer(&name("gone.example:1"), Ok(at("192.0.2.1:1")), now);
            assert_eq!(names.found(now).unwrap().collectors.len(), all.len());
        }
    }

    #[test]
    fn an_unresolved_late_address_counts_as_missing() {
        for when_down in [WhenDown::Hold, WhenDown::Skip] {
            let (mut names, now) = (CollectorNames::default(), Instant::now());
            let address = name("late.example:3");
            let mut late = settings("192.0.2.1:1", when_down);
            late.late = Some(LateSettings { after: Duration::from_secs(60), address: address.clone() });
            names.want(&[late, settings("192.0.2.2:2", WhenDown::Hold)], now);
            names.note_answer(&address, failed(), now);
            let without = (when_down == WhenDown::Skip).then(|| vec!["192.0.2.2:2".to_owned()]);
            assert_eq!(addresses(&mut names, now), without);
            names.note_answer(&address, Ok(at("192.0.2.1:3")), now);
            let found = names.found(now).unwrap();
            assert_eq!(found.collectors[0].late, Some("192.0.2.1:3".parse().unwrap()));
            assert_eq!(found.missing, []);
        }
    }

    #[test]
    fn a_reload_forgets_only_removed_names() {
        let (mut names, now) = (CollectorNames::default(), Instant::now());
        names.want(&["a.example:1", "b.example:2"].map(|text| settings(text, WhenDown::Hold)), now);
        for (text, address) in [("a.example:1", "192.0.2.1:1"), ("b.example:2", "192.0.2.2:2")] {
            names.note_answer(&name(text), Ok(at(address)), now);
        }
        names.want(&[settings("a.example:1", WhenDown::Skip)], now);
        assert_eq!(addresses(&mut names, now).unwrap(), ["192.0.2.1:1"]);
        names.note_answer(&name("b.example:2"), failed(), now);
        assert_eq!(names.take_due(now + LOOK_UP_EVERY), [name("a.example:1")]);
    }
}
