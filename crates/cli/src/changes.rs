//! `--reload`: watches folders for changed files and says, once they have settled, what changed.

use std::path::{Path, PathBuf};

use notify::{EventKind, RecursiveMode, Watcher};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::resolve::ReloadSettings;

/// Folders whose files are made by programs, not by people.
const IGNORED_FOLDERS: [&str; 8] = [
    "__pycache__",
    ".git",
    ".venv",
    "venv",
    "node_modules",
    ".mypy_cache",
    ".pytest_cache",
    ".ruff_cache",
];

/// Changed files that matter; watching ends when this is dropped.
pub(crate) struct Changes {
    _watcher: notify::RecommendedWatcher,
    paths: mpsc::Receiver<PathBuf>,
    settings: ReloadSettings,
    /// What has changed, and when it counts as settled unless more changes.
    changed: Vec<PathBuf>,
    settled: Option<Instant>,
}

impl Changes {
    /// Watches the folders of the settings, or `application` when they name none.
    pub(crate) fn watch(settings: ReloadSettings, application: &Path) -> Result<Changes, String> {
        let (sender, paths) = mpsc::channel(1024);
        let (includes, excludes) = (settings.includes.clone(), settings.excludes.clone());
        let handler = move |event: notify::Result<notify::Event>| {
            let Ok(event) = event else { return };
            if matches!(event.kind, EventKind::Access(_)) {
                return;
            }
            for path in event.paths {
                if matters(&path, &includes, &excludes) {
                    // A full queue means that a reload is due anyway.
                    let _ = sender.try_send(path);
                }
            }
        };
        let mut watcher = notify::recommended_watcher(handler)
            .map_err(|error| format!("--reload: cannot watch files: {error}"))?;
        let own = [application.to_owned()];
        let folders = if settings.folders.is_empty() {
            &own[..]
        } else {
            &settings.folders
        };
        for folder in folders {
            watcher
                .watch(folder, RecursiveMode::Recursive)
                .map_err(|error| format!("--reload: cannot watch {}: {error}", folder.display()))?;
        }
        Ok(Changes {
            _watcher: watcher,
            paths,
            settings,
            changed: Vec::new(),
            settled: None,
        })
    }

    /// Waits for a change and for quiet after it; returns the files, each once. Nothing is lost
    /// when the future is dropped, as it is whenever something else happens.
    pub(crate) async fn next(&mut self) -> Vec<PathBuf> {
        loop {
            let path = match self.settled {
                None => self.paths.recv().await,
                Some(settled) => match tokio::time::timeout_at(settled, self.paths.recv()).await {
                    Ok(path) => path,
                    Err(_) => {
                        self.settled = None;
                        return std::mem::take(&mut self.changed);
                    }
                },
            };
            let Some(path) = path else {
                return std::future::pending().await;
            };
            self.settled = Some(Instant::now() + self.settings.delay);
            if !self.changed.contains(&path) {
                self.changed.push(path);
            }
        }
    }
}

fn matters(path: &Path, includes: &[String], excludes: &[String]) -> bool {
    let ignored = path.components().any(|part| {
        part.as_os_str()
            .to_str()
            .is_some_and(|name| IGNORED_FOLDERS.contains(&name))
    });
    let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
        return false;
    };
    let whole = path.to_string_lossy();
    let any = |patterns: &[String]| {
        patterns.iter().any(|pattern| {
            let text = if pattern.contains('/') {
                whole.as_ref()
            } else {
                name
            };
            glob(pattern.as_bytes(), text.as_bytes())
        })
    };
    !ignored && any(includes) && !any(excludes)
}

/// Shell wildcards: `*` stands for any text, `?` for one byte.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    // Where to go on when the present attempt fails: after the last `*`, one byte further.
    let (mut at, mut read, mut again) = (0, 0, None);
    while read < text.len() {
        match pattern.get(at) {
            Some(b'*') => {
                again = Some((at + 1, read));
                at += 1;
            }
            Some(b'?') => (at, read) = (at + 1, read + 1),
            Some(byte) if *byte == text[read] => (at, read) = (at + 1, read + 1),
            _ => match again {
                Some((after, from)) => {
                    again = Some((after, from + 1));
                    (at, read) = (after, from + 1);
                }
                None => return false,
            },
        }
    }
    pattern[at..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn wildcards() {
        for (pattern, text) in [
            ("*.py", "a.py"),
            ("a?c", "abc"),
            ("*a*b", "xxaxxab"),
            ("*", ""),
        ] {
            assert!(
                glob(pattern.as_bytes(), text.as_bytes()),
                "{pattern} {text}"
            );
        }
        for (pattern, text) in [("*.py", "a.pyc"), ("a?c", "ac"), ("", "a"), ("*a*b", "ba")] {
            assert!(
                !glob(pattern.as_bytes(), text.as_bytes()),
                "{pattern} {text}"
            );
        }
    }

    #[test]
    fn only_sources_matter() {
        let (includes, excludes) = (["*.py".to_owned()], ["test_*".to_owned()]);
        let check = |path: &str| matters(Path::new(path), &includes, &excludes);
        assert!(check("/x/main.py"));
        assert!(!check("/x/main.txt"));
        assert!(!check("/x/__pycache__/main.py"));
        assert!(!check("/x/.venv/lib/a.py"));
        assert!(!check("/x/test_main.py"));
    }

    #[tokio::test]
    async fn a_changed_file_is_named_once() {
        let folder = std::env::temp_dir().join(format!("evener-changes-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let folder = folder.canonicalize().unwrap();
        let settings = ReloadSettings {
            folders: Vec::new(),
            includes: vec!["*.py".to_owned()],
            excludes: Vec::new(),
            delay: Duration::from_millis(100),
        };
        let mut changes = Changes::watch(settings, &folder).unwrap();
        std::fs::write(folder.join("notes.txt"), "x").unwrap();
        std::fs::write(folder.join("main.py"), "a = 1\n").unwrap();
        std::fs::write(folder.join("main.py"), "a = 2\n").unwrap();
        // Something else goes on all the time, as in a running program.
        let mut ticks = tokio::time::interval(Duration::from_millis(10));
        let changed = async {
            loop {
                tokio::select! {
                    changed = changes.next() => return changed,
                    _ = ticks.tick() => {}
                }
            }
        };
        let changed = tokio::time::timeout(Duration::from_secs(20), changed)
            .await
            .unwrap();
        assert_eq!(changed, [folder.join("main.py")]);
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
