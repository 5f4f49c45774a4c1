//! What a route does besides passing requests on.

use std::ops::Range;

use crate::error::Findings;
use crate::filters::OriginPattern;
use crate::filters::{
    Coding, Compress, Cors, FieldEdits, Files, Filters, Fixed, PathRewrite, Redirect,
    RequestIdRule, SecurityField, Symlinks,
};
use crate::model::Action;
use crate::template::{Part, Template};
use crate::typed::{Node, Section, Value};
use crate::values;

/// Fields that belong to a connection or to the framing of a message.
const FRAMING: [&str; 10] = [
    "connection",
    "content-length",
    "expect",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "http2-settings",
];

/// The filters of a route.
pub(super) fn filters(section: &Section, findings: &mut Findings) -> Filters {
    Filters {
        strip_prefix: section
            .text("strip_prefix")
            .map(|prefix| prefix.trim_end_matches('/').to_owned())
            .filter(|prefix| !prefix.is_empty()),
        rewrite: section
            .list("rewrite")
            .iter()
            .filter_map(|node| rewrite(node.as_section()?, findings))
            .collect(),
        request_id: match section.text("request_id") {
            Some("keep") => RequestIdRule::Keep,
            Some("new") => RequestIdRule::New,
            _ => RequestIdRule::Trusted,
        },
        request: edits(section, "request_fields", findings),
        response: edits(section, "response_fields", findings),
        security: security(section),
        cors: section
            .section("cors")
            .map(|section| cors(section, findings)),
        compress: compress(section, findings),
    }
}

fn rewrite(section: &Section, findings: &mut Findings) -> Option<PathRewrite> {
    let regex = regex::bytes::Regex::new(section.text("regex")?).ok()?;
    let node = section.get("to")?;
    let text = node.as_text()?;
    if !text.starts_with(['/', '$']) {
        findings.add(&node.span, "`to`: a path begins with `/`");
    }
    let groups = regex.captures_len();
    let template = Template::parse(text).ok()?;
    for variable in template.variables() {
        if let crate::template::Variable::Group(number) = variable
            && *number >= groups
        {
            let message = format!("`to`: the expression has no group {number}");
            findings.add(&node.span, message);
        }
    }
    let (path, query) = split_at_query(template);
    let drop_query = query.as_ref().is_some_and(|query| {
        matches!(query.parts.last(), Some(Part::Text(text)) if text.ends_with('?'))
            || query.parts.is_empty()
    });
    let query = query.map(|mut query| {
        if let (true, Some(Part::Text(text))) = (drop_query, query.parts.last_mut()) {
            text.truncate(text.len() - 1);
        }
        query
    });
    Some(PathRewrite {
        regex,
        path,
        query,
        drop_query,
    })
}

/// A template as what stands before its first `?` and behind it.
fn split_at_query(template: Template) -> (Template, Option<Template>) {
    let mut path = Template::default();
    let mut query: Option<Template> = None;
    for part in template.parts {
        match (&mut query, part) {
            (Some(query), part) => query.parts.push(part),
            (None, Part::Text(text)) => {
                let (before, behind) = match text.split_once('?') {
                    Some((before, behind)) => (before.to_owned(), Some(behind.to_owned())),
                    None => (text, None),
                };
                if !before.is_empty() {
                    path.parts.push(Part::Text(before));
                }
                query = behind.map(|behind| Template {
                    parts: match behind.is_empty() {
                        true => Vec::new(),
                        false => vec![Part::Text(behind)],
                    },
                });
            }
            (None, part) => path.parts.push(part),
        }
    }
    (path, query)
}

