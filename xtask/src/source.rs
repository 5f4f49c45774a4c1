//! The tree that is checked: its files, their text, and Rust files parsed with their test code
//! told apart. What the rules are is left to the other modules.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use syn::spanned::Spanned;

/// A set of files under one root.
#[derive(Debug)]
pub(crate) struct Tree {
    root: PathBuf,
    files: Vec<PathBuf>,
}

impl Tree {
    /// All files of the workspace that git knows, or would on `git add`.
    pub(crate) fn of_workspace() -> Result<Tree, String> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"))
            .parent()
            .ok_or("xtask lies in no workspace")?
            .to_owned();
        let listed = Command::new("git")
            .args([
                "ls-files",
                "-z",
                "--cached",
                "--others",
                "--exclude-standard",
            ])
            .current_dir(&root)
            .output()
            .map_err(|error| format!("cannot run git: {error}"))?;
        if !listed.status.success() {
            let said = String::from_utf8_lossy(&listed.stderr).into_owned();
            return Err(format!("git ls-files failed in {}: {said}", root.display()));
        }
        let names = String::from_utf8_lossy(&listed.stdout);
        let mut files: Vec<PathBuf> = names.split_terminator('\0').map(PathBuf::from).collect();
        files.retain(|file| root.join(file).is_file());
        files.sort();
        files.dedup();
        Ok(Tree { root, files })
    }

    /// All files below a folder, for tests.
    #[cfg(test)]
    pub(crate) fn of_folder(root: &Path) -> Tree {
        let mut files = Vec::new();
        let mut folders = vec![root.to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    files.push(path.strip_prefix(root).unwrap().to_owned());
                }
            }
        }
        files.sort();
        Tree {
            root: root.to_owned(),
            files,
        }
    }

    /// Every file, relative to the root.
    pub(crate) fn files(&self) -> &[PathBuf] {
        &self.files
    }

    /// The files with this extension, without the dot.
    pub(crate) fn with_extension<'a>(
        &'a self,
        extension: &'a str,
    ) -> impl Iterator<Item = &'a Path> {
        let files = self.files.iter().map(PathBuf::as_path);
        files.filter(move |file| file.extension().is_some_and(|found| found == extension))
    }

    /// A file's text.
    pub(crate) fn read(&self, file: impl AsRef<Path>) -> Result<String, String> {
        let path = self.root.join(file);
        fs::read_to_string(&path)
            .map_err(|error| format!("cannot read {}: {error}", path.display()))
    }

    /// A file's text, or `None` when it is not text.
    pub(crate) fn read_if_text(&self, file: impl AsRef<Path>) -> Option<String> {
        fs::read(self.root.join(file))
            .ok()
            .and_then(|bytes| String::from_utf8(bytes).ok())
    }

    /// A Rust file, parsed.
    pub(crate) fn parse(&self, file: &Path) -> Result<syn::File, String> {
        let text = self.read(file)?;
        syn::parse_file(&text).map_err(|error| {
            let line = error.span().start().line;
            format!(
                "{}:{line}: is not Rust that can be parsed: {error}",
                file.display()
            )
        })
    }

    /// Whether a whole file is test code: it lies in a `tests` or `benches` folder, or the module
    /// above it declares it for tests only.
    pub(crate) fn is_test_file(&self, file: &Path) -> bool {
        if file.iter().any(|part| part == "tests" || part == "benches") {
            return true;
        }
        let (Some(folder), Some(name)) = (file.parent(), file.file_stem()) else {
            return false;
        };
        let above = ["lib.rs", "main.rs", "mod.rs"].map(|name| folder.join(name));
        above
            .iter()
            .chain([&folder.with_extension("rs")])
            .any(|parent| {
                self.files.binary_search(parent).is_ok()
                    && self.parse(parent).is_ok_and(|parent| {
                        parent.items.iter().any(|item| match item {
                            syn::Item::Mod(module) => {
                                module.ident == name.to_string_lossy().as_ref()
                                    && is_test(&module.attrs)
                            }
                            _ => false,
                        })
                    })
            })
    }

    /// Replaces a file.
    pub(crate) fn write(&self, file: &str, text: &str) -> Result<(), String> {
        let path = self.root.join(file);
        fs::write(&path, text).map_err(|error| format!("cannot write {}: {error}", path.display()))
    }
}

/// Whether an item is compiled for tests only: `#[cfg(test)]` or `#[test]`.
pub(crate) fn is_test(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| match &attribute.meta {
        syn::Meta::Path(path) => path
            .segments
            .last()
            .is_some_and(|last| last.ident == "test"),
        syn::Meta::List(list) => {
            list.path.is_ident("cfg")
                && list
                    .parse_args::<syn::Path>()
                    .is_ok_and(|p| p.is_ident("test"))
        }
        syn::Meta::NameValue(_) => false,
    })
}

/// Number of lines that something takes up, attributes and documentation included.
pub(crate) fn lines_of(spanned: &impl Spanned) -> usize {
    let span = spanned.span();
    span.end().line + 1 - span.start().line
}
