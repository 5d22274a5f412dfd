//! Parts of slices whose bounds are known to fit.

use nf_transport_core::internal_error::note_internal_error;

/// Returns the first `count` of `items`. If there are fewer, notes an internal error and returns all of them.
#[track_caller]
pub(super) fn front<T>(items: &[T], count: usize) -> &[T] {
    split(items, count).0
}

/// Returns `items` without the first `count`. If there are fewer, notes an internal error and returns none.
#[track_caller]
pub(super) fn rest<T>(items: &[T], count: usize) -> &[T] {
    split(items, count).1
}

#[track_caller]
fn split<T>(items: &[T], count: usize) -> (&[T], &[T]) {
    if items.len() < count {
        note_internal_error("a part is longer than the whole");
    }
    items.split_at_checked(count).unwrap_or((items, &[]))
}

#[cfg(test)]
mod tests {
    use nf_transport_core::internal_error::expecting_internal_errors;

    use super::*;

    #[test]
    fn a_part_is_never_longer_than_the_whole() {
        let whole = [1, 2, 3];
        let parts = [0, 2, 3].map(|count| (front(&whole, count), rest(&whole, count)));
        assert_eq!(parts, [(&[][..], &whole[..]), (&[1, 2], &[3]), (&whole, &[])]);
        assert_eq!(expecting_internal_errors(|| front(&whole, 4)), (&whole[..], 1));
        assert_eq!(expecting_internal_errors(|| rest(&whole, 4)), (&[][..], 1));
    }
}
