//! A log file that can be opened again under the same name, after it was moved away.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// A file that lines are added to; clones write to the same one.
#[derive(Debug, Clone)]
pub struct LogFile {
    path: Arc<PathBuf>,
    file: Arc<Mutex<File>>,
}

impl LogFile {
    /// Opens or creates it. The error names it.
    pub fn open(path: &Path) -> Result<LogFile, String> {
        let file = open(path)?;
        Ok(LogFile {
            path: Arc::new(path.to_owned()),
            file: Arc::new(Mutex::new(file)),
        })
    }

    /// Goes on in the file that has this name now. If there can be none, the old one stays.
    pub fn reopen(&self) -> Result<(), String> {
        let file = open(&self.path)?;
        *self.file.lock().unwrap_or_else(PoisonError::into_inner) = file;
        Ok(())
    }
}

fn open(path: &Path) -> Result<File, String> {
    OpenOptions::new()
        .append(true)
        .create(true)
        .open(path)
        .map_err(|error| format!("cannot open the log file {}: {error}", path.display()))
}

impl Write for LogFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        (&*file).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_follows_its_name_when_opened_again() {
        let path = std::env::temp_dir().join(format!("evener-log-{}", std::process::id()));
        let moved = path.with_extension("1");
        let mut file = LogFile::open(&path).unwrap();
        file.write_all(b"one\n").unwrap();
        std::fs::rename(&path, &moved).unwrap();
        file.clone().write_all(b"two\n").unwrap();
        file.reopen().unwrap();
        file.write_all(b"three\n").unwrap();
        assert_eq!(std::fs::read_to_string(&moved).unwrap(), "one\ntwo\n");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "three\n");
        for path in [&path, &moved] {
            std::fs::remove_file(path).unwrap();
        }
        assert!(LogFile::open(Path::new("/nowhere/log")).is_err());
    }
}
