//! Every Rust file opens with `//!`, every Python file with a docstring: what it is for, and what
//! it leaves to whom.

use crate::Finding;
use crate::source::Tree;

const SHORTEST: usize = 20;

/// Every source file's first words.
pub(crate) fn check(tree: &Tree) -> Result<Vec<Finding>, String> {
    let mut findings = Vec::new();
    for file in tree.with_extension("rs") {
        if !opens_rust(&tree.read(file)?) {
            findings.push(Finding::new(
                file,
                1,
                "opens without `//!`: say what the file is for",
            ));
        }
    }
    for file in tree.with_extension("py") {
        if !opens_python(&tree.read(file)?) {
            findings.push(Finding::new(
                file,
                1,
                "opens without a docstring: say what the file is for",
            ));
        }
    }
    Ok(findings)
}

fn opens_rust(text: &str) -> bool {
    let first = text
        .lines()
        .find(|line| !line.trim().is_empty())
        .unwrap_or("");
    first
        .strip_prefix("//!")
        .is_some_and(|words| words.trim().len() >= SHORTEST)
}

fn opens_python(text: &str) -> bool {
    let mut lines = text
        .lines()
        .filter(|line| !line.trim().is_empty() && !line.starts_with('#'));
    let first = lines.next().unwrap_or("");
    first
        .strip_prefix("\"\"\"")
        .is_some_and(|words| words.trim().len() >= SHORTEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rust_opens_with_words() {
        assert!(opens_rust("\n//! Reads what the others wrote.\nuse x;"));
        assert!(!opens_rust("// Reads what the others wrote.\n"));
        assert!(!opens_rust("//! Stub.\n"));
        assert!(!opens_rust("use x;\n//! Reads what the others wrote."));
        assert!(!opens_rust(""));
    }

    #[test]
    fn python_opens_with_a_docstring() {
        assert!(opens_python(
            "#!/usr/bin/env python3\n# x\n\"\"\"Reads what the others wrote.\"\"\"\n"
        ));
        assert!(!opens_python(
            "import os\n\"\"\"Reads what the others wrote.\"\"\""
        ));
        assert!(!opens_python("\"\"\"x\"\"\""));
        assert!(!opens_python(""));
    }
}
