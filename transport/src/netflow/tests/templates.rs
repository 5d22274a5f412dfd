//! Remembered templates and their repeats.

use super::memory::{before, host, ids, learn, memory_of, of_host};
use super::*;
use crate::limits::{
    PAYLOAD_MAX, REPEAT_TARGET, TEMPLATE_BYTES_PER_EXPORTER, TEMPLATE_MEMORY, TEMPLATE_OVERHEAD,
    TEMPLATES_PER_EXPORTER,
};
use crate::netflow::{Header, Kept, KeptTemplate, TemplateMemory};

/// The definitions of every exporter.
fn definitions(memory: &TemplateMemory) -> Vec<Vec<u8>> {
    memory.kept_templates().flat_map(|kept| kept.templates).map(|template| template.definition).collect()
}

/// The sequence numbers of the repeats before `payload`.
fn numbers_before(memory: &TemplateMemory, payload: &[u8]) -> Vec<u32> {
    let before = before(memory, &datagram(1, payload));
    before.iter().map(|payload| Header::parse(payload).unwrap().sequence.number).collect()
}

/// A template of `length` bytes, a multiple of 4.
fn long_template(id: u16, length: usize) -> Vec<u8> {
    template(id, &vec![4; length / 4 - 1])
}

#[test]
fn templates_are_learned_in_order_of_definition() {
    let (first, second, third) = (template(300, &[4, 4]), template(256, &[2]), v9_options(301, 2));
    let sets = [set(0, &[first.clone(), second.clone()].concat()), set(256, &[9; 8]), set(1, &third)];
    assert_eq!(definitions(&memory_of(&[v9(7, 1, &sets)])), [first, second, third]);

    let (first, second) = (ipfix_options(301, 2), template(300, &[4, 65_535]));
    let payload = ipfix(7, 1, &[set(3, &first), set(2, &second)]);
    assert_eq!(definitions(&memory_of(&[payload])), [first, second]);
}

#[test]
fn an_unchanged_repeat_changes_nothing() {
    let payload = v9(7, 1, &[set(0, &template(256, &[4])), set(1, &v9_options(257, 2))]);
    let mut memory = memory_of(std::slice::from_ref(&payload));
    let before = (memory.bytes(), ids(&memory));
    assert!(!learn(&mut memory, datagram(1, &payload)));
    assert!(!learn(&mut memory, datagram(1, &v9(7, 2, &[set(0, &template(256, &[4]))]))));
    assert!(!learn(&mut memory, datagram(1, &v9(7, 3, &[set(256, &[1; 40])]))));
    assert_eq!((memory.bytes(), ids(&memory)), before);
}

#[test]
fn the_latest_definition_of_an_id_comes_last() {
    let mut memory = memory_of(&[v9(7, 1, &[set(0, &[template(256, &[4]), template(257, &[4])].concat())])]);
    assert!(learn(&mut memory, datagram(1, &v9(7, 2, &[set(0, &template(256, &[8]))]))));
    assert_eq!(definitions(&memory), [template(257, &[4]), template(256, &[8])]);
    assert!(learn(&mut memory, datagram(1, &v9(7, 3, &[set(1, &v9_options(257, 2))]))));
    assert_eq!(definitions(&memory), [template(256, &[8]), v9_options(257, 2)]);
}

#[test]
fn what_is_withdrawn_is_forgotten() {
    let defined = ipfix(
        7,
        1,
        &[
            set(2, &[template(256, &[4]), template(257, &[4]), template(258, &[4])].concat()),
            set(3, &[ipfix_options(300, 2), ipfix_options(301, 2)].concat()),
        ],
    );
    let withdrawn = |sets: &[Vec<u8>]| ids(&memory_of(&[defined.clone(), ipfix(7, 1, sets)]));
    assert_eq!(withdrawn(&[set(2, &numbers(&[257, 0]))]), [256, 258, 300, 301]);
    assert_eq!(withdrawn(&[set(3, &numbers(&[300, 0]))]), [256, 257, 258, 301]);
    assert_eq!(withdrawn(&[set(2, &numbers(&[2, 0]))]), [300, 301]);
    assert_eq!(withdrawn(&[set(3, &numbers(&[3, 0]))]), [256, 257, 258]);
    let again = [set(2, &[numbers(&[2, 0]), template(258, &[4])].concat())];
    assert_eq!(withdrawn(&again), [300, 301, 258]);
}

