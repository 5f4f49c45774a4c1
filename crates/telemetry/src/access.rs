//! The access log: one line per request, formatted by the shard into a bounded buffer, written
//! to standard output by a thread of its own.
//!
//! The shard never waits: the writer holds a buffer's lock only to swap it, and a shard that
//! meets that moment keeps the line in a private spill. Nothing is allocated once the buffers
//! have grown to their working size.

use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, TryLockError};
use std::thread::{JoinHandle, Thread};
use std::time::{Duration, SystemTime};

use crate::clock;
use crate::log::Log;
use crate::template::{AccessTemplate, FieldValues};

/// Bytes of lines that one shard may have waiting; lines beyond are dropped and counted.
const BUFFER_BYTES_MAX: usize = 1024 * 1024;
/// How long lines wait for company before they are written.
const BATCH: Duration = Duration::from_millis(50);

/// How access-log lines look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AccessFormat {
    /// uvicorn's line with the time taken: `INFO:     10.0.0.1:99 - "GET / HTTP/1.1" 200 OK 1.204ms`.
    Text {
        /// Whether the level is coloured for a terminal.
        colors: bool,
    },
    /// One JSON object per line.
    Json,
    /// What a template says.
    Template(Arc<AccessTemplate>),
}

/// What one line of the access log tells.
#[derive(Debug, Clone, Copy)]
pub struct AccessRecord<'a> {
    /// Client address as text, already resolved through trusted proxies.
    pub client: &'a str,
    /// Request method as received.
    pub method: &'a [u8],
    /// Request target as received; any bytes.
    pub target: &'a [u8],
    /// HTTP version as text: `1.0` or `1.1`.
    pub version: &'a str,
    /// Status sent; 0 when the client left before an answer, written as 499 with the phrase
    /// `Client Closed Request` as nginx does.
    pub status: u16,
    /// Response body bytes sent.
    pub bytes: u64,
    /// From the end of the request's head to the end of the response.
    pub duration: Duration,
    /// The worker that answered; empty when the edge itself did.
    pub worker: &'a str,
    /// The worker's process id; 0 when it is not known.
    pub process: u32,
    /// The request's id; empty when it has none.
    pub request_id: &'a str,
    /// The header fields that a template asks for.
    pub fields: FieldValues<'a>,
}

/// Lines on their way from one shard to the writer.
type SharedBuffer = Arc<Mutex<Vec<u8>>>;

/// One shard's end of the log.
#[derive(Debug)]
pub(crate) struct AccessBuffer {
    format: AccessFormat,
    shared: SharedBuffer,
    spill: Vec<u8>,
    wake: Arc<Wake>,
}

/// How a shard wakes the writer: only when it sleeps without a time limit.
#[derive(Debug)]
struct Wake {
    asleep: AtomicBool,
    stop: AtomicBool,
    thread: Mutex<Option<Thread>>,
}

impl Wake {
    fn wake(&self) {
        // The lock of the buffer orders this load after the writer's announcement.
        if self.asleep.load(Ordering::Relaxed)
            && self.asleep.swap(false, Ordering::AcqRel)
            && let Some(thread) = self
                .thread
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .as_ref()
        {
            thread.unpark();
        }
    }
}

impl AccessBuffer {
    /// The template of its lines, if they have one.
    pub(crate) fn template(&self) -> Option<&Arc<AccessTemplate>> {
        match &self.format {
            AccessFormat::Template(template) => Some(template),
            AccessFormat::Text { .. } | AccessFormat::Json => None,
        }
    }

    /// Adds a line; false when it was dropped because the buffer is full.
    pub(crate) fn write(&mut self, record: &AccessRecord<'_>) -> bool {
        match self.shared.try_lock() {
            Ok(mut shared) => {
                shared.append(&mut self.spill);
                if shared.len() >= BUFFER_BYTES_MAX {
                    return false;
                }
                push_line(&mut shared, &self.format, record);
            }
            Err(TryLockError::Poisoned(_)) => return false,
            Err(TryLockError::WouldBlock) => {
                if self.spill.len() >= BUFFER_BYTES_MAX {
                    return false;
                }
                push_line(&mut self.spill, &self.format, record);
            }
        }
        self.wake.wake();
        true
    }

    /// Hands a spill over, if there is one.
    pub(crate) fn flush(&mut self) {
        if self.spill.is_empty() {
            return;
        }
        if let Ok(mut shared) = self.shared.try_lock() {
            shared.append(&mut self.spill);
        }
        self.wake.wake();
    }
}

impl Drop for AccessBuffer {
    fn drop(&mut self) {
        // The shard is over, so waiting for the writer's swap is harmless.
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        shared.append(&mut self.spill);
    }
}

