//! Converts the overrides of a command line for the configuration.

use crate::cli::{Override, OverrideSource};
use crate::config::{Origin, Overrides};

/// Converts the values of options and variables, each with its origin.
pub fn overrides(given: Vec<Override>) -> Overrides {
    let mut overrides = Overrides::default();
    for Override { key, arguments, source } in given {
        let origin = match source {
            OverrideSource::Option(name) => Origin::Option(name),
            OverrideSource::Variable(name) => Origin::Variable(name),
        };
        overrides.put(key, arguments, origin);
    }
    overrides
}
