//! What a route does besides passing a request on, as resolved: answers of its own, rewriting,
//! CORS, compression, files. The work itself is left to the data plane.

use std::path::PathBuf;
use std::time::Duration;

use crate::template::Template;

/// What a route does to its requests and responses on their way.
#[derive(Debug, Clone, Default)]
pub struct Filters {
    /// Taken off the front of the path.
    pub strip_prefix: Option<String>,
    /// The first that fits rewrites the path.
    pub rewrite: Vec<PathRewrite>,
    /// Whose request ids are kept.
    pub request_id: RequestIdRule,
    /// Changes to the fields of the request.
    pub request: FieldEdits,
    /// Changes to the fields of the response.
    pub response: FieldEdits,
    /// Fields that tell browsers to be careful, where a response has none of its own.
    pub security: Vec<SecurityField>,
    /// Which other origins may read responses.
    pub cors: Option<Cors>,
    /// Compression of responses.
    pub compress: Option<Compress>,
}

impl Filters {
    /// Whether nothing is done.
    pub fn is_empty(&self) -> bool {
        self.strip_prefix.is_none()
            && self.rewrite.is_empty()
            && self.request_id == RequestIdRule::Trusted
            && self.request.is_empty()
            && self.response.is_empty()
            && self.security.is_empty()
            && self.cors.is_none()
            && self.compress.is_none()
    }
}

/// A path is rewritten.
#[derive(Debug, Clone)]
pub struct PathRewrite {
    /// Where this finds something in the path.
    pub regex: regex::bytes::Regex,
    /// The new path; its groups are those of the expression.
    pub path: Template,
    /// The beginning of the new query, from a `?` in the text on.
    pub query: Option<Template>,
    /// The query that came is dropped: the text ends in `?`.
    pub drop_query: bool,
}

/// Whose `X-Request-ID` is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RequestIdRule {
    /// That of trusted clients.
    #[default]
    Trusted,
    /// Everybody's.
    Keep,
    /// Nobody's.
    New,
}

/// Changes to header fields, in this order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FieldEdits {
    /// Old and new names.
    pub rename: Vec<(String, String)>,
    /// Names of fields that are taken away.
    pub remove: Vec<String>,
    /// Fields that get this value, whatever they had.
    pub set: Vec<(String, Template)>,
    /// Fields that are added to what is there.
    pub add: Vec<(String, Template)>,
}

impl FieldEdits {
    /// Whether nothing is changed.
    pub fn is_empty(&self) -> bool {
        self.rename.is_empty()
            && self.remove.is_empty()
            && self.set.is_empty()
            && self.add.is_empty()
    }
}

/// A field that a response gets unless it has one of that name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecurityField {
    /// Its name.
    pub name: &'static str,
    /// Its value.
    pub value: String,
    /// Only over TLS.
    pub tls_only: bool,
}

/// Which other origins may read responses, and ask for what.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cors {
    /// The origins, in small letters.
    pub origins: Vec<OriginPattern>,
    /// Methods that may be used.
    pub methods: Vec<String>,
    /// Request fields that may be sent, in small letters; `*` is any.
    pub headers: Vec<String>,
    /// Response fields that may be read.
    pub expose: Vec<String>,
    /// Whether cookies and the like may be sent.
    pub credentials: bool,
    /// How long, in seconds, a browser may remember.
    pub max_age: u64,
}

/// An origin that may read responses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OriginPattern {
    /// Any.
    Any,
    /// This one.
    Exact(String),
    /// Every host below a name.
    Below {
        /// `https://`.
        scheme: String,
        /// `.example.com`, perhaps with a port.
        suffix: String,
    },
}

/// How responses are compressed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compress {
    /// In what, the favourite first.
    pub codings: Vec<Coding>,
    /// Media types, without parameters and in small letters; those that end in `/*` are all of
    /// the kind.
    pub types: Vec<String>,
    /// Shorter ones are not worth it.
    pub min_bytes: u64,
    /// 1 is quick, 9 is small.
    pub level: u32,
}

/// A content coding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coding {
    /// gzip.
    Gzip,
    /// Brotli.
    Brotli,
    /// Zstandard.
    Zstd,
}

impl Coding {
    /// All of them.
    pub const ALL: [Coding; 3] = [Coding::Brotli, Coding::Zstd, Coding::Gzip];

    /// Its name in `Content-Encoding`.
    pub fn token(self) -> &'static str {
        match self {
            Coding::Gzip => "gzip",
            Coding::Brotli => "br",
            Coding::Zstd => "zstd",
        }
    }

    /// What the names of files end in that hold it.
    pub fn extension(self) -> &'static str {
        match self {
            Coding::Gzip => ".gz",
            Coding::Brotli => ".br",
            Coding::Zstd => ".zst",
        }
    }

    /// The coding of this name.
    pub fn named(token: &str) -> Option<Coding> {
        Coding::ALL.into_iter().find(|one| one.token() == token)
    }
}

/// The client is sent elsewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redirect {
    /// Where to.
    pub to: Template,
    /// 301, 302, 303, 307 or 308.
    pub status: u16,
}

/// An answer that is always the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fixed {
    /// Its status.
    pub status: u16,
    /// Its body.
    pub body: Template,
    /// Its `Content-Type`.
    pub media: String,
}

/// A folder that is served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Files {
    /// The folder.
    pub root: PathBuf,
    /// Where it was written, as an offset into the file.
    pub offset: usize,
    /// What stands for a folder, the first that is there.
    pub index: Vec<String>,
    /// Served where there is no file, as a path below `root`.
    pub fallback: Option<String>,
    /// Where symbolic links may lead.
    pub symlinks: Symlinks,
    /// Names that begin with a dot are served too.
    pub hidden: bool,
    /// Codings that may lie ready beside a file.
    pub precompressed: Vec<Coding>,
    /// The `Cache-Control` of files.
    pub cache_control: Option<String>,
    /// Media types by extension, before those that are known.
    pub types: Vec<(String, String)>,
}

/// Where symbolic links may lead.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Symlinks {
    /// Anywhere below the root.
    #[default]
    Within,
    /// Nowhere: what is reached by one is not there.
    Never,
    /// Anywhere.
    Follow,
}

/// How clients come to carry what binds them to an endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Binding {
    /// They are given a cookie.
    Cookie {
        /// Its name.
        name: String,
        /// What follows its value: `; Path=/; HttpOnly`.
        attributes: String,
        /// It is given again with every response, because it expires.
        again: bool,
    },
    /// They are given a cookie by the application.
    Learn {
        /// Its name.
        name: String,
        /// How long a value is remembered after its last use.
        ttl: Duration,
        /// Values that are remembered.
        sessions_max: usize,
    },
}
