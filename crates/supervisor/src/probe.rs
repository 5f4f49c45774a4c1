//! When a worker is ready: a command when it has answered HTTP on its socket, Evener's own
//! worker when it says so on its pipe. How long that may take is left to `lifecycle`.

use std::io;
use std::path::Path;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::pipe;

/// Asked of a command worker. `OPTIONS *` concerns the server, not a resource, so applications
/// have no side effects for it; any answer will do.
const QUESTION: &[u8] = b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\nUser-Agent: evener-probe\r\n\
    Content-Length: 0\r\nConnection: close\r\n\r\n";
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_millis(100);

/// What a worker said about its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    /// It can take traffic.
    Ready,
    /// It cannot start.
    Failed,
}

/// Asks until the worker on `socket` answers; never ends if it never does.
pub(crate) async fn command(socket: &Path) -> Answer {
    let mut pause = FIRST_PAUSE;
    loop {
        if ask(socket).await.unwrap_or(false) {
            return Answer::Ready;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 3 / 2).min(LONGEST_PAUSE);
    }
}

/// Asks once. True for any HTTP status line.
async fn ask(socket: &Path) -> io::Result<bool> {
    let mut stream = UnixStream::connect(socket).await?;
    stream.write_all(QUESTION).await?;
    let mut start = [0; 13];
    stream.read_exact(&mut start).await?;
    let status = &start[9..12];
    let answered = start.starts_with(b"HTTP/1.") && status.iter().all(u8::is_ascii_digit);
    // The rest is read so that the worker does not see a reset; it is small, and its end comes
    // with the connection's.
    let (mut stream, mut rest) = (stream.take(64 * 1024), Vec::new());
    let reading = stream.read_to_end(&mut rest);
    let _ = tokio::time::timeout(Duration::from_secs(1), reading).await;
    Ok(answered)
}

/// Listens for `ready` or `failed`. A pipe that closes without a word means `failed`.
pub(crate) async fn pipe(mut pipe: pipe::Receiver) -> Answer {
    let mut said = Vec::new();
    let mut chunk = [0; 64];
    loop {
        match pipe.read(&mut chunk).await {
            Ok(0) | Err(_) => return Answer::Failed,
            Ok(length) => said.extend_from_slice(&chunk[..length]),
        }
        if let Some(end) = said.iter().position(|byte| *byte == b'\n') {
            let ready = said[..end].trim_ascii() == b"ready";
            return if ready { Answer::Ready } else { Answer::Failed };
        }
        if said.len() > 256 {
            return Answer::Failed;
        }
    }
}
