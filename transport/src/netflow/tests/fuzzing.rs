//! The fuzzers' entry with arbitrary bytes, and with real datagrams, intact and damaged.

use std::time::Instant;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::netflow::fuzz_netflow;

/// The parts of a datagram: a template of fields, an options template, a withdrawal, data. There are few ids,
/// so that they collide.
fn any_set() -> impl Strategy<Value = (u8, u16, Vec<u16>)> {
    let length = prop_oneof![8 => 0..20_u16, 1 => Just(65_535), 1 => any::<u16>()];
    (0..5_u8, 256..264_u16, vec(length, 1..12))
}

fn encoded(is_ipfix: bool, (kind, id, lengths): (u8, u16, Vec<u16>)) -> Vec<u8> {
    let (templates, options): (u16, u16) = if is_ipfix { (2, 3) } else { (0, 1) };
    let options_template = if is_ipfix { ipfix_options } else { v9_options };
    match kind {
        0 => set(templates, &template(id, &lengths)),
        1 => set(options, &options_template(id, lengths[0])),
        2 if lengths.len() > 10 => set(templates, &numbers(&[templates, 0])),
        2 => set(templates, &numbers(&[id, 0])),
        _ => set(id, &numbers(&lengths)),
    }
}

/// A datagram in the encoding of [`fuzz_netflow`].
fn any_datagram() -> impl Strategy<Value = Vec<u8>> {
    let number = prop_oneof![0..100_u32, any::<u32>()];
    (0..4_u8, any::<bool>(), 0..2_u32, number, vec(any_set(), 0..8)).prop_map(
        |(exporter, is_ipfix, source_id, number, sets)| {
            let sets: Vec<_> = sets.into_iter().map(|set| encoded(is_ipfix, set)).collect();
            let payload = if is_ipfix { ipfix } else { v9 }(source_id, number, &sets);
            let length = u16::try_from(payload.len()).unwrap().to_be_bytes();
            [[exporter].as_slice(), &length, &payload].concat()
        },
    )
}

proptest! {
    #[test]
    fn bytes_of_any_kind_break_nothing(bytes in vec(any::<u8>(), 0..600)) {
        fuzz_netflow(&bytes, Instant::now());
        for version in [5, 9, 10] {
            fuzz_netflow(&[[0, 2, 0, 0, version].as_slice(), &bytes].concat(), Instant::now());
        }
    }

    #[test]
    fn real_and_damaged_datagrams_break_nothing(
        datagrams in vec(any_datagram(), 1..30),
        damage in vec((any::<proptest::sample::Index>(), any::<u8>()), 0..6),
    ) {
        let mut bytes = datagrams.concat();
        fuzz_netflow(&bytes, Instant::now());
        for (place, byte) in damage {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        fuzz_netflow(&bytes, Instant::now());
    }
}
