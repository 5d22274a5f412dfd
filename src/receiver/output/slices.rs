//! Parts of slices whose bounds are known to fit.

use nf_transport_core::internal_error::note_internal_error;

/// Returns the first `count` of `items`. If there are fewer, notes an internal error and returns all of them.
#[track_caller]
pub(super) fn front<T>(items: &[T], count: usize) -> &[T] {
    items.get(..count).unwrap_or_else(|| {
        note_internal_error("a part is longer than the whole");
        items
    })
}

#[cfg(test)]
mod tests {
    use nf_transport_core::internal_error::expecting_internal_errors;

    use super::*;

    #[test]
    fn a_part_is_never_longer_than_the_whole() {
        let parts = [0, 2, 3].map(|count| front(&[1, 2, 3], count));
        assert_eq!(parts, [&[][..], &[1, 2], &[1, 2, 3]]);
        assert_eq!(expecting_internal_errors(|| front(&[1, 2, 3], 4)), (&[1, 2, 3][..], 1));
    }
}
