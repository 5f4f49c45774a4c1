//! The whole check on small trees: a clean one passes, each broken one is found out.

use std::fs;
use std::path::PathBuf;

use crate::findings;
use crate::source::Tree;

/// A workspace of two crates that breaks no rule.
const CLEAN: [(&str, &str); 7] = [
    (
        "xtask/architecture.toml",
        "[crates.low]\npure = true\nuses = []\n[crates.high]\nuses = [\"low\"]",
    ),
    ("xtask/ratchet.toml", ""),
    ("crates/low/Cargo.toml", ""),
    (
        "crates/low/src/lib.rs",
        "//! Decides what the others do.\n#![no_std]\n#![forbid(unsafe_code)]\n",
    ),
    (
        "crates/high/Cargo.toml",
        "[dependencies]\nevener-low.workspace = true",
    ),
    (
        "crates/high/src/lib.rs",
        "//! Does what the other one decides.\nuse std::io;\n",
    ),
    (
        "tests/test_all.py",
        "\"\"\"Tests that both do what they say.\"\"\"\n",
    ),
];

struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// What is found in the clean workspace with one file changed or added.
fn found_with(name: &str, file: &str, text: &str) -> Vec<String> {
    found_in(name, &[(file, text)])
}

/// What is found in the clean workspace with some files changed or added.
fn found_in(name: &str, changed: &[(&str, &str)]) -> Vec<String> {
    let root = std::env::temp_dir().join(format!("xtask-{}-{name}", std::process::id()));
    let folder = Folder(root);
    for (file, text) in CLEAN.iter().chain(changed) {
        let path = folder.0.join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    let found = findings(&Tree::of_folder(&folder.0)).unwrap();
    found.iter().map(ToString::to_string).collect()
}

#[test]
fn a_clean_tree_has_no_findings() {
    assert_eq!(found_with("clean", "README.md", "Hello.\n"), [""; 0]);
}

#[test]
fn a_module_declared_for_tests_is_free() {
    let root = "//! Decides what the others do.\n#![no_std]\n#![forbid(unsafe_code)]\n";
    let file = "//! What the tests share between them.\nuse std::println;\n";
    let with = |declaration: &str| {
        let lib = format!("{root}{declaration}mod given;\n");
        let tree = [
            ("crates/low/src/lib.rs", lib.as_str()),
            ("crates/low/src/given.rs", file),
        ];
        found_in("declared", &tree).len()
    };
    assert_eq!(with("#[cfg(test)]\n"), 0);
    assert_eq!(with(""), 1);
}

#[test]
fn each_rule_finds_its_breach() {
    let opening = "//! Decides what the others do.\n";
    let long = format!("{opening}fn f() {{\n{}}}\n", "    g();\n".repeat(80));
    let pure = format!("{opening}#![no_std]\n#![forbid(unsafe_code)]\nuse std::time::Instant;\n");
    for (name, file, text, expected) in [
        (
            "edge",
            "crates/low/Cargo.toml",
            "[dependencies]\nevener-high = \"1\"",
            "must not depend",
        ),
        ("place", "crates/new/Cargo.toml", "", "has no place yet"),
        (
            "pure",
            "crates/low/src/lib.rs",
            pure.as_str(),
            "crates/low/src/lib.rs:4: a pure crate uses",
        ),
        (
            "std",
            "crates/low/src/lib.rs",
            opening,
            "opens with #![no_std]",
        ),
        (
            "opening",
            "crates/high/src/lib.rs",
            "use std::io;\n",
            "opens without `//!`",
        ),
        (
            "docstring",
            "tests/test_all.py",
            "import os\n",
            "opens without a docstring",
        ),
        (
            "length",
            "crates/high/src/lib.rs",
            long.as_str(),
            "`f` has 82 lines, 70 allowed",
        ),
        ("name", "docs/misc.md", "", "says nothing"),
    ] {
        let found = found_with(name, file, text);
        assert!(
            found.iter().any(|finding| finding.contains(expected)),
            "{name}: {found:?}"
        );
    }
}
