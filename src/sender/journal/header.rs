//! The header of the checkpoint: the stream, boot and run of the journal. It is stored twice, each copy with
//! a checksum, so that one damaged copy does no harm.
//!
//! | word | content |
//! |---|---|
//! | 0 | magic and version |
//! | 1, 2 | stream id |
//! | 3, 4 | boot id |
//! | 5, 6 | id of the run that fills the receive journal |
//! | 7 | check: CRC32C of words 0 to 6 as big-endian bytes, in the upper half; its complement in the lower half |
//!
//! Version 1 had one copy, and zero in word 7.

/// Words of a copy.
pub(super) const WORDS: usize = 8;

/// The fields of the header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct CheckpointHeader {
    pub(super) magic: u64,
    pub(super) stream: [u8; 16],
    pub(super) boot: [u8; 16],
    pub(super) run: [u8; 16],
}

impl CheckpointHeader {
    /// Returns the first intact copy. Without one, returns the fields of the first copy unchecked, unless its
    /// magic is `checked`. Only an intact copy may have that magic, so the returned magic is 0 then.
    pub(super) fn first_intact(copies: [[u64; WORDS]; 2], checked: u64) -> Self {
        let [first, _] = copies;
        let unchecked = || {
            let header = Self::decode(first);
            if header.magic == checked { Self { magic: 0, ..header } } else { header }
        };
        copies.into_iter().find(|copy| is_whole(*copy)).map_or_else(unchecked, Self::decode)
    }

    fn decode([magic, s1, s2, b1, b2, r1, r2, _]: [u64; WORDS]) -> Self {
        let id = |high: u64, low: u64| (u128::from(high) << 64 | u128::from(low)).to_be_bytes();
        Self { magic, stream: id(s1, s2), boot: id(b1, b2), run: id(r1, r2) }
    }

    /// Encodes the words of a copy.
    pub(super) fn encode(&self) -> [u64; WORDS] {
        let [[s1, s2], [b1, b2], [r1, r2]] = [self.stream, self.boot, self.run].map(halves);
        let words = [self.magic, s1, s2, b1, b2, r1, r2];
        [self.magic, s1, s2, b1, b2, r1, r2, check_of(words)]
    }
}

/// Returns `true` if a copy matches its checksum.
fn is_whole([w0, w1, w2, w3, w4, w5, w6, check]: [u64; WORDS]) -> bool {
    check == check_of([w0, w1, w2, w3, w4, w5, w6])
}

fn check_of(words: [u64; WORDS - 1]) -> u64 {
    let checksum = words.iter().fold(0, |sum, word| crc32c::crc32c_append(sum, &word.to_be_bytes()));
    u64::from(checksum) << 32 | u64::from(!checksum)
}

fn halves(id: [u8; 16]) -> [u64; 2] {
    let id = u128::from_be_bytes(id);
    let low_half = |value: u128| u64::try_from(value & u128::from(u64::MAX)).unwrap_or(0);
    [low_half(id >> 64), low_half(id)]
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: CheckpointHeader =
        CheckpointHeader { magic: 7, stream: [1; 16], boot: [2; 16], run: [3; 16] };

    #[test]
    fn either_copy_is_enough() {
        let copy = HEADER.encode();
        for bit in 0..64 * WORDS {
            let mut damaged = copy;
            damaged[bit / 64] ^= 1 << (bit % 64);
            assert!(!is_whole(damaged), "bit {bit}");
            assert_eq!(CheckpointHeader::first_intact([damaged, copy], HEADER.magic), HEADER);
            assert_eq!(CheckpointHeader::first_intact([copy, damaged], HEADER.magic), HEADER);
        }
    }

    #[test]
    fn an_unchecked_copy_has_another_version() {
        let mut unchecked = HEADER.encode();
        unchecked[WORDS - 1] = 0;
        let copies = [unchecked, [0; WORDS]];
        assert_eq!(CheckpointHeader::first_intact(copies, HEADER.magic + 1), HEADER);
        assert_eq!(
            CheckpointHeader::first_intact(copies, HEADER.magic),
            CheckpointHeader { magic: 0, ..HEADER }
        );
    }
}
