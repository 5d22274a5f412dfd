use std::time::Instant;

use nf_transport_core::datagram::{Datagram, Timestamp};
use nf_transport_core::limits::TEMPLATE_BYTES_PER_EXPORTER;
use nf_transport_core::netflow::Recipient;

use super::*;
use crate::limits::TEMPLATES_TOTAL;
use crate::receiver::state::json_file;

fn of_exporter(payload: &[u8]) -> Datagram<'_> {
    let exporter = "192.0.2.1:4000".parse().unwrap();
    Datagram { exporter, local: exporter, arrival: Timestamp(0), payload }
}

fn collector(port: u16) -> OutputName {
    format!("127.0.0.1:{port}").into()
}

/// The repeats that the learner's collector needs before flows of the exporter.
fn lacking(learner: &TemplateLearner) -> Vec<Vec<u8>> {
    let recipient = Recipient { place: 0, generation: 1, socket: 2, has_moved: false };
    let repeats = learner.before(&[of_exporter(&netflow_9(false))], &recipient, Instant::now());
    repeats.map_or_else(Vec::new, |(_, repeats)| repeats.payloads)
}

/// A template 256 of one field of this length.
fn defining(length: u8) -> Vec<u8> {
    let mut payload = netflow_9(true);
    payload.truncate(payload.len() - 1);
    payload.push(length);
    payload
}

/// An options template 257, and a record of it.
fn with_options() -> Vec<u8> {
    let mut payload = netflow_9(true)[..20].to_vec();
    payload.extend([0, 1, 0, 20, 1, 1, 0, 4, 0, 4, 0, 1, 0, 4, 0, 50, 0, 4, 0, 0]);
    payload.extend([1, 1, 0, 12, 0, 0, 0, 0, 0, 0, 3, 232]);
    payload
}

fn learned(payloads: &[Vec<u8>]) -> (Arc<Templates>, Arc<TemplateLearner>) {
    let datagrams: Vec<_> = payloads.iter().map(|payload| of_exporter(payload)).collect();
    Templates::learned(collector(1), &datagrams)
}

#[test]
fn each_collector_learns_separately() {
    let templates = Arc::<Templates>::default();
    let learners = templates.of_sender(&test_sender(), [collector(1), collector(2)], None);
    for learner in &learners {
        learner.learn(&[of_exporter(&defining(4))], None);
    }
    learners[0].learn(&[of_exporter(&defining(8))], None);
    assert!(lacking(&learners[0]).concat().ends_with(&defining(8)[20..]));
    assert!(lacking(&learners[1]).concat().ends_with(&defining(4)[20..]));
}

#[test]
fn equal_exporters_of_two_senders_are_separate() {
    let (templates, learner) = learned(&[defining(4)]);
    let other = templates.of_sender(&"other".parse().unwrap(), [collector(1)], None).remove(0);
    assert!(lacking(&other).is_empty());
    other.learn(&[of_exporter(&defining(8))], None);
    assert!(lacking(&learner).concat().ends_with(&defining(4)[20..]));
}

#[test]
fn an_added_collector_copies_its_model() {
    let (templates, first) = learned(&[defining(4)]);
    let all = [1, 2, 3].map(collector);
    let learners = templates.of_sender(&test_sender(), all, None);
    assert!(Arc::ptr_eq(&learners[0], &first));
    assert_eq!(lacking(&learners[1]), lacking(&first), "any other collector");
    learners[2].learn(&[of_exporter(&defining(8))], None);
    let fourth = templates.of_sender(&test_sender(), [3, 4].map(collector), Some(&learners[2])).remove(1);
    assert_eq!(lacking(&fourth), lacking(&learners[2]));
    let again = templates.of_sender(&test_sender(), [collector(1)], None).remove(0);
    assert!(!Arc::ptr_eq(&again, &first), "it was no collector any more");
}

#[test]
fn templates_survive_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let (templates, learner) = learned(&[netflow_9(true), with_options()]);
    let other = templates.of_sender(&"other".parse().unwrap(), [1, 2].map(collector), None);
    for learner in &other {
        learner.learn(&[of_exporter(&defining(8))], None);
    }
    templates.keep(directory.path()).unwrap();
    let again = Templates::recovered(directory.path());
    let found = again.of_sender(&test_sender(), [collector(1)], None).remove(0);
    assert_eq!(lacking(&found), lacking(&learner));
    assert!(lacking(&found).concat().ends_with(&[0, 0, 3, 232]));
    let found = again.of_sender(&"other".parse().unwrap(), [1, 2].map(collector), None);
    assert_eq!(
        [&found[0], &found[1]].map(|found| lacking(found)),
        [&other[0], &other[1]].map(|other| lacking(other))
    );
    let text = std::fs::read_to_string(directory.path().join(TEMPLATES_FILE)).unwrap();
    assert_eq!(text.matches("\"sender\"").count(), 2, "alike at both collectors: {text}");
}

