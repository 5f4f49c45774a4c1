//! The JSON schema of evener.toml, for editors: made of the definitions.

use serde_json::{Map, Value, json};

use crate::definition::{Default, Key, Kind, Table};
use crate::keys::ROOT;

/// The schema as JSON text.
pub fn schema() -> String {
    let mut schema = table(&ROOT);
    schema.insert(
        "$schema".to_owned(),
        json!("http://json-schema.org/draft-07/schema#"),
    );
    schema.insert("title".to_owned(), json!("evener.toml"));
    let mut text = serde_json::to_string_pretty(&Value::Object(schema))
        .expect("a schema has string keys and finite numbers");
    text.push('\n');
    text
}

fn table(definition: &Table) -> Map<String, Value> {
    let mut properties = Map::new();
    let mut required = Vec::new();
    for known in definition
        .keys
        .iter()
        .filter(|key| key.default != Default::NotYet)
    {
        properties.insert(known.name.to_owned(), key(known));
        if known.default == Default::Required {
            required.push(known.name);
        }
    }
    let mut schema = Map::new();
    schema.insert("type".to_owned(), json!("object"));
    schema.insert("description".to_owned(), json!(definition.doc));
    schema.insert("properties".to_owned(), Value::Object(properties));
    if !required.is_empty() {
        schema.insert("required".to_owned(), json!(required));
    }
    schema.insert("additionalProperties".to_owned(), json!(false));
    schema
}

fn key(known: &Key) -> Value {
    let mut schema = kind(&known.kind);
    schema.insert("description".to_owned(), json!(known.doc));
    if let Default::Value(text) = known.default
        && let Ok(value) = toml::from_str::<toml::Table>(&format!("value = {text}"))
        && let Ok(value) = serde_json::to_value(&value["value"])
        && !value.is_object()
    {
        schema.insert("default".to_owned(), value);
    }
    Value::Object(schema)
}

/// Numbers and flags may also be text, since text may hold environment variables.
fn kind(kind: &Kind) -> Map<String, Value> {
    let value = match kind {
        Kind::Text => json!({"type": "string"}),
        Kind::Flag => json!({"type": ["boolean", "string"]}),
        Kind::Whole(least, u64::MAX) => json!({"type": ["integer", "string"], "minimum": least}),
        Kind::Whole(least, most) => {
            json!({"type": ["integer", "string"], "minimum": least, "maximum": most})
        }
        Kind::Fraction(least, most) => {
            json!({"type": ["number", "string"], "minimum": least, "maximum": most})
        }
        Kind::Time | Kind::Deadline => json!({"type": ["number", "string"]}),
        Kind::Size | Kind::SizeLimit => json!({"type": ["integer", "string"]}),
        Kind::Word(words) => {
            json!({"anyOf": [{"enum": words}, {"type": "string", "pattern": "\\$\\{"}]})
        }
        Kind::Formed(form) if form.numbers => {
            json!({"type": ["string", "integer"], "examples": form.examples})
        }
        Kind::Formed(form) => json!({"type": "string", "examples": form.examples}),
        Kind::List(inner) => json!({"type": "array", "items": self::kind(inner)}),
        Kind::OneOrMore(inner) => {
            let one = self::kind(inner);
            json!({"anyOf": [one, {"type": "array", "items": one}]})
        }
        Kind::Table(definition) => Value::Object(table(definition)),
        Kind::Tables(definition) => json!({"type": "array", "items": table(definition)}),
        Kind::Named(definition) => {
            json!({"type": "object", "additionalProperties": table(definition)})
        }
        Kind::Map(inner) => json!({"type": "object", "additionalProperties": self::kind(inner)}),
        Kind::Either(kinds) => {
            let kinds: Vec<_> = kinds.iter().map(self::kind).collect();
            json!({"anyOf": kinds})
        }
    };
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}
