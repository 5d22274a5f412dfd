//! Reads the source files of a crate: which file uses items of which other file.
//!
//! Tests are left out. A re-export leads to the file that defines the item; it is no use of it by the file
//! that re-exports.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use syn::visit::{self, Visit};
use syn::{Attribute, Item, ItemMod, ItemUse, UseTree, Visibility};

/// The path of a module below the root of its crate.
pub(crate) type Module = Vec<String>;

/// The modules of one crate, one for each file.
pub(crate) struct Crate {
    uses: BTreeMap<Module, BTreeSet<Module>>,
    names: BTreeMap<Module, BTreeSet<String>>,
}

impl Crate {
    /// Reads all files below `directory`, which holds `lib.rs`.
    pub(crate) fn read(directory: &Path) -> Self {
        let mut files = BTreeMap::new();
        for path in sources(directory) {
            let module = module_of(path.strip_prefix(directory).unwrap());
            let is_read = !module.iter().any(|part| part == "tests" || part == "bin");
            if is_read {
                let parsed = syn::parse_file(&std::fs::read_to_string(&path).unwrap());
                let mut file = File::default();
                file.visit_file(&parsed.unwrap_or_else(|error| panic!("{}: {error}", path.display())));
                files.insert(module, file);
            }
        }
        let uses =
            files.iter().map(|(module, file)| (module.clone(), uses_of(&files, module, file))).collect();
        let names = files.into_iter().map(|(module, file)| (module, file.words)).collect();
        Self { uses, names }
    }

    /// The files of which each file uses items.
    pub(crate) fn uses(&self) -> &BTreeMap<Module, BTreeSet<Module>> {
        &self.uses
    }

    /// All names in the paths of each file.
    pub(crate) fn names(&self) -> &BTreeMap<Module, BTreeSet<String>> {
        &self.names
    }
}

/// Every source file below `directory`.
pub(crate) fn sources(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let files = entries.flat_map(|path| if path.is_dir() { sources(&path) } else { vec![path] });
    files.filter(|path| path.extension().is_some_and(|kind| kind == "rs")).collect()
}

fn module_of(path: &Path) -> Module {
    let mut parts: Module =
        path.iter().map(|part| part.to_str().unwrap().trim_end_matches(".rs").to_owned()).collect();
    parts.pop_if(|last| last == "mod" || last == "lib");
    parts
}

/// One source file.
#[derive(Default)]
struct File {
    /// Names of its own items.
    defined: BTreeSet<String>,
    /// Imported names, with their paths and whether they are re-exported.
    imported: BTreeMap<String, (Module, bool)>,
    /// Modules of which everything is imported.
    globs: Vec<Module>,
    /// Paths in its code, with at least two names.
    paths: BTreeSet<Module>,
    /// First names of all paths in its code.
    heads: BTreeSet<String>,
    /// All names in its paths.
    words: BTreeSet<String>,
}

impl File {
    fn import(&mut self, prefix: &[String], tree: &UseTree, is_export: bool) {
        let with = |name: String| [prefix, &[name]].concat();
        match tree {
            UseTree::Path(path) => self.import(&with(path.ident.to_string()), &path.tree, is_export),
            UseTree::Group(group) => {
                group.items.iter().for_each(|tree| self.import(prefix, tree, is_export));
            }
            UseTree::Glob(_) => self.globs.push(prefix.to_vec()),
            UseTree::Name(name) if name.ident == "self" => {
                self.note_import(prefix.last().unwrap().clone(), prefix.to_vec(), is_export);
            }
            UseTree::Name(name) => {
                let name = name.ident.to_string();
                self.note_import(name.clone(), with(name), is_export);
            }
            UseTree::Rename(name) => {
                self.note_import(name.rename.to_string(), with(name.ident.to_string()), is_export);
            }
        }
    }

    fn note_import(&mut self, name: String, path: Module, is_export: bool) {
        self.words.extend(path.iter().cloned());
        self.imported.insert(name, (path, is_export));
    }
}

fn is_test(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        let meta = &attribute.meta;
        let text = |list: &syn::MetaList| list.tokens.to_string();
        matches!(meta, syn::Meta::List(list) if list.path.is_ident("cfg") && text(list).contains("test"))
    })
}

