//! No type name is defined twice: in the shared crate, the daemons, the tests, the benchmarks and the demo.
//!
//! CONTRIBUTING.md lists the exceptions, each with its reason.

use std::collections::BTreeMap;
use std::path::Path;

use syn::visit::{self, Visit};

use super::imports::sources;

/// The directories with code.
const ROOTS: [&str; 5] = ["src", "transport", "tests", "benches", "examples"];

/// The section of CONTRIBUTING.md with the exceptions.
const SECTION: &str = "\n## Type names defined twice\n";

/// Names of the types in one file. Types that an `impl` assigns to a trait are not among them.
#[derive(Default)]
struct Defined(Vec<String>);

impl<'ast> Visit<'ast> for Defined {
    fn visit_item(&mut self, item: &'ast syn::Item) {
        let name = match item {
            syn::Item::Struct(item) => Some(&item.ident),
            syn::Item::Enum(item) => Some(&item.ident),
            syn::Item::Trait(item) => Some(&item.ident),
            syn::Item::TraitAlias(item) => Some(&item.ident),
            syn::Item::Union(item) => Some(&item.ident),
            syn::Item::Type(item) => Some(&item.ident),
            _ => None,
        };
        self.0.extend(name.map(ToString::to_string));
        visit::visit_item(self, item);
    }
}

/// The files that define each type name of these files, of which each is a path and its text.
fn places(files: impl Iterator<Item = (String, String)>) -> BTreeMap<String, Vec<String>> {
    let mut places = BTreeMap::<String, Vec<String>>::new();
    for (path, text) in files {
        let mut defined = Defined::default();
        defined.visit_file(&syn::parse_file(&text).unwrap_or_else(|error| panic!("{path}: {error}")));
        for name in defined.0 {
            places.entry(name).or_default().push(path.clone());
        }
    }
    places
}

/// The names that the table allows to be defined twice, with the reasons.
fn exceptions(contributing: &str) -> BTreeMap<String, String> {
    let (_, section) = contributing.split_once(SECTION).expect("CONTRIBUTING.md has the section");
    let section = section.split("\n## ").next().unwrap_or_default();
    let rows = section.lines().filter_map(|line| line.strip_prefix("| `")?.strip_suffix(" |"));
    let rows = rows.filter_map(|row| row.split_once("` | "));
    rows.map(|(name, reason)| (name.to_owned(), reason.trim().to_owned())).collect()
}

/// Names with several definitions and no exception, and exceptions without need or reason.
fn offences(places: &BTreeMap<String, Vec<String>>, exceptions: &BTreeMap<String, String>) -> Vec<String> {
    let is_repeated = |name: &String| places.get(name).is_some_and(|places| places.len() > 1);
    let repeated = places.iter().filter(|(name, _)| is_repeated(name) && !exceptions.contains_key(*name));
    let repeated = repeated.map(|(name, places)| format!("{name} is defined in {}", places.join(" and ")));
    let unneeded = exceptions.keys().filter(|name| !is_repeated(name));
    let unneeded = unneeded.map(|name| format!("{name} needs no exception"));
    let silent = exceptions.iter().filter(|(_, reason)| reason.is_empty());
    repeated.chain(unneeded).chain(silent.map(|(name, _)| format!("{name} has no reason"))).collect()
}

#[test]
fn each_type_name_is_defined_once() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut paths: Vec<_> = ROOTS.iter().flat_map(|directory| sources(&root.join(directory))).collect();
    paths.sort_unstable();
    let files = paths.iter().map(|path| {
        let name = path.strip_prefix(root).unwrap().display().to_string();
        (name, std::fs::read_to_string(path).unwrap())
    });
    let places = places(files);
    for known in ["Spool", "Uplink", "ReceiverConnection", "Defined", "Disk"] {
        assert_eq!(places.get(known).map(Vec::len), Some(1), "{known}");
    }
    let contributing = std::fs::read_to_string(root.join("CONTRIBUTING.md")).unwrap();
    let offences = offences(&places, &exceptions(&contributing));
    assert!(offences.is_empty(), "{}", offences.join("\n"));
}

#[test]
fn types_of_every_kind_are_found() {
    let text = "struct A; enum B {} trait C { type NotThis; } union D { a: u8 } type E = u8;
        mod inner { struct F; } fn function() { struct G; } impl C for A { type NotThis = u8; }";
    let places = places([("a.rs".to_owned(), text.to_owned())].into_iter());
    assert_eq!(places.keys().collect::<Vec<_>>(), ["A", "B", "C", "D", "E", "F", "G"]);
}

#[test]
fn repeats_and_idle_exceptions_are_found() {
    let files = [
        ("a.rs", "struct One; struct Two;"),
        ("b.rs", "#[cfg(test)] mod tests { enum One {} type Two = u8; }"),
    ];
    let places = places(files.map(|(path, text)| (path.to_owned(), text.to_owned())).into_iter());
    let table = |rows: &str| {
        exceptions(&format!("{SECTION}\n| type | reason |\n|---|---|\n{rows}\n## Next\n| `No` | no |"))
    };
    assert_eq!(offences(&places, &table("| `Two` | twins |")), ["One is defined in a.rs and b.rs"]);
    let found = offences(&places, &table("| `One` | twins |\n| `Two` |  |\n| `Three` | gone |"));
    assert_eq!(found, ["Three needs no exception", "Two has no reason"]);
}
