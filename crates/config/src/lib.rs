//! evener.toml: as written ([`typed`]) and as resolved ([`Config`]).
//!
//! Everything that a file may say is one table of definitions ([`keys`]); reading, the JSON schema
//! and the reference page are made of it. Reading finds all errors at once, each with its place.
//! Nothing here opens a file, a socket or a name: that is left to `cli`.

#![forbid(unsafe_code)]

mod budget;
mod definition;
mod error;
mod filters;
mod keys;
mod model;
mod near;
mod reference;
mod resolve;
mod schema;
mod substitute;
mod template;
mod typed;
pub mod values;

pub use budget::Budget;
pub use definition::{Default, Form, Key, Kind, Table};
pub use error::{ConfigError, Errors, Place};
pub use filters::{
    Binding, Coding, Compress, Cors, FieldEdits, Files, Filters, Fixed, OriginPattern, PathRewrite,
    Redirect, RequestIdRule, SecurityField, Symlinks,
};
pub use keys::ROOT;
pub use model::{
    Action, Admin, App, Backoff, BalanceKey, Buffering, CertificateFiles, CheckKind, Cluster,
    ClusterTls, Config, Dns, Endpoint, Fallback, Flag, Guard, HealthCheck, HealthPaths,
    HostPattern, Http2Terms, Limits, Listener, ListenerTls, Log, Matcher, PathPattern,
    ProxyVersion, RequestBuffer, Resend, ResponseBuffer, Route, Speech, Spill, Timeouts,
    TrustedPeers, ValuePattern,
};
pub use near::nearest;
pub use reference::reference;
pub use schema::schema;
pub use template::{Part, Template, Variable};

/// Reads a configuration. `file` is how errors name it; `variable` looks up the environment.
pub fn read(
    file: &str,
    text: &str,
    variable: &dyn Fn(&str) -> Option<String>,
) -> Result<Config, Errors> {
    let mut findings = error::Findings::default();
    let root = {
        let mut reader = typed::Reader {
            findings: &mut findings,
            variable,
        };
        typed::read(text, &ROOT, &mut reader)
    };
    let config = resolve::resolve(&root, &mut findings);
    match findings.finish(file, text) {
        None => Ok(config),
        Some(errors) => Err(errors),
    }
}

/// The place of an offset in a file's text, for errors that are found later.
pub fn place(text: &str, offset: usize) -> Place {
    error::place(text, offset)
}
