//! `evener generate`: files for what runs this program.

use std::path::Path;

use clap::Parser;

use crate::Failure;
use crate::args::{Command, CommandLine, GenerateArguments, Generated, SystemdArguments};

/// The file that `serve` reads when none is named.
const FILE: &str = "evener.toml";
/// Beyond the grace period: until workers that do not end are killed, and some.
const STOP_MARGIN_SECONDS: u64 = 15;

/// The text of what was asked for.
pub(crate) fn generate(typed: &GenerateArguments) -> Result<String, Failure> {
    match &typed.what {
        Generated::Systemd(typed) => systemd(typed),
    }
}

fn systemd(typed: &SystemdArguments) -> Result<String, Failure> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if typed.name.is_empty() || !typed.name.chars().all(plain) {
        return Err(Failure::usage(format!(
            "`{}` cannot be the name of a unit (--name): use letters, digits, `-`, `_` and `.`",
            typed.name
        )));
    }
    if let Some(address) = &typed.socket {
        return Ok(socket_unit(&typed.name, address));
    }
    let system = |error: std::io::Error| Failure::system(error.to_string());
    let program = std::env::current_exe().map_err(system)?;
    let folder = std::env::current_dir().map_err(system)?;
    let words = words(typed, folder.join(FILE).exists());
    let stop_seconds = stop_seconds(&words)?;
    Ok(service_unit(&Service {
        program: &program,
        folder: &folder,
        words: &words,
        name: &typed.name,
        user: typed.user.as_deref(),
        stop_seconds,
    }))
}

/// What is run, beginning with the subcommand.
fn words(typed: &SystemdArguments, has_file: bool) -> Vec<String> {
    let mut words = typed.arguments.clone();
    match words.first().map(String::as_str) {
        Some("run" | "serve" | "gunicorn") => {}
        None if has_file => words.push("serve".to_owned()),
        _ => words.insert(0, "run".to_owned()),
    }
    if words[0] == "run" && !words.iter().any(|word| word.starts_with("--name")) {
        words.extend(["--name".to_owned(), typed.name.clone()]);
    }
    words
}

/// How long a stop may take, if the command line is one.
fn stop_seconds(words: &[String]) -> Result<u64, Failure> {
    let line = std::iter::once("evener").chain(words.iter().map(String::as_str));
    let line = CommandLine::try_parse_from(line).map_err(|error| {
        let error = error.to_string();
        let first = error.lines().next().unwrap_or_default();
        let first = first.strip_prefix("error: ").unwrap_or(first);
        Failure::usage(format!("`evener {}`: {first}", words.join(" ")))
    })?;
    let usual = 30;
    let grace = match line.command {
        Command::Run(typed) => {
            let timeouts = &typed.timeouts;
            (timeouts.timeout_graceful_shutdown.0 + timeouts.drain_delay.0).as_secs()
        }
        Command::Serve(typed) => match crate::reread::parse(&typed.config) {
            Ok((config, _)) => (config.graceful_shutdown + config.drain_delay).as_secs(),
            // It may be written later.
            Err(_) => usual,
        },
        _ => usual,
    };
    Ok(grace + STOP_MARGIN_SECONDS)
}

struct Service<'a> {
    program: &'a Path,
    folder: &'a Path,
    words: &'a [String],
    name: &'a str,
    user: Option<&'a str>,
    stop_seconds: u64,
}

fn service_unit(service: &Service<'_>) -> String {
    let program = quoted(&service.program.display().to_string());
    let words: Vec<String> = service.words.iter().map(|word| quoted(word)).collect();
    let (name, command) = (service.name, words.join(" "));
    let (folder, stop) = (service.folder.display(), service.stop_seconds);
    let user = service
        .user
        .map_or_else(String::new, |user| format!("User={user}\n"));
    format!(
        "# Made by `evener generate systemd`. Put it into /etc/systemd/system/{name}.service, then:
#   systemctl daemon-reload && systemctl enable --now {name}
[Unit]
Description=Evener ({name})
After=network-online.target
Wants=network-online.target

[Service]
# It says when it serves, reloads and stops, and how it is doing (systemctl status {name}).
Type=notify
ExecStart={program} {command}
# Replaces the workers one by one.
ExecReload=/bin/kill -HUP $MAINPID
WorkingDirectory={folder}
{user}# Where `evener status` and its like find it.
RuntimeDirectory={name}
Environment=XDG_RUNTIME_DIR=/run/{name}
# The program is asked, and asks its workers; what is left after that is killed.
KillMode=mixed
TimeoutStopSec={stop}
TimeoutStartSec=120
Restart=always
RestartSec=1
# A data plane that hangs is restarted.
WatchdogSec=20
LimitNOFILE=65536
NoNewPrivileges=yes
PrivateTmp=yes
ProtectSystem=full

[Install]
WantedBy=multi-user.target
"
    )
}

fn socket_unit(name: &str, address: &str) -> String {
    format!(
        "# Made by `evener generate systemd --socket`. Put it into /etc/systemd/system/{name}.socket,
# beside {name}.service, then: systemctl daemon-reload && systemctl enable --now {name}.socket
# `evener run` takes the place of its own listener; `evener serve` takes it for the `[[listener]]`
# of this address. Connections wait here while the service restarts.
[Unit]
Description=Socket of Evener ({name})

[Socket]
ListenStream={address}
Backlog=2048
NoDelay=yes

[Install]
WantedBy=sockets.target
"
    )
}

/// A word of a command line, as systemd reads it: with quotes where it needs them, and without
/// its specifiers and variables.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,@+".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    let mut quoted = String::from("\"");
    for c in word.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            '%' => quoted.push_str("%%"),
            '$' => quoted.push_str("$$"),
            _ => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_for_systemd() {
        assert_eq!(quoted("main:app"), "main:app");
        assert_eq!(quoted("a b"), "\"a b\"");
        assert_eq!(quoted("100%$x\""), "\"100%%$$x\\\"\"");
        assert_eq!(quoted(""), "\"\"");
    }

    #[test]
    fn what_is_run_is_made_out() {
        let typed = |arguments: &[&str]| SystemdArguments {
            user: None,
            name: "shop".to_owned(),
            socket: None,
            arguments: arguments.iter().map(|word| (*word).to_owned()).collect(),
        };
        let line = |arguments: &[&str], has_file| words(&typed(arguments), has_file).join(" ");
        assert_eq!(line(&[], true), "serve");
        assert_eq!(line(&[], false), "run --name shop");
        assert_eq!(line(&["main:app"], true), "run main:app --name shop");
        assert_eq!(line(&["serve", "-c", "x"], true), "serve -c x");
        assert_eq!(line(&["gunicorn", "a:b"], true), "gunicorn a:b");
    }

    #[test]
    fn a_stop_may_take_as_long_as_it_may_take() {
        let seconds = |line: &str| {
            let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
            stop_seconds(&words).map_err(|failure| failure.message)
        };
        let line = "run a:b --timeout-graceful-shutdown 60 --drain-delay 5";
        assert_eq!(seconds(line), Ok(80));
        assert_eq!(seconds("run a:b"), Ok(45));
        assert!(
            seconds("run --nonsense")
                .unwrap_err()
                .contains("--nonsense")
        );
    }
}
