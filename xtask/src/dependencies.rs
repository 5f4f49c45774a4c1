//! Dependencies point one way: every manifest is held to `xtask/architecture.toml`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use toml::{Table, Value};

use crate::Finding;
use crate::source::Tree;

const PREFIX: &str = "evener-";
const SECTIONS: [&str; 3] = ["dependencies", "dev-dependencies", "build-dependencies"];

/// Who may depend on whom.
#[derive(Debug, Default)]
pub(crate) struct Rules {
    crates: BTreeMap<String, Crate>,
    only: BTreeMap<String, BTreeSet<String>>,
}

/// What one crate may do; its name is its folder's.
#[derive(Debug, Default)]
struct Crate {
    pure: bool,
    uses: BTreeSet<String>,
    outside: BTreeSet<String>,
}

impl Rules {
    /// Reads `architecture.toml`.
    pub(crate) fn parse(text: &str) -> Result<Rules, String> {
        let place = "xtask/architecture.toml";
        let table: Table = text.parse().map_err(|error| format!("{place}: {error}"))?;
        let mut rules = Rules::default();
        for (name, entry) in section(&table, "crates") {
            let entry = entry
                .as_table()
                .ok_or(format!("{place}: crates.{name} is no table"))?;
            let pure = entry.get("pure").and_then(Value::as_bool).unwrap_or(false);
            let (uses, outside) = (strings(entry.get("uses")), strings(entry.get("outside")));
            rules.crates.insert(
                name.clone(),
                Crate {
                    pure,
                    uses,
                    outside,
                },
            );
        }
        for (name, crates) in section(&table, "only") {
            rules.only.insert(name.clone(), strings(Some(crates)));
        }
        Ok(rules)
    }

    /// The folders of the pure crates, relative to the workspace.
    pub(crate) fn pure_folders(&self) -> impl Iterator<Item = PathBuf> {
        let pure = self.crates.iter().filter(|(_, rule)| rule.pure);
        pure.map(|(name, _)| Path::new("crates").join(name))
    }
}

fn section<'a>(table: &'a Table, name: &str) -> impl Iterator<Item = (&'a String, &'a Value)> {
    table
        .get(name)
        .and_then(Value::as_table)
        .into_iter()
        .flatten()
}

fn strings(list: Option<&Value>) -> BTreeSet<String> {
    let items = list.and_then(Value::as_array).into_iter().flatten();
    items.filter_map(Value::as_str).map(str::to_owned).collect()
}

/// Every manifest against the rules.
pub(crate) fn check(tree: &Tree, rules: &Rules) -> Result<Vec<Finding>, String> {
    let mut findings = Vec::new();
    let mut seen = BTreeSet::new();
    for manifest in tree.files() {
        let Some(name) = crate_of(manifest) else {
            continue;
        };
        seen.insert(name.clone());
        let table: Table = tree
            .read(manifest)?
            .parse()
            .map_err(|error| format!("{}: {error}", manifest.display()))?;
        match rules.crates.get(&name) {
            Some(rule) => check_one(manifest, &name, rule, rules, &table, &mut findings),
            None => findings.push(Finding::new(
                manifest,
                0,
                format!("`{name}` has no place yet: add it to ARCHITECTURE.md and xtask/architecture.toml"),
            )),
        }
    }
    let rules_file = Path::new("xtask/architecture.toml");
    for missing in rules.crates.keys().filter(|name| !seen.contains(*name)) {
        findings.push(Finding::new(
            rules_file,
            0,
            format!("names `{missing}`, which is no crate"),
        ));
    }
    Ok(findings)
}

/// The name by which the rules know the crate of a manifest.
fn crate_of(manifest: &Path) -> Option<String> {
    let mut parts = manifest.iter().filter_map(|part| part.to_str());
    match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some("crates"), Some(name), Some("Cargo.toml"), None) => Some(name.to_owned()),
        (Some("xtask"), Some("Cargo.toml"), None, None) => Some("xtask".to_owned()),
        _ => None,
    }
}

