//! The file that a path means below a folder, and nothing outside of it.
//!
//! A path is taken apart here and looked up by the kernel from the folder on (`openat2`), which
//! refuses whatever would lead out, be it through a link that somebody moves at the same moment.
//! Where the kernel cannot do that, no symbolic link is followed at all.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::time::UNIX_EPOCH;

use evener_config::{Coding, Files, Symlinks};
use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;

use crate::media::media_type;

/// What is at a path.
#[derive(Debug)]
pub enum Found {
    /// A file.
    File(Opened),
    /// A folder that was asked for without the final `/`, and for which something stands.
    Folder,
    /// Nothing, or nothing that is served.
    Missing,
}

/// A file that can be sent.
#[derive(Debug)]
pub struct Opened {
    /// It.
    pub file: File,
    /// Its length in bytes.
    pub length: u64,
    /// When it was changed, in seconds since 1970.
    pub modified: u64,
    /// Its entity tag.
    pub tag: Vec<u8>,
    /// Its media type, that of the content before coding.
    pub media: String,
    /// The coding it lies ready in.
    pub coding: Option<Coding>,
    /// Whether it lies ready in any coding.
    pub is_negotiated: bool,
}

/// Looks for what a path means, which is in its normal form and decoded. `choose` says which of
/// the codings that are there the client likes best.
pub fn find(
    files: &Files,
    path: &[u8],
    choose: &mut dyn FnMut(&[Coding]) -> Option<Coding>,
) -> Found {
    let Some(root) = open_root(files) else {
        return Found::Missing;
    };
    match look(files, &root, path, choose) {
        Found::Missing => match &files.fallback {
            Some(fallback) => match look(files, &root, fallback.as_bytes(), choose) {
                Found::File(file) => Found::File(file),
                _ => Found::Missing,
            },
            None => Found::Missing,
        },
        found => found,
    }
}

fn look(
    files: &Files,
    root: &OwnedFd,
    path: &[u8],
    choose: &mut dyn FnMut(&[Coding]) -> Option<Coding>,
) -> Found {
    let Some(name) = relative(path, files.hidden) else {
        return Found::Missing;
    };
    let is_folder = name.is_empty() || name.ends_with('/');
    if !is_folder {
        return match open(files, root, &name) {
            Some(file) => match file.metadata() {
                Ok(metadata) if metadata.is_dir() => match has_index(files, root, &name) {
                    true => Found::Folder,
                    false => Found::Missing,
                },
                Ok(metadata) if metadata.is_file() => {
                    opened(files, root, &name, file, choose).map_or(Found::Missing, Found::File)
                }
                _ => Found::Missing,
            },
            None => Found::Missing,
        };
    }
    for index in &files.index {
        let name = format!("{name}{index}");
        if let Some(file) = open(files, root, &name)
            && file.metadata().is_ok_and(|metadata| metadata.is_file())
            && let Some(opened) = opened(files, root, &name, file, choose)
        {
            return Found::File(opened);
        }
    }
    Found::Missing
}

/// Whether something stands for a folder.
fn has_index(files: &Files, root: &OwnedFd, name: &str) -> bool {
    files.index.iter().any(|index| {
        let file = open(files, root, &format!("{name}/{index}"));
        file.is_some_and(|file| file.metadata().is_ok_and(|metadata| metadata.is_file()))
    })
}

/// A path as a name below the root; `None` if it cannot be one that is served.
fn relative(path: &[u8], hidden: bool) -> Option<String> {
    let text = std::str::from_utf8(path).ok()?.strip_prefix('/')?;
    if text.contains('\0') {
        return None;
    }
    let mut parts = text.split('/').peekable();
    while let Some(part) = parts.next() {
        let last = parts.peek().is_none();
        let dotted = part.starts_with('.') && part != ".well-known";
        if part == "." || part == ".." || part.is_empty() && !last || dotted && !hidden {
            return None;
        }
    }
    Some(text.to_owned())
}

