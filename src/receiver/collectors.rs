//! From the collectors in the settings to outputs: at the start, whenever a reload changes them, and whenever a name leads
//! elsewhere.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use tokio::net::lookup_host;
use tokio::sync::watch;
use tokio::time::{Duration, sleep};

use crate::config::{CollectorSettings, HostPort};
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
    found: Vec<Resolved>,
    outputs: watch::Sender<Arc<Outputs>>,
}

impl Collectors {
    /// Finds the collectors, which go where `none` says. Tries again and again while a name does not resolve: senders keep
    /// their data.
    pub(crate) async fn find(mut wanted: watch::Receiver<Vec<CollectorSettings>>, none: &Outputs) -> Self {
        let found = resolve_newest(&mut wanted, &[]).await;
        warn_of_twins(&found);
        let outputs = none.changed_to(&found);
        Self { wanted, found, outputs: watch::Sender::new(Arc::new(outputs)) }
    }

    /// What the collectors are as of now.
    pub(crate) fn outputs(&self) -> watch::Receiver<Arc<Outputs>> {
        self.outputs.subscribe()
    }

    /// Follows changes for as long as there can be any. Until all other collectors are found, those before them stay.
    pub(crate) async fn follow(mut self) {
        loop {
            let has_names = self.found.iter().any(Resolved::has_name);
            tokio::select! {
                changed = self.wanted.changed() => if changed.is_err() { return },
                () = sleep(LOOK_UP_EVERY), if has_names => {}
            }
            let found = resolve_newest(&mut self.wanted, &self.found).await;
            if found != self.found {
                self.take_up(found);
            }
        }
    }

    fn take_up(&mut self, found: Vec<Resolved>) {
        warn_of_twins(&found);
        let outputs = self.outputs.borrow().changed_to(&found);
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

/// Where the collectors are, as they are wanted when all of them are found. Addresses found before are kept while their
/// names still have them.
async fn resolve_newest(
    wanted: &mut watch::Receiver<Vec<CollectorSettings>>,
    before: &[Resolved],
) -> Vec<Resolved> {
    loop {
        let settings = wanted.borrow_and_update().clone();
        tokio::select! {
            found = resolve(&settings, before) => return found,
            Ok(()) = wanted.changed() => {}
        }
    }
}

async fn resolve(wanted: &[CollectorSettings], before: &[Resolved]) -> Vec<Resolved> {
    let mut found = Vec::new();
    for settings in wanted {
        let known = before.iter().find(|known| known.settings.address == settings.address);
        let address = resolve_one(&settings.address, known.map(|known| known.address)).await;
        let late = match &settings.late {
            Some(late) => Some(resolve_one(&late.address, known.and_then(|known| known.late)).await),
            None => None,
        };
        found.push(Resolved { settings: settings.clone(), address, late });
    }
    found
}

async fn resolve_one(name: &HostPort, before: Option<SocketAddr>) -> SocketAddr {
    loop {
        let cause = match lookup_host((name.host(), name.port())).await {
            Ok(found) => {
                let found: Vec<SocketAddr> = found.collect();
                let kept = before.filter(|before| found.contains(before));
                match kept.or(found.first().copied()) {
                    Some(address) => return address,
                    None => "it has no address".to_owned(),
                }
            }
            Err(error) => error.to_string(),
        };
        tracing::error!(
            message_id = receiver::COLLECTOR_UNKNOWN,
            collector = %name,
            "the name of the collector {name} cannot be resolved: {cause}; trying again in {} s",
            TRY_AGAIN.as_secs()
        );
        sleep(TRY_AGAIN).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_address_found_before_is_kept_while_the_name_still_has_it() {
        let name: HostPort = "localhost:9995".parse().unwrap();
        let all: Vec<SocketAddr> = lookup_host(("localhost", 9995)).await.unwrap().collect();
        for before in &all {
            assert_eq!(resolve_one(&name, Some(*before)).await, *before);
        }
        let elsewhere = "192.0.2.1:9995".parse().unwrap();
        assert_eq!(resolve_one(&name, Some(elsewhere)).await, all[0]);
    }

    #[test]
    fn only_names_are_looked_up_again() {
        let named = |address: &str| Resolved {
            settings: CollectorSettings::at(&address),
            address: "192.0.2.1:1".parse().unwrap(),
            late: None,
        };
        assert!(named("collector.example.net:9995").has_name());
        assert!(!named("192.0.2.1:9995").has_name());
        assert!(!named("[2001:db8::1]:9995").has_name());
    }
}
