//! Datagrams of real exporters, for whoever has some.

use std::path::PathBuf;

/// The longest payload that UDP over IPv4 takes, in bytes.
pub const LONGEST: usize = 65_507;

/// The `*.dat` files in the directory that the environment variable `NF_TRANSPORT_CORPUS` names; `None` if it names none.
fn files() -> Option<Vec<PathBuf>> {
    let directory = PathBuf::from(std::env::var_os("NF_TRANSPORT_CORPUS")?);
    let files = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = files.filter(|path| path.extension().is_some_and(|kind| kind == "dat")).collect();
    files.sort();
    Some(files)
}

/// The datagrams, one in each file.
pub fn corpus() -> Option<Vec<Vec<u8>>> {
    let payloads = files()?.into_iter().map(|path| std::fs::read(path).unwrap());
    Some(payloads.filter(|payload| payload.len() <= LONGEST).collect())
}

/// Datagrams of one exporter.
pub struct Group {
    name: String,
    /// Those that define templates.
    pub templates: Vec<Vec<u8>>,
    /// The others.
    pub flows: Vec<Vec<u8>>,
}

/// The datagrams of [`corpus`] by exporter: files are called after it, and by what they hold (`…_tpl….dat`, `…_data….dat`).
pub fn groups() -> Option<Vec<Group>> {
    let mut groups: Vec<Group> = Vec::new();
    for file in files()? {
        let stem = file.file_stem().unwrap().to_str().unwrap();
        let end = ["_opttpl", "_tpl", "_data"].iter().filter_map(|mark| stem.find(mark)).min();
        let name = &stem[..end.unwrap_or(stem.len())];
        let defines = stem.contains("tpl");
        let payload = std::fs::read(&file).unwrap();
        if groups.last().is_none_or(|group| group.name != name) {
            groups.push(Group { name: name.to_owned(), templates: Vec::new(), flows: Vec::new() });
        }
        let group = groups.last_mut().unwrap();
        if defines { group.templates.push(payload) } else { group.flows.push(payload) }
    }
    Some(groups)
}