#[test]
fn nothing_is_written_without_changes() {
    let directory = tempfile::tempdir().unwrap();
    let (templates, learner) = learned(&[netflow_9(true), with_options()]);
    templates.keep(directory.path()).unwrap();
    for file in [TEMPLATES_FILE, OPTIONS_FILE] {
        std::fs::remove_file(directory.path().join(file)).unwrap();
    }
    learner.learn(&[of_exporter(&netflow_9(true)), of_exporter(&with_options())], None);
    templates.keep(directory.path()).unwrap();
    assert_eq!(directory.path().read_dir().unwrap().count(), 0);
}

#[test]
fn fast_changes_are_written_at_intervals() {
    let directory = tempfile::tempdir().unwrap();
    let (templates, learner) = learned(&[netflow_9(true)]);
    let file = directory.path().join(TEMPLATES_FILE);
    templates.keep_at_times(directory.path()).unwrap();
    std::fs::remove_file(&file).unwrap();
    learner.learn(&[of_exporter(&defining(8))], None);
    templates.keep_at_times(directory.path()).unwrap();
    assert!(!file.exists());
    templates.keep(directory.path()).unwrap();
    assert!(file.exists());
    assert_eq!(directory.path().read_dir().unwrap().count(), 1, "nothing half written is left");
}

#[test]
fn a_failed_write_is_repeated() {
    let directory = tempfile::tempdir().unwrap();
    let (templates, _learner) = learned(&[netflow_9(true)]);
    templates.keep(&directory.path().join("not there")).unwrap_err();
    templates.keep(directory.path()).unwrap();
    assert!(directory.path().join(TEMPLATES_FILE).exists());
}

#[test]
fn a_damaged_file_is_ignored() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join(TEMPLATES_FILE), "[{\"exporter\": 7}").unwrap();
    let templates = Templates::recovered(directory.path());
    assert_eq!(templates.usage.bytes(MemoryKind::Templates), 0);
}

#[test]
fn a_file_without_senders_is_ignored() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(TEMPLATES_FILE);
    std::fs::write(&path, "{\"hold\": [{\"exporter\": \"192.0.2.1:1\"}], \"skip\": []}").unwrap();
    let templates = Templates::recovered(directory.path());
    assert_eq!(templates.usage.bytes(MemoryKind::Templates), 0);
    assert!(!json_file::kept(&path).exists());
}

#[test]
fn a_newer_file_is_kept_for_its_version() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(TEMPLATES_FILE);
    let (templates, learner) = learned(&[netflow_9(true)]);
    templates.keep(directory.path()).unwrap();
    let of_this_version = std::fs::read(&path).unwrap();
    std::fs::write(&path, "{\"version\": 2, \"exporters\": []}").unwrap();
    let templates = Templates::recovered(directory.path());
    assert_eq!(templates.usage.bytes(MemoryKind::Templates), 0);
    templates.on_disk.is_dirty.store(true, Ordering::Relaxed);
    templates.keep(directory.path()).unwrap();
    assert_eq!(std::fs::read(json_file::kept(&path)).unwrap(), b"{\"version\": 2, \"exporters\": []}");

    std::fs::write(json_file::kept(&path), of_this_version).unwrap();
    let templates = Templates::recovered(directory.path());
    let found = templates.of_sender(&test_sender(), [collector(1)], None).remove(0);
    assert_eq!(lacking(&found), lacking(&learner));
    assert!(!json_file::kept(&path).exists());
}

/// Learns about 60 KiB of templates of this many source ids.
fn fill(learner: &TemplateLearner, source_ids: u32) {
    let fields = u16::try_from(TEMPLATE_BYTES_PER_EXPORTER / 4 - 100).unwrap();
    for source_id in 0..source_ids {
        let mut payload = netflow_9(true)[..16].to_vec();
        payload.extend(source_id.to_be_bytes());
        payload.extend([0, 0]);
        payload.extend((8 + 4 * fields).to_be_bytes());
        payload.extend([1, 0]);
        payload.extend(fields.to_be_bytes());
        payload.extend([0, 1, 0, 4].repeat(fields.into()));
        learner.learn(&[of_exporter(&payload)], None);
    }
}

#[test]
fn the_largest_sender_makes_room() {
    let templates = Arc::<Templates>::default();
    let learner = |name: &str| templates.of_sender(&name.parse().unwrap(), [collector(1)], None).remove(0);
    let small = learner("small");
    small.learn(&[of_exporter(&netflow_9(true))], None);
    let large: Vec<_> = (0..12).map(|number| learner(&format!("large-{number}"))).collect();
    for large in &large {
        fill(large, 60);
    }
    assert!(templates.usage.bytes(MemoryKind::Templates) <= TEMPLATES_TOTAL);
    assert!(large.iter().all(|large| large.bytes(MemoryKind::Templates) > 0));
    assert_eq!(lacking(&small).len(), 1);
    let before = templates.usage.bytes(MemoryKind::Templates);
    drop((large, small));
    templates.learners().clear();
    assert!(before > 0);
    assert_eq!(templates.usage.bytes(MemoryKind::Templates), 0, "the account of bytes adds up");
}
