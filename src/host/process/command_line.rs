//! Hands what a command line gave to the configuration, above whose files it stands.

use crate::cli::{Given, Giver};
use crate::config::{Origin, Overrides};

/// The values that options and variables gave, each with where it came from.
pub fn overrides(given: Vec<Given>) -> Overrides {
    let mut overrides = Overrides::default();
    for Given { key, words, giver } in given {
        let origin = match giver {
            Giver::Option(name) => Origin::Option(name),
            Giver::Variable(name) => Origin::Variable(name),
        };
        overrides.put(key, words, origin);
    }
    overrides
}
