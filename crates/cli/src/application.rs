//! Which application is meant: reads an import string, finds one that was left out by a look at
//! the source files, and says what is wrong with one that certainly cannot be imported. Nothing
//! is imported here; what only an import can tell is left to the workers.

use std::fs;
use std::path::{Path, PathBuf};

/// Where an application is looked for when none is named, in this order.
const CANDIDATES: [&str; 12] = [
    "main.py",
    "app.py",
    "api.py",
    "asgi.py",
    "server.py",
    "app/main.py",
    "app/app.py",
    "app/api.py",
    "app/__init__.py",
    "src/main.py",
    "src/app.py",
    "src/app/main.py",
];
/// Source files are looked at up to this size.
const SOURCE_BYTES_MAX: u64 = 1024 * 1024;

/// An application to serve.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Application {
    /// `module:attribute`.
    pub(crate) target: String,
    /// The attribute is a function that returns the application.
    pub(crate) factory: bool,
    /// Folder it is imported from; absolute.
    pub(crate) folder: PathBuf,
}

/// What the source of a module offers.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Offer {
    attribute: String,
    factory: bool,
}

/// Checks an import string as far as that can be done without importing anything.
pub(crate) fn check(target: &str, factory: bool, folder: &Path) -> Result<Application, String> {
    let (module, attribute) = split(target, folder)?;
    let identifier = |part: &str| {
        let mut characters = part.chars();
        characters
            .next()
            .is_some_and(|c| c.is_alphabetic() || c == '_')
            && characters.all(|c| c.is_alphanumeric() || c == '_')
    };
    for (what, text) in [("module", module), ("attribute", attribute)] {
        if !text.split('.').all(identifier) {
            return Err(format!(
                "`{text}` cannot be the name of a Python {what} (in the application `{target}`).\n  \
                 An application is given as MODULE:ATTRIBUTE, such as `main:app`."
            ));
        }
    }
    if let Some(reason) = certainly_missing(module, folder) {
        return Err(reason);
    }
    if let Some(file) = source_file(module, folder)
        && let Some(reason) = certainly_lacks(&file, module, attribute)
    {
        return Err(reason);
    }
    Ok(Application {
        target: target.to_owned(),
        factory,
        folder: folder.to_owned(),
    })
}

/// Module and attribute of an import string, with hints for what people write instead.
fn split<'a>(target: &'a str, folder: &Path) -> Result<(&'a str, &'a str), String> {
    let (path, attribute) = match target.split_once(':') {
        Some((module, attribute)) if !module.is_empty() && !attribute.is_empty() => {
            (module, Some(attribute))
        }
        Some(_) => {
            return Err(format!(
                "`{target}` is not an application: write MODULE:ATTRIBUTE, such as `main:app`."
            ));
        }
        None => (target, None),
    };
    let is_path = path.contains('/') || path.ends_with(".py");
    if let (false, Some(attribute)) = (is_path, attribute) {
        return Ok((path, attribute));
    }
    let stem = path
        .strip_suffix(".py")
        .unwrap_or(path)
        .trim_start_matches("./");
    let module = stem.trim_matches('/').replace('/', ".");
    let offers = source_file(&module, folder)
        .map(|file| offers(&file))
        .unwrap_or_default();
    let attribute = attribute
        .or_else(|| offers.first().map(|offer| offer.attribute.as_str()))
        .unwrap_or("app");
    let what = if is_path {
        "is a file, not an import string"
    } else {
        "names no attribute"
    };
    Err(format!(
        "`{target}` {what}: write MODULE:ATTRIBUTE. Did you mean `{module}:{attribute}`?"
    ))
}

/// Why a module cannot be there, when that is certain: its package is in the folder, and the
/// package has no such part. A missing top-level module may be installed somewhere.
fn certainly_missing(module: &str, folder: &Path) -> Option<String> {
    let (package, name) = module.rsplit_once('.')?;
    let place = folder.join(package.replace('.', "/"));
    if !place.join("__init__.py").is_file() {
        return None;
    }
    let init = read(&place.join("__init__.py"))?;
    let dynamic = ["__path__", "sys.modules", "__getattr__"]
        .iter()
        .any(|word| init.contains(word));
    let mut entries = fs::read_dir(&place).ok()?.flatten();
    let exists = entries.any(|entry| {
        let entry = entry.file_name();
        let entry = entry.to_string_lossy();
        entry == name
            || entry
                .strip_prefix(name)
                .is_some_and(|rest| rest.starts_with('.'))
    });
    (!exists && !dynamic).then(|| {
        format!(
            "there is no module `{module}`: the package {} has no {name}.py.\n  \
             Mend the name, or say with --app-dir where it is.",
            place.display()
        )
    })
}

