//! What a route does besides passing requests on: header fields, paths, CORS, compression, files.
//!
//! Each module makes one decision or change of what it is given; connections, phases and the order
//! of things are left to the data plane. Only [`files`] looks at anything outside its arguments:
//! the folder that it serves.

#![forbid(unsafe_code)]

mod accept;
mod conditions;
mod cors;
mod date;
mod edit;
mod encode;
pub mod files;
mod media;
mod path;

pub use accept::choose;
pub use conditions::{Asked, Resource, Verdict, evaluate};
pub use cors::{Preflight, cors_fields, preflight};
pub use edit::{Edits, push_value};
pub use encode::Encoder;
pub use media::media_type;
pub use path::{Rewritten, push_location, push_path, rewrite};

use evener_config::Template;

/// Whoever knows what the variables of a template stand for.
pub trait Fill {
    /// Appends what a template stands for.
    fn fill(&self, template: &Template, out: &mut Vec<u8>);
}
