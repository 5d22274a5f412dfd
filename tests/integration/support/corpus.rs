//! Datagrams of real exporters, for whoever has some.

use std::path::PathBuf;

/// The longest payload that UDP over IPv4 takes, in bytes.
pub(crate) const LONGEST: usize = 65_507;

/// The datagrams in the directory that the environment variable `NF_TRANSPORT_CORPUS` names, one in each `*.dat` file;
/// `None` if it names none.
pub(crate) fn corpus() -> Option<Vec<Vec<u8>>> {
    let directory = PathBuf::from(std::env::var_os("NF_TRANSPORT_CORPUS")?);
    let files = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = files.filter(|path| path.extension().is_some_and(|kind| kind == "dat")).collect();
    files.sort();
    let read = |path: &PathBuf| std::fs::read(path).unwrap();
    Some(files.iter().map(read).filter(|payload| payload.len() <= LONGEST).collect())
}
