//! The settings of one collector: the tables `[[collector]]`.

use core::num::NonZeroU32;
use core::time::Duration;
use std::collections::HashSet;

use ipnet::IpNet;
use nf_transport_core::sequence::SenderId;

use crate::config::reader::{Noted, Reader};
use crate::config::value::Value;
use crate::config::{HostPort, parsers};
use crate::limits;

/// One collector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CollectorSettings {
    /// Where it takes UDP.
    pub address: HostPort,
    /// Which address its datagrams come from.
    pub source: Source,
    /// What becomes of datagrams while it takes none.
    pub when_down: WhenDown,
    /// It gets datagrams of exporters in these prefixes only; empty: of all.
    pub exporters: Vec<IpNet>,
    /// It gets datagrams of these senders only; empty: of all.
    pub senders: Vec<SenderId>,
    /// Collectors of one group share the exporters: each of these goes to one of them.
    pub group: Option<String>,
    /// Datagrams a second that it gets at the most.
    pub rate_limit: Limit,
    /// The same for datagrams that are late; `None` leaves it to where the collector is.
    pub catch_up_limit: Option<Limit>,
    /// Late datagrams come at most so many times as fast as they arrived.
    pub catch_up_pace: Option<NonZeroU32>,
    /// Where datagrams go that are older than this.
    pub late: Option<LateSettings>,
    /// Whether it is told the templates again when it comes back.
    pub repeat_templates: bool,
}

/// A rate in datagrams a second; `None` is no limit.
pub type Limit = Option<NonZeroU32>;

/// Which address datagrams come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// This machine's, with a port for each exporter.
    Own,
    /// The exporter's own address and port.
    Exporter,
}

impl Source {
    fn word(self) -> &'static str {
        match self {
            Self::Own => "own",
            Self::Exporter => "exporter",
        }
    }
}

/// What becomes of datagrams while a collector takes none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenDown {
    /// They wait at their sender.
    Hold,
    /// They are counted and passed over.
    Skip,
}

/// Where old datagrams go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LateSettings {
    /// From this age on.
    pub after: Duration,
    /// The address for them.
    pub address: HostPort,
}

/// Reads all of them. The key `source` beside the tables stands for those that have none of their own, and for all if it
/// was given by hand.
pub(super) fn read_all(reader: &mut Reader<'_>) -> Option<Vec<CollectorSettings>> {
    let source = reader.take("source", "own", understand_source)?;
    let given_by_hand = reader.is_given_by_hand("source");
    let count = 1..=limits::COLLECTORS_MAX;
    let collectors = reader.tables("collector", "address", ["127.0.0.1:9995"], count, |reader| {
        let mut settings = read_one(reader, source)?;
        if given_by_hand {
            settings.source = source;
        }
        Some(settings)
    })?;
    let addresses: Vec<String> = collectors.iter().map(|collector| collector.address.to_string()).collect();
    reader.refuse_twice("collector", "address", addresses.iter().map(String::as_str));
    refuse_shared(reader, &collectors, addresses.into_iter().collect());
    refuse_mixed(reader, &collectors);
    Some(collectors)
}

/// What goes to one address from two sides would fill its queue from two sides: an address for late datagrams is none of
/// those that are `taken`, and none that another collector has for them.
fn refuse_shared(reader: &mut Reader<'_>, collectors: &[CollectorSettings], mut taken: HashSet<String>) {
    for late in collectors.iter().filter_map(|collector| collector.late.as_ref()) {
        let address = late.address.to_string();
        if taken.contains(&address) {
            let expected = "one that is no other address or late-address".to_owned();
            reader.refuse_last("collector", "late-address", &address, expected);
        }
        taken.insert(address);
    }
}

/// A group shares the exporters of the same senders: where its members differ in these, an exporter could have no member.
fn refuse_mixed(reader: &mut Reader<'_>, collectors: &[CollectorSettings]) {
    for (place, collector) in collectors.iter().enumerate().filter(|(_, collector)| collector.group.is_some())
    {
        let senders: HashSet<&SenderId> = collector.senders.iter().collect();
        let first = collectors.iter().take(place).find(|other| other.group == collector.group);
        if first.is_some_and(|first| first.senders.iter().collect::<HashSet<_>>() != senders) {
            let expected = "the same senders as the first collector of its group".to_owned();
            reader.refuse_last("collector", "address", &collector.address.to_string(), expected);
        }
    }
}

