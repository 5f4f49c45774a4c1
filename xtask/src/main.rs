//! `cargo xtask check` holds the tree to the architecture; `cargo xtask ratchet` records the
//! lengths that are allowed to stand. Each check is one module; what they find is printed here.

mod dependencies;
mod lengths;
mod names;
mod openings;
mod purity;
mod source;
#[cfg(test)]
mod tests;

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use source::Tree;

/// Something that breaks a rule of the house.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Finding {
    /// The file, relative to the workspace.
    path: PathBuf,
    /// The line, from 1; 0 when the whole file is meant.
    line: usize,
    /// What is wrong, and what to do.
    text: String,
}

impl Finding {
    fn new(path: &Path, line: usize, text: impl Into<String>) -> Finding {
        Finding {
            path: path.to_owned(),
            line,
            text: text.into(),
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}", self.path.display(), self.text),
            line => write!(f, "{}:{line}: {}", self.path.display(), self.text),
        }
    }
}

fn main() -> ExitCode {
    let command = std::env::args().nth(1);
    let done = match command.as_deref() {
        Some("check") => check(),
        Some("ratchet") => ratchet(),
        _ => Err("usage: cargo xtask check | ratchet".to_owned()),
    };
    match done {
        Ok(code) => code,
        Err(message) => {
            eprintln!("xtask: {message}");
            ExitCode::FAILURE
        }
    }
}

/// Every rule, over the whole tree.
fn findings(tree: &Tree) -> Result<Vec<Finding>, String> {
    let rules = dependencies::Rules::parse(&tree.read("xtask/architecture.toml")?)?;
    let baseline = lengths::Baseline::parse(&tree.read(lengths::BASELINE)?)?;
    let mut findings = dependencies::check(tree, &rules)?;
    findings.extend(purity::check(tree, &rules)?);
    findings.extend(openings::check(tree)?);
    findings.extend(lengths::check(tree, &baseline)?);
    findings.extend(names::check(tree)?);
    findings.sort();
    Ok(findings)
}

fn check() -> Result<ExitCode, String> {
    let tree = Tree::of_workspace()?;
    let findings = findings(&tree)?;
    for finding in &findings {
        println!("{finding}");
    }
    let files = tree.files().len();
    if findings.is_empty() {
        println!("xtask check: {files} files, nothing to say against them");
        return Ok(ExitCode::SUCCESS);
    }
    println!("xtask check: {files} files, {} findings", findings.len());
    Ok(ExitCode::FAILURE)
}

fn ratchet() -> Result<ExitCode, String> {
    let tree = Tree::of_workspace()?;
    let text = lengths::Baseline::measured(&tree)?.to_string();
    tree.write(lengths::BASELINE, &text)?;
    println!(
        "wrote {}; say in the commit why what grew had to grow",
        lengths::BASELINE
    );
    Ok(ExitCode::SUCCESS)
}