fn edits(section: &Section, key: &'static str, findings: &mut Findings) -> FieldEdits {
    let Some(section) = section.section(key) else {
        return FieldEdits::default();
    };
    let request = key == "request_fields";
    let mut check = |name: &str, span: &Range<usize>, may_be_host: bool| {
        let lower = name.to_ascii_lowercase();
        if let Err(error) = values::field_name(name) {
            findings.add(span, format!("`{key}`: {error}"));
        } else if FRAMING.contains(&lower.as_str()) {
            let message =
                format!("`{key}`: `{name}` belongs to the connection and cannot be changed");
            findings.add(span, message);
        } else if request && lower == "host" && !may_be_host {
            findings.add(span, format!("`{key}`: `Host` can only be `set`"));
        }
    };
    let templates = |key, check: &mut dyn FnMut(&str, &Range<usize>)| {
        let mut list = Vec::new();
        for (name, span, node) in section.named(key) {
            check(name, span);
            if let Some(Ok(template)) = node.as_text().map(Template::parse) {
                list.push((name.clone(), template));
            }
        }
        list
    };
    let set = templates("set", &mut |name, span| check(name, span, true));
    let add = templates("add", &mut |name, span| check(name, span, false));
    let mut rename = Vec::new();
    for (old, span, node) in section.named("rename") {
        check(old, span, false);
        if let Some(new) = node.as_text() {
            check(new, &node.span, false);
            rename.push((old.clone(), new.to_owned()));
        }
    }
    let mut remove = Vec::new();
    for (name, span) in section.texts("remove") {
        check(name, span, false);
        remove.push(name.to_owned());
    }
    FieldEdits {
        rename,
        remove,
        set,
        add,
    }
}

fn security(section: &Section) -> Vec<SecurityField> {
    let fields = [
        ("hsts", "Strict-Transport-Security", "max-age=31536000"),
        ("content_type_options", "X-Content-Type-Options", "nosniff"),
        ("frame_options", "X-Frame-Options", "SAMEORIGIN"),
        (
            "referrer_policy",
            "Referrer-Policy",
            "strict-origin-when-cross-origin",
        ),
        ("content_security_policy", "Content-Security-Policy", "off"),
        ("permissions_policy", "Permissions-Policy", "off"),
        (
            "cross_origin_opener_policy",
            "Cross-Origin-Opener-Policy",
            "off",
        ),
    ];
    let own = section.section("security_headers");
    if own.is_none() && !section.flag("security_headers") {
        return Vec::new();
    }
    let written = fields.into_iter().map(|(key, name, usual)| SecurityField {
        name,
        value: own
            .and_then(|own| own.text(key))
            .unwrap_or(usual)
            .to_owned(),
        tls_only: key == "hsts",
    });
    written.filter(|field| field.value != "off").collect()
}

fn cors(section: &Section, findings: &mut Findings) -> Cors {
    let origins = section.texts("origins");
    let origins: Vec<OriginPattern> = origins
        .filter_map(|(text, _)| values::origin(text).ok())
        .collect();
    let credentials = section.flag("credentials");
    if credentials
        && origins.contains(&OriginPattern::Any)
        && let (Some(own), Some(node)) = (section.key_span("credentials"), section.get("origins"))
    {
        let message =
            "`credentials` for every origin would let any page act as your users; name the origins";
        findings.add_pair(own, message, &node.span, "`*` is here");
    }
    let texts = |key| section.texts(key).map(|(text, _)| text);
    Cors {
        origins,
        methods: texts("methods").map(str::to_owned).collect(),
        headers: texts("headers").map(str::to_ascii_lowercase).collect(),
        expose: texts("expose").map(str::to_owned).collect(),
        credentials,
        max_age: section.time("max_age").map_or(600, |time| time.as_secs()),
    }
}

fn compress(section: &Section, findings: &mut Findings) -> Option<Compress> {
    let usual = Compress::default();
    let Some(section) = section.section("compress") else {
        return section.flag("compress").then_some(usual);
    };
    let mut types = Vec::new();
    for (text, span) in section.texts("types") {
        if !text.contains('/') || text.contains(';') {
            let message = format!("`{text}` is not a media type: write text/html or text/*");
            findings.add(span, message);
        }
        types.push(text.to_ascii_lowercase());
    }
    let codings = section.texts("codings");
    Some(Compress {
        codings: codings
            .filter_map(|(text, _)| Coding::named(text))
            .collect(),
        types,
        min_bytes: section.size("min").unwrap_or(usual.min_bytes),
        level: section
            .whole("level")
            .and_then(|level| u32::try_from(level).ok())
            .unwrap_or(usual.level),
    })
}

