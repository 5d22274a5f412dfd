//! Formats of a newer version: kept unchanged, skipped, and queued again once this version reads them.

use super::*;
use crate::batch::Sealing;
use crate::spool::segment::SegmentHeader;

/// Makes a segment one of version 2, or of version 1 again.
pub(super) fn set_version(disk: &MemoryDisk, name: &str, version: u8) {
    let mut bytes = disk.bytes(name);
    as_newer::set_version(&mut bytes, version);
    disk.put(name, bytes);
}

/// Changes one byte of the header of the batch at `at` of a file, and its checksum.
pub(super) fn set_header_byte(disk: &MemoryDisk, name: &str, at: usize, byte: usize, value: u8) {
    let mut bytes = disk.bytes(name);
    as_newer::set_header_byte(&mut bytes, at, byte, value);
    disk.put(name, bytes);
}

/// A disk whose spool holds `batches` batches. Of those of the first segment, whose name follows, these are
/// of a newer version. Also where they begin.
pub(super) fn with_newer_batches<const N: usize>(
    batches: u64,
    newer: [usize; N],
) -> (MemoryDisk, String, [usize; N]) {
    let disk = filled(batches);
    let name = segment_names(&disk).remove(0);
    let places = newer.map(|number| SEGMENT_HEADER_LEN + number * batch(0, 3).bytes().len());
    for place in places {
        set_header_byte(&disk, &name, place, 52, 3);
    }
    (disk, name, places)
}

pub(super) fn segment_names(disk: &MemoryDisk) -> Vec<String> {
    disk.names().into_iter().filter(|name| name.ends_with(".segment") && !name.contains('/')).collect()
}

pub(super) fn kept_names(disk: &MemoryDisk) -> Vec<String> {
    disk.names().into_iter().filter(|name| name.starts_with("newer/")).collect()
}

/// Reads all and preserves newer items; returns the positions of the batches.
pub(super) fn drain(spool: &mut Spool<MemoryDisk>) -> Vec<u64> {
    let (mut firsts, mut position) = (Vec::new(), spool.first().unwrap_or_default());
    while position < spool.end().unwrap_or_default() {
        let Some((segment, _, _)) = spool.segment_at(position) else {
            position = spool.gaps().find(|gap| gap.first <= position && position < gap.end).unwrap().end;
            continue;
        };
        let mut reader = spool.reader(position, false).unwrap().unwrap();
        while let Some(item) = reader.next_item().unwrap() {
            match item {
                Item::Batch(batch) => firsts.push(batch.first().0),
                Item::Damage(damage) => panic!("{damage:?}"),
                Item::Newer(newer) => {
                    position = newer.place.end;
                    spool.preserve_newer(segment, newer.place).unwrap();
                    break;
                }
            }
            position = reader.position();
        }
    }
    firsts
}

/// Renumbers batches of `STREAM`, as they are not sealed.
pub(super) fn renumber(_: StreamId, batch: &Batch, first: Position) -> Result<Batch, ImportError> {
    batch.renumbered(STREAM, first).ok_or(ImportError::NoKey)
}

#[test]
fn a_start_preserves_the_newest_segments() {
    let disk = filled(12);
    let names = segment_names(&disk);
    assert!(names.len() >= 4, "{names:?}");
    let newest = &names[names.len() - 2..];
    for name in newest {
        set_version(&disk, name, 2);
    }
    let before: Vec<_> = newest.iter().map(|name| disk.bytes(name)).collect();
    let opened = reopen(&disk);
    assert_eq!(opened.newer.map(name::segment).as_ref(), newest.first());
    assert_eq!(opened.spool.end(), opened.newer, "the rest ends there");
    assert_eq!((opened.torn, opened.missing), (0, Vec::new()));
    assert_eq!(opened.spool.newer().files, 2);
    let after: Vec<_> = kept_names(&disk).iter().map(|name| disk.bytes(name)).collect();
    assert_eq!(after, before, "not a byte was changed");
}

#[test]
fn segments_behind_a_newer_segment_are_read() {
    let disk = filled(12);
    let names = segment_names(&disk);
    set_version(&disk, &names[1], 2);
    let before = disk.bytes(&names[1]);
    let mut spool = reopen(&disk).spool;
    let firsts = drain(&mut spool);
    assert_eq!(spool.newer().files, 1);
    assert_eq!(disk.bytes(&kept_names(&disk)[0]), before);
    let gap = spool.gaps().next().unwrap();
    assert_eq!((name::segment(gap.first), gap.reason), (names[1].clone(), GapReason::Unused));
    let all: Vec<u64> = (0..12).map(|number| number * 3).collect();
    let rest: Vec<u64> = all.into_iter().filter(|first| !(gap.first.0..gap.end.0).contains(first)).collect();
    assert_eq!(firsts, rest);
    // The record outlives the run.
    assert_eq!(reopen(&disk).spool.gaps().next(), Some(gap));
}

