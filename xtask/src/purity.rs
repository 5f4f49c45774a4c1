//! The law of the pure crates: no standard library, no unsafe code; so neither I/O nor clock,
//! thread nor global can be reached. Code for tests is free.

use std::path::Path;

use proc_macro2::{TokenStream, TokenTree};
use syn::visit::Visit;

use crate::Finding;
use crate::dependencies::Rules;
use crate::source::{Tree, is_test};

/// Every pure crate against the law.
pub(crate) fn check(tree: &Tree, rules: &Rules) -> Result<Vec<Finding>, String> {
    let mut findings = Vec::new();
    for folder in rules.pure_folders() {
        let sources = folder.join("src");
        for file in tree
            .with_extension("rs")
            .filter(|file| file.starts_with(&sources))
        {
            let parsed = tree.parse(file)?;
            if *file == sources.join("lib.rs") {
                findings.extend(missing_attributes(file, &parsed));
            }
            if !tree.is_test_file(file) {
                findings.extend(impurities(file, &parsed));
            }
        }
    }
    Ok(findings)
}

fn missing_attributes(path: &Path, file: &syn::File) -> Vec<Finding> {
    let has = |wanted: &dyn Fn(&syn::Meta) -> bool| file.attrs.iter().any(|a| wanted(&a.meta));
    let mut findings = Vec::new();
    if !has(&|meta| meta.path().is_ident("no_std")) {
        findings.push(Finding::new(path, 0, "a pure crate opens with #![no_std]"));
    }
    let forbids = |meta: &syn::Meta| match meta {
        syn::Meta::List(list) if list.path.is_ident("forbid") => {
            list.tokens.to_string().contains("unsafe_code")
        }
        _ => false,
    };
    if !has(&forbids) {
        findings.push(Finding::new(
            path,
            0,
            "a pure crate opens with #![forbid(unsafe_code)]",
        ));
    }
    findings
}

/// Uses of `std`, and statics that can change, outside of test code.
fn impurities(path: &Path, file: &syn::File) -> Vec<Finding> {
    let mut search = Search {
        path,
        findings: Vec::new(),
    };
    search.visit_file(file);
    search.findings
}

struct Search<'a> {
    path: &'a Path,
    findings: Vec<Finding>,
}

impl Search<'_> {
    fn report(&mut self, ident: &proc_macro2::Ident) {
        let line = ident.span().start().line;
        let text = "a pure crate uses `core` and `alloc`, not `std`";
        self.findings.push(Finding::new(self.path, line, text));
    }

    fn search_tokens(&mut self, tokens: TokenStream) {
        let mut tokens = tokens.into_iter().peekable();
        while let Some(token) = tokens.next() {
            match token {
                TokenTree::Group(group) => self.search_tokens(group.stream()),
                TokenTree::Ident(ident) if ident == "std" => {
                    if matches!(tokens.peek(), Some(TokenTree::Punct(p)) if p.as_char() == ':') {
                        self.report(&ident);
                    }
                }
                _ => {}
            }
        }
    }
}

impl<'ast> Visit<'ast> for Search<'_> {
    fn visit_item(&mut self, item: &'ast syn::Item) {
        let attributes = match item {
            syn::Item::Mod(item) => &item.attrs,
            syn::Item::Fn(item) => &item.attrs,
            syn::Item::Use(item) => &item.attrs,
            syn::Item::Impl(item) => &item.attrs,
            syn::Item::ExternCrate(item) => &item.attrs,
            _ => &Vec::new(),
        };
        if !is_test(attributes) {
            syn::visit::visit_item(self, item);
        }
    }

    fn visit_item_extern_crate(&mut self, item: &'ast syn::ItemExternCrate) {
        if item.ident == "std" {
            self.report(&item.ident);
        }
    }

    fn visit_item_static(&mut self, item: &'ast syn::ItemStatic) {
        let text = format!(
            "`{}`: a pure crate has no globals, only constants",
            item.ident
        );
        self.findings.push(Finding::new(
            self.path,
            item.ident.span().start().line,
            text,
        ));
    }

    fn visit_use_path(&mut self, path: &'ast syn::UsePath) {
        if path.ident == "std" {
            self.report(&path.ident);
        }
        syn::visit::visit_use_path(self, path);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        if path.segments.len() > 1 && path.segments[0].ident == "std" {
            self.report(&path.segments[0].ident);
        }
        syn::visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, invocation: &'ast syn::Macro) {
        self.search_tokens(invocation.tokens.clone());
        syn::visit::visit_macro(self, invocation);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(source: &str) -> Vec<usize> {
        let file = syn::parse_file(source).unwrap();
        impurities(Path::new("lib.rs"), &file)
            .iter()
            .map(|finding| finding.line)
            .collect()
    }

    #[test]
    fn std_is_found_wherever_it_hides() {
        assert_eq!(lines("use std::time::Instant;"), [1]);
        assert_eq!(
            lines("use core::fmt;\nuse {alloc::vec::Vec, std::fs};"),
            [2]
        );
        assert_eq!(lines("fn f() {\n    let _ = std::env::args();\n}"), [2]);
        assert_eq!(
            lines("fn f() {\n    assert!(a, \"{}\",\n std::process::id());\n}"),
            [3]
        );
        assert_eq!(lines("extern crate std;"), [1]);
        assert_eq!(lines("static mut COUNT: u32 = 0;"), [1]);
    }

    #[test]
    fn core_constants_and_tests_are_free() {
        assert_eq!(
            lines("use core::time::Duration;\nconst A: u32 = 1;"),
            [0; 0]
        );
        assert_eq!(
            lines("#[cfg(test)]\nmod tests {\n    use std::println;\n}"),
            [0; 0]
        );
        assert_eq!(lines("#[cfg(test)]\nextern crate std;"), [0; 0]);
    }

    #[test]
    fn both_attributes_are_demanded() {
        let missing = |source| {
            missing_attributes(Path::new("lib.rs"), &syn::parse_file(source).unwrap()).len()
        };
        assert_eq!(missing("#![no_std]\n#![forbid(unsafe_code)]"), 0);
        assert_eq!(missing("#![no_std]\n#![deny(unsafe_code)]"), 1);
        assert_eq!(missing(""), 2);
    }
}