impl Default for Compress {
    fn default() -> Self {
        let types = [
            "text/*",
            "application/json",
            "application/*+json",
            "application/javascript",
            "application/xml",
            "application/*+xml",
            "application/wasm",
            "application/manifest+json",
            "application/x-ndjson",
            "image/svg+xml",
            "font/ttf",
            "font/otf",
        ];
        Compress {
            codings: vec![Coding::Zstd, Coding::Brotli, Coding::Gzip],
            types: types.into_iter().map(str::to_owned).collect(),
            min_bytes: 1024,
            level: 4,
        }
    }
}

/// `redirect` of a route.
pub(super) fn redirect(section: &Section) -> Action {
    let node = section.get("redirect");
    let table = node.and_then(Node::as_section);
    let to = match table {
        Some(table) => table.text("to"),
        None => node.and_then(Node::as_text),
    };
    let status = table.and_then(|table| table.text("status"));
    Action::Redirect(Redirect {
        to: template(to),
        status: status.and_then(|status| status.parse().ok()).unwrap_or(307),
    })
}

/// `respond` of a route.
pub(super) fn respond(section: &Section) -> Action {
    let node = section.get("respond");
    let table = node.and_then(Node::as_section);
    let status = match (table, node.map(|node| &node.value)) {
        (Some(table), _) => table.whole("status"),
        (None, Some(Value::Whole(status))) => Some(*status),
        _ => None,
    };
    Action::Respond(Fixed {
        status: status
            .and_then(|status| u16::try_from(status).ok())
            .unwrap_or(200),
        body: template(table.and_then(|table| table.text("body"))),
        media: table
            .and_then(|table| table.text("type"))
            .unwrap_or("text/plain; charset=utf-8")
            .to_owned(),
    })
}

fn template(text: Option<&str>) -> Template {
    text.and_then(|text| Template::parse(text).ok())
        .unwrap_or_default()
}

/// `files` of a route.
pub(super) fn files(section: &Section, findings: &mut Findings) -> Files {
    let node = section.get("files");
    let usual = Files::default();
    let Some(table) = node.and_then(Node::as_section) else {
        return Files {
            root: node.and_then(Node::as_text).unwrap_or_default().into(),
            offset: node.map_or(0, |node| node.span.start),
            ..usual
        };
    };
    for (name, span) in table.texts("index") {
        if name.is_empty() || name.contains('/') || name == ".." || name == "." {
            findings.add(span, format!("`index`: `{name}` is not the name of a file"));
        }
    }
    let mut types = Vec::new();
    for (extension, span, node) in table.named("types") {
        if extension.contains(['/', '.']) {
            let message = format!("`types`: write the extension without a dot, not `{extension}`");
            findings.add(span, message);
        }
        if let Some(media) = node.as_text() {
            types.push((extension.to_ascii_lowercase(), media.to_owned()));
        }
    }
    let mut precompressed = Vec::new();
    for (text, _) in table.texts("precompressed") {
        precompressed.extend(Coding::named(text));
    }
    Files {
        root: table.text("root").unwrap_or_default().into(),
        offset: table.get("root").map_or(0, |node| node.span.start),
        index: table
            .texts("index")
            .map(|(text, _)| text.to_owned())
            .collect(),
        fallback: table.text("fallback").map(str::to_owned),
        symlinks: match table.text("symlinks") {
            Some("never") => Symlinks::Never,
            Some("follow") => Symlinks::Follow,
            _ => Symlinks::Within,
        },
        hidden: table.flag("hidden"),
        precompressed,
        cache_control: table.text("cache_control").map(str::to_owned),
        types,
    }
}

impl Default for Files {
    fn default() -> Self {
        Files {
            root: std::path::PathBuf::new(),
            offset: 0,
            index: vec!["index.html".to_owned()],
            fallback: None,
            symlinks: Symlinks::default(),
            hidden: false,
            precompressed: Coding::ALL.to_vec(),
            cache_control: None,
            types: Vec::new(),
        }
    }
}