fn check_one(
    manifest: &Path,
    name: &str,
    rule: &Crate,
    rules: &Rules,
    table: &Table,
    findings: &mut Vec<Finding>,
) {
    for (section_name, dependency) in dependencies(table) {
        if let Some(used) = dependency.strip_prefix(PREFIX) {
            if !rule.uses.contains(used) {
                let text = format!("`{name}` must not depend on `{used}` ({section_name})");
                findings.push(Finding::new(manifest, 0, text));
            }
            continue;
        }
        let for_tests = section_name == "dev-dependencies";
        if rule.pure && !for_tests && !rule.outside.contains(&dependency) {
            let text = format!("`{name}` is pure and must not depend on `{dependency}`");
            findings.push(Finding::new(manifest, 0, text));
        }
        if rules
            .only
            .get(&dependency)
            .is_some_and(|allowed| !allowed.contains(name))
        {
            let text =
                format!("`{dependency}` is not for `{name}` (xtask/architecture.toml, [only])");
            findings.push(Finding::new(manifest, 0, text));
        }
    }
}

/// Section and name of all dependencies, those for one platform included. A renamed dependency
/// goes by its true name.
fn dependencies(table: &Table) -> Vec<(&'static str, String)> {
    let mut tables = vec![table];
    tables.extend(section(table, "target").filter_map(|(_, target)| target.as_table()));
    let mut found = Vec::new();
    for table in tables {
        for name in SECTIONS {
            for (key, value) in section(table, name) {
                let package = value.get("package").and_then(Value::as_str).unwrap_or(key);
                found.push((name, package.to_owned()));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: &str = r#"
        [crates.low]
        pure = true
        uses = []
        outside = ["libm"]
        [crates.high]
        uses = ["low"]
        [only]
        pyo3 = ["worker"]
    "#;

    fn said(name: &str, manifest: &str) -> Vec<String> {
        let rules = Rules::parse(RULES).unwrap();
        let mut findings = Vec::new();
        let table = manifest.parse().unwrap();
        let path = Path::new("Cargo.toml");
        check_one(
            path,
            name,
            &rules.crates[name],
            &rules,
            &table,
            &mut findings,
        );
        findings.into_iter().map(|finding| finding.text).collect()
    }

    #[test]
    fn an_allowed_edge_passes() {
        assert_eq!(
            said(
                "high",
                "[dependencies]\nevener-low.workspace = true\nmio = \"1\""
            ),
            [""; 0]
        );
        assert_eq!(said("low", "[dependencies]\nlibm = \"1\""), [""; 0]);
    }

    #[test]
    fn an_edge_against_the_direction_is_found() {
        let found = said("low", "[dev-dependencies]\nevener-high.workspace = true");
        assert_eq!(
            found,
            ["`low` must not depend on `high` (dev-dependencies)"]
        );
    }

    #[test]
    fn renaming_and_platforms_hide_nothing() {
        let renamed =
            "[target.'cfg(unix)'.dependencies]\nx = { package = \"pyo3\", version = \"1\" }";
        assert_eq!(
            said("high", renamed),
            ["`pyo3` is not for `high` (xtask/architecture.toml, [only])"]
        );
    }

    #[test]
    fn a_pure_crate_names_no_outside_crate() {
        let found = said(
            "low",
            "[dependencies]\nlibc = \"1\"\n[dev-dependencies]\nproptest = \"1\"",
        );
        assert_eq!(found, ["`low` is pure and must not depend on `libc`"]);
    }

    #[test]
    fn manifests_are_known_by_their_folder() {
        let named = |path: &str| crate_of(Path::new(path));
        assert_eq!(named("crates/edge/Cargo.toml").as_deref(), Some("edge"));
        assert_eq!(named("xtask/Cargo.toml").as_deref(), Some("xtask"));
        assert_eq!(named("Cargo.toml"), None);
        assert_eq!(named("bench/peers/x/Cargo.toml"), None);
    }
}
