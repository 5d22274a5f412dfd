//! From the collectors in the settings to outputs: at the start, whenever a reload changes them, and whenever a name leads
//! elsewhere.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use tokio::net::lookup_host;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Duration, sleep};

use crate::config::{CollectorSettings, HostPort, WhenDown};
use crate::receiver::output::{Outputs, Resolved};
use crate::service::messages::receiver;

/// How long after a collector's name did not resolve that is tried again.
const TRY_AGAIN: Duration = Duration::from_secs(5);

/// How often names are looked up anew.
const LOOK_UP_EVERY: Duration = Duration::from_secs(60);

/// Follows the collectors of the settings.
#[derive(Debug)]
pub(crate) struct Collectors {
    wanted: watch::Receiver<Vec<CollectorSettings>>,
    found: Found,
    outputs: watch::Sender<Arc<Outputs>>,
}

/// What names led to.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Found {
    collectors: Vec<Resolved>,
    /// Whether these are all; some that are set to skip may be missing.
    is_complete: bool,
}

impl Collectors {
    /// Finds the collectors, which go where `none` says. Tries again and again while the name of one that is set to hold does
    /// not resolve: senders keep their data.
    pub(crate) async fn find(mut wanted: watch::Receiver<Vec<CollectorSettings>>, none: &Outputs) -> Self {
        let found = resolve_newest(&mut wanted, &[]).await;
        warn_of_twins(&found.collectors);
        let outputs = none.changed_to(&found.collectors);
        Self { wanted, found, outputs: watch::Sender::new(Arc::new(outputs)) }
    }

    /// What the collectors are as of now.
    pub(crate) fn outputs(&self) -> watch::Receiver<Arc<Outputs>> {
        self.outputs.subscribe()
    }

    /// Follows changes for as long as there can be any. Until all other collectors are found, those before them stay.
    pub(crate) async fn follow(mut self) {
        loop {
            let pause = if self.found.is_complete { LOOK_UP_EVERY } else { TRY_AGAIN };
            let has_names = !self.found.is_complete || self.found.collectors.iter().any(Resolved::has_name);
            tokio::select! {
                changed = self.wanted.changed() => if changed.is_err() { return },
                () = sleep(pause), if has_names => {}
            }
            let found = resolve_newest(&mut self.wanted, &self.found.collectors).await;
            if found != self.found {
                self.take_up(found);
            }
        }
    }

    fn take_up(&mut self, found: Found) {
        warn_of_twins(&found.collectors);
        let outputs = self.outputs.borrow().changed_to(&found.collectors);
        let collectors: Vec<String> = outputs.addresses().map(|address| address.to_string()).collect();
        let collectors = collectors.join(", ");
        tracing::info!(collectors, "delivering to these collectors from now on: {collectors}");
        self.outputs.send_replace(Arc::new(outputs));
        self.found = found;
    }
}

impl Resolved {
    /// Whether its address, or the one for late datagrams, may change by itself.
    fn has_name(&self) -> bool {
        let late = self.settings.late.as_ref().map(|late| &late.address);
        [Some(&self.settings.address), late].into_iter().flatten().any(is_name)
    }
}

/// Two names may lead to one address: what is there gets everything once, as the first of them has it.
fn warn_of_twins(found: &[Resolved]) {
    for (place, second) in found.iter().enumerate() {
        let first = found.iter().take(place).find(|first| first.leads_where(second));
        if let Some(first) = first {
            let (first, second) = (&first.settings.address, &second.settings.address);
            tracing::warn!(
                collector = %second,
                "the collectors {first} and {second} are at one address: the settings of the first are in effect, and \
                 those of the second are not"
            );
        }
    }
}

fn is_name(address: &HostPort) -> bool {
    address.host().parse::<IpAddr>().is_err()
}

/// Where the collectors are, as they are wanted when all of them are found that are waited for.
async fn resolve_newest(wanted: &mut watch::Receiver<Vec<CollectorSettings>>, before: &[Resolved]) -> Found {
    loop {
        let settings = wanted.borrow_and_update().clone();
        tokio::select! {
            found = resolve(&settings, before) => return found,
            Ok(()) = wanted.changed() => {}
        }
    }
}

/// Addresses found before are kept while their names still have them, and while their names cannot be resolved. Nobody waits
/// for a collector that is set to skip.
async fn resolve(wanted: &[CollectorSettings], before: &[Resolved]) -> Found {
    loop {
        let addresses = look_up(wanted, before).await;
        let with_address = wanted.iter().zip(&addresses);
        let is_waited_for = |(settings, resolved): &(&CollectorSettings, &Option<Resolved>)| {
            resolved.is_none() && settings.when_down == WhenDown::Hold
        };
        if !with_address.clone().any(|each| is_waited_for(&each)) {
            let is_complete = addresses.iter().all(Option::is_some);
            return Found { collectors: addresses.into_iter().flatten().collect(), is_complete };
        }
        sleep(TRY_AGAIN).await;
    }
}

