//! The settings of one collector: the tables `[[collector]]`.

use core::num::NonZeroU32;
use core::time::Duration;
use std::collections::HashSet;

use ipnet::IpNet;
use nf_transport_core::sequence::SenderId;

use crate::config::host_port::HostPort;
use crate::config::parsers;
use crate::config::reader::{Checked, Reader};
use crate::config::value::Value;
use crate::limits;

/// One collector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CollectorSettings {
    /// The UDP address.
    pub address: HostPort,
    /// The source address of its datagrams.
    pub source: SourceAddress,
    /// The treatment of datagrams while the collector is down.
    pub when_down: WhenDown,
    /// Prefixes of the exporters whose datagrams it receives; empty for all.
    pub exporters: Vec<IpNet>,
    /// Senders whose datagrams it receives; empty for all.
    pub senders: Vec<SenderId>,
    /// The group. Collectors of one group share the exporters: each exporter goes to one of them.
    pub group: Option<String>,
    /// The highest rate in datagrams per second.
    pub rate_limit: Limit,
    /// The highest rate for late datagrams. `None` applies the default, which depends on the collector's
    /// machine.
    pub catch_up_limit: Option<Limit>,
    /// The highest ratio between delivery rate and arrival rate for late datagrams.
    pub catch_up_pace: Option<NonZeroU32>,
    /// The address for late datagrams.
    pub late: Option<LateSettings>,
    /// Repeat the templates when the collector restarts.
    pub repeat_templates: bool,
}

/// A rate in datagrams per second; `None` is unlimited.
pub type Limit = Option<NonZeroU32>;

/// The source address of datagrams to a collector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceAddress {
    /// An address of this machine, with a port for each exporter.
    Own,
    /// The exporter's own address and port.
    Exporter,
}

impl SourceAddress {
    fn word(self) -> &'static str {
        match self {
            Self::Own => "own",
            Self::Exporter => "exporter",
        }
    }
}

/// The treatment of datagrams while a collector is down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenDown {
    /// The sender holds them.
    Hold,
    /// They are counted and dropped.
    Skip,
}

/// The address for late datagrams.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LateSettings {
    /// The age from which it is used.
    pub after: Duration,
    /// The address.
    pub address: HostPort,
}

/// Reads all collectors. The key `source` outside of the tables applies to collectors without one. As an
/// option or variable, it applies to all.
pub(super) fn read_all(reader: &mut Reader<'_>) -> Option<Vec<CollectorSettings>> {
    let source = reader.read("source", "own", parse_source)?;
    let is_overridden = reader.is_overridden("source");
    let count = 1..=limits::COLLECTORS_MAX;
    let collectors = reader.tables("collector", "address", ["127.0.0.1:9995"], count, |reader| {
        let mut settings = read_one(reader, source)?;
        if is_overridden {
            settings.source = source;
        }
        Some(settings)
    })?;
    let addresses: Vec<String> = collectors.iter().map(|collector| collector.address.to_string()).collect();
    reader.reject_duplicates("collector", "address", addresses.iter().map(String::as_str));
    reject_shared(reader, &collectors, addresses.into_iter().collect());
    reject_mixed(reader, &collectors);
    Some(collectors)
}

/// Rejects late addresses that are also the address or late address of another collector, or in `taken`: two
/// outputs would fill the queue of one collector.
fn reject_shared(reader: &mut Reader<'_>, collectors: &[CollectorSettings], mut taken: HashSet<String>) {
    for late in collectors.iter().filter_map(|collector| collector.late.as_ref()) {
        let address = late.address.to_string();
        if taken.contains(&address) {
            let expected = "an address that is no other address or late-address".to_owned();
            reader.reject_last("collector", "late-address", &address, expected);
        }
        taken.insert(address);
    }
}

/// Rejects groups whose members have different senders: an exporter could be without a collector.
fn reject_mixed(reader: &mut Reader<'_>, collectors: &[CollectorSettings]) {
    for (place, collector) in collectors.iter().enumerate().filter(|(_, collector)| collector.group.is_some())
    {
        let senders: HashSet<&SenderId> = collector.senders.iter().collect();
        let first = collectors.iter().take(place).find(|other| other.group == collector.group);
        if first.is_some_and(|first| first.senders.iter().collect::<HashSet<_>>() != senders) {
            let expected = "the same senders as the first collector of its group".to_owned();
            reader.reject_last("collector", "address", &collector.address.to_string(), expected);
        }
    }
}

/// Returns warnings about settings that are valid, but probably unintended.
pub(super) fn warnings(collectors: &[CollectorSettings]) -> Vec<String> {
    let mut warnings = Vec::new();
    if collectors.iter().all(|collector| !collector.exporters.is_empty()) {
        warnings.push(
            "every collector has prefixes in exporters: datagrams of other exporters are not delivered"
                .to_owned(),
        );
    }
    if collectors.iter().all(|collector| !collector.senders.is_empty()) {
        warnings.push("every collector has senders: datagrams of other senders are not delivered".to_owned());
    }
    for collector in collectors {
        let Some(group) = &collector.group else { continue };
        if collectors.iter().filter(|other| other.group.as_ref() == Some(group)).count() == 1 {
            warnings.push(format!(
                "{} is the only member of the group {group:?}, so the group has no effect",
                collector.address
            ));
        }
    }
    warnings
}

fn parse_source(value: &Value) -> parsers::ParseResult<SourceAddress> {
    parsers::one_of([SourceAddress::Own, SourceAddress::Exporter].map(|source| (source.word(), source)))(
        value,
    )
}

fn read_one(reader: &mut Reader<'_>, default_source: SourceAddress) -> Option<CollectorSettings> {
    let address = reader.required("address", parsers::host_port);
    let source = reader.read("source", default_source.word(), parse_source);
    let when_down = reader.read(
        "when-down",
        "hold",
        parsers::one_of([("hold", WhenDown::Hold), ("skip", WhenDown::Skip)]),
    );
    let exporters = reader.list("exporters", [], 0..=limits::PREFIXES_MAX, parsers::prefix);
    let senders = reader.list("senders", [], 0..=limits::SENDERS_MAX, parsers::sender_id);
    let group = reader.optional("group", parsers::group);
    let rate = || parsers::whole_number_or_unlimited(1..=limits::RATE_MAX);
    let rate_limit = reader.read("rate-limit", "unlimited", rate());
    let catch_up_limit = reader.optional("catch-up-limit", rate());
    let paces = parsers::whole_number_or_unlimited(2..=limits::CATCH_UP_PACE_MAX);
    let catch_up_pace = reader.read("catch-up-pace", "unlimited", paces);
    let late = read_late(reader);
    let repeat_templates = reader.read("repeat-templates", true, parsers::boolean);
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

fn read_late(reader: &mut Reader<'_>) -> Checked<Option<LateSettings>> {
    let ages = parsers::duration(limits::LATE..=limits::LATE_AFTER_MAX);
    let after = reader.optional("late-after", ages);
    let address = reader.optional("late-address", parsers::host_port);
    match (after?, address?) {
        (Some(after), Some(address)) => Some(Some(LateSettings { after, address })),
        (None, None) => Some(None),
        (Some(_), None) => {
            reader.reject_without("late-after", "late-address");
            None
        }
        (None, Some(_)) => {
            reader.reject_without("late-address", "late-after");
            None
        }
    }
}

#[cfg(test)]
impl CollectorSettings {
    /// Returns the settings that a table with only this address has.
    pub(crate) fn at(address: &impl ToString) -> Self {
        Self {
            address: address.to_string().parse().expect("the address of a collector"),
            source: SourceAddress::Own,
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
