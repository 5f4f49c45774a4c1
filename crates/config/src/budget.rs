//! `[budget.NAME]` as resolved.

/// Something outside that bears only so many connections, shared by all workers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Budget {
    /// What it is called.
    pub name: String,
    /// Connections for all workers together.
    pub connections: u64,
    /// Where that is said, in bytes from the beginning of the file.
    pub offset: usize,
}
