//! Reading evener.toml, at the start and again for a reload, and what of it can change while the
//! program runs.

use std::path::{Path, PathBuf};

use evener_config::{Action, Budget, Config, Errors, Flag};

use crate::args::{Command, CommandLine, RunArguments};
use crate::budget::{Shares, shares};
use crate::resolve::Resolved;
use crate::run;
use crate::start::App;

/// What a file says.
pub(crate) struct Loaded {
    pub(crate) config: Config,
    /// The local application, ready to be started.
    pub(crate) app: Option<App>,
}

/// A file that the running program works by.
pub(crate) struct Reread {
    pub(crate) file: PathBuf,
    /// What it said when it was last read with success.
    pub(crate) config: Config,
}

/// Reads a file; an error is everything that is wrong with it, one line each.
pub(crate) fn load(file: &Path) -> Result<Loaded, String> {
    let (config, text) = parse(file)?;
    let app = match &config.app {
        Some(settings) => Some(application(file, &text, &config, settings)?),
        None => None,
    };
    Ok(Loaded { config, app })
}

/// Reads a file as far as its own text goes: without looking for the application.
pub(crate) fn parse(file: &Path) -> Result<(Config, String), String> {
    let shown = file.display().to_string();
    let text = std::fs::read_to_string(file).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => {
            format!("{shown}: there is no such file; name another with -c")
        }
        std::io::ErrorKind::InvalidData => format!("{shown}: the file is not UTF-8"),
        _ => format!("{shown}: {error}"),
    })?;
    let variable = |name: &str| std::env::var(name).ok();
    let config =
        evener_config::read(&shown, &text, &variable).map_err(|e: Errors| e.to_string())?;
    let missing: Vec<String> = config
        .routes
        .iter()
        .filter_map(|route| missing_folder(&shown, &text, &route.action))
        .collect();
    if !missing.is_empty() {
        return Err(missing.join("\n"));
    }
    if let Some(app) = &config.app {
        // Each setting on its own, so that an error has a place.
        let wrong: Vec<String> = app
            .flags
            .iter()
            .filter_map(|flag| wrong_flag(&shown, &text, flag))
            .collect();
        if !wrong.is_empty() {
            return Err(wrong.join("\n"));
        }
        if !config.budgets.is_empty() {
            let settings = run::settings(&*arguments(&config, app)?)
                .map_err(|error| format!("{shown}: `[app]`: {error}"))?;
            share_out(&shown, &text, &config, &settings)?;
        }
    }
    Ok((config, text))
}

/// A folder that is to be served and is not there.
fn missing_folder(file: &str, text: &str, action: &Action) -> Option<String> {
    let Action::Files { files, .. } = action else {
        return None;
    };
    if files.root.is_dir() {
        return None;
    }
    let place = evener_config::place(text, files.offset);
    let root = files.root.display();
    Some(format!(
        "{file}:{place}: `files`: there is no folder `{root}`; a path is relative to the folder that \
         Evener is started in"
    ))
}

fn wrong_flag(file: &str, text: &str, flag: &Flag) -> Option<String> {
    let words = ["evener".to_owned(), "run".to_owned()];
    let error = command_line(words.into_iter().chain(words_of(flag))).err()?;
    let place = evener_config::place(text, flag.offset);
    let name = flag.name.replace('-', "_");
    let said = error.lines().next().unwrap_or_default();
    let said = said.strip_prefix("error: ").unwrap_or(said);
    Some(format!("{file}:{place}: `app.{name}`: {said}"))
}

fn words_of(flag: &Flag) -> impl Iterator<Item = String> {
    let word = match &flag.value {
        Some(value) => format!("--{}={value}", flag.name),
        None => format!("--{}", flag.name),
    };
    [word].into_iter()
}

