//! Damaged, cut and unreadable segments.

use proptest::prelude::*;

use super::*;

#[test]
fn a_batch_inside_a_payload_is_not_read() {
    let hidden = BatchBuilder::new(StreamId([2; 16]), Compression::None)
        .tap_push(b"forged")
        .finish(Position(4))
        .unwrap();
    let carrier =
        BatchBuilder::new(STREAM, Compression::None).tap_push(hidden.bytes()).finish(Position(0)).unwrap();
    let disk = MemoryDisk::default();
    let mut spool = reopen(&disk).spool;
    spool.append(&carrier, NOW, Position(0)).unwrap();
    spool.append(&batch(1, 3), NOW, Position(0)).unwrap();
    disk.flip("00000000000000000000.segment", SEGMENT_HEADER_LEN + 9, 1);
    let given = read_from(&spool, Position(0));
    assert_eq!(given, Given { batches: vec![batch(1, 3)], lost: vec![(Position(0), Position(1))] });
}

trait TapPush {
    fn tap_push(self, payload: &[u8]) -> Self;
}

impl TapPush for BatchBuilder {
    fn tap_push(mut self, payload: &[u8]) -> Self {
        let address = "192.0.2.7:1".parse().unwrap();
        self.push(&Datagram { exporter: address, local: address, arrival: NOW.wall, payload }).unwrap();
        self
    }
}

/// The number of the batch at `byte` of a segment that starts at batch `from`.
fn touched(from: u64, byte: usize) -> u64 {
    let length = batch(0, 3).bytes().len();
    from + u64::try_from(byte.saturating_sub(SEGMENT_HEADER_LEN) / length).unwrap()
}

#[test]
fn a_cut_segment_loses_only_the_cut_batches() {
    let disk = filled(8);
    let name = "00000000000000000018.segment";
    let whole = disk.bytes(name);
    for length in 0..whole.len() {
        let cut = disk.copy();
        cut.cut(name, length);
        let opened = reopen(&cut);
        let end = opened.spool.end().unwrap();
        let given = read_from(&opened.spool, Position(0));
        assert_only_lost(&given, 8, end, |number| number >= touched(6, length));
        // The next start continues the numbering behind the cut batches and appends.
        let mut spool = opened.spool;
        spool.record_gap(Gap { first: end, end: Position(24), reason: GapReason::Corrupt });
        spool.append(&batch(24, 3), NOW, Position(0)).unwrap();
        let given = read_from(&reopen(&cut).spool, Position(0));
        assert_eq!(given.batches.last(), Some(&batch(24, 3)));
    }
}

#[test]
fn a_flipped_byte_loses_only_its_batch() {
    let disk = filled(8);
    for (name, from) in [("00000000000000000009.segment", 3), ("00000000000000000018.segment", 6)] {
        for byte in 0..disk.bytes(name).len() {
            let damaged = disk.copy();
            damaged.flip(name, byte, 0xFF);
            let opened = reopen(&damaged);
            let given = read_from(&opened.spool, Position(0));
            let in_header = byte < SEGMENT_HEADER_LEN;
            assert_only_lost(&given, 8, opened.spool.end().unwrap(), |number| {
                !in_header && number == touched(from, byte)
            });
        }
    }
}

proptest! {
    #[test]
    fn damage_never_stops_a_start_or_forges_a_batch(
        hits in proptest::collection::vec((0_usize..4000, any::<u8>(), 1_usize..80), 1..8),
        cut in proptest::option::of(0_usize..1000),
    ) {
        let disk = filled(12);
        let segments: Vec<String> =
            disk.names().into_iter().filter(|name| name.ends_with(".segment")).collect();
        for (at, mask, length) in hits {
            let name = &segments[at % segments.len()];
            let size = disk.bytes(name).len();
            for byte in (at..at + length).map(|byte| byte % size) {
                disk.flip(name, byte, mask);
            }
        }
        if let Some(cut) = cut {
            disk.cut(segments.last().unwrap(), cut);
        }
        let opened = reopen(&disk);
        let end = opened.spool.end().unwrap();
        assert_only_lost(&read_from(&opened.spool, Position(0)), 12, end, |_| true);
    }
}

#[test]
fn damaged_bytes_are_copied() {
    let disk = filled(4);
    disk.flip("00000000000000000000.segment", SEGMENT_HEADER_LEN + 60, 0xFF);
    let mut spool = reopen(&disk).spool;
    let mut reader = spool.reader(Position(0), false).unwrap().unwrap();
    let Some(Item::Damage(damage)) = reader.next_item().unwrap() else { panic!("damage comes first") };
    spool.copy_damaged(Position(0), damage.offset, damage.length).unwrap();
    let length = batch(0, 3).bytes().len();
    let aside = disk.bytes(&format!("damaged/00000000000000000000.segment-64-{length}"));
    assert_eq!(aside, disk.bytes("00000000000000000000.segment")[64..64 + length]);
}

#[test]
fn copies_of_damaged_pieces_are_bounded() {
    let disk = filled(4);
    for number in 0..DAMAGED_FILES_MAX + 10 {
        disk.put(&format!("damaged/{number:020}.segment-64-1"), vec![0]);
    }
    let mut spool = reopen(&disk).spool;
    assert_eq!(spool.damaged(), FileTotals { files: DAMAGED_FILES_MAX, bytes: DAMAGED_FILES_MAX });
    assert!(!disk.names().contains(&format!("damaged/{:020}.segment-64-1", 9)), "the oldest go");
    assert!(disk.names().contains(&format!("damaged/{:020}.segment-64-1", 10)));
    spool.copy_damaged(Position(0), 64, 100).unwrap();
    assert_eq!(spool.damaged().files, DAMAGED_FILES_MAX);
}

#[test]
fn unreadable_blocks_are_errors_then_damage() {
    let disk = filled(3);
    let spool = reopen(&disk).spool;
    let mut reader = spool.reader(Position(0), false).unwrap().unwrap();
    disk.set_failing(true);
    reader.next_item().unwrap_err();
    reader.skip_unreadable();
    let Some(Item::Damage(damage)) = reader.next_item().unwrap() else { panic!("all is damage") };
    assert_eq!((damage.first, damage.end), (Position(0), Position(9)));
}

#[test]
fn batches_behind_an_unreadable_header_are_read() {
    let disk = filled(3);
    let spool = reopen(&disk).spool;
    let second = 64 + batch(0, 3).bytes().len();
    disk.set_unreadable("00000000000000000000.segment", second..second + 1);
    spool.reader(Position(3), false).unwrap_err();
    let mut reader = spool.reader(Position(3), true).unwrap().unwrap();
    let Some(Item::Damage(damage)) = reader.next_item().unwrap() else { panic!("damage comes first") };
    assert!(damage.first == Position(3) && damage.end <= Position(9));
}
