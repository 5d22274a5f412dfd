//! Keys whose values changed with a reload.

/// Returns the keys that are paired with `true`: those whose values differ.
pub(super) fn keys_that_differ<const N: usize>(keys: [(&'static str, bool); N]) -> Vec<&'static str> {
    keys.into_iter().filter_map(|(key, differs)| differs.then_some(key)).collect()
}
