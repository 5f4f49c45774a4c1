//! Bytes that lie on disk because there are too many of them for memory: files without a name, of
//! which the system leaves nothing behind, however they come to their end.
//!
//! They are written and read by the shard's own thread, in pieces of [`PIECE_BYTES`] at most. What
//! is read was written a moment ago and is still in the page cache; what is written goes there,
//! too, unless the disk is far behind. Who hands the pieces out sees to it that other connections
//! get their turn after a few.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use evener_config::Spill;
use rustix::fs::{Mode, OFlags};

/// Bytes read or written at once.
pub(crate) const PIECE_BYTES: usize = 256 * 1024;
/// Pieces of one connection before others get their turn: a mebibyte.
pub(crate) const PIECES_MAX: usize = 4;

/// The folder of the files, and how much all of them may hold.
#[derive(Debug, Default)]
pub struct SpillSpace {
    terms: Spill,
    used: AtomicU64,
}

impl SpillSpace {
    /// Nothing is used yet.
    pub fn new(terms: Spill) -> Arc<SpillSpace> {
        Arc::new(SpillSpace {
            terms,
            used: AtomicU64::new(0),
        })
    }

    /// On what terms it is used.
    pub fn terms(&self) -> &Spill {
        &self.terms
    }

    /// Bytes that lie in files now.
    pub fn used(&self) -> u64 {
        self.used.load(Relaxed)
    }

    /// Finds out whether files can be made in the folder.
    pub fn check(&self) -> io::Result<()> {
        nameless(&self.terms.directory).map(drop)
    }

    /// Takes so many bytes of what may be used.
    fn reserve(&self, bytes: u64) -> io::Result<()> {
        let most = self.terms.total.unwrap_or(u64::MAX);
        let reserved = self.used.fetch_update(Relaxed, Relaxed, |used| {
            used.checked_add(bytes).filter(|sum| *sum <= most)
        });
        match reserved {
            Ok(_) => Ok(()),
            Err(_) => Err(io::ErrorKind::QuotaExceeded.into()),
        }
    }

    fn give_back(&self, bytes: u64) {
        self.used.fetch_sub(bytes, Relaxed);
    }
}

/// A file that is written at its end and read anywhere.
#[derive(Debug)]
pub(crate) struct SpillFile {
    file: File,
    space: Arc<SpillSpace>,
    length: u64,
}

impl SpillFile {
    /// An empty file.
    pub(crate) fn new(space: &Arc<SpillSpace>) -> io::Result<SpillFile> {
        Ok(SpillFile {
            file: nameless(&space.terms.directory)?,
            space: space.clone(),
            length: 0,
        })
    }

    /// Its length in bytes.
    pub(crate) fn length(&self) -> u64 {
        self.length
    }

    /// Adds bytes at the end; after an error the file is as it was before.
    pub(crate) fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let count = bytes.len() as u64;
        self.space.reserve(count)?;
        if let Err(error) = self.file.write_all_at(bytes, self.length) {
            self.space.give_back(count);
            return Err(error);
        }
        self.length += count;
        Ok(())
    }

    /// Reads bytes from `at` on: as many as there are, if `buffer` has place for them.
    pub(crate) fn read(&self, buffer: &mut [u8], at: u64) -> io::Result<usize> {
        let rest = usize::try_from(self.length - at).unwrap_or(usize::MAX);
        let count = rest.min(buffer.len()).min(PIECE_BYTES);
        self.file.read_exact_at(&mut buffer[..count], at)?;
        Ok(count)
    }

    /// Forgets everything, and gives the space back.
    pub(crate) fn clear(&mut self) {
        // If it cannot be cut off, it is overwritten.
        let _ = self.file.set_len(0);
        self.space.give_back(std::mem::take(&mut self.length));
    }
}

impl Drop for SpillFile {
    fn drop(&mut self) {
        self.space.give_back(self.length);
    }
}

/// Whether an error says that there is no more place.
pub(crate) fn is_full(kind: io::ErrorKind) -> bool {
    use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    matches!(kind, StorageFull | QuotaExceeded | FileTooLarge)
}

/// A file that has no name; nobody else can open it.
fn nameless(directory: &Path) -> io::Result<File> {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::EXCL | OFlags::CLOEXEC;
    let mode = Mode::RUSR | Mode::WUSR;
    match rustix::fs::open(directory, flags, mode) {
        Ok(descriptor) => Ok(descriptor.into()),
        // A file system, or a kernel, that does not know such files.
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::ISDIR | rustix::io::Errno::INVAL) => {
            named_for_a_moment(directory)
        }
        Err(error) => Err(error.into()),
    }
}

/// A file whose name is taken away at once.
fn named_for_a_moment(directory: &Path) -> io::Result<File> {
    use std::hash::{BuildHasher, RandomState};
    for _ in 0..16 {
        let number = RandomState::new().hash_one(std::process::id());
        let path: PathBuf = directory.join(format!(".evener-{number:016x}"));
        let opened = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path);
        match opened {
            Ok(file) => {
                std::fs::remove_file(&path)?;
                return Ok(file);
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn space(total: Option<u64>) -> (tempfile::TempDir, Arc<SpillSpace>) {
        let folder = tempfile::tempdir().unwrap();
        let directory = folder.path().to_owned();
        (folder, SpillSpace::new(Spill { directory, total }))
    }

    #[test]
    fn what_is_written_is_read_and_leaves_no_name_behind() {
        let (folder, space) = space(None);
        for make in [nameless, named_for_a_moment] {
            let mut file = SpillFile {
                file: make(folder.path()).unwrap(),
                space: space.clone(),
                length: 0,
            };
            file.append(b"hello ").unwrap();
            file.append(b"world").unwrap();
            let mut buffer = [0; 64];
            assert_eq!(file.read(&mut buffer, 6).unwrap(), 5);
            assert_eq!(&buffer[..5], b"world");
            assert_eq!(file.read(&mut buffer[..4], 0).unwrap(), 4);
            assert_eq!(file.read(&mut buffer, 11).unwrap(), 0);
            assert_eq!(space.used(), 11);
            file.clear();
            assert_eq!((space.used(), file.length()), (0, 0));
            file.append(b"again").unwrap();
            assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        }
        assert_eq!(space.used(), 0, "files that are gone use nothing");
    }

    #[test]
    fn all_files_together_stay_within_the_total() {
        let (_folder, space) = space(Some(10));
        let mut one = SpillFile::new(&space).unwrap();
        let mut other = SpillFile::new(&space).unwrap();
        one.append(b"123456").unwrap();
        let error = other.append(b"12345").unwrap_err();
        assert!(is_full(error.kind()), "{error:?}");
        assert_eq!(other.length(), 0);
        other.append(b"1234").unwrap();
        drop(one);
        other.append(b"123456").unwrap();
        assert_eq!(space.used(), 10);
    }

    #[test]
    fn a_folder_that_is_not_there_is_found_out() {
        let (folder, space) = space(None);
        space.check().unwrap();
        drop(folder);
        assert_eq!(space.check().unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
