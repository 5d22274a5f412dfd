//! What is found in datagrams of real exporters: in those that the environment variable `NF_TRANSPORT_CORPUS`
//! tells, one in each `*.dat` file. Files that belong together begin alike, up to `_tpl`, `_opttpl` or `_data`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::memory::{before, note};
use super::*;
use crate::datagram::BootTime;
use crate::netflow::record_lengths::RecordLengths;
use crate::netflow::sets::{DATA_MIN, Sets};
use crate::netflow::template::{Change, Changes};
use crate::netflow::{ExporterTable, Header, TemplateMemory};

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
    let sets = Sets::of(payload).into_iter().flatten();
    let changes = sets.flat_map(|set| Changes::of(&set));
    changes.filter(|change| matches!(change, Change::Defined(_))).count()
}

#[test]
fn templates_are_found_where_exporters_define_them() {
    for (name, payload) in corpus().into_iter().flatten().flat_map(|(_, datagrams)| datagrams) {
        let found = templates(&payload);
        assert!(found > 0 || !name.contains("tpl"), "{name}");
    }
}

#[test]
fn every_data_set_of_a_template_that_the_corpus_defines_holds_a_record() {
    let mut known = 0;
    for datagrams in corpus().into_iter().flatten().map(|(_, datagrams)| datagrams) {
        let mut lengths = RecordLengths::default();
        for (name, payload) in datagrams.iter().filter(|(_, payload)| payload.starts_with(&[0, 10])) {
            let counted = lengths.count(payload, usize::MAX);
            eprintln!("{name}: {} templates, data records: {counted:?}", templates(payload));
            let data = Sets::of(payload).into_iter().flatten().filter(|set| set.id >= DATA_MIN);
            for set in data.filter(|set| lengths.knows(set.id)) {
                assert!(lengths.records(&set).is_some_and(|records| records > 0), "{name}: set {}", set.id);
                known += 1;
            }
        }
    }
    eprintln!("{known} data sets of known templates");
}

#[test]
fn what_is_repeated_of_real_exporters_defines_the_same_again() {
    for datagrams in corpus().into_iter().flatten().map(|(_, datagrams)| datagrams) {
        let mut memory = TemplateMemory::default();
        let mut table = ExporterTable::default();
        for (name, payload) in &datagrams {
            note(&mut memory, datagram(1, payload));
            table.note(&datagram(1, payload), BootTime::default());
            for repeat in before(&memory, &datagram(1, payload)) {
                assert!(Header::parse(&repeat).is_some(), "{name}");
                assert!(!note(&mut memory, datagram(1, &repeat)), "{name}");
            }
        }
    }
}
