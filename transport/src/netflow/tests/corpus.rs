//! Checks with datagrams of real exporters. The environment variable `NF_TRANSPORT_CORPUS` names their
//! directory, with one datagram in each `*.dat` file. Files of one exporter have the same name up to `_tpl`,
//! `_opttpl` or `_data`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::memory::{before, learn};
use super::*;
use crate::datagram::BootTime;
use crate::netflow::record_lengths::RecordLengths;
use crate::netflow::sets::{DATA_MIN, Sets};
use crate::netflow::template::{TemplateChange, TemplateChanges};
use crate::netflow::{ExporterFigures, ExporterTable, Header, TemplateMemory};

/// The datagrams of one exporter, each with its name.
type Named = Vec<(String, Vec<u8>)>;

/// The datagrams of each exporter, those with templates first; `None` if there is no corpus.
fn corpus() -> Option<BTreeMap<String, Named>> {
    let Some(directory) = std::env::var_os("NF_TRANSPORT_CORPUS") else {
        eprintln!("skipped: NF_TRANSPORT_CORPUS names no directory of datagrams");
        return None;
    };
    let files = std::fs::read_dir(PathBuf::from(directory)).unwrap().map(|entry| entry.unwrap().path());
    let mut exporters: BTreeMap<String, Named> = BTreeMap::new();
    for file in files.filter(|path| path.extension().is_some_and(|kind| kind == "dat")) {
        let name = file.file_stem().unwrap().to_str().unwrap().to_owned();
        let end = ["_tpl", "_opttpl", "_data"].iter().filter_map(|part| name.find(part)).min();
        let exporter = name[..end.unwrap_or(name.len())].to_owned();
        exporters.entry(exporter).or_default().push((name, std::fs::read(&file).unwrap()));
    }
    for datagrams in exporters.values_mut() {
        datagrams.sort_by_key(|(name, _)| (!name.contains("tpl"), name.clone()));
    }
    Some(exporters)
}

/// The templates that `payload` defines.
fn templates(payload: &[u8]) -> usize {
    let sets = Sets::parse(payload).into_iter().flatten();
    let changes = sets.flat_map(|set| TemplateChanges::of(&set));
    changes.filter(|change| matches!(change, TemplateChange::Defined(_))).count()
}

#[test]
fn corpus_templates_are_found() {
    for (name, payload) in corpus().into_iter().flatten().flat_map(|(_, datagrams)| datagrams) {
        let found = templates(&payload);
        assert!(found > 0 || !name.contains("tpl"), "{name}");
    }
}

#[test]
fn corpus_data_sets_have_records() {
    let mut known = 0;
    for datagrams in corpus().into_iter().flatten().map(|(_, datagrams)| datagrams) {
        let mut lengths = RecordLengths::default();
        for (name, payload) in datagrams.iter().filter(|(_, payload)| payload.starts_with(&[0, 10])) {
            let counted = lengths.count(payload, usize::MAX);
            eprintln!("{name}: {} templates, data records: {counted:?}", templates(payload));
            let data = Sets::parse(payload).into_iter().flatten().filter(|set| set.id >= DATA_MIN);
            for set in data.filter(|set| lengths.knows(set.id)) {
                assert!(lengths.records(&set).is_some_and(|records| records > 0), "{name}: set {}", set.id);
                known += 1;
            }
        }
    }
    eprintln!("{known} data sets of known templates");
}

#[test]
fn corpus_repeats_define_the_same_again() {
    for datagrams in corpus().into_iter().flatten().map(|(_, datagrams)| datagrams) {
        let mut memory = TemplateMemory::default();
        let mut table = ExporterTable::default();
        for (name, payload) in &datagrams {
            learn(&mut memory, datagram(1, payload));
            table.count_datagram(&datagram(1, payload), BootTime::default());
            for repeat in before(&memory, &datagram(1, payload)) {
                assert!(Header::parse(&repeat).is_some(), "{name}");
                assert!(!learn(&mut memory, datagram(1, &repeat)), "{name}");
            }
        }
    }
}

/// Overwrites the sequence number of a datagram.
fn renumber(payload: &mut [u8], header: &Header, number: u32) {
    let at = match header.version {
        5 => 16,
        9 => 12,
        _ => 8,
    };
    payload[at..at + 4].copy_from_slice(&number.to_be_bytes());
}

/// The amount that a datagram adds to its exporter's number by the standard; `None` if its templates are
/// missing.
fn adds(lengths: &mut RecordLengths, payload: &[u8], header: &Header) -> Option<u32> {
    match header.version {
        5 => header.sequence.adds,
        9 => Some(1),
        _ => lengths.count(payload, usize::MAX).data_records(),
    }
}

/// The datagrams of one exporter that have the source id of its last one, and the amount that each adds to
/// the number. Empty if it cannot be counted.
fn countable(datagrams: &Named) -> Vec<(Vec<u8>, Header, u32)> {
    let headers = datagrams.iter().filter_map(|(_, payload)| Some((payload, Header::parse(payload)?)));
    let Some((_, last)) = headers.clone().next_back() else { return Vec::new() };
    let is_same = |header: &Header| (header.version, header.source_id) == (last.version, last.source_id);
    let same: Vec<_> = headers.filter(|(_, header)| is_same(header)).collect();
    let mut lengths = RecordLengths::default();
    for (payload, header) in &same {
        adds(&mut lengths, payload, header);
    }
    let counted = same.into_iter().map(|(payload, header)| {
        let adds = adds(&mut lengths, payload, &header)?;
        Some((payload.clone(), header, adds))
    });
    counted.collect::<Option<Vec<_>>>().unwrap_or_default()
}

/// Sends the datagrams repeatedly, numbered by their standard, without some of them. Returns the figures and
/// the lost amount.
fn resend(datagrams: &[(Vec<u8>, Header, u32)], is_lost: impl Fn(usize) -> bool) -> (ExporterFigures, u64) {
    let (mut table, mut number, mut lost) = (ExporterTable::default(), u32::MAX - 500, 0);
    for (place, (payload, header, adds)) in datagrams.iter().cycle().take(RESENT).enumerate() {
        let mut payload = payload.clone();
        renumber(&mut payload, header, number);
        number = number.wrapping_add(*adds);
        if is_lost(place) && (2 * datagrams.len()..RESENT - 20).contains(&place) {
            lost += u64::from(*adds);
        } else {
            table.count_datagram(&datagram(1, &payload), BootTime::default());
        }
    }
    (table.figures().next().unwrap(), lost)
}

/// Datagrams that each exporter of the corpus sends.
const RESENT: usize = 400;

#[test]
fn losses_of_real_exporters_are_exact() {
    let Some(corpus) = corpus() else { return };
    let mut counted = 0;
    for (exporter, datagrams) in corpus {
        let datagrams = countable(&datagrams);
        if datagrams.iter().all(|(_, _, adds)| *adds == 0) {
            eprintln!("{exporter}: no datagram that can be counted");
            continue;
        }
        let (whole, _) = resend(&datagrams, |_| false);
        assert_eq!(whole.missing, Ok(0), "{exporter}");
        let (lossy, lost) = resend(&datagrams, |place| place % 7 == 3);
        assert_eq!(lossy.missing, Ok(lost), "{exporter}");
        counted += 1;
    }
    assert!(counted > 0, "the corpus has no exporter that can be counted");
    eprintln!("{counted} exporters are counted exactly");
}
