//! Claims of SECURITY.md that the tree can be compared with.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn text(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap()
}

/// Lists all files below `directory` whose names end in `.rs`.
fn sources(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let files = entries.flat_map(|path| if path.is_dir() { sources(&path) } else { vec![path] });
    files.filter(|path| path.extension().is_some_and(|kind| kind == "rs")).collect()
}

/// Lists the source files of the daemons and the shared crate.
fn own_sources() -> Vec<PathBuf> {
    let mut files = sources(&root().join("src"));
    files.extend(sources(&root().join("transport/src")));
    files
}

/// Returns the words of `text` in backquotes.
fn quoted(text: &str) -> BTreeSet<String> {
    text.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// Returns the list item of SECURITY.md that starts with `start`.
fn item(start: &str) -> String {
    let security = text("SECURITY.md");
    let from = security.split_once(&format!("\n- {start}")).expect("that item").1;
    from.split("\n- ").next().unwrap().split("\n\n").next().unwrap().to_owned()
}

#[test]
fn the_files_with_unsafe_code_are_those_listed() {
    assert!(text("Cargo.toml").contains("unsafe_code = \"deny\""));
    let is_allowed = |path: &PathBuf| {
        let source = std::fs::read_to_string(path).unwrap();
        source.contains("expect(unsafe_code") || source.contains("allow(unsafe_code")
    };
    let found: BTreeSet<String> = own_sources()
        .into_iter()
        .filter(is_allowed)
        .map(|path| path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned())
        .collect();
    let listed: BTreeSet<String> = quoted(&item("Unsafe code"))
        .into_iter()
        .filter(|word| Path::new(word).extension().is_some_and(|kind| kind == "rs"))
        .collect();
    assert_eq!(found, listed);
}

#[test]
fn the_fuzz_targets_are_those_listed() {
    let targets: BTreeSet<String> = sources(&root().join("fuzz/fuzz_targets"))
        .into_iter()
        .map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned())
        .collect();
    let rows = text("SECURITY.md");
    let table = rows.split_once("| fuzz target | reads |").expect("that table").1;
    let table = table.split("\n\n").next().unwrap();
    let first = |row: &str| row.strip_prefix("| `").and_then(|rest| Some(rest.split_once('`')?.0.to_owned()));
    assert_eq!(table.lines().filter_map(first).collect::<BTreeSet<_>>(), targets);
    let manifest: toml::Table = text("fuzz/Cargo.toml").parse().unwrap();
    let built =
        manifest["bin"].as_array().unwrap().iter().map(|bin| bin["name"].as_str().unwrap().to_owned());
    assert_eq!(built.collect::<BTreeSet<_>>(), targets);
    let contributing = text("CONTRIBUTING.md");
    for target in &targets {
        let named = [format!("`{target}`"), format!("fuzz run {target}`")];
        assert!(named.iter().any(|name| contributing.contains(name)), "CONTRIBUTING.md lacks {target}");
    }
}

#[test]
fn every_fuzz_entry_has_a_target_and_a_test() {
    let entries: BTreeSet<String> = own_sources()
        .iter()
        .flat_map(|path| {
            let source = std::fs::read_to_string(path).unwrap();
            let names = source.split("pub fn fuzz_").skip(1);
            names.map(|rest| format!("fuzz_{}", rest.split('(').next().unwrap())).collect::<Vec<_>>()
        })
        .collect();
    let calls = |files: Vec<PathBuf>, entry: &str| {
        let call = format!("{entry}(");
        files.iter().any(|path| std::fs::read_to_string(path).unwrap().contains(&call))
    };
    let is_test = |path: &PathBuf| path.iter().any(|part| part == "tests" || part == "tests.rs");
    let tests: Vec<PathBuf> = own_sources().into_iter().filter(is_test).collect();
    assert!(entries.len() >= 7, "{entries:?}");
    for entry in &entries {
        assert!(calls(sources(&root().join("fuzz/fuzz_targets")), entry), "{entry} has no target");
        assert!(calls(tests.clone(), entry), "no unit test calls {entry}");
    }
}

#[test]
fn one_file_of_the_daemons_renames_files() {
    let renames = |path: &PathBuf| {
        if path.components().any(|part| part.as_os_str() == "tests") {
            return false;
        }
        let source = std::fs::read_to_string(path).unwrap();
        let is_imported = |line: &str| line.starts_with("use std::fs::") && line.contains("rename");
        source.contains("fs::rename(") || source.lines().any(is_imported)
    };
    let found: Vec<PathBuf> = sources(&root().join("src")).into_iter().filter(renames).collect();
    assert_eq!(found, [root().join("src/host/files/atomic_file.rs")]);
}

#[test]
fn the_files_that_architecture_names_exist() {
    let files: BTreeSet<String> = own_sources()
        .iter()
        .chain(&sources(&root().join("tests")))
        .map(|path| path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned())
        .collect();
    let document = text("ARCHITECTURE.md");
    let quoted_files = quoted(&document)
        .into_iter()
        .filter(|word| Path::new(word).extension().is_some_and(|kind| kind == "rs"));
    let missing: Vec<String> = quoted_files
        .filter(|word| !files.iter().any(|name| name == word || name.ends_with(&format!("/{word}"))))
        .collect();
    assert_eq!(missing, [""; 0]);
}