fn open_root(files: &Files) -> Option<OwnedFd> {
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
    rustix::fs::open(&files.root, flags, Mode::empty()).ok()
}

/// Opens a name below the root for reading. Whatever the name means, this waits for nobody.
fn open(files: &Files, root: &OwnedFd, name: &str) -> Option<File> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let name = name.trim_end_matches('/');
    let within = match files.symlinks {
        Symlinks::Follow => {
            let opened = rustix::fs::openat(root, name, flags, Mode::empty());
            return opened.ok().map(File::from);
        }
        Symlinks::Within => ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS,
        Symlinks::Never => ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS,
    };
    match openat2(root, name, flags, Mode::empty(), within) {
        Ok(file) => Some(File::from(file)),
        Err(Errno::NOSYS | Errno::PERM) => walk(root, name, flags),
        Err(_) => None,
    }
}

/// Opens a name component by component, following no link.
fn walk(root: &OwnedFd, name: &str, flags: OFlags) -> Option<File> {
    let mut folder: Option<OwnedFd> = None;
    let mut parts = name.split('/').peekable();
    while let Some(part) = parts.next() {
        let from = folder
            .as_ref()
            .map_or(root.as_fd(), |folder| folder.as_fd());
        let last = parts.peek().is_none();
        let kind = if last {
            flags
        } else {
            flags | OFlags::DIRECTORY
        };
        let opened = rustix::fs::openat(from, part, kind | OFlags::NOFOLLOW, Mode::empty()).ok()?;
        if last {
            return Some(File::from(opened));
        }
        folder = Some(opened);
    }
    None
}

/// A file, or what lies ready beside it in a coding that the client likes better.
fn opened(
    files: &Files,
    root: &OwnedFd,
    name: &str,
    file: File,
    choose: &mut dyn FnMut(&[Coding]) -> Option<Coding>,
) -> Option<Opened> {
    let media = media_type(name, &files.types).to_owned();
    let mut ready: Vec<(Coding, File)> = Vec::new();
    for coding in &files.precompressed {
        let sibling = format!("{name}{}", coding.extension());
        if let Some(file) = open(files, root, &sibling)
            && file.metadata().is_ok_and(|metadata| metadata.is_file())
        {
            ready.push((*coding, file));
        }
    }
    let codings: Vec<Coding> = ready.iter().map(|(coding, _)| *coding).collect();
    let is_negotiated = !codings.is_empty();
    let coding = if is_negotiated {
        choose(&codings)
    } else {
        None
    };
    let chosen = ready.into_iter().find(|(one, _)| Some(*one) == coding);
    let (coding, file) = match chosen {
        Some((coding, file)) => (Some(coding), file),
        None => (None, file),
    };
    let metadata = file.metadata().ok()?;
    let since = metadata.modified().ok()?.duration_since(UNIX_EPOCH);
    let since = since.unwrap_or_default();
    Some(Opened {
        length: metadata.len(),
        modified: since.as_secs(),
        tag: tag(since.as_nanos(), metadata.len(), coding),
        media,
        coding,
        is_negotiated,
        file,
    })
}

