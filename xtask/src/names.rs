//! Names: files are called by what they are for, and no file names a package registry's host or
//! the place where it happened to be written.

use std::path::Path;

use crate::Finding;
use crate::source::Tree;

const EMPTY_NAMES: [&str; 8] = [
    "common", "helper", "helpers", "manager", "managers", "misc", "util", "utils",
];

/// Words that no file holds, each in two halves so that this file does not hold it either.
const FORBIDDEN_WORDS: [(&str, &str, &str); 10] = [
    ("index.", "crates.io", "a registry's host"),
    ("static.", "crates.io", "a registry's host"),
    ("pypi.", "org/simple", "a registry's host"),
    ("files.", "pythonhosted", "a registry's host"),
    ("deb.", "debian.org", "a registry's host"),
    ("registry.", "npmjs", "a registry's host"),
    ("/work/", "main", "a path of one machine"),
    ("/work/", "shared", "a path of one machine"),
    ("/work/", "steering", "a path of one machine"),
    ("/work/", ".library", "a path of one machine"),
];

/// Every file's name and words.
pub(crate) fn check(tree: &Tree) -> Result<Vec<Finding>, String> {
    let mut findings = Vec::new();
    for file in tree.files() {
        findings.extend(check_name(file));
        if file
            .extension()
            .is_some_and(|extension| extension == "lock")
        {
            continue;
        }
        if let Some(text) = tree.read_if_text(file) {
            findings.extend(check_words(file, &text));
        }
    }
    Ok(findings)
}

fn check_name(file: &Path) -> Option<Finding> {
    let says_nothing = |part: &str| {
        let mut words = part.split(['_', '-', '.']);
        words
            .find(|word| EMPTY_NAMES.contains(&word.to_ascii_lowercase().as_str()))
            .map(str::to_owned)
    };
    let word = file
        .iter()
        .filter_map(|part| part.to_str())
        .find_map(says_nothing)?;
    Some(Finding::new(
        file,
        0,
        format!("`{word}` in a name says nothing: name it by what it is for"),
    ))
}

fn check_words(file: &Path, text: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (head, tail, what) in FORBIDDEN_WORDS {
        let word = format!("{head}{tail}");
        for (number, line) in text
            .lines()
            .enumerate()
            .filter(|(_, line)| line.contains(&word))
        {
            let clipped: String = line.trim().chars().take(60).collect();
            findings.push(Finding::new(
                file,
                number + 1,
                format!("names {what}: {clipped}"),
            ));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_names_are_found_in_files_and_folders() {
        let found = |path: &str| check_name(Path::new(path)).is_some();
        assert!(found("crates/edge/src/utils.rs"));
        assert!(found("tests/test_helpers.py"));
        assert!(found("crates/common/src/lib.rs"));
        assert!(found("crates/edge/src/pool-manager.rs"));
        assert!(!found("crates/edge/src/commonmark.rs"));
        assert!(!found("crates/edge/src/pool.rs"));
    }

    #[test]
    fn forbidden_words_are_found_with_their_line() {
        let text = format!("fine\nsee https://pypi.{}/x\n", "org/simple");
        let found = check_words(Path::new("a.md"), &text);
        assert_eq!(
            found.iter().map(|finding| finding.line).collect::<Vec<_>>(),
            [2]
        );
        assert!(check_words(Path::new("a.md"), "worked in /work/ and on crates.io").is_empty());
    }
}