/// The thread that writes the log, and the list of the shards' buffers.
#[derive(Debug)]
pub(crate) struct AccessWriter {
    format: AccessFormat,
    buffers: Arc<Mutex<Vec<SharedBuffer>>>,
    wake: Arc<Wake>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl AccessWriter {
    pub(crate) fn start(
        format: AccessFormat,
        sink: Box<dyn Write + Send>,
        log: Log,
    ) -> AccessWriter {
        let buffers: Arc<Mutex<Vec<SharedBuffer>>> = Arc::default();
        let wake = Arc::new(Wake {
            asleep: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            thread: Mutex::new(None),
        });
        let (shared, signal) = (Arc::clone(&buffers), Arc::clone(&wake));
        let thread = std::thread::Builder::new()
            .name("evener-access".to_owned())
            .spawn(move || run(&shared, &signal, sink));
        let thread = match thread {
            Ok(thread) => Some(thread),
            Err(error) => {
                log.error(format_args!(
                    "cannot start the access log's thread: {error}"
                ));
                None
            }
        };
        *wake.thread.lock().unwrap_or_else(PoisonError::into_inner) =
            thread.as_ref().map(|thread| thread.thread().clone());
        AccessWriter {
            format,
            buffers,
            wake,
            thread: Mutex::new(thread),
        }
    }

    pub(crate) fn buffer(&self) -> AccessBuffer {
        let shared = Arc::default();
        let mut buffers = self.buffers.lock().unwrap_or_else(PoisonError::into_inner);
        buffers.push(Arc::clone(&shared));
        AccessBuffer {
            format: self.format.clone(),
            shared,
            spill: Vec::new(),
            wake: Arc::clone(&self.wake),
        }
    }

    /// Writes what is left and ends the thread.
    pub(crate) fn finish(&self) {
        self.wake.stop.store(true, Ordering::Release);
        let thread = self
            .thread
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(thread) = thread {
            thread.thread().unpark();
            // A writer that panicked has nothing left to write.
            let _ = thread.join();
        }
    }
}

fn run(buffers: &Mutex<Vec<SharedBuffer>>, wake: &Wake, mut sink: Box<dyn Write + Send>) {
    let mut batch = Vec::new();
    loop {
        let stop = wake.stop.load(Ordering::Acquire);
        // Announced before looking, so that a line added after the look finds it and wakes us.
        wake.asleep.store(true, Ordering::Release);
        let mut wrote = false;
        let current = buffers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        for buffer in &current {
            std::mem::swap(
                &mut *buffer.lock().unwrap_or_else(PoisonError::into_inner),
                &mut batch,
            );
            if !batch.is_empty() {
                wrote = true;
                // A closed or broken standard output must not stop the service.
                let _ = sink.write_all(&batch);
                batch.clear();
            }
        }
        if wrote {
            let _ = sink.flush();
        }
        if stop {
            return;
        }
        if wrote {
            // Lines are coming: gather for a while, without costing the shards a wake-up each.
            wake.asleep.store(false, Ordering::Release);
            std::thread::park_timeout(BATCH);
        } else {
            std::thread::park();
        }
    }
}

fn push_line(out: &mut Vec<u8>, format: &AccessFormat, record: &AccessRecord<'_>) {
    match format {
        AccessFormat::Text { colors } => push_text(out, *colors, record),
        AccessFormat::Json => push_json(out, record),
        AccessFormat::Template(template) => template.push(out, record),
    }
}

fn push_text(out: &mut Vec<u8>, colors: bool, record: &AccessRecord<'_>) {
    out.extend_from_slice(if colors {
        b"\x1b[32mINFO\x1b[0m:     "
    } else {
        b"INFO:     "
    });
    push_escaped(out, record.client.as_bytes());
    out.extend_from_slice(b" - \"");
    push_escaped(out, record.method);
    out.push(b' ');
    push_escaped(out, record.target);
    out.extend_from_slice(b" HTTP/");
    push_escaped(out, record.version.as_bytes());
    out.extend_from_slice(b"\" ");
    let status = if record.status == 0 {
        499
    } else {
        record.status
    };
    clock::push_decimal(out, u64::from(status));
    let phrase = reason(status);
    if !phrase.is_empty() {
        out.push(b' ');
        out.extend_from_slice(phrase.as_bytes());
    }
    out.push(b' ');
    clock::push_millis(out, record.duration);
    out.extend_from_slice(b"ms\n");
}

fn push_json(out: &mut Vec<u8>, record: &AccessRecord<'_>) {
    out.extend_from_slice(b"{\"time\":\"");
    clock::push_rfc3339(out, SystemTime::now());
    out.extend_from_slice(b"\",\"client\":");
    push_json_string(out, record.client.as_bytes());
    out.extend_from_slice(b",\"method\":");
    push_json_string(out, record.method);
    out.extend_from_slice(b",\"target\":");
    push_json_string(out, record.target);
    out.extend_from_slice(b",\"version\":");
    push_json_string(out, record.version.as_bytes());
    out.extend_from_slice(b",\"status\":");
    clock::push_decimal(
        out,
        u64::from(if record.status == 0 {
            499
        } else {
            record.status
        }),
    );
    out.extend_from_slice(b",\"bytes\":");
    clock::push_decimal(out, record.bytes);
    out.extend_from_slice(b",\"duration_ms\":");
    clock::push_millis(out, record.duration);
    out.extend_from_slice(b",\"worker\":");
    push_json_string(out, record.worker.as_bytes());
    out.extend_from_slice(b",\"request_id\":");
    push_json_string(out, record.request_id.as_bytes());
    out.extend_from_slice(b"}\n");
}

const HEX: &[u8; 16] = b"0123456789abcdef";

/// Writes bytes so that nobody can forge a line or steer a terminal: what is not printable
/// ASCII, and the quote and the backslash, become `\xHH`.
fn push_escaped(out: &mut Vec<u8>, bytes: &[u8]) {
    for &byte in bytes {
        match byte {
            b'"' | b'\\' | 0..=0x1f | 0x7f..=0xff => {
                let hex = [HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]];
                out.extend_from_slice(b"\\x");
                out.extend_from_slice(&hex);
            }
            _ => out.push(byte),
        }
    }
}