#[test]
fn batches_next_to_a_newer_batch_are_read() {
    let length = batch(0, 3).bytes().len();
    for (byte, value) in [(3, b'2'), (52, 3), (53, 2), (54, 1)] {
        let disk = filled(3);
        let name = &segment_names(&disk)[0];
        set_header_byte(&disk, name, SEGMENT_HEADER_LEN + length, byte, value);
        let mut spool = reopen(&disk).spool;
        assert_eq!(drain(&mut spool), [0, 6], "byte {byte}");
        let kept = kept_names(&disk);
        assert_eq!(kept, [name::newer(Position(3), STREAM)]);
        let segment = disk.bytes(name);
        let expected = [&segment[..64], &segment[64 + length..64 + 2 * length]].concat();
        assert_eq!(disk.bytes(&kept[0]), expected);
    }
}

#[test]
fn newer_batches_at_the_end_are_not_cut_off() {
    let length = batch(0, 3).bytes().len();
    let disk = filled(3);
    let name = &segment_names(&disk)[0];
    set_header_byte(&disk, name, SEGMENT_HEADER_LEN + 2 * length, 52, 9);
    let opened = reopen(&disk);
    assert_eq!((opened.torn, opened.spool.end()), (0, Some(Position(9))));
}

#[test]
fn damage_before_a_newer_batch_is_only_damage() {
    let length = batch(0, 3).bytes().len();
    let disk = filled(3);
    let name = &segment_names(&disk)[0];
    disk.flip(name, SEGMENT_HEADER_LEN + 10, 0xFF);
    set_header_byte(&disk, name, SEGMENT_HEADER_LEN + length, 52, 3);
    let spool = reopen(&disk).spool;
    let mut reader = spool.reader(Position(0), false).unwrap().unwrap();
    let Some(Item::Damage(damage)) = reader.next_item().unwrap() else { panic!("damage comes first") };
    assert_eq!((damage.first, damage.end), (Position(0), Position(3)));
    let Some(Item::Newer(newer)) = reader.next_item().unwrap() else { panic!("then the newer batches") };
    assert_eq!((newer.place.first, newer.place.end), (Position(3), Position(6)));
    assert_eq!(newer.needs, "compression 3, this version reads 0 to 2");
    let Some(Item::Batch(last)) = reader.next_item().unwrap() else { panic!("then the rest") };
    assert_eq!(last.first(), Position(6));
}

#[test]
fn readable_files_are_imported_at_the_end() {
    let disk = filled(12);
    let names = segment_names(&disk);
    let newest = names.last().unwrap().clone();
    set_version(&disk, &newest, 2);
    let mut spool = reopen(&disk).spool;
    let held_back = Position(spool.end().unwrap().0);
    spool.append(&batch(36, 3), NOW, Position(0)).unwrap();
    let file = spool.newer_files().unwrap().remove(0);
    let still = spool.reimport(&file, Position(39), renumber).unwrap();
    assert_eq!(still, Reimported::Newer("segment format 2, this version reads 1".to_owned()));
    assert_eq!(spool.newer_files().unwrap(), core::slice::from_ref(&file));

    set_version(&disk, &file.name, 1);
    let Reimported::Until(end, _) = spool.reimport(&file, Position(39), renumber).unwrap() else {
        panic!("readable")
    };
    assert_eq!(end.0 - 39, 36 - held_back.0);
    assert!(kept_names(&disk).is_empty());
    let spool = reopen(&disk).spool;
    assert_eq!(spool.end(), Some(end));
    let mut reader = spool.reader(Position(39), false).unwrap().unwrap();
    let Some(Item::Batch(first)) = reader.next_item().unwrap() else { panic!("a batch") };
    assert_eq!((first.first(), first.body()), (Position(39), batch(held_back.0, 3).body()));
}

