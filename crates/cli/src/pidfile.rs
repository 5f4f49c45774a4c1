//! The file that holds the program's process id, written and removed as gunicorn does.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// A file with our process id; removed when dropped, if it is still ours.
#[derive(Debug)]
pub(crate) struct Pidfile {
    path: PathBuf,
    created: bool,
}

impl Pidfile {
    /// A file that does not exist yet.
    pub(crate) fn new(path: PathBuf) -> Pidfile {
        let created = false;
        Pidfile { path, created }
    }

    /// Writes it; an error if it names another process that runs.
    pub(crate) fn create(&mut self) -> Result<(), String> {
        let own = std::process::id();
        if let Some(pid) = read(&self.path)
            && pid != own
            && Path::new(&format!("/proc/{pid}")).exists()
        {
            return Err(format!(
                "already running as process {pid}: its pid file is {}",
                self.path.display()
            ));
        }
        self.write(own).map_err(|error| {
            let path = self.path.display();
            format!("cannot write the pid file {path}: {error}")
        })
    }

    /// Gives the file another name: that of a program whose place we take.
    pub(crate) fn rename(&mut self, path: PathBuf) -> Result<(), String> {
        self.remove();
        self.path = path;
        self.create()
    }

    fn remove(&mut self) {
        if self.created && read(&self.path) == Some(std::process::id()) {
            // It may be gone already.
            let _ = fs::remove_file(&self.path);
        }
        self.created = false;
    }

    /// In one step, so that nobody reads half of it.
    fn write(&mut self, pid: u32) -> io::Result<()> {
        let beside = self.path.with_extension(format!("{pid}"));
        let mut file = fs::File::create(&beside)?;
        writeln!(file, "{pid}")?;
        fs::rename(&beside, &self.path)?;
        self.created = true;
        Ok(())
    }
}

impl Drop for Pidfile {
    fn drop(&mut self) {
        self.remove();
    }
}

fn read(path: &Path) -> Option<u32> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_written_guarded_and_removed() {
        let path = std::env::temp_dir().join(format!("evener-pid-{}", std::process::id()));
        fs::write(&path, "1\n").unwrap();
        let mut file = Pidfile::new(path.clone());
        let error = file.create().unwrap_err();
        assert!(error.contains("process 1"), "{error}");
        fs::write(&path, "4194999\n").unwrap();
        file.create().unwrap();
        assert_eq!(read(&path), Some(std::process::id()));
        let moved = path.with_extension("moved");
        file.rename(moved.clone()).unwrap();
        assert_eq!(read(&moved), Some(std::process::id()));
        assert!(!path.exists());
        drop(file);
        assert!(!moved.exists());
    }

    #[test]
    fn somebody_elses_is_left_alone() {
        let path = std::env::temp_dir().join(format!("evener-pid2-{}", std::process::id()));
        let mut file = Pidfile::new(path.clone());
        file.create().unwrap();
        fs::write(&path, "1\n").unwrap();
        drop(file);
        assert!(path.exists());
        fs::remove_file(&path).unwrap();
    }
}
