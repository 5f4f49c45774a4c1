//! Where the admin socket is, and how it is made: in a folder that only its owner may enter,
//! replacing what a dead program left and never a living one's.

use std::env;
use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use tokio::net::{UnixListener, UnixStream};

/// The longest path of a unix socket, one less than its buffer.
const PATH_BYTES_MAX: usize = 107;

/// Why the admin socket cannot be made.
#[derive(Debug)]
pub enum SocketError {
    /// Another program serves it.
    InUse {
        /// The socket.
        path: PathBuf,
        /// The other program, if the system tells.
        pid: Option<i32>,
    },
    /// The path is too long for a unix socket.
    TooLong(PathBuf),
    /// The folder belongs to somebody else.
    ForeignFolder(PathBuf),
    /// The system refused.
    System(PathBuf, io::Error),
}

impl fmt::Display for SocketError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SocketError::InUse { path, pid } => {
                let path = path.display();
                write!(
                    formatter,
                    "the admin socket {path} is in use by another evener"
                )?;
                if let Some(pid) = pid {
                    write!(formatter, " (process {pid})")?;
                }
                write!(
                    formatter,
                    ": give this one another --name, or stop that one"
                )
            }
            SocketError::TooLong(path) => write!(
                formatter,
                "the path of the admin socket is longer than {PATH_BYTES_MAX} bytes: {}; give a \
                 shorter one with --admin",
                path.display()
            ),
            SocketError::ForeignFolder(path) => write!(
                formatter,
                "the folder {} is not ours alone: it must belong to the current user and be \
                 closed to others (mode 0700); give another path with --admin",
                path.display()
            ),
            SocketError::System(path, error) => {
                write!(
                    formatter,
                    "cannot make the admin socket {}: {error}",
                    path.display()
                )
            }
        }
    }
}

impl std::error::Error for SocketError {}

/// The folder of the admin sockets: `$XDG_RUNTIME_DIR/evener`, `/run/evener` for root, else one
/// below `/tmp` that carries the user's number.
pub fn socket_directory() -> PathBuf {
    let runtime = env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    if let Some(runtime) = runtime.filter(|path| path.is_absolute() && path.is_dir()) {
        return runtime.join("evener");
    }
    match user() {
        0 if Path::new("/run").is_dir() => PathBuf::from("/run/evener"),
        user => PathBuf::from(format!("/tmp/evener-{user}")),
    }
}

/// The socket of the program with this name.
pub fn socket_path(name: &str) -> PathBuf {
    socket_directory().join(format!("{name}.sock"))
}

fn user() -> u32 {
    // The owner of our own entry is the effective user.
    fs::metadata("/proc/self").map_or(u32::MAX, |metadata| metadata.uid())
}

/// A listening admin socket; its file is removed when it is dropped.
#[derive(Debug)]
pub struct AdminSocket {
    path: PathBuf,
    inode: u64,
}

impl AdminSocket {
    /// Listens at `path`. With `own_folder`, the folder is made when it is missing and must be
    /// ours alone; a folder that the user chose is taken as it is.
    pub async fn bind(
        path: &Path,
        own_folder: bool,
    ) -> Result<(AdminSocket, UnixListener), SocketError> {
        let system = |error| SocketError::System(path.to_owned(), error);
        let temporary = path.with_extension(format!("{}.new", std::process::id()));
        if temporary.as_os_str().len() > PATH_BYTES_MAX {
            return Err(SocketError::TooLong(path.to_owned()));
        }
        if own_folder && let Some(folder) = path.parent() {
            make_folder(folder)?;
        }
        if let Ok(stream) = UnixStream::connect(path).await {
            let pid = stream.peer_cred().ok().and_then(|peer| peer.pid());
            return Err(SocketError::InUse {
                path: path.to_owned(),
                pid,
            });
        }
        let _ = fs::remove_file(&temporary);
        let listener = UnixListener::bind(&temporary).map_err(system)?;
        // Closed to others before it has the name by which it is found.
        let placed = fs::set_permissions(&temporary, fs::Permissions::from_mode(0o600))
            .and_then(|()| fs::metadata(&temporary))
            .and_then(|metadata| fs::rename(&temporary, path).map(|()| metadata.ino()));
        match placed {
            Ok(inode) => Ok((
                AdminSocket {
                    path: path.to_owned(),
                    inode,
                },
                listener,
            )),
            Err(error) => {
                let _ = fs::remove_file(&temporary);
                Err(system(error))
            }
        }
    }

    /// Moves it to the place of one that is gone.
    pub fn rename(&mut self, path: PathBuf) -> io::Result<()> {
        fs::rename(&self.path, &path)?;
        self.path = path;
        Ok(())
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for AdminSocket {
    fn drop(&mut self) {
        // By now the name may be another program's.
        if fs::metadata(&self.path).is_ok_and(|metadata| metadata.ino() == self.inode) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn make_folder(folder: &Path) -> Result<(), SocketError> {
    let system = |error| SocketError::System(folder.to_owned(), error);
    match fs::DirBuilder::new().mode(0o700).create(folder) {
        Ok(()) => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(system(error)),
    }
    let metadata = fs::symlink_metadata(folder).map_err(system)?;
    let ours = metadata.is_dir() && metadata.uid() == user();
    if ours && metadata.mode() & 0o077 == 0 {
        Ok(())
    } else {
        Err(SocketError::ForeignFolder(folder.to_owned()))
    }
}
