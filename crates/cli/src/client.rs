//! `evener status` and its like: finds the running program, asks its admin API, shows the answer.

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use evener_admin::{Receipt, StatusReport, WorkerReport, socket_directory, socket_path};

use crate::args::{ClientArguments, DrainArguments, ReloadArguments, ScaleArguments};
use crate::start::DEFAULT_NAME;
use crate::values::Scaling;

/// The running program answers at once, or is stuck.
const ANSWER_TIME: Duration = Duration::from_secs(10);
const ANSWER_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// Between two looks at a reload.
const RELOAD_POLL: Duration = Duration::from_millis(50);

/// Shows how the program is doing.
pub(crate) fn status(arguments: &ClientArguments) -> Result<String, String> {
    let body = get(&find(arguments)?, "/api/v1/status")?;
    if arguments.json {
        return Ok(body);
    }
    Ok(status_text(&parse(&body)?))
}

/// Lists the workers.
pub(crate) fn workers(arguments: &ClientArguments) -> Result<String, String> {
    let socket = find(arguments)?;
    if arguments.json {
        return get(&socket, "/api/v1/workers");
    }
    let status: StatusReport = parse(&get(&socket, "/api/v1/status")?)?;
    Ok(worker_table(&status.workers))
}

/// Asks for new workers, and waits until they serve.
pub(crate) fn reload(arguments: &ReloadArguments) -> Result<String, String> {
    let socket = find(&arguments.client)?;
    let body = post(&socket, "/api/v1/reload", "")?;
    let receipt: Receipt = parse(&body)?;
    let Some(generation) = receipt.generation.filter(|_| !arguments.no_wait) else {
        return Ok(answer(&arguments.client, &body, &receipt));
    };
    let started = Instant::now();
    loop {
        let body = get(&socket, "/api/v1/status")?;
        let status: StatusReport = parse(&body)?;
        let rollouts = status.rollouts.iter();
        if let Some(over) = rollouts
            .filter(|over| over.generation >= generation)
            .min_by_key(|over| over.generation)
        {
            if let Some(reason) = over.reason.as_ref().filter(|_| !over.done) {
                return Err(format!(
                    "the reload was given up: {reason}.\n  The workers that had not been replaced \
                     keep serving."
                ));
            }
            let count = status
                .workers
                .iter()
                .filter(|worker| worker.state == "ready")
                .count();
            let seconds = started.elapsed().as_secs_f64();
            let text = format!("reloaded: {count} new workers serve, after {seconds:.1} s\n");
            return Ok(if arguments.client.json { body } else { text });
        }
        std::thread::sleep(RELOAD_POLL);
    }
}

/// Changes the number of workers.
pub(crate) fn scale(arguments: &ScaleArguments) -> Result<String, String> {
    let body = match arguments.count {
        Scaling::To(count) => format!("{{\"workers\": {count}}}"),
        Scaling::By(difference) => format!("{{\"by\": {difference}}}"),
    };
    let body = post(&find(&arguments.client)?, "/api/v1/scale", &body)?;
    Ok(answer(&arguments.client, &body, &parse(&body)?))
}

/// Stops the program when what is under way is finished, or drains one endpoint.
pub(crate) fn drain(arguments: &DrainArguments) -> Result<String, String> {
    let (path, body) = match &arguments.endpoint {
        None if arguments.quick => ("/api/v1/drain", "{\"quick\": true}".to_owned()),
        None => ("/api/v1/drain", String::new()),
        Some(endpoint) => {
            let (cluster, endpoint) = endpoint.split_once('/').ok_or_else(|| {
                format!("`{endpoint}`: write CLUSTER/ENDPOINT, as in api/127.0.0.1:9001")
            })?;
            let body = serde_json::json!({ "cluster": cluster, "endpoint": endpoint });
            match arguments.undo {
                true => ("/api/v1/endpoints/restore", body.to_string()),
                false => ("/api/v1/endpoints/drain", body.to_string()),
            }
        }
    };
    let body = post(&find(&arguments.client)?, path, &body)?;
    Ok(answer(&arguments.client, &body, &parse(&body)?))
}

/// Has log files opened again.
pub(crate) fn reopen(arguments: &ClientArguments) -> Result<String, String> {
    order(arguments, "/api/v1/reopen")
}