#[test]
fn a_full_withdrawal_leaves_nothing() {
    let mut memory = memory_of(&[ipfix(7, 1, &[set(2, &template(256, &[4]))])]);
    assert!(!memory.is_empty());
    assert!(!learn(&mut memory, datagram(1, &ipfix(7, 1, &[set(2, &numbers(&[300, 0]))]))));
    assert!(learn(&mut memory, datagram(1, &ipfix(7, 1, &[set(2, &numbers(&[256, 0]))]))));
    assert!(!learn(&mut memory, datagram(1, &ipfix(7, 1, &[set(2, &numbers(&[256, 0]))]))));
    assert!(memory.is_empty());
    assert_eq!((memory.len(), memory.bytes()), (0, (0, 0)));
}

#[test]
fn each_version_and_domain_has_its_templates() {
    let mut memory = TemplateMemory::default();
    learn(&mut memory, datagram(1, &v9(7, 1, &[set(0, &template(256, &[4]))])));
    learn(&mut memory, datagram(1, &v9(8, 1, &[set(0, &template(257, &[4]))])));
    learn(&mut memory, datagram(1, &ipfix(7, 1, &[set(2, &template(258, &[4]))])));
    learn(&mut memory, of_host(2, &v9(7, 1, &[set(0, &template(259, &[4]))])));
    assert_eq!(memory.len(), 4);
    let told = |datagram: Datagram<'_>| -> Vec<u16> {
        let mut collector = TemplateMemory::default();
        for payload in before(&memory, &datagram) {
            learn(&mut collector, Datagram { payload: &payload, ..datagram });
        }
        ids(&collector)
    };
    assert_eq!(told(datagram(1, &v9(7, 2, &[]))), [256]);
    assert_eq!(told(datagram(1, &v9(8, 2, &[]))), [257]);
    assert_eq!(told(datagram(1, &ipfix(7, 2, &[]))), [258]);
    assert_eq!(told(of_host(2, &v9(7, 2, &[]))), [259]);
    assert_eq!(told(of_host(2, &v9(8, 2, &[]))), [0; 0]);
}

#[test]
fn v9_repeats_are_numbered_up_to_the_datagram() {
    let records: Vec<_> = (0..100).map(|id| template(256 + id, &[4; 10])).collect();
    let memory = memory_of(&[v9(7, 1, &[set(0, &records.concat())])]);
    assert_eq!(numbers_before(&memory, &v9(7, 1000, &[])), [996, 997, 998, 999]);
    assert_eq!(numbers_before(&memory, &v9(7, 2, &[])), [u32::MAX - 1, u32::MAX, 0, 1]);
    assert_eq!(numbers_before(&memory, &v9(7, 0, &[])).last(), Some(&u32::MAX));
}

#[test]
fn a_v9_repeat_is_a_valid_export_datagram() {
    let records = [template(256, &[4]), v9_options(257, 2), template(300, &[8, 8])];
    let sets = [set(0, &records[0]), set(1, &records[1]), set(0, &records[2])];
    let memory = memory_of(&[v9(7, 1, &sets)]);
    let padded = set(1, &[records[1].as_slice(), &[0, 0]].concat());
    let expected = v9(7, 9, &[sets[0].clone(), padded, sets[2].clone()]);
    assert_eq!(before(&memory, &datagram(1, &v9(7, 10, &[set(256, &[1; 4])]))), [expected]);
}

#[test]
fn ipfix_repeats_have_the_next_message_number() {
    let records: Vec<_> = (0..100).map(|id| template(256 + id, &[4; 10])).collect();
    let memory = memory_of(&[ipfix(7, 1, &[set(2, &records.concat())])]);
    assert_eq!(numbers_before(&memory, &ipfix(7, 1000, &[])), [1000; 4]);

    let sets = [set(2, &template(256, &[4, 65_535])), set(3, &ipfix_options(257, 2))];
    let memory = memory_of(&[ipfix(7, 1, &sets)]);
    let expected = ipfix(7, 500, &sets);
    assert_eq!(before(&memory, &datagram(1, &ipfix(7, 500, &[set(256, &[1; 4])]))), [expected]);
}