#[test]
fn a_crash_during_import_loses_nothing() {
    let disk = filled(3);
    let whole = disk.bytes(&segment_names(&disk)[0]);
    let kept = name::newer(Position(0), STREAM);
    let unfinished = format!("{kept}.taken");
    let names_after = |files: &[(&String, &[u8])]| {
        let disk = MemoryDisk::default();
        for (name, bytes) in files {
            disk.put(name, bytes.to_vec());
        }
        let names = reopen(&disk).spool.newer_files().unwrap();
        names.into_iter().map(|file| file.name).collect::<Vec<_>>()
    };
    assert_eq!(names_after(&[(&kept, &whole), (&unfinished, &whole[..100])]), core::slice::from_ref(&kept));
    assert_eq!(names_after(&[(&unfinished, &whole)]), core::slice::from_ref(&kept));
}

#[test]
fn files_without_room_or_key_stay() {
    let disk = filled(3);
    let kept = name::newer(Position(0), STREAM);
    disk.rename(&segment_names(&disk)[0], &kept).unwrap();
    let mut spool = reopen(&disk).spool;
    let file = spool.newer_files().unwrap().remove(0);
    assert_eq!(
        spool.reimport(&file, Position(9), |_, _, _| Err(ImportError::NoKey)).unwrap(),
        Reimported::NoKey
    );
    spool.set_policy(Policy { max_size: file.size - 1, ..policy() });
    assert_eq!(spool.reimport(&file, Position(9), renumber).unwrap(), Reimported::NoRoom);
    assert_eq!(kept_names(&disk), [kept]);
}

#[test]
fn a_sealed_batch_is_not_renumbered() {
    let sealed = batch(0, 3).with_body(STREAM, Sealing::Aes256Gcm, &[0; 80]).unwrap();
    assert_eq!(sealed.renumbered(STREAM, Position(9)), None);
}

#[test]
fn segments_of_another_stream_are_preserved() {
    let disk = filled(3);
    let other = StreamId([2; 16]);
    let name = name::segment(Position(50));
    let header = SegmentHeader {
        stream: other,
        first: Position(50),
        begun: Begun { wall: NOW.wall, ..Begun::default() },
    }
    .encode();
    let bytes = [&header[..], batch(50, 3).renumbered(other, Position(50)).unwrap().bytes()].concat();
    disk.put(&name, bytes);
    let opened = reopen(&disk);
    assert_eq!((opened.newer, opened.spool.end()), (Some(Position(50)), Some(Position(9))));
    let mut spool = opened.spool;
    let file = spool.newer_files().unwrap().remove(0);
    let taken = spool.reimport(&file, Position(9), renumber).unwrap();
    assert_eq!(taken, Reimported::Until(Position(12), Broken::default()));
}

#[test]
fn a_batch_that_does_not_open_is_damaged() {
    let disk = filled(3);
    let kept = name::newer(Position(0), STREAM);
    disk.rename(&segment_names(&disk)[0], &kept).unwrap();
    let mut spool = reopen(&disk).spool;
    let file = spool.newer_files().unwrap().remove(0);
    let opens = |stream, batch: &Batch, first| {
        if batch.first() == Position(3) { Err(ImportError::Damaged) } else { renumber(stream, batch, first) }
    };
    let bytes = u64::try_from(batch(3, 3).bytes().len()).unwrap();
    let broken = Broken { bytes, datagrams: 3, may_be_more: false };
    assert_eq!(spool.reimport(&file, Position(9), opens).unwrap(), Reimported::Until(Position(15), broken));
    assert_eq!(spool.damaged(), FileTotals { files: 1, bytes });
}

#[test]
fn damage_with_a_copy_elsewhere_is_no_loss() {
    let disk = filled(3);
    let kept = name::newer(Position(0), STREAM);
    let segment = segment_names(&disk).remove(0);
    let length = batch(0, 3).bytes().len();
    // The last batch was being written when the newer version was killed: its journal has it, too.
    let bytes = disk.bytes(&segment);
    disk.remove(&segment).unwrap();
    disk.put(&kept, bytes[..bytes.len() - 10].to_vec());
    let header = &bytes[..SEGMENT_HEADER_LEN];
    let last = [header, &bytes[bytes.len() - length..]].concat();
    disk.put(&name::newer(Position(6), STREAM), last);
    let mut spool = reopen(&disk).spool;
    let files = spool.newer_files().unwrap();
    let torn = u64::try_from(length - 10).unwrap();
    let broken = Broken { bytes: torn, datagrams: 0, may_be_more: true };
    let taken = spool.reimport(&files[0], Position(9), renumber).unwrap();
    assert_eq!(taken, Reimported::Until(Position(15), broken));
}
