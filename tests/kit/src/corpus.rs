//! Datagrams of real exporters from a directory outside the repository.

use std::path::PathBuf;

/// Longest UDP payload over IPv4, in bytes.
pub const LONGEST: usize = 65_507;

/// Lists the `*.dat` files of the directory in the environment variable `NF_TRANSPORT_CORPUS`. Returns `None`
/// if the variable is not set.
fn files() -> Option<Vec<PathBuf>> {
    let directory = PathBuf::from(std::env::var_os("NF_TRANSPORT_CORPUS")?);
    let files = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = files.filter(|path| path.extension().is_some_and(|kind| kind == "dat")).collect();
    files.sort();
    Some(files)
}

/// Reads the datagrams, one per file.
pub fn corpus() -> Option<Vec<Vec<u8>>> {
    let payloads = files()?.into_iter().map(|path| std::fs::read(path).unwrap());
    Some(payloads.filter(|payload| payload.len() <= LONGEST).collect())
}

/// The datagrams of one exporter.
pub struct ExporterGroup {
    name: String,
    /// Datagrams that define templates.
    pub templates: Vec<Vec<u8>>,
    /// All other datagrams.
    pub flows: Vec<Vec<u8>>,
}

/// Groups the datagrams of [`corpus`] by exporter. A file name starts with the exporter's name and then names
/// the contents: `…_tpl….dat` or `…_data….dat`.
pub fn groups() -> Option<Vec<ExporterGroup>> {
    let mut groups: Vec<ExporterGroup> = Vec::new();
    for file in files()? {
        let stem = file.file_stem().unwrap().to_str().unwrap();
        let end = ["_opttpl", "_tpl", "_data"].iter().filter_map(|mark| stem.find(mark)).min();
        let name = &stem[..end.unwrap_or(stem.len())];
        let defines = stem.contains("tpl");
        let payload = std::fs::read(&file).unwrap();
        if groups.last().is_none_or(|group| group.name != name) {
            groups.push(ExporterGroup { name: name.to_owned(), templates: Vec::new(), flows: Vec::new() });
        }
        let group = groups.last_mut().unwrap();
        if defines { group.templates.push(payload) } else { group.flows.push(payload) }
    }
    Some(groups)
}
