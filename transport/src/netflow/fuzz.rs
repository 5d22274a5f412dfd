//! The entry of the fuzzers to this folder.

use core::net::{Ipv4Addr, SocketAddr};
use std::collections::HashSet;
use std::time::Instant;

use bytes::Buf;

use crate::datagram::{BootTime, Datagram, Timestamp};
use crate::limits::{
    EXPORTERS_MAX, OPTION_MEMORY, PAYLOAD_MAX, RECORD_LENGTHS_TOTAL, REPEAT_TARGET, SEQUENCE_MEMORY,
    TEMPLATE_MEMORY, TEMPLATES_PER_EXPORTER,
};
use crate::netflow::sets::Sets;
use crate::netflow::template::{TemplateChange, TemplateChanges};
use crate::netflow::{ExporterTable, Header, Kept, KeptRecord, KeptTemplate, Recipient, TemplateMemory};

/// Bits of a datagram's first byte that choose its exporter.
const EXPORTERS: u8 = 0b11;

/// Interprets arbitrary `bytes` as datagrams of a few exporters that arrive `now`. Each consists of one byte
/// that chooses the exporter, two bytes of length, and the payload.
///
/// # Panics
///
/// If a bound is exceeded, or templates change by being repeated or stored.
pub fn fuzz_netflow(bytes: &[u8], now: Instant) {
    let mut table = ExporterTable::default();
    let mut memory = TemplateMemory::default();
    let mut rest = bytes;
    while let Some((exporter, payload)) = next_payload(&mut rest) {
        let exporter = SocketAddr::from((Ipv4Addr::LOCALHOST, exporter));
        let datagram = Datagram { exporter, local: exporter, arrival: Timestamp(0), payload };
        table.count_datagram(&datagram, BootTime::default());
        assert!(table.figures().count() <= EXPORTERS_MAX, "there are too many exporters");
        assert!(table.sequence_bytes() <= SEQUENCE_MEMORY, "recent numbers take too much");
        assert_eq!(table.sequence_bytes(), table.counted_sequence_bytes(), "the account of numbers is wrong");
        assert!(table.record_length_bytes() <= RECORD_LENGTHS_TOTAL, "record lengths take too much");
        memory.learn([&datagram], None);
        let (templates, options) = memory.bytes();
        assert!(templates <= TEMPLATE_MEMORY, "templates take too much");
        assert!(options <= OPTION_MEMORY, "options data take too much");
        check_repeats(&memory, &datagram, now);
    }
    check_kept(&memory);
}

/// Takes the next datagram: the number of its exporter and its payload.
fn next_payload<'a>(rest: &mut &'a [u8]) -> Option<(u16, &'a [u8])> {
    let exporter = rest.try_get_u8().ok()?;
    let length = usize::from(rest.try_get_u16().ok()?).min(PAYLOAD_MAX).min(rest.len());
    let (payload, later) = rest.split_at(length);
    *rest = later;
    Some((u16::from(exporter & EXPORTERS), payload))
}

/// A collector that has no templates yet.
fn nobody() -> Recipient {
    Recipient { place: 0, generation: 1, socket: 2, has_moved: false }
}

/// Checks that the repeats before `datagram` contain the known definitions of its exporter, with its numbers,
/// and nothing else.
fn check_repeats(memory: &TemplateMemory, datagram: &Datagram<'_>, now: Instant) {
    let repeats = memory.before(core::slice::from_ref(datagram), &nobody(), now);
    let Some(header) = Header::parse(datagram.payload) else {
        assert!(repeats.is_none(), "there are repeats without a header");
        return;
    };
    let mut collector = TemplateMemory::default();
    let payloads = repeats.map(|(_, repeats)| repeats.payloads).unwrap_or_default();
    let mut next = None;
    for payload in &payloads {
        let own = Header::parse(payload).expect("a repeat has a header");
        assert_eq!(
            (own.version, own.source_id),
            (header.version, header.source_id),
            "a repeat belongs to another exporter"
        );
        let sets: Vec<_> = Sets::parse(payload).expect("a repeat has sets").collect();
        assert!(payload.len() <= REPEAT_TARGET || sets.len() == 1, "a repeat is too long");
        assert!(payload.len() <= PAYLOAD_MAX, "a repeat is longer than any datagram");
        let records = sets.iter().filter(|set| set.template_kind().is_none()).count();
        let adds = if own.version == 9 { 1 } else { u32::try_from(records).expect("a few") };
        assert!(next.is_none_or(|next| next == own.sequence.number), "repeats have a gap");
        next = Some(own.sequence.number.wrapping_add(adds));
        collector.learn([&Datagram { payload, ..*datagram }], None);
    }
    assert!(next.is_none_or(|next| next == header.sequence.number), "repeats do not lead to the datagram");
    let own = template_ids(datagram.payload);
    let known = |memory: &TemplateMemory| known(memory, datagram.exporter, &header, &own);
    assert_eq!(known(&collector), known(memory), "repeats changed the definitions");
}

/// The known templates and options data of one exporter, except templates with these ids.
fn known(
    memory: &TemplateMemory,
    exporter: SocketAddr,
    header: &Header,
    without: &[u16],
) -> (Vec<KeptTemplate>, Vec<KeptRecord>) {
    let is_its = |kept: &Kept| {
        (kept.exporter, kept.version, kept.source_id) == (exporter.ip(), header.version, header.source_id)
            && [None, Some(exporter.port())].contains(&kept.port)
    };
    let mut templates = memory.kept_templates().find(is_its).map(|kept| kept.templates).unwrap_or_default();
    templates.retain(|template| !without.contains(&template.template_id));
    // A repeat has the port of the datagram, not that of the datagram that defined the template.
    for template in &mut templates {
        template.port = 0;
    }
    let mut options = memory.kept_options().find(is_its).map(|kept| kept.options).unwrap_or_default();
    options.retain(|record| !without.contains(&record.template_id));
    (templates, options)
}

/// The ids of the templates that `payload` defines.
fn template_ids(payload: &[u8]) -> Vec<u16> {
    let changes = Sets::parse(payload).into_iter().flatten().flat_map(|set| TemplateChanges::of(&set));
    let id = |change| if let TemplateChange::Defined(template) = change { Some(template.id) } else { None };
    changes.filter_map(id).collect()
}

/// Checks that stored definitions are restored unchanged.
fn check_kept(memory: &TemplateMemory) {
    let templates: Vec<Kept> = memory.kept_templates().collect();
    let bounded = |kept: &Kept| (1..=TEMPLATES_PER_EXPORTER).contains(&kept.templates.len());
    assert!(templates.iter().all(bounded), "an exporter has none or too many templates");
    let mut restored = TemplateMemory::default();
    for kept in read_back(&templates) {
        restored.restore_templates(&kept);
    }
    let options: Vec<Kept> = memory.kept_options().collect();
    for kept in read_back(&options) {
        restored.restore_options(&kept);
    }
    assert_eq!(
        restored.kept_options().collect::<Vec<_>>(),
        options,
        "options data were restored differently"
    );
    assert_eq!(restored.bytes(), memory.bytes(), "the account of bytes does not add up");
    let all = |memory: &TemplateMemory| memory.kept_templates().collect::<HashSet<_>>();
    assert_eq!(all(&restored), all(memory), "stored templates were restored differently");
}

fn read_back(kept: &[Kept]) -> Vec<Kept> {
    let text = serde_json::to_string(kept).expect("stored definitions are text");
    serde_json::from_str(&text).expect("the text of stored definitions is valid")
}
