//! An application that does not start: what its last lines mean, and what to do.

use evener_supervisor::StartupFailure;

/// The message for an application (or command) whose workers all failed before any was ready.
/// Its own words stand above it, unless they were not shown; then they are part of it.
pub(crate) fn describe(what: &str, failure: &StartupFailure) -> String {
    let mut message = String::new();
    if !failure.unseen.is_empty() {
        message.push_str("the worker's last lines:\n");
        for line in &failure.unseen {
            message.push_str("    ");
            message.push_str(line);
            message.push('\n');
        }
    }
    let (worker, reason) = (&failure.worker, &failure.reason);
    message.push_str(&format!(
        "`{what}` could not be started: {worker} {reason}."
    ));
    if let Some(hint) = hint(&failure.tail) {
        message.push_str("\n  ");
        message.push_str(&hint);
    } else if failure.reason.starts_with("did not answer") {
        message.push_str(
            "\n  It may still have been starting (--timeout-worker-startup gives it longer), or \
             it does not listen on the socket it was given.",
        );
    } else if !failure.tail.is_empty() && failure.unseen.is_empty() {
        message.push_str("\n  What it said stands above.");
    } else if failure.tail.is_empty() && failure.code.is_some() {
        message.push_str("\n  It said nothing on its standard error.");
    }
    message
}

/// What to do about the failures that people meet most, recognised by the worker's last lines.
fn hint(tail: &[String]) -> Option<String> {
    let find = |needle: &str| {
        tail.iter()
            .rev()
            .find_map(|line| line.find(needle).map(|at| &line[at + needle.len()..]))
    };
    if let Some(rest) = find("No module named ") {
        let module = rest.trim_matches(['\'', '"', '.']);
        return Some(match module {
            "uvicorn" => "uvicorn is not installed in the workers' Python: `pip install uvicorn`, \
                          or choose another with --python, --worker or --worker-command."
                .to_owned(),
            "evener" | "evener.worker" => {
                "The Python package evener is not installed in the workers' Python: `pip install` \
                 it there, or choose another with --python or --worker command."
                    .to_owned()
            }
            _ => format!(
                "The module `{module}` is not installed in the workers' Python, or is looked for \
                 in the wrong folder (--app-dir)."
            ),
        });
    }
    if let Some(rest) = find("Could not import module \"") {
        let module = rest.split('"').next().unwrap_or(rest);
        return Some(format!(
            "There is no module `{module}` in the folder the application is imported from: mend \
             the name, or say with --app-dir where it is."
        ));
    }
    if let Some(rest) = find("Attribute \"") {
        let attribute = rest.split('"').next().unwrap_or(rest);
        return Some(format!(
            "The module has no `{attribute}`: name the variable that holds the application, as in \
             `main:app`."
        ));
    }
    find("SyntaxError").or_else(|| find("IndentationError"))?;
    Some("The source has a syntax error; the place stands above.".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(tail: &[&str], seen: bool) -> StartupFailure {
        let tail: Vec<String> = tail.iter().map(|line| (*line).to_owned()).collect();
        StartupFailure {
            worker: "worker-1 (pid 7)".to_owned(),
            reason: "exited with status 1 before it was ready".to_owned(),
            code: Some(1),
            unseen: if seen { Vec::new() } else { tail.clone() },
            tail,
        }
    }

    #[test]
    fn the_usual_mistakes_get_a_hint() {
        for (line, hint) in [
            (
                "/usr/bin/python3: No module named uvicorn",
                "pip install uvicorn",
            ),
            (
                "ModuleNotFoundError: No module named 'sqlalchemy'",
                "`sqlalchemy` is not installed",
            ),
            (
                "ERROR: Error loading ASGI app. Could not import module \"mian\".",
                "`mian`",
            ),
            (
                "ERROR: Attribute \"ap\" not found in module \"main\".",
                "no `ap`",
            ),
            ("SyntaxError: invalid syntax", "syntax error"),
            ("RuntimeError: no", "stands above"),
        ] {
            let message = describe("main:app", &failure(&[line], true));
            assert!(message.contains(hint), "{line}: {message}");
            assert!(message.contains("`main:app` could not be started"));
        }
        let message = describe("main:app", &failure(&["RuntimeError: no"], false));
        assert!(message.starts_with("the worker's last lines:\n    RuntimeError: no\n"));
        assert!(!message.contains("stands above"));
    }
}