/// Has a newer program started beside the running one.
pub(crate) fn upgrade(arguments: &ClientArguments) -> Result<String, String> {
    order(arguments, "/api/v1/upgrade")
}

/// Ends the workers until a reload.
pub(crate) fn rest(arguments: &ClientArguments) -> Result<String, String> {
    order(arguments, "/api/v1/rest")
}

fn order(arguments: &ClientArguments, path: &str) -> Result<String, String> {
    let body = post(&find(arguments)?, path, "")?;
    Ok(answer(arguments, &body, &parse(&body)?))
}

fn answer(arguments: &ClientArguments, body: &str, receipt: &Receipt) -> String {
    if arguments.json {
        body.to_owned()
    } else {
        format!("{}\n", receipt.message)
    }
}

/// The admin socket that is meant: the one named, the usual one, or the only one there is.
fn find(arguments: &ClientArguments) -> Result<PathBuf, String> {
    if let Some(path) = &arguments.admin {
        return Ok(path.clone());
    }
    if let Some(name) = &arguments.name {
        return Ok(socket_path(name));
    }
    let usual = socket_path(DEFAULT_NAME);
    if UnixStream::connect(&usual).is_ok() {
        return Ok(usual);
    }
    let entries = std::fs::read_dir(socket_directory())
        .into_iter()
        .flatten()
        .flatten();
    let mut live: Vec<PathBuf> = entries
        .map(|entry| entry.path())
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "sock")
        })
        .filter(|path| UnixStream::connect(path).is_ok())
        .collect();
    live.sort();
    match live.len() {
        0 => Ok(usual),
        1 => Ok(live.remove(0)),
        _ => {
            let names = live.iter().filter_map(|path| path.file_stem()?.to_str());
            let names: Vec<&str> = names.collect();
            Err(format!(
                "several programs run: say with --name which of {}",
                names.join(", ")
            ))
        }
    }
}

fn get(socket: &Path, path: &str) -> Result<String, String> {
    ask(socket, "GET", path, "")
}

fn post(socket: &Path, path: &str, body: &str) -> Result<String, String> {
    ask(socket, "POST", path, body)
}

fn ask(socket: &Path, method: &str, path: &str, body: &str) -> Result<String, String> {
    let shown = socket.display();
    let mut stream = UnixStream::connect(socket).map_err(|error| {
        format!(
            "no evener answers at {shown}: {error}.\n  Start one with `evener run`, or say with \
             --name or --admin which one is meant."
        )
    })?;
    let broken = |error: std::io::Error| format!("the evener at {shown} does not answer: {error}");
    stream.set_read_timeout(Some(ANSWER_TIME)).map_err(broken)?;
    stream
        .set_write_timeout(Some(ANSWER_TIME))
        .map_err(broken)?;
    let length = body.len();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
         Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes()).map_err(broken)?;
    let mut answer = String::new();
    stream
        .take(ANSWER_BYTES_MAX)
        .read_to_string(&mut answer)
        .map_err(broken)?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse::<u16>().ok());
    match status {
        Some(200..=299) => Ok(body.to_owned()),
        Some(_) => {
            let problem: serde_json::Value = serde_json::from_str(body).unwrap_or_default();
            Err(problem["error"].as_str().unwrap_or(body.trim()).to_owned())
        }
        None => Err(format!("what answers at {shown} is no evener")),
    }
}

fn parse<'a, Report: serde::Deserialize<'a>>(body: &'a str) -> Result<Report, String> {
    serde_json::from_str(body)
        .map_err(|error| format!("the running evener is of another version: {error}"))
}

fn status_text(status: &StatusReport) -> String {
    let mut text = String::new();
    for (label, value) in status_lines(status) {
        // A `String` takes every write.
        let _ = writeln!(text, "{label:<9} {value}");
    }
    if status.crash_loop {
        text.push_str("trouble   workers crash in a loop: see the log for their last lines\n");
    }
    if let Some(reason) = status
        .rollouts
        .last()
        .and_then(|rollout| rollout.reason.as_ref())
    {
        let _ = writeln!(text, "trouble   the last reload was given up: {reason}");
    }
    text
}

