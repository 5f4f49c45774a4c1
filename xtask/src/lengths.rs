//! Lengths as a ratchet: a file of production code over 600 lines, or a function over 70, must
//! stand in the baseline and may not grow past it. Only `cargo xtask ratchet` writes the baseline.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use syn::visit::Visit;
use toml::{Table, Value};

use crate::Finding;
use crate::source::{Tree, is_test, lines_of};

/// Where the allowed lengths are recorded.
pub(crate) const BASELINE: &str = "xtask/ratchet.toml";
const FILE_LINES_MAX: usize = 600;
const FUNCTION_LINES_MAX: usize = 70;

/// What is longer than the house likes, and how long it may be; by path, or path and function.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Baseline {
    files: BTreeMap<String, usize>,
    functions: BTreeMap<String, usize>,
}

/// Lines of production code in one file and in each of its functions.
#[derive(Debug, Default)]
struct Measures {
    lines: usize,
    functions: Vec<Function>,
}

#[derive(Debug)]
struct Function {
    name: String,
    line: usize,
    lines: usize,
}

impl Baseline {
    /// Reads the recorded lengths.
    pub(crate) fn parse(text: &str) -> Result<Baseline, String> {
        let table: Table = text
            .parse()
            .map_err(|error| format!("{BASELINE}: {error}"))?;
        let lengths = |name: &str| -> BTreeMap<String, usize> {
            let entries = table
                .get(name)
                .and_then(Value::as_table)
                .into_iter()
                .flatten();
            entries
                .filter_map(|(key, value)| {
                    let lines = usize::try_from(value.as_integer()?).ok()?;
                    Some((key.clone(), lines))
                })
                .collect()
        };
        Ok(Baseline {
            files: lengths("files"),
            functions: lengths("functions"),
        })
    }

    /// The lengths of the tree as it is.
    pub(crate) fn measured(tree: &Tree) -> Result<Baseline, String> {
        let mut baseline = Baseline::default();
        for file in production_files(tree) {
            let measures = measure(&tree.read(file)?, &tree.parse(file)?);
            let path = file.display().to_string();
            for function in measures.functions {
                if function.lines > FUNCTION_LINES_MAX {
                    let name = format!("{path}::{}", function.name);
                    let longest = baseline.functions.entry(name).or_default();
                    *longest = (*longest).max(function.lines);
                }
            }
            if measures.lines > FILE_LINES_MAX {
                baseline.files.insert(path, measures.lines);
            }
        }
        Ok(baseline)
    }
}

impl fmt::Display for Baseline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "# Written by `cargo xtask ratchet`: what is longer than the house likes (files of"
        )?;
        writeln!(
            f,
            "# {FILE_LINES_MAX} lines, functions of {FUNCTION_LINES_MAX}) and must not grow."
        )?;
        for (name, lengths) in [("files", &self.files), ("functions", &self.functions)] {
            writeln!(f, "\n[{name}]")?;
            for (key, lines) in lengths {
                writeln!(f, "\"{key}\" = {lines}")?;
            }
        }
        Ok(())
    }
}

fn production_files(tree: &Tree) -> impl Iterator<Item = &Path> {
    tree.with_extension("rs")
        .filter(move |file| !tree.is_test_file(file))
}

/// Every length against the baseline.
pub(crate) fn check(tree: &Tree, baseline: &Baseline) -> Result<Vec<Finding>, String> {
    let mut findings = Vec::new();
    for file in production_files(tree) {
        let measures = measure(&tree.read(file)?, &tree.parse(file)?);
        findings.extend(judge(file, &measures, baseline));
    }
    Ok(findings)
}

