//! The entry of the fuzzers into this folder.

use core::net::{Ipv4Addr, SocketAddr};

use bytes::Buf;

use crate::datagram::{BootTime, Datagram, Timestamp};
use crate::limits::{
    EXPORTERS_MAX, PAYLOAD_MAX, RECORD_LENGTHS_TOTAL, REPEAT_TARGET, TEMPLATE_MEMORY, TEMPLATES_PER_EXPORTER,
};
use crate::netflow::sets::Sets;
use crate::netflow::template::{Change, Changes};
use crate::netflow::{ExporterTable, Header, Kept, KeptTemplate, Missing, Sequence, TemplateMemory};

/// Bits of a datagram's first byte that choose its exporter.
const EXPORTERS: u8 = 0b11;

/// Takes `bytes`, whatever they are, for datagrams of a few exporters: each is one byte that chooses the
/// exporter, two of length, and the payload.
///
/// # Panics
///
/// If a bound does not hold, or templates do not come back as they were, repeated or kept.
pub fn fuzz_netflow(bytes: &[u8]) {
    let mut table = ExporterTable::default();
    let mut memory = TemplateMemory::default();
    let mut rest = bytes;
    while let Some((exporter, payload)) = next_payload(&mut rest) {
        let exporter = SocketAddr::from((Ipv4Addr::LOCALHOST, exporter));
        let datagram = Datagram { exporter, local: exporter, arrival: Timestamp(0), payload };
        table.note(&datagram, BootTime::default());
        assert!(table.iter().count() <= EXPORTERS_MAX, "there are too many exporters");
        assert!(table.record_length_bytes() <= RECORD_LENGTHS_TOTAL, "record lengths take too much");
        memory.note(&datagram);
        assert!(memory.bytes() <= TEMPLATE_MEMORY, "templates take too much");
        check_repeats(&memory, &datagram);
    }
    check_kept(&memory);
}

/// Takes the next datagram: the number of its exporter, and its payload.
fn next_payload<'a>(rest: &mut &'a [u8]) -> Option<(u16, &'a [u8])> {
    let exporter = rest.try_get_u8().ok()?;
    let length = usize::from(rest.try_get_u16().ok()?).min(PAYLOAD_MAX).min(rest.len());
    let (payload, later) = rest.split_at(length);
    *rest = later;
    Some((u16::from(exporter & EXPORTERS), payload))
}

/// What is to be delivered before `datagram` defines what is known of its exporter, with its numbers, and
/// nothing else.
fn check_repeats(memory: &TemplateMemory, datagram: &Datagram<'_>) {
    let repeats = memory.before(datagram);
    let Some(header) = Header::parse(datagram.payload) else {
        assert!(repeats.is_empty(), "nothing was to be repeated");
        return;
    };
    let mut collector = TemplateMemory::default();
    let mut missing = Missing::default();
    let mut last = None;
    for payload in &repeats {
        let own = Header::parse(payload).expect("a repeat has a header");
        assert_eq!(
            (own.version, own.source_id),
            (header.version, header.source_id),
            "a repeat is of another"
        );
        let defined = template_ids(payload).len();
        assert!(payload.len() <= REPEAT_TARGET || defined == 1, "a repeat is too long");
        assert!(payload.len() <= PAYLOAD_MAX, "a repeat is longer than any datagram");
        let mut sets = Sets::of(payload).expect("a repeat has sets");
        assert!(sets.all(|set| set.template_kind().is_some()), "a repeat has data");
        let adds = u32::from(own.version == 9);
        missing.note(Sequence { number: own.sequence.number, adds: Some(adds) });
        last = Some(own.sequence.number.wrapping_add(adds));
        collector.note(&Datagram { payload, ..*datagram });
    }
    assert!(last.is_none_or(|last| last == header.sequence.number), "repeats do not lead to the datagram");
    assert_eq!(missing.count(), 0, "repeats have a gap");
    let own = template_ids(datagram.payload);
    let mut expected = templates(memory, datagram.exporter, &header);
    expected.retain(|template| !own.contains(&template.template_id));
    assert_eq!(templates(&collector, datagram.exporter, &header), expected, "templates come differently");
}

/// The templates that are known of one exporter.
fn templates(memory: &TemplateMemory, exporter: SocketAddr, header: &Header) -> Vec<KeptTemplate> {
    let key = (exporter, header.version, header.source_id);
    let mut kept = memory.kept().filter(|kept| (kept.exporter, kept.version, kept.source_id) == key);
    kept.next().map(|kept| kept.templates).unwrap_or_default()
}

/// The ids of the templates that `payload` defines.
fn template_ids(payload: &[u8]) -> Vec<u16> {
    let changes = Sets::of(payload).into_iter().flatten().flat_map(|set| Changes::of(&set));
    let id = |change| if let Change::Defined(template) = change { Some(template.id) } else { None };
    changes.filter_map(id).collect()
}

/// What is kept comes back as it was.
fn check_kept(memory: &TemplateMemory) {
    let kept: Vec<Kept> = memory.kept().collect();
    let bounded = |kept: &Kept| (1..=TEMPLATES_PER_EXPORTER).contains(&kept.templates.len());
    assert!(kept.iter().all(bounded), "an exporter has none or too many templates");
    let text = serde_json::to_string(&kept).expect("what is kept is text");
    let read: Vec<Kept> = serde_json::from_str(&text).expect("the text of what is kept is read");
    let mut restored = TemplateMemory::default();
    for kept in read {
        restored.restore(kept);
    }
    assert_eq!(restored.kept().collect::<Vec<_>>(), kept, "what was kept comes back differently");
    assert_eq!(restored.bytes(), memory.bytes(), "the account of bytes does not add up");
}