/// Writes bytes as a JSON string; each byte above ASCII stands for the code point of its value.
pub(crate) fn push_json_string(out: &mut Vec<u8>, bytes: &[u8]) {
    out.push(b'"');
    for &byte in bytes {
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            0..=0x1f | 0x7f..=0xff => {
                let hex = [HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]];
                out.extend_from_slice(b"\\u00");
                out.extend_from_slice(&hex);
            }
            _ => out.push(byte),
        }
    }
    out.push(b'"');
}

/// The reason phrase of RFC 9110 for the statuses that are common; empty for others.
fn reason(status: u16) -> &'static str {
    match status {
        100 => "Continue",
        101 => "Switching Protocols",
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        204 => "No Content",
        206 => "Partial Content",
        301 => "Moved Permanently",
        302 => "Found",
        303 => "See Other",
        304 => "Not Modified",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        406 => "Not Acceptable",
        408 => "Request Timeout",
        409 => "Conflict",
        410 => "Gone",
        411 => "Length Required",
        412 => "Precondition Failed",
        413 => "Content Too Large",
        414 => "URI Too Long",
        415 => "Unsupported Media Type",
        416 => "Range Not Satisfiable",
        417 => "Expectation Failed",
        418 => "I'm a Teapot",
        421 => "Misdirected Request",
        422 => "Unprocessable Content",
        425 => "Too Early",
        426 => "Upgrade Required",
        428 => "Precondition Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        451 => "Unavailable For Legal Reasons",
        499 => "Client Closed Request",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        507 => "Insufficient Storage",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    fn record(target: &[u8]) -> AccessRecord<'_> {
        AccessRecord {
            client: "10.0.0.1:99",
            method: b"GET",
            target,
            version: "1.1",
            status: 200,
            bytes: 12,
            duration: Duration::from_micros(1204),
            worker: "worker-1",
            process: 0,
            request_id: "",
            fields: FieldValues::default(),
        }
    }

    #[test]
    fn lines_cannot_be_forged() {
        let mut out = Vec::new();
        push_text(&mut out, false, &record(b"/a\n\"\\\x1b[31m\xff"));
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "INFO:     10.0.0.1:99 - \"GET /a\\x0a\\x22\\x5c\\x1b[31m\\xff HTTP/1.1\" 200 OK 1.204ms\n"
        );
        let mut out = Vec::new();
        push_json(&mut out, &record(b"/a\n\"\\\xff"));
        let line = String::from_utf8(out).unwrap();
        assert!(line.contains(r#""target":"/a\u000a\"\\\u00ff","version":"1.1","status":200"#));
        assert!(
            line.ends_with("\"duration_ms\":1.204,\"worker\":\"worker-1\",\"request_id\":\"\"}\n")
        );
    }

    struct Channel(mpsc::Sender<Vec<u8>>);

    impl Write for Channel {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            let _ = self.0.send(bytes.to_vec());
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_sleeping_writer_is_woken_and_the_rest_is_written_at_the_end() {
        let (sender, receiver) = mpsc::channel();
        let format = AccessFormat::Text { colors: false };
        let writer = AccessWriter::start(format, Box::new(Channel(sender)), Log::default());
        let mut buffer = writer.buffer();
        for _ in 0..3 {
            assert!(buffer.write(&record(b"/")));
            let line = receiver.recv_timeout(Duration::from_secs(10)).unwrap();
            assert!(line.ends_with(b"ms\n"));
        }
        assert!(buffer.write(&record(b"/last")));
        drop(buffer);
        writer.finish();
        let rest: Vec<u8> = receiver.try_iter().flatten().collect();
        assert!(String::from_utf8(rest).unwrap().contains("/last"));
    }

    /// A standard output that nobody reads.
    struct Stuck(mpsc::Receiver<()>);

    impl Write for Stuck {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            let _ = self.0.recv();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_stuck_output_costs_lines_but_never_time_or_memory() {
        let (release, stuck) = mpsc::channel();
        let writer =
            AccessWriter::start(AccessFormat::Json, Box::new(Stuck(stuck)), Log::default());
        let mut buffer = writer.buffer();
        let dropped = (0..30_000).filter(|_| !buffer.write(&record(b"/"))).count();
        assert!(dropped > 0);
        let held = buffer.shared.lock().unwrap().len() + buffer.spill.len();
        assert!(held <= 2 * BUFFER_BYTES_MAX + 1024, "{held}");
        drop(release);
        drop(buffer);
        writer.finish();
    }
}