fn judge(file: &Path, measures: &Measures, baseline: &Baseline) -> Vec<Finding> {
    let path = file.display().to_string();
    let mut findings = Vec::new();
    let allowed = baseline.files.get(&path).copied().unwrap_or(FILE_LINES_MAX);
    if measures.lines > allowed {
        let text = format!(
            "{} lines of production code, {allowed} allowed: split it",
            measures.lines
        );
        findings.push(Finding::new(file, 0, text));
    }
    for Function { name, line, lines } in &measures.functions {
        let recorded = baseline.functions.get(&format!("{path}::{name}"));
        let allowed = recorded.copied().unwrap_or(FUNCTION_LINES_MAX);
        if *lines > allowed {
            let text = format!("`{name}` has {lines} lines, {allowed} allowed: split it");
            findings.push(Finding::new(file, *line, text));
        }
    }
    findings
}

fn measure(text: &str, file: &syn::File) -> Measures {
    let mut search = Search::default();
    search.visit_file(file);
    Measures {
        lines: text.lines().count().saturating_sub(search.test_lines),
        functions: search.functions,
    }
}

#[derive(Default)]
struct Search {
    test_lines: usize,
    functions: Vec<Function>,
}

impl Search {
    fn function(&mut self, name: &syn::Ident, block: &syn::Block, signature: &syn::Signature) {
        let line = name.span().start().line;
        let lines = lines_of(block) + lines_of(signature) - 1;
        self.functions.push(Function {
            name: name.to_string(),
            line,
            lines,
        });
    }
}

impl<'ast> Visit<'ast> for Search {
    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        if is_test(&item.attrs) {
            self.test_lines += lines_of(item);
        } else {
            syn::visit::visit_item_mod(self, item);
        }
    }

    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        if is_test(&item.attrs) {
            self.test_lines += lines_of(item);
        } else {
            self.function(&item.sig.ident, &item.block, &item.sig);
            syn::visit::visit_item_fn(self, item);
        }
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        if is_test(&item.attrs) {
            self.test_lines += lines_of(item);
        } else {
            self.function(&item.sig.ident, &item.block, &item.sig);
            syn::visit::visit_impl_item_fn(self, item);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(source: &str) -> Measures {
        measure(source, &syn::parse_file(source).unwrap())
    }

    fn body(lines: usize) -> String {
        format!("fn long() {{\n{}}}\n", "    f();\n".repeat(lines - 2))
    }

    #[test]
    fn lines_are_counted_from_the_signature_to_the_brace() {
        let measures = of(&body(71));
        assert_eq!((measures.lines, measures.functions[0].lines), (71, 71));
        assert_eq!(of("impl A {\n    /// Doc.\n    fn f(\n        x: u32,\n    ) {\n        g();\n    }\n}").functions[0].lines, 5);
    }

    #[test]
    fn test_code_does_not_count() {
        let measures = of(&format!(
            "fn f() {{}}\n#[cfg(test)]\nmod tests {{\n{}}}\n",
            body(90)
        ));
        assert_eq!(measures.lines, 1);
        assert_eq!(measures.functions.len(), 1);
    }

    #[test]
    fn only_growth_past_the_baseline_is_found() {
        let file = Path::new("a.rs");
        let judged = |lines, baseline: &str| {
            judge(file, &of(&body(lines)), &Baseline::parse(baseline).unwrap()).len()
        };
        assert_eq!(judged(70, ""), 0);
        assert_eq!(judged(71, ""), 1);
        assert_eq!(judged(71, "[functions]\n\"a.rs::long\" = 71"), 0);
        assert_eq!(judged(72, "[functions]\n\"a.rs::long\" = 71"), 1);
        assert_eq!(judged(601, "[functions]\n\"a.rs::long\" = 900"), 1);
        assert_eq!(
            judged(
                601,
                "[files]\n\"a.rs\" = 601\n[functions]\n\"a.rs::long\" = 900"
            ),
            0
        );
    }

    #[test]
    fn the_baseline_reads_what_it_writes() {
        let mut baseline = Baseline::default();
        baseline.files.insert("a.rs".to_owned(), 700);
        baseline.functions.insert("a.rs::f".to_owned(), 80);
        assert_eq!(Baseline::parse(&baseline.to_string()).unwrap(), baseline);
    }
}