/// Why a module cannot have an attribute, when that is certain.
fn certainly_lacks(file: &Path, module: &str, attribute: &str) -> Option<String> {
    let source = read(file)?;
    let first = attribute.split('.').next().unwrap_or(attribute);
    let word = |text: &str| {
        text.split(|c: char| !c.is_alphanumeric() && c != '_')
            .any(|word| word == first)
    };
    let dynamic = [
        "import *",
        "globals",
        "__getattr__",
        "exec",
        "vars(",
        "setattr",
        "__dict__",
    ];
    // One that raises has something better to say.
    let raises = source.lines().any(|line| line.starts_with("raise"));
    if word(&source) || raises || dynamic.iter().any(|word| source.contains(word)) {
        return None;
    }
    let file = file.display();
    let hint = match offers(Path::new(&file.to_string())).first() {
        Some(offer) if offer.factory => {
            format!(
                "Did you mean `{module}:{}` with --factory?",
                offer.attribute
            )
        }
        Some(offer) => format!("Did you mean `{module}:{}`?", offer.attribute),
        None => "Make the application there, as in `app = FastAPI()`, or name another.".to_owned(),
    };
    Some(format!(
        "the module `{module}` ({file}) has no `{attribute}`.\n  {hint}"
    ))
}

/// The application of a folder, when its import string was left out.
pub(crate) fn find(folder: &Path) -> Result<Application, String> {
    for candidate in CANDIDATES {
        let file = folder.join(candidate);
        let Some(offer) = offers(&file).into_iter().next() else {
            continue;
        };
        let (folder, module) = import_path(folder, candidate);
        let target = format!("{module}:{}", offer.attribute);
        return Ok(Application {
            target,
            factory: offer.factory,
            folder,
        });
    }
    Err(format!(
        "no application was named, and none was found in {}: there is no `app = FastAPI(…)` in \
         {} or the like.\n  Name it, as in `evener run main:app`, or say with --app-dir where it is.",
        folder.display(),
        CANDIDATES[..6].join(", "),
    ))
}

/// The folder to import from and the module's name, for a file of that folder. `src` is a
/// package only if it says so.
fn import_path(folder: &Path, candidate: &str) -> (PathBuf, String) {
    let module = candidate.strip_suffix(".py").unwrap_or(candidate);
    let module = module.strip_suffix("/__init__").unwrap_or(module);
    match module.strip_prefix("src/") {
        Some(inner) if !folder.join("src/__init__.py").exists() => {
            (folder.join("src"), inner.replace('/', "."))
        }
        _ => (folder.to_owned(), module.replace('/', ".")),
    }
}

/// The source file of a module, if it is in the folder.
fn source_file(module: &str, folder: &Path) -> Option<PathBuf> {
    let path = folder.join(module.replace('.', "/"));
    let file = path.with_extension("py");
    let package = path.join("__init__.py");
    if package.is_file() {
        Some(package)
    } else {
        file.is_file().then_some(file)
    }
}

fn read(file: &Path) -> Option<String> {
    let length = fs::metadata(file).ok()?.len();
    if length > SOURCE_BYTES_MAX {
        None
    } else {
        fs::read_to_string(file).ok()
    }
}

