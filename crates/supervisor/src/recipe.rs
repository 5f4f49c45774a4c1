//! How a worker process is started: any command that can listen on the socket it is given, or
//! Evener's own worker in some Python. Choosing the interpreter and the flags is left to `cli`.

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

use crate::nursery::Nursery;

/// Stands for the path of the worker's socket in a command.
pub(crate) const SOCKET_PLACEHOLDER: &str = "{socket}";

/// What kind of worker, and how it is called.
#[derive(Debug, Clone)]
pub enum Recipe {
    /// Any command that listens on the socket it is told.
    Command(CommandRecipe),
    /// Evener's own worker.
    Python(PythonRecipe),
    /// Evener's own worker, forked from a nursery.
    Nursery(NurseryRecipe),
}

/// A worker that a nursery forks, with the same descriptors as [`PythonRecipe`]'s; the nursery
/// knows its arguments and its environment.
#[derive(Debug, Clone)]
pub struct NurseryRecipe {
    /// The nursery, set up already.
    pub nursery: Nursery,
    /// Whether workers write to our own standard output and error, as gunicorn's do, so that
    /// their lines and the nursery's stay in order.
    pub output_is_ours: bool,
    /// The workers' name in listings of processes.
    pub title: Option<String>,
}

/// A command with `{socket}` where the socket's path goes (it is in `EVENER_SOCKET` as well).
/// The command creates the socket; it is ready when it answers HTTP there.
#[derive(Debug, Clone)]
pub struct CommandRecipe {
    arguments: Vec<String>,
    environment: Vec<(OsString, OsString)>,
}

/// `python -m evener.worker` with the descriptors 3 (its listening socket), 4 (its vitals page)
/// and 5 (a pipe on which it says `ready` or `failed`).
#[derive(Debug, Clone)]
pub struct PythonRecipe {
    /// The interpreter.
    pub interpreter: PathBuf,
    /// Arguments after the flags that name the descriptors.
    pub arguments: Vec<OsString>,
    /// Variables set on top of our own environment.
    pub environment: Vec<(OsString, OsString)>,
}

/// A command that cannot be a worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RecipeError {
    /// There is nothing to run.
    Empty,
}

impl fmt::Display for RecipeError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RecipeError::Empty => formatter.write_str("the worker command is empty"),
        }
    }
}

impl std::error::Error for RecipeError {}

impl CommandRecipe {
    /// A command as a list of arguments, with variables set on top of our own environment.
    pub fn new(
        arguments: Vec<String>,
        environment: Vec<(OsString, OsString)>,
    ) -> Result<CommandRecipe, RecipeError> {
        if arguments.first().is_none_or(String::is_empty) {
            return Err(RecipeError::Empty);
        }
        Ok(CommandRecipe {
            arguments,
            environment,
        })
    }

    /// Whether the socket's path is among the arguments; if not, the command must take it from
    /// `EVENER_SOCKET`.
    pub fn names_socket(&self) -> bool {
        self.arguments
            .iter()
            .any(|argument| argument.contains(SOCKET_PLACEHOLDER))
    }

    /// The program and its arguments for a worker on `socket`.
    pub(crate) fn arguments(&self, socket: &Path) -> Vec<OsString> {
        let expand = |argument: &String| {
            let mut parts = argument.split(SOCKET_PLACEHOLDER);
            let mut expanded = OsString::from(parts.next().unwrap_or_default());
            for part in parts {
                expanded.push(socket);
                expanded.push(part);
            }
            expanded
        };
        self.arguments.iter().map(expand).collect()
    }
}

impl Recipe {
    /// The nursery that workers are forked from, if there is one.
    pub(crate) fn nursery(&self) -> Option<&Nursery> {
        match self {
            Recipe::Nursery(recipe) => Some(&recipe.nursery),
            Recipe::Command(_) | Recipe::Python(_) => None,
        }
    }

    /// Variables set on top of our own environment.
    pub(crate) fn environment(&self) -> &[(OsString, OsString)] {
        match self {
            Recipe::Command(command) => &command.environment,
            Recipe::Python(python) => &python.environment,
            Recipe::Nursery(_) => &[],
        }
    }

    /// The program, for messages.
    pub(crate) fn program(&self) -> String {
        match self {
            Recipe::Command(command) => command.arguments[0].clone(),
            Recipe::Python(python) => python.interpreter.display().to_string(),
            Recipe::Nursery(_) => "the nursery".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_socket_is_put_where_the_placeholder_is() {
        let words = ["serve", "--bind=unix:{socket}", "{socket}{socket}", "plain"];
        let words: Vec<String> = words.map(str::to_owned).to_vec();
        let recipe = CommandRecipe::new(words, Vec::new()).unwrap();
        assert!(recipe.names_socket());
        let expected = ["serve", "--bind=unix:/r/s", "/r/s/r/s", "plain"].map(OsString::from);
        assert_eq!(recipe.arguments(Path::new("/r/s")), expected);
        assert_eq!(
            CommandRecipe::new(Vec::new(), Vec::new()).unwrap_err(),
            RecipeError::Empty
        );
    }
}
