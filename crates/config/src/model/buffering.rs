//! Bodies that are kept until the other side can take them.

use std::path::PathBuf;

/// What of requests and responses is kept. Both are off by default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Buffering {
    /// The whole body of a request is there before an endpoint is asked for.
    pub requests: Option<RequestBuffer>,
    /// A response is read as fast as its endpoint sends it.
    pub responses: Option<ResponseBuffer>,
}

/// How much of a request body is kept where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestBuffer {
    /// Bytes in memory; those beyond it lie in a file.
    pub memory: usize,
}

/// How much of a response is kept where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResponseBuffer {
    /// Bytes in memory; those beyond it lie in a file.
    pub memory: usize,
    /// Length of the file in bytes, above which the endpoint waits; 0 is no file.
    pub file: u64,
}

impl Buffering {
    /// Whether bytes may go to a file.
    pub fn may_spill(&self) -> bool {
        self.requests.is_some() || self.responses.is_some_and(|terms| terms.file > 0)
    }
}

/// Where bytes lie that are kept and do not fit in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spill {
    /// The folder of the files.
    pub directory: PathBuf,
    /// Bytes in all of them; `None` is unlimited.
    pub total: Option<u64>,
}

impl Default for Spill {
    fn default() -> Self {
        Spill {
            directory: std::env::temp_dir(),
            total: Some(10 * 1024 * 1024 * 1024),
        }
    }
}