#[test]
fn flows_are_never_repeated() {
    let sets = [set(0, &template(256, &[4])), set(256, &[0xEE; 40]), set(1, &v9_options(257, 2))];
    let memory = memory_of(&[v9(7, 1, &sets)]);
    let before = before(&memory, &datagram(1, &v9(7, 2, &[set(256, &[0xEE; 40])]))).concat();
    assert!(!before.is_empty() && !before.contains(&0xEE));
}

#[test]
fn own_definitions_are_not_repeated_before() {
    let memory = memory_of(&[v9(7, 1, &[set(0, &[template(256, &[4]), template(257, &[4])].concat())])]);
    let own = v9(7, 2, &[set(0, &template(256, &[8])), set(257, &[1; 4])]);
    assert_eq!(before(&memory, &datagram(1, &own)), [v9(7, 1, &[set(0, &template(257, &[4]))])]);
    let all = v9(7, 2, &[set(1, &[v9_options(256, 2), v9_options(257, 2)].concat())]);
    assert!(before(&memory, &datagram(1, &all)).is_empty());
}

#[test]
fn what_has_no_templates_has_nothing_before_it() {
    let memory = memory_of(&[v9(7, 1, &[set(0, &template(256, &[4]))])]);
    for payload in [&[][..], b"not NetFlow", &[[0, 5].as_slice(), &[0; 22]].concat(), &v9(7, 1, &[])[..19]] {
        assert!(before(&memory, &datagram(1, payload)).is_empty());
    }
}

#[test]
fn repeats_are_short_unless_one_template_is_long() {
    let longest = TEMPLATE_BYTES_PER_EXPORTER - TEMPLATE_OVERHEAD;
    let mut memory = TemplateMemory::default();
    for (id, length) in (256..).zip([400, 400, 400, 400, 2000, 400]) {
        learn(&mut memory, datagram(1, &v9(7, 1, &[set(0, &long_template(id, length))])));
        learn(&mut memory, datagram(1, &ipfix(7, 1, &[set(2, &long_template(id, length))])));
    }
    learn(&mut memory, of_host(2, &v9(7, 1, &[set(0, &long_template(256, longest))])));
    let lengths = |number, payload: &[u8]| -> Vec<usize> {
        before(&memory, &of_host(number, payload)).iter().map(Vec::len).collect()
    };
    assert_eq!(lengths(1, &v9(7, 2, &[])), [20 + 3 * 404, 20 + 404, 20 + 2004, 20 + 404]);
    assert_eq!(lengths(1, &ipfix(7, 2, &[])), [16 + 3 * 404, 16 + 404, 16 + 2004, 16 + 404]);
    assert_eq!(lengths(2, &v9(7, 2, &[])), [24 + longest]);
    assert!(24 + longest <= PAYLOAD_MAX && 20 + 3 * 404 <= REPEAT_TARGET);
}

#[test]
fn the_oldest_templates_of_an_exporter_make_room() {
    let last = 255 + u16::try_from(TEMPLATES_PER_EXPORTER).unwrap();
    let many: Vec<_> = (256..=last + 2).map(|id| v9(7, 1, &[set(0, &template(id, &[4]))])).collect();
    assert_eq!(ids(&memory_of(&many)), (258..=last + 2).collect::<Vec<_>>());

    let long: Vec<_> = (256..266).map(|id| v9(7, 1, &[set(0, &long_template(id, 10_000))])).collect();
    assert_eq!(ids(&memory_of(&long)), (260..266).collect::<Vec<_>>());
}

#[test]
fn a_template_that_is_too_long_is_not_kept() {
    let longest = TEMPLATE_BYTES_PER_EXPORTER - TEMPLATE_OVERHEAD;
    let too_long = v9(7, 2, &[set(0, &long_template(256, longest + 4))]);
    let mut memory = memory_of(&[v9(7, 1, &[set(0, &[template(256, &[4]), template(257, &[4])].concat())])]);
    assert!(learn(&mut memory, datagram(1, &too_long)), "the one before is no longer in force");
    assert!(!learn(&mut memory, datagram(1, &too_long)));
    assert_eq!(ids(&memory), [257]);
}

