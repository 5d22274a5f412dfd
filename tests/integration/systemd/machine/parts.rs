//! The output of `make test-machine`, from which machines are made.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use super::host::call;
use super::{Machine, Network};

/// Output of `make test-machine`: a fresh Debian and the packages.
#[derive(Clone, Debug)]
pub(crate) struct Parts {
    /// Root directory of the Debian, which no test changes.
    pub(crate) root: PathBuf,
    pub(crate) packages: PathBuf,
}

impl Parts {
    /// Finds the output of `make test-machine`. Prints the missing parts and returns `None` if there are any.
    /// In continuous integration (`CI=true`) they are required.
    pub(crate) fn find() -> Option<Self> {
        let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
        let packages = target.join("packages");
        let root = packages.join("debian");
        let missing = if !rustix::process::geteuid().is_root() {
            "needs root to boot machines"
        } else if !root.join("complete").exists() || !packages.join("deb").exists() {
            "needs packages and a Debian to boot: make test-machine"
        } else {
            return Some(Self { root, packages });
        };
        assert!(std::env::var("CI").as_deref() != Ok("true"), "{missing}");
        eprintln!("skipped: {missing}");
        None
    }

    /// Lists the package files in `directory` whose names end like this.
    pub(crate) fn files(&self, directory: &str, ending: &str) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.packages.join(directory)).unwrap();
        let mut files: Vec<_> = entries
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.to_str().unwrap().ends_with(ending))
            .collect();
        files.sort();
        files
    }

    /// Returns the layer with the installed packages. The first test after a change of the packages creates
    /// it.
    pub(super) fn installed(&self) -> &'static Path {
        static INSTALLED: OnceLock<PathBuf> = OnceLock::new();
        INSTALLED.get_or_init(|| {
            let (layer, stamp) = (self.packages.join("installed"), self.packages.join("installed.stamp"));
            let made = |path: &PathBuf| fs::metadata(path).and_then(|metadata| metadata.modified()).ok();
            let parts = [self.debs(), vec![self.root.join("complete")]].concat();
            if made(&stamp) <= parts.iter().map(made).max().unwrap() {
                let mut machine = Machine::fresh("image", "10.77.0.250/24", &Network::new(), &self.root);
                machine.boot();
                machine.install(&self.debs());
                machine.halt();
                let upper = machine.disk.path("upper");
                call("rm", &["-rf", layer.to_str().unwrap()]);
                call("cp", &["-a", upper.to_str().unwrap(), layer.to_str().unwrap()]);
                File::create(stamp).unwrap();
            }
            layer
        })
    }

    /// Returns the RPM packages.
    pub(crate) fn rpms(&self) -> Vec<PathBuf> {
        self.files(&format!("rpm/RPMS/{}", std::env::consts::ARCH), ".rpm")
    }

    /// Returns the Debian packages.
    pub(crate) fn debs(&self) -> Vec<PathBuf> {
        let files = self.files("deb", ".deb");
        files.into_iter().filter(|path| !path.to_str().unwrap().contains("-dbgsym")).collect()
    }
}