/// Sentences about what is allowed, but probably not meant.
pub(super) fn warnings(collectors: &[CollectorSettings]) -> Vec<String> {
    let mut warnings = Vec::new();
    if collectors.iter().all(|collector| !collector.exporters.is_empty()) {
        warnings.push(
            "every collector has prefixes in exporters: datagrams of exporters outside of all of them go nowhere"
                .to_owned(),
        );
    }
    if collectors.iter().all(|collector| !collector.senders.is_empty()) {
        warnings.push("every collector has senders: datagrams of other senders go nowhere".to_owned());
    }
    for collector in collectors {
        let Some(group) = &collector.group else { continue };
        if collectors.iter().filter(|other| other.group.as_ref() == Some(group)).count() == 1 {
            warnings
                .push(format!("{} is alone in the group {group:?} and shares nothing", collector.address));
        }
    }
    warnings
}

fn understand_source(value: &Value) -> parsers::Understood<Source> {
    parsers::one_of([Source::Own, Source::Exporter].map(|source| (source.word(), source)))(value)
}

fn read_one(reader: &mut Reader<'_>, default_source: Source) -> Option<CollectorSettings> {
    let address = reader.required("address", parsers::host_port);
    let source = reader.take("source", default_source.word(), understand_source);
    let when_down = reader.take(
        "when-down",
        "hold",
        parsers::one_of([("hold", WhenDown::Hold), ("skip", WhenDown::Skip)]),
    );
    let exporters = reader.list("exporters", [], 0..=limits::PREFIXES_MAX, parsers::prefix);
    let senders = reader.list("senders", [], 0..=limits::SENDERS_MAX, parsers::sender_id);
    let group = reader.optional("group", parsers::group);
    let rate = || parsers::whole_number_or_unlimited(1..=limits::RATE_MAX);
    let rate_limit = reader.take("rate-limit", "unlimited", rate());
    let catch_up_limit = reader.optional("catch-up-limit", rate());
    let paces = parsers::whole_number_or_unlimited(2..=limits::CATCH_UP_PACE_MAX);
    let catch_up_pace = reader.take("catch-up-pace", "unlimited", paces);
    let late = read_late(reader);
    let repeat_templates = reader.take("repeat-templates", true, parsers::boolean);
    let limit = |number: Option<u32>| number.and_then(NonZeroU32::new);
    Some(CollectorSettings {
        address: address?,
        source: source?,
        when_down: when_down?,
        exporters: exporters?,
        senders: senders?,
        group: group?,
        rate_limit: limit(rate_limit?),
        catch_up_limit: catch_up_limit?.map(limit),
        catch_up_pace: limit(catch_up_pace?),
        late: late?,
        repeat_templates: repeat_templates?,
    })
}

fn read_late(reader: &mut Reader<'_>) -> Noted<Option<LateSettings>> {
    let ages = parsers::duration(limits::LATE..=limits::LATE_AFTER_MAX);
    let after = reader.optional("late-after", ages);
    let address = reader.optional("late-address", parsers::host_port);
    match (after?, address?) {
        (Some(after), Some(address)) => Some(Some(LateSettings { after, address })),
        (None, None) => Some(None),
        (Some(_), None) => {
            reader.refuse_alone("late-after", "late-address");
            None
        }
        (None, Some(_)) => {
            reader.refuse_alone("late-address", "late-after");
            None
        }
    }
}

#[cfg(test)]
impl CollectorSettings {
    /// As the configuration makes it of an address alone.
    pub(crate) fn at(address: &impl ToString) -> Self {
        Self {
            address: address.to_string().parse().expect("the address of a collector"),
            source: Source::Own,
            when_down: WhenDown::Hold,
            exporters: Vec::new(),
            senders: Vec::new(),
            group: None,
            rate_limit: None,
            catch_up_limit: None,
            catch_up_pace: None,
            late: None,
            repeat_templates: true,
        }
    }
}