#[test]
fn the_exporter_with_old_definitions_makes_room() {
    let defining = |source_id| v9(source_id, 1, &[set(0, &long_template(256, 60_000))]);
    let mut memory = TemplateMemory::default();
    let mut source_ids = 0_u32..;
    while memory.len() == usize::try_from(source_ids.start).unwrap() {
        learn(&mut memory, datagram(1, &defining(source_ids.next().unwrap())));
        assert!(memory.bytes().0 <= TEMPLATE_MEMORY);
    }
    let last = source_ids.start - 1;
    learn(&mut memory, datagram(1, &v9(1, 2, &[set(256, &[1; 4])])));
    learn(&mut memory, datagram(1, &defining(2)));
    learn(&mut memory, datagram(1, &defining(last + 1)));
    learn(&mut memory, datagram(1, &defining(last + 2)));
    let kept: Vec<u32> = memory.kept_templates().map(|kept| kept.source_id).collect();
    let expected: Vec<u32> = (4..=last).chain([2, last + 1, last + 2]).collect();
    assert_eq!(kept, expected);
}

#[test]
fn stored_definitions_are_restored_in_order() {
    let mut memory = memory_of(&[
        v9(7, 1, &[set(0, &template(300, &[4, 4])), set(1, &v9_options(256, 2))]),
        ipfix(0xFFFF_FFFF, 1, &[set(2, &template(256, &[65_535])), set(3, &ipfix_options(400, 1))]),
    ]);
    learn(&mut memory, of_host(2, &v9(7, 1, &[set(0, &template(256, &[1]))])));
    let text = serde_json::to_string(&memory.kept_templates().collect::<Vec<_>>()).unwrap();
    let mut restored = TemplateMemory::default();
    for kept in serde_json::from_str::<Vec<Kept>>(&text).unwrap() {
        restored.restore_templates(&kept);
    }
    assert_eq!(restored.kept_templates().collect::<Vec<_>>(), memory.kept_templates().collect::<Vec<_>>());
    assert_eq!(restored.bytes(), memory.bytes());
}

#[test]
fn what_is_kept_is_text_that_people_can_read() {
    let memory = memory_of(&[v9(7, 1, &[set(0, &template(256, &[4]))])]);
    let text = serde_json::to_string(&memory.kept_templates().next().unwrap()).unwrap();
    let expected = r#"{"exporter":"192.0.2.1","version":9,"source_id":7,"templates":[{"template_id":256,"is_options":false,"port":1,"definition":"AQAAAQABAAQ="}]}"#;
    assert_eq!(text, expected);
    assert!(serde_json::from_str::<Kept>(&expected.replace("AAQ=", "A*Q=")).is_err());
}

#[test]
fn what_is_malformed_in_what_was_kept_is_ignored() {
    let kept = |version, template_id, is_options, definition: &[u8]| Kept {
        exporter: host(1).ip(),
        scope: 0,
        port: None,
        version,
        source_id: 7,
        options: Vec::new(),
        templates: vec![
            KeptTemplate { template_id, is_options, port: 1, definition: definition.to_vec() },
            KeptTemplate { template_id: 400, is_options: false, port: 1, definition: template(400, &[4]) },
        ],
    };
    let restored = |kept| {
        let mut memory = TemplateMemory::default();
        memory.restore_templates(&kept);
        ids(&memory)
    };
    let sound = template(256, &[4]);
    assert_eq!(restored(kept(9, 256, false, &sound)), [256, 400]);
    assert_eq!(restored(kept(9, 257, false, &sound)), [400]);
    assert_eq!(restored(kept(9, 256, true, &sound)), [400]);
    assert_eq!(restored(kept(9, 256, false, &sound[..7])), [400]);
    assert_eq!(restored(kept(9, 256, false, &[sound.as_slice(), &[0; 4]].concat())), [400]);
    assert_eq!(restored(kept(10, 256, false, &numbers(&[256, 0]))), [400]);
    assert_eq!(restored(kept(9, 256, false, &[])), [400]);
    for version in [0, 5, 8, 11, 256] {
        assert_eq!(restored(kept(version, 256, false, &sound)), [0; 0]);
    }
}

#[test]
fn debug_shows_no_definition() {
    let memory = memory_of(&[v9(7, 1, &[set(0, &template(256, &[4]))])]);
    let (cost, _) = memory.bytes();
    assert_eq!(
        format!("{memory:?}"),
        format!("TemplateMemory {{ domains: 1, template_bytes: {cost}, option_bytes: 0, .. }}")
    );
    let kept = memory.kept_templates().next().unwrap();
    assert_eq!(format!("{:?}", kept.templates), "[256 (8 bytes, options: false)]");
}
