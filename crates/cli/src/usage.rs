//! Usage errors in one message: what is wrong, and what was probably meant.

use std::io::Write;
use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue, ErrorKind};

/// Shows help or an error of the command line; the status is 0 for help, else 2.
pub(crate) fn explain(error: &clap::Error) -> ExitCode {
    let help = matches!(
        error.kind(),
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion
    );
    if help {
        // The reader may have gone, as `head` does.
        let _ = error.print();
        return ExitCode::SUCCESS;
    }
    let _ = match message(error) {
        Some(message) => writeln!(std::io::stderr(), "error: {message}"),
        None => error.print(),
    };
    ExitCode::from(2)
}

/// Our own words for the errors that people meet most; the rest is said by clap.
fn message(error: &clap::Error) -> Option<String> {
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.clone()),
        Some(ContextValue::Strings(list)) => list.first().cloned(),
        _ => None,
    };
    let did_you_mean = |kind| {
        text(kind).map_or(String::new(), |nearest| {
            let nearest = nearest.split(' ').next().unwrap_or(&nearest).to_owned();
            format!("; did you mean `{nearest}`?")
        })
    };
    match error.kind() {
        ErrorKind::UnknownArgument => {
            let given = text(ContextKind::InvalidArg)?;
            if !given.starts_with('-') {
                return Some(format!(
                    "`{given}` is one argument too many; see `evener --help`"
                ));
            }
            let meant = did_you_mean(ContextKind::SuggestedArg);
            let help = if meant.is_empty() {
                "; see `evener run --help`"
            } else {
                ""
            };
            Some(format!("unknown flag `{given}`{meant}{help}"))
        }
        ErrorKind::InvalidSubcommand => {
            let given = text(ContextKind::InvalidSubcommand)?;
            let meant = did_you_mean(ContextKind::SuggestedSubcommand);
            let help = if meant.is_empty() {
                "; see `evener --help`"
            } else {
                ""
            };
            Some(format!("unknown command `{given}`{meant}{help}"))
        }
        ErrorKind::InvalidValue if text(ContextKind::InvalidArg)?.starts_with("--worker <") => {
            let given = text(ContextKind::InvalidValue)?;
            let count = given == "auto" || given.starts_with(|c: char| c.is_ascii_digit());
            let meant = if count {
                format!("; did you mean `--workers {given}`?")
            } else {
                did_you_mean(ContextKind::SuggestedValue)
            };
            Some(format!(
                "--worker is `evener` or `command`, not `{given}`{meant}"
            ))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::*;
    use crate::args::CommandLine;

    fn said(words: &str) -> String {
        let error = CommandLine::try_parse_from(words.split(' ')).unwrap_err();
        message(&error).unwrap_or_else(|| error.to_string())
    }

    #[test]
    fn what_was_meant_is_guessed() {
        for (words, meant) in [
            (
                "evener run --wrokers 2",
                "unknown flag `--wrokers`; did you mean `--workers`?",
            ),
            ("evener run --worker 4", "did you mean `--workers 4`?"),
            ("evener run --app_dir x", "did you mean `--app-dir`?"),
            ("evener run --prot 1", "did you mean `--port`?"),
            ("evener worker", "did you mean `workers`?"),
            ("evener run --zzzzzz", "unknown flag `--zzzzzz`; see"),
            ("evener run a b", "`b` is one argument too many"),
            ("evener run --timeout-keep-alive -1", "-1"),
            ("evener run --workers 0", "between 1 and"),
            ("evener run --header nothing", "nothing"),
        ] {
            let message = said(words);
            assert!(message.contains(meant), "{words}: {message}");
        }
    }

    #[test]
    fn the_command_line_is_sound() {
        CommandLine::command().debug_assert();
    }
}