/// All names are looked up side by side.
async fn look_up(wanted: &[CollectorSettings], before: &[Resolved]) -> Vec<Option<Resolved>> {
    let mut looking = JoinSet::new();
    for (place, settings) in wanted.iter().cloned().enumerate() {
        let known = before.iter().find(|known| known.settings.address == settings.address).cloned();
        looking.spawn(async move {
            let address = resolve_one(&settings.address, known.as_ref().map(|known| known.address)).await;
            let late = match &settings.late {
                Some(late) => resolve_one(&late.address, known.and_then(|known| known.late)).await.map(Some),
                None => Some(None),
            };
            let resolved = address.zip(late).map(|(address, late)| Resolved { settings, address, late });
            (place, resolved)
        });
    }
    let mut found = vec![None; wanted.len()];
    while let Some(Ok((place, resolved))) = looking.join_next().await {
        if let Some(slot) = found.get_mut(place) {
            *slot = resolved;
        }
    }
    found
}

/// Where `name` leads, or has led before.
async fn resolve_one(name: &HostPort, before: Option<SocketAddr>) -> Option<SocketAddr> {
    let cause = match lookup_host((name.host(), name.port())).await {
        Ok(found) => {
            let found: Vec<SocketAddr> = found.collect();
            let kept = before.filter(|before| found.contains(before));
            match kept.or(found.first().copied()) {
                Some(address) => return Some(address),
                None => "it has no address".to_owned(),
            }
        }
        Err(error) => error.to_string(),
    };
    let consequence = match before {
        Some(before) => format!("going on with {before}"),
        None => format!("trying again in {} s", TRY_AGAIN.as_secs()),
    };
    tracing::error!(
        message_id = receiver::COLLECTOR_UNKNOWN,
        collector = %name,
        "the name of the collector {name} cannot be resolved: {cause}; {consequence}"
    );
    before
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_address_found_before_is_kept_while_the_name_still_has_it() {
        let name: HostPort = "localhost:9995".parse().unwrap();
        let all: Vec<SocketAddr> = lookup_host(("localhost", 9995)).await.unwrap().collect();
        for before in &all {
            assert_eq!(resolve_one(&name, Some(*before)).await, Some(*before));
        }
        let elsewhere = "192.0.2.1:9995".parse().unwrap();
        assert_eq!(resolve_one(&name, Some(elsewhere)).await, Some(all[0]));
    }

    /// A name that resolves nowhere (RFC 6761, section 6.4).
    const NOWHERE: &str = "collector.invalid:9995";

    fn named(address: &str, when_down: WhenDown) -> CollectorSettings {
        CollectorSettings { when_down, ..CollectorSettings::at(&address) }
    }

    #[tokio::test]
    async fn nobody_waits_for_the_name_of_a_collector_that_is_set_to_skip() {
        let wanted = [named(NOWHERE, WhenDown::Skip), named("127.0.0.1:9995", WhenDown::Hold)];
        let found = resolve(&wanted, &[]).await;
        let addresses: Vec<_> = found.collectors.iter().map(|collector| collector.address).collect();
        assert_eq!((addresses, found.is_complete), (vec!["127.0.0.1:9995".parse().unwrap()], false));
    }

    #[tokio::test]
    async fn everybody_waits_for_the_name_of_a_collector_that_is_set_to_hold() {
        let wanted = [named(NOWHERE, WhenDown::Hold), named("127.0.0.1:9995", WhenDown::Skip)];
        assert!(look_up(&wanted, &[]).await.iter().any(Option::is_none));
        tokio::select! {
            biased;
            found = resolve(&wanted, &[]) => panic!("{found:?}"),
            _ = look_up(&wanted, &[]) => {}
        }
    }

    #[tokio::test]
    async fn an_address_found_before_is_kept_while_its_name_does_not_resolve() {
        let settings = named(NOWHERE, WhenDown::Hold);
        let before =
            Resolved { settings: settings.clone(), address: "192.0.2.1:9995".parse().unwrap(), late: None };
        let found = resolve(&[settings], core::slice::from_ref(&before)).await;
        assert_eq!(found, Found { collectors: vec![before], is_complete: true });
    }

    #[test]
    fn only_names_are_looked_up_again() {
        let has_name = |address: &str| {
            let settings = CollectorSettings::at(&address);
            Resolved { settings, address: "192.0.2.1:1".parse().unwrap(), late: None }.has_name()
        };
        assert!(has_name("collector.example.net:9995"));
        assert!(!has_name("192.0.2.1:9995"));
        assert!(!has_name("[2001:db8::1]:9995"));
    }
}
