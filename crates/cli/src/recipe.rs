//! From settings to the supervisor's recipe: which command line a worker gets.

use std::ffi::OsString;
use std::path::Path;

use evener_supervisor::{CommandRecipe, PythonRecipe, Recipe};

use crate::application::Application;
use crate::resolve::{Resolved, Worker};

/// How workers are started. `application` is known unless a command of the user's is run.
pub(crate) fn recipe(
    resolved: &Resolved,
    application: Option<&Application>,
    python: impl Fn() -> Result<std::path::PathBuf, String>,
    environment: Vec<(OsString, OsString)>,
) -> Result<Recipe, String> {
    let missing = "an application is known unless a command of the user's is run";
    let command = |words| {
        CommandRecipe::new(words, environment.clone())
            .map(Recipe::Command)
            .map_err(|error| format!("--worker-command: {error}"))
    };
    match &resolved.worker {
        Worker::Command { words } => command(words.clone()),
        Worker::Uvicorn { flags } => {
            let application = application.expect(missing);
            let mut words = vec![text(&python()?)?];
            words.extend(["-m", "uvicorn", "--uds", "{socket}"].map(str::to_owned));
            words.extend(application_words(application)?);
            words.extend(flags.iter().cloned());
            words.push(application.target.clone());
            command(words)
        }
        Worker::Evener { flags } => {
            let application = application.expect(missing);
            let mut arguments = application_words(application)?;
            arguments.extend(flags.iter().cloned());
            arguments.push(application.target.clone());
            Ok(Recipe::Python(PythonRecipe {
                interpreter: python()?,
                arguments: arguments.into_iter().map(OsString::from).collect(),
                environment,
            }))
        }
    }
}

fn application_words(application: &Application) -> Result<Vec<String>, String> {
    let mut words = vec!["--app-dir".to_owned(), text(&application.folder)?];
    if application.factory {
        words.push("--factory".to_owned());
    }
    Ok(words)
}

/// A path that goes into a command line, where `{socket}` has a meaning.
fn text(path: &Path) -> Result<String, String> {
    match path.to_str() {
        Some(text) if !text.contains("{socket}") => Ok(text.to_owned()),
        _ => Err(format!(
            "the path {} cannot be handed to a worker",
            path.display()
        )),
    }
}