/// An entity tag: other bytes have another time of change or another length.
fn tag(modified_ns: u128, length: u64, coding: Option<Coding>) -> Vec<u8> {
    let coding = coding.map_or(String::new(), |coding| format!("-{}", coding.token()));
    format!("\"{modified_ns:x}-{length:x}{coding}\"").into_bytes()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Read;
    use std::os::unix::fs::symlink;

    use super::*;

    fn site() -> (tempfile::TempDir, Files) {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("site");
        for inner in ["", "sub", "empty", ".git", ".well-known"] {
            fs::create_dir_all(root.join(inner)).unwrap();
        }
        for name in [
            "index.html",
            "a.css",
            "a.css.gz",
            "a.css.br",
            "sub/index.html",
            ".git/config",
            ".well-known/x",
        ] {
            fs::write(root.join(name), name).unwrap();
        }
        fs::write(folder.path().join("secret"), "secret").unwrap();
        symlink("../secret", root.join("out")).unwrap();
        symlink("sub/../index.html", root.join("in")).unwrap();
        symlink(folder.path().join("secret"), root.join("absolute")).unwrap();
        symlink("..", root.join("up")).unwrap();
        symlink("/proc/self/root", root.join("sub/magic")).unwrap();
        let files = Files {
            root,
            ..Files::default()
        };
        (folder, files)
    }

    fn content(files: &Files, path: &str, likes: Option<Coding>) -> String {
        match find(files, path.as_bytes(), &mut |_| likes) {
            Found::File(mut opened) => {
                let mut text = String::new();
                opened.file.read_to_string(&mut text).unwrap();
                assert_eq!(text.len() as u64, opened.length);
                text
            }
            Found::Folder => "folder".to_owned(),
            Found::Missing => "missing".to_owned(),
        }
    }

    #[test]
    fn nothing_outside_the_folder_is_served() {
        let (_folder, files) = site();
        for (path, expected) in [
            ("/a.css", "a.css"),
            ("/", "index.html"),
            ("/sub/", "sub/index.html"),
            ("/sub", "folder"),
            ("/empty/", "missing"),
            ("/empty", "missing"),
            ("/a.css/", "missing"),
            ("/a.css/x", "missing"),
            ("/in", "index.html"),
            ("/out", "missing"),
            ("/absolute", "missing"),
            ("/up/secret", "missing"),
            ("/up/site/a.css", "missing"),
            ("/sub/magic/etc/passwd", "missing"),
            ("/../secret", "missing"),
            ("/sub/../../secret", "missing"),
            ("/sub//index.html", "missing"),
            ("/.git/config", "missing"),
            ("/.well-known/x", ".well-known/x"),
            ("/a.css\0", "missing"),
            ("a.css", "missing"),
            ("*", "missing"),
        ] {
            assert_eq!(content(&files, path, None), expected, "{path:?}");
        }
        let never = Files {
            symlinks: Symlinks::Never,
            hidden: true,
            ..files.clone()
        };
        assert_eq!(content(&never, "/in", None), "missing");
        assert_eq!(content(&never, "/.git/config", None), ".git/config");
        let follow = Files {
            symlinks: Symlinks::Follow,
            fallback: Some("/index.html".to_owned()),
            ..files
        };
        assert_eq!(content(&follow, "/out", None), "secret");
        assert_eq!(content(&follow, "/../secret", None), "index.html");
    }

    #[test]
    fn where_the_kernel_cannot_confine_no_link_is_followed() {
        let (_folder, files) = site();
        let root = open_root(&files).unwrap();
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let opens = |name| walk(&root, name, flags).is_some();
        assert!(opens("a.css") && opens("sub/index.html"));
        assert!(!opens("in") && !opens("out") && !opens("up/secret") && !opens("sub/magic/etc"));
    }

    #[test]
    fn what_lies_ready_is_chosen_by_the_client() {
        let (_folder, files) = site();
        assert_eq!(content(&files, "/a.css", Some(Coding::Brotli)), "a.css.br");
        assert_eq!(content(&files, "/a.css", Some(Coding::Gzip)), "a.css.gz");
        // It is not there in this one.
        assert_eq!(content(&files, "/a.css", Some(Coding::Zstd)), "a.css");
        let mut offered = Vec::new();
        let found = find(&files, b"/a.css", &mut |codings| {
            offered = codings.to_vec();
            Some(Coding::Gzip)
        });
        assert_eq!(offered, [Coding::Brotli, Coding::Gzip]);
        let Found::File(gzip) = found else {
            panic!("missing")
        };
        let Found::File(plain) = find(&files, b"/a.css", &mut |_| None) else {
            panic!("missing")
        };
        assert_ne!(gzip.tag, plain.tag);
        assert_eq!(gzip.media, "text/css; charset=utf-8");
        assert!(plain.is_negotiated && plain.coding.is_none());
    }
}