impl<'ast> Visit<'ast> for File {
    fn visit_item(&mut self, item: &'ast Item) {
        let (name, attributes) = match item {
            Item::Const(item) => (Some(&item.ident), &item.attrs),
            Item::Enum(item) => (Some(&item.ident), &item.attrs),
            Item::Fn(item) => (Some(&item.sig.ident), &item.attrs),
            Item::Static(item) => (Some(&item.ident), &item.attrs),
            Item::Struct(item) => (Some(&item.ident), &item.attrs),
            Item::Trait(item) => (Some(&item.ident), &item.attrs),
            Item::Type(item) => (Some(&item.ident), &item.attrs),
            Item::Union(item) => (Some(&item.ident), &item.attrs),
            Item::Impl(item) => (None, &item.attrs),
            Item::Mod(item) => (None, &item.attrs),
            Item::Use(item) => (None, &item.attrs),
            _ => return visit::visit_item(self, item),
        };
        if !is_test(attributes) {
            self.defined.extend(name.map(ToString::to_string));
            visit::visit_item(self, item);
        }
    }

    fn visit_item_mod(&mut self, module: &'ast ItemMod) {
        if !is_test(&module.attrs) {
            visit::visit_item_mod(self, module);
        }
    }

    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        let is_export = !matches!(item.vis, Visibility::Inherited);
        self.import(&[], &item.tree, is_export);
    }

    fn visit_impl_item_fn(&mut self, function: &'ast syn::ImplItemFn) {
        if !is_test(&function.attrs) {
            visit::visit_impl_item_fn(self, function);
        }
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let names: Module = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        self.heads.extend(names.first().cloned());
        self.words.extend(names.iter().cloned());
        if names.len() > 1 {
            self.paths.insert(names);
        }
        visit::visit_path(self, path);
    }

    /// Macros are not expanded: each name in them counts as used.
    fn visit_macro(&mut self, called: &'ast syn::Macro) {
        visit::visit_macro(self, called);
        let text = called.tokens.to_string().replace(" :: ", "::");
        for word in text.split(|c: char| !c.is_alphanumeric() && c != '_' && c != ':') {
            let names: Module = word.split("::").filter(|name| !name.is_empty()).map(str::to_owned).collect();
            self.heads.extend(names.first().cloned());
            self.words.extend(names.iter().cloned());
            if names.len() > 1 {
                self.paths.insert(names);
            }
        }
    }
}

/// The other files that define the items which `file` uses.
fn uses_of(files: &BTreeMap<Module, File>, module: &Module, file: &File) -> BTreeSet<Module> {
    let used = |(name, (path, is_export)): (&String, &(Module, bool))| {
        (!is_export || file.heads.contains(name)).then(|| path.clone())
    };
    let imported = file.imported.iter().filter_map(used);
    let through = file.paths.iter().map(|path| match file.imported.get(&path[0]) {
        Some((start, _)) => [start.as_slice(), &path[1..]].concat(),
        None => path.clone(),
    });
    let all = imported.chain(through).chain(file.globs.iter().cloned());
    let found = all.filter_map(|path| Some(defined_in(files, &absolute(files, module, &path)?, 0)?.0));
    found.filter(|found| found != module).collect()
}

/// The path from the root of the crate, if `path` in `module` leads into the crate.
fn absolute(files: &BTreeMap<Module, File>, module: &Module, path: &[String]) -> Option<Module> {
    let up = path.iter().take_while(|name| *name == "super").count();
    match path.first()?.as_str() {
        "crate" => Some(path[1..].to_vec()),
        "self" => Some([module.as_slice(), &path[1..]].concat()),
        "super" => Some([&module[..module.len().checked_sub(up)?], &path[up..]].concat()),
        name => {
            let child = [module.as_slice(), &[name.to_owned()]].concat();
            files.contains_key(&child).then(|| [module.as_slice(), path].concat())
        }
    }
}

/// The file that defines an item, and the rest of the path in it; `None` for a module as such.
fn defined_in(files: &BTreeMap<Module, File>, path: &[String], depth: usize) -> Option<(Module, Module)> {
    let length = (0..=path.len()).rev().find(|length| files.contains_key(&path[..*length]))?;
    let (module, rest) = (path[..length].to_vec(), path[length..].to_vec());
    let file = &files[&module];
    let name = rest.first()?;
    let exported = file.imported.get(name).filter(|_| !file.defined.contains(name) && depth < 8);
    let Some((target, _)) = exported else { return Some((module, rest)) };
    let target = [absolute(files, &module, target)?.as_slice(), &rest[1..]].concat();
    defined_in(files, &target, depth + 1)
}
