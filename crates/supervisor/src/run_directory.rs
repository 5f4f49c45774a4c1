//! The private directory that holds the workers' sockets: nobody else may enter it, it goes away
//! with the program, and what a killed program left behind is cleared by the next one. Whether a
//! program lives is told by its lock on the directory: in another container that shares the parent,
//! its process id means nothing.

use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

const PREFIX: &str = "evener-run-";
/// A unix socket's path must fit into 107 bytes; this leaves room for its name.
const PATH_BYTES_MAX: usize = 80;

/// A directory of mode 0700, removed when dropped.
#[derive(Debug)]
pub struct RunDirectory {
    path: PathBuf,
    /// Locked for as long as we live.
    _lock: fs::File,
}

impl RunDirectory {
    /// Makes a directory of our own below `parent`, or below `/tmp` when `parent` is too long
    /// for socket paths, and removes those of programs of ours that are no more.
    pub fn create(parent: &Path) -> io::Result<RunDirectory> {
        let short = parent.as_os_str().len() + PREFIX.len() + 16 <= PATH_BYTES_MAX;
        let parent = if short { parent } else { Path::new("/tmp") };
        remove_abandoned(parent);
        let mut attempt = 0;
        loop {
            let path = parent.join(format!("{PREFIX}{}-{attempt}", std::process::id()));
            match fs::DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => match lock(&path) {
                    Some(lock) => return Ok(RunDirectory { path, _lock: lock }),
                    // Somebody took it for abandoned before it was locked.
                    None => attempt += 1,
                },
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists && attempt < 100 => {
                    attempt += 1;
                }
                Err(error) => {
                    let message =
                        format!("cannot make the run directory {}: {error}", path.display());
                    return Err(io::Error::new(error.kind(), message));
                }
            }
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for RunDirectory {
    fn drop(&mut self) {
        // If it cannot be removed now, the next program does it.
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// Locks a directory, unless somebody else has done so, or has removed it.
fn lock(path: &Path) -> Option<fs::File> {
    let file = fs::File::open(path).ok()?;
    // SAFETY: plain numbers; the descriptor is open for as long as `file` lives.
    if unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } != 0 {
        return None;
    }
    let (ours, there) = (file.metadata().ok()?, fs::symlink_metadata(path).ok()?);
    (ours.ino() == there.ino()).then_some(file)
}

/// Removes directories of ours whose process is no more. Best effort.
fn remove_abandoned(parent: &Path) {
    let Ok(owner) = fs::metadata("/proc/self").map(|metadata| metadata.uid()) else {
        return;
    };
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let pid = name
            .to_str()
            .and_then(|name| name.strip_prefix(PREFIX))
            .and_then(|rest| rest.split('-').next())
            .and_then(|pid| pid.parse::<u32>().ok());
        let Some(pid) = pid else { continue };
        let ours = fs::symlink_metadata(entry.path())
            .is_ok_and(|metadata| metadata.is_dir() && metadata.uid() == owner);
        if ours
            && !Path::new(&format!("/proc/{pid}")).exists()
            && let Some(_lock) = lock(&entry.path())
        {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn it_is_private_and_goes_away_and_clears_what_others_left() {
        let parent = std::env::temp_dir().join(format!("evener-test-{}", std::process::id()));
        fs::create_dir_all(&parent).unwrap();
        // No process has this number: it is above the kernel's limit.
        let abandoned = parent.join("evener-run-4194999-0");
        fs::create_dir(&abandoned).unwrap();
        // Nor has this one, as we see it; but in another container it lives.
        let elsewhere = parent.join("evener-run-4194998-0");
        fs::create_dir(&elsewhere).unwrap();
        let alive = lock(&elsewhere).unwrap();
        let directory = RunDirectory::create(&parent).unwrap();
        let second = RunDirectory::create(&parent).unwrap();
        assert_ne!(directory.path(), second.path());
        assert!(!abandoned.exists());
        assert!(elsewhere.exists());
        drop(alive);
        drop(RunDirectory::create(&parent).unwrap());
        assert!(!elsewhere.exists());
        let mode = fs::metadata(directory.path()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        let path = directory.path().to_owned();
        drop(directory);
        drop(second);
        assert!(!path.exists());
        fs::remove_dir(&parent).unwrap();
    }

    #[test]
    fn a_long_parent_is_not_used() {
        let parent = std::env::temp_dir().join("x".repeat(90));
        let directory = RunDirectory::create(&parent).unwrap();
        assert!(directory.path().starts_with("/tmp"));
    }
}