fn status_lines(status: &StatusReport) -> [(&'static str, String); 7] {
    let traffic = &status.traffic;
    let ready = status
        .workers
        .iter()
        .filter(|worker| worker.state == "ready")
        .count();
    let rolling = if status.rolling { ", reloading" } else { "" };
    let millis = |time: Option<f64>| time.map_or("–".to_owned(), |time| format!("{time:.1} ms"));
    [
        (
            "name",
            format!(
                "{} (process {}, version {})",
                status.name, status.pid, status.version
            ),
        ),
        (
            "serves",
            format!("{} on {}", status.app, status.addresses.join(", ")),
        ),
        (
            "state",
            format!(
                "{}{rolling}, up {}",
                status.state,
                age(status.uptime_seconds)
            ),
        ),
        (
            "workers",
            format!(
                "{ready} of {} ready{}, {} deaths",
                status.target + status.relief,
                match status.relief {
                    0 => String::new(),
                    extra => format!(" ({extra} of them for relief)"),
                },
                status.deaths
            ),
        ),
        (
            "requests",
            format!(
                "{:.1} per second, {:.1} of them 5xx; {} in all, {} sent again",
                traffic.requests_per_second,
                traffic.errors_per_second,
                traffic.requests,
                traffic.retries
            ),
        ),
        (
            "latency",
            format!(
                "p50 {}, p99 {}",
                millis(traffic.p50_ms),
                millis(traffic.p99_ms)
            ),
        ),
        (
            "now",
            format!(
                "{} in flight, {} queued, {} connections",
                traffic.in_flight, traffic.queued, traffic.connections
            ),
        ),
    ]
}

fn worker_table(workers: &[WorkerReport]) -> String {
    let head = [
        "NAME",
        "PID",
        "STATE",
        "AGE",
        "IN FLIGHT",
        "REQUESTS",
        "FAILED",
        "RSS",
        "RESTARTS",
    ];
    let mut rows = vec![head.map(str::to_owned)];
    for worker in workers {
        let stalled = if worker.stalled { " (stalled)" } else { "" };
        let leader = if worker.leader { ", leader" } else { "" };
        rows.push([
            worker.name.clone(),
            worker.pid.to_string(),
            format!("{}{leader}{stalled}", worker.state),
            age(worker.age_seconds),
            worker.in_flight.to_string(),
            worker.requests.to_string(),
            worker.failures.to_string(),
            worker
                .rss_bytes
                .map_or("–".to_owned(), |bytes| format!("{}M", bytes / 1_048_576)),
            worker.restarts.to_string(),
        ]);
    }
    table(&rows)
}

/// Columns as wide as their widest cell: names to the left, numbers to the right.
fn table(rows: &[[String; 9]]) -> String {
    let width = |column: usize| {
        rows.iter()
            .map(|row| row[column].chars().count())
            .max()
            .unwrap_or_default()
    };
    let widths: Vec<usize> = (0..9).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
            let _ = if column == 0 || column == 2 {
                write!(line, "{cell:<width$}  ")
            } else {
                write!(line, "{cell:>width$}  ")
            };
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

fn age(seconds: f64) -> String {
    match seconds {
        seconds if seconds < 60.0 => format!("{seconds:.0}s"),
        seconds if seconds < 3600.0 => format!("{:.0}m", (seconds / 60.0).floor()),
        seconds if seconds < 172_800.0 => format!("{:.0}h", (seconds / 3600.0).floor()),
        seconds => format!("{:.0}d", (seconds / 86_400.0).floor()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_line_up() {
        let worker = WorkerReport {
            name: "worker-12".to_owned(),
            pid: 4242,
            state: "ready".to_owned(),
            age_seconds: 75.0,
            rss_bytes: Some(50 << 20),
            ..WorkerReport::default()
        };
        let text = worker_table(&[worker]);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines[0],
            "NAME        PID  STATE  AGE  IN FLIGHT  REQUESTS  FAILED  RSS  RESTARTS"
        );
        assert_eq!(
            lines[1],
            "worker-12  4242  ready   1m          0         0       0  50M         0"
        );
    }

    #[test]
    fn status_names_the_trouble() {
        let mut status = StatusReport {
            crash_loop: true,
            ..StatusReport::default()
        };
        assert!(status_text(&status).contains("crash in a loop"));
        status.rollouts.push(evener_admin::RolloutReport {
            generation: 1,
            done: false,
            reason: Some("it raised".to_owned()),
        });
        assert!(status_text(&status).contains("given up: it raised"));
    }
}