fn command_line(words: impl Iterator<Item = String>) -> Result<Box<RunArguments>, String> {
    use clap::Parser;
    match CommandLine::try_parse_from(words) {
        Ok(CommandLine {
            command: Command::Run(arguments),
        }) => Ok(arguments),
        Ok(_) => Err("these words are no `evener run`".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// `[app]` as a command line, with the settings of the rest of the file that concern workers.
fn arguments(config: &Config, settings: &evener_config::App) -> Result<Box<RunArguments>, String> {
    let mut words = vec!["evener".to_owned(), "run".to_owned()];
    words.extend(settings.target.clone());
    words.extend(settings.flags.iter().flat_map(words_of));
    let grace = config.graceful_shutdown.as_secs_f64();
    words.push(format!("--timeout-graceful-shutdown={grace}"));
    words.push(format!("--log-level={}", config.log.level));
    words.push(format!("--backlog={}", config.backlog));
    // What the application takes for its server's address is the first listener's.
    let tcp = config
        .listeners
        .iter()
        .find_map(|listener| match &listener.address {
            evener_config::values::ListenAddress::Tcp { host, port } => Some((host, port)),
            _ => None,
        });
    if let Some((host, port)) = tcp {
        words.extend([format!("--host={host}"), format!("--port={port}")]);
    }
    command_line(words.into_iter())
}

/// The application of `[app]`.
fn application(
    file: &Path,
    text: &str,
    config: &Config,
    settings: &evener_config::App,
) -> Result<App, String> {
    let place = settings
        .offset
        .map(|offset| evener_config::place(text, offset));
    let place = place.map_or_else(String::new, |place| format!("{place}:"));
    let arguments = arguments(config, settings)?;
    let mut app = run::app(&arguments)
        .map_err(|error| format!("{}:{place} `[app]`: {error}", file.display()))?;
    app.resolved.shares = share_out(&file.display().to_string(), text, config, &app.resolved)?;
    Ok(app)
}

/// What the budgets of the file mean for the workers.
fn share_out(
    shown: &str,
    text: &str,
    config: &Config,
    resolved: &Resolved,
) -> Result<Option<Shares>, String> {
    shares(&config.budgets, resolved).map_err(|(offset, error)| {
        format!("{shown}:{}: {error}", evener_config::place(text, offset))
    })
}

impl Reread {
    /// Reads the file again and holds it against what runs; an error changes nothing.
    pub(crate) fn read(&self) -> Result<Loaded, String> {
        let loaded = load(&self.file)?;
        let comparable = |config: &Config| {
            let app = config.app.as_ref()?;
            let flags = app.flags.iter().filter(|flag| flag.name != "workers");
            let flags: Vec<_> = flags
                .map(|flag| (flag.name.clone(), flag.value.clone()))
                .collect();
            Some((app.target.clone(), flags))
        };
        if comparable(&loaded.config) != comparable(&self.config) {
            return Err(format!(
                "{}: of `[app]`, only `workers` can be changed by a reload; restart the program for \
                 the rest",
                self.file.display()
            ));
        }
        Ok(loaded)
    }

    /// Whether the most workers would change the shares that the workers were told.
    fn most_is_left(&self, new: &Config) -> bool {
        let most = |config: &Config| {
            let flags = config.app.iter().flat_map(|app| &app.flags);
            let mut workers = flags.filter(|flag| flag.name == "workers");
            let value = workers.next().and_then(|flag| flag.value.clone());
            value.and_then(|value| Some(value.split_once("..")?.1.trim().to_owned()))
        };
        !new.budgets.is_empty() && most(&self.config) != most(new)
    }

    /// Settings that have changed and that a reload does not change.
    pub(crate) fn left_for_the_next_start(&self, new: &Config) -> Vec<&'static str> {
        let old = &self.config;
        let shared = |budgets: &[Budget]| {
            let pairs = budgets
                .iter()
                .map(|one| (one.name.clone(), one.connections));
            pairs.collect::<Vec<_>>()
        };
        let changed = [
            ("shards", old.shards != new.shards),
            ("backlog", old.backlog != new.backlog),
            ("[budget]", shared(&old.budgets) != shared(&new.budgets)),
            (
                "the most of `app.workers` (it is shared out)",
                self.most_is_left(new),
            ),
            ("[log]", old.log != new.log),
            ("[admin]", old.admin != new.admin),
        ];
        let changed = changed.into_iter().filter(|(_, changed)| *changed);
        changed.map(|(name, _)| name).collect()
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    /// Every key of `[app]` is a flag of `evener run`.
    #[test]
    fn the_settings_of_the_application_are_flags() {
        let line = CommandLine::command();
        let run = line.find_subcommand("run").unwrap();
        let flags: Vec<&str> = run
            .get_arguments()
            .filter_map(|one| one.get_long())
            .collect();
        let app = evener_config::ROOT.key("app").unwrap();
        let evener_config::Kind::Table(table) = app.kind else {
            panic!("`[app]` is a table");
        };
        for key in table.keys.iter().filter(|key| key.name != "target") {
            let flag = key.name.replace('_', "-");
            assert!(flags.contains(&flag.as_str()), "--{flag}");
        }
    }
}