/// What a source file offers as an application, best first, by a look at the lines that begin at
/// the left margin.
fn offers(file: &Path) -> Vec<Offer> {
    let source = read(file).unwrap_or_default();
    let mut ranked: Vec<(usize, Offer)> = Vec::new();
    for line in source.lines() {
        let offer = |rank, name: &str, factory| {
            (
                rank,
                Offer {
                    attribute: name.to_owned(),
                    factory,
                },
            )
        };
        let definition = line
            .strip_prefix("async def ")
            .or_else(|| line.strip_prefix("def "));
        if let Some(name) = definition
            .and_then(|rest| rest.split('(').next())
            .map(str::trim)
        {
            match name {
                // A plain ASGI application is a coroutine function itself.
                "app" | "application" if line.starts_with("async ") => {
                    ranked.push(offer(0, name, false));
                }
                "create_app" | "make_app" | "build_app" | "get_app" => {
                    ranked.push(offer(3, name, true));
                }
                _ => {}
            }
            continue;
        }
        if line.starts_with("from ") || line.starts_with("import ") {
            let names = line.split_once("import ").map_or("", |(_, names)| names);
            let names = names.trim_matches(['(', ')']).split(',').map(str::trim);
            for name in names.map(|name| name.rsplit(" as ").next().unwrap_or(name)) {
                if name == "app" || name == "application" {
                    ranked.push(offer(2, name, false));
                }
            }
            continue;
        }
        let Some((left, right)) = line.split_once('=') else {
            continue;
        };
        let name = left.split(':').next().unwrap_or(left).trim();
        let is_name = !name.is_empty() && name.chars().all(|c| c.is_alphanumeric() || c == '_');
        if !is_name || left.starts_with(char::is_whitespace) || right.starts_with('=') {
            continue;
        }
        let call = right.trim_start();
        let made = [
            "FastAPI(",
            "Starlette(",
            "Litestar(",
            "Quart(",
            "fastapi.FastAPI(",
        ];
        match name {
            "app" | "application" => ranked.push(offer(0, name, false)),
            _ if made.iter().any(|made| call.starts_with(made)) => {
                ranked.push(offer(1, name, false));
            }
            _ => {}
        }
    }
    ranked.sort_by_key(|(rank, _)| *rank);
    ranked.into_iter().map(|(_, offer)| offer).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str, files: &[(&str, &str)]) -> Folder {
            let folder =
                std::env::temp_dir().join(format!("evener-find-{name}-{}", std::process::id()));
            fs::create_dir_all(&folder).unwrap();
            for (path, text) in files {
                let path = folder.join(path);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, text).unwrap();
            }
            Folder(folder)
        }

        fn found(&self) -> (String, bool, PathBuf) {
            let found = find(&self.0).unwrap();
            let folder = found.folder.strip_prefix(&self.0).unwrap().to_owned();
            (found.target, found.factory, folder)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).unwrap();
        }
    }

    #[test]
    fn applications_are_found_where_people_put_them() {
        for (name, file, source, target, factory, inside) in [
            (
                "a",
                "main.py",
                "from fastapi import FastAPI\napp = FastAPI()\n",
                "main:app",
                false,
                "",
            ),
            (
                "b",
                "app.py",
                "application: FastAPI = FastAPI(\n",
                "app:application",
                false,
                "",
            ),
            (
                "c",
                "app/main.py",
                "api = FastAPI(title='x')\n",
                "app.main:api",
                false,
                "",
            ),
            (
                "d",
                "src/main.py",
                "app = build()\n",
                "main:app",
                false,
                "src",
            ),
            (
                "e",
                "main.py",
                "def create_app() -> FastAPI:\n",
                "main:create_app",
                true,
                "",
            ),
            (
                "f",
                "app/__init__.py",
                "from .core import app\n",
                "app:app",
                false,
                "",
            ),
            (
                "g",
                "main.py",
                "async def app(scope, receive, send):\n",
                "main:app",
                false,
                "",
            ),
        ] {
            let folder = Folder::new(name, &[(file, source)]);
            let expected = (target.to_owned(), factory, PathBuf::from(inside));
            assert_eq!(folder.found(), expected, "{file}: {source}");
        }
    }

    #[test]
    fn what_is_no_application_is_not_taken_for_one() {
        let source =
            "    app = 1\nif app == 2:\n    pass\n# app = FastAPI()\ndef app():\n    pass\n";
        let folder = Folder::new("none", &[("main.py", source)]);
        assert!(find(&folder.0).unwrap_err().contains("main.py"));
    }

    #[test]
    fn a_package_src_is_imported_as_one() {
        let files = [
            ("src/__init__.py", ""),
            ("src/main.py", "app = FastAPI()\n"),
        ];
        let folder = Folder::new("src", &files);
        assert_eq!(folder.found().0, "src.main:app");
    }

    #[test]
    fn what_people_write_instead_gets_a_hint() {
        let folder = Folder::new(
            "hints",
            &[
                ("main.py", "api = FastAPI()\n"),
                ("app/__init__.py", ""),
                ("app/main.py", "app = FastAPI()\n"),
            ],
        );
        for (typed, hint) in [
            ("main.py", "`main:api`"),
            ("./app/main.py", "`app.main:app`"),
            ("app/main.py:app", "`app.main:app`"),
            ("main", "`main:api`"),
            ("main:app", "`main:api`"),
            ("app.mian:app", "no mian.py"),
            ("main:", "MODULE:ATTRIBUTE"),
            ("main:my-app", "`my-app`"),
        ] {
            let error = check(typed, false, &folder.0).unwrap_err();
            assert!(error.contains(hint), "{typed}: {error}");
        }
        for fine in [
            "main:api",
            "main:api.inner",
            "app.main:app",
            "installed_elsewhere:app",
        ] {
            assert!(check(fine, false, &folder.0).is_ok(), "{fine}");
        }
    }
}
