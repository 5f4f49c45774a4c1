//! Text with variables of a request in it: `https://$host$request_uri`. `$(name)` sets a variable
//! off from letters that follow it; `$$` is a dollar sign. The names are nginx's where nginx has
//! them. Filling in is left to the data plane.

use crate::near::nearest;

/// Text with variables, taken apart.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Template {
    /// What it is made of, in order.
    pub parts: Vec<Part>,
}

/// A piece of a template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// This text.
    Text(String),
    /// What the variable stands for.
    Variable(Variable),
}

/// What a request knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Variable {
    /// `$host`: the host of the request without port, in small letters.
    Host,
    /// `$http_NAME`: the value of a header field, with `-` for `_`.
    Field(String),
    /// `$cookie_NAME`: the value of a cookie.
    Cookie(String),
    /// `$arg_NAME`: the value of an argument in the query, as it was written.
    Argument(String),
    /// `$remote_addr`: the client's address, as trusted clients tell it.
    RemoteAddress,
    /// `$realip_remote_addr`: the address of the connection's other end, whoever it speaks for.
    PeerAddress,
    /// `$remote_port`: the port of the connection's other end.
    RemotePort,
    /// `$proxy_add_x_forwarded_for`: the chain of addresses, as it is sent on.
    ForwardedFor,
    /// `$scheme`: `http` or `https`.
    Scheme,
    /// `$request_id`: the id of the request, as it is sent on.
    RequestId,
    /// `$request_method`.
    Method,
    /// `$request_uri`: path and query, as they came.
    RequestUri,
    /// `$uri`: the path in its normal form.
    Uri,
    /// `$args`: the query.
    Arguments,
    /// `$is_args`: `?` if there is a query, else nothing.
    IsArguments,
    /// `$server_protocol`: `HTTP/1.1`.
    Protocol,
    /// `$1` to `$9`: what a group of the route's regular expression found.
    Group(usize),
}

const PLAIN: [(&str, Variable); 14] = [
    ("host", Variable::Host),
    ("remote_addr", Variable::RemoteAddress),
    ("realip_remote_addr", Variable::PeerAddress),
    ("remote_port", Variable::RemotePort),
    ("proxy_add_x_forwarded_for", Variable::ForwardedFor),
    ("scheme", Variable::Scheme),
    ("request_id", Variable::RequestId),
    ("request_method", Variable::Method),
    ("request_uri", Variable::RequestUri),
    ("uri", Variable::Uri),
    ("args", Variable::Arguments),
    ("query_string", Variable::Arguments),
    ("is_args", Variable::IsArguments),
    ("server_protocol", Variable::Protocol),
];

impl Template {
    /// Takes a text apart.
    pub fn parse(text: &str) -> Result<Template, String> {
        let mut parts: Vec<Part> = Vec::new();
        let mut plain = String::new();
        let mut rest = text;
        while let Some(at) = rest.find('$') {
            plain.push_str(&rest[..at]);
            rest = &rest[at + 1..];
            if let Some(after) = rest.strip_prefix('$') {
                plain.push('$');
                rest = after;
                continue;
            }
            let (name, after) = variable_name(rest)?;
            let variable = Variable::named(name)?;
            if !plain.is_empty() {
                parts.push(Part::Text(std::mem::take(&mut plain)));
            }
            parts.push(Part::Variable(variable));
            rest = after;
        }
        plain.push_str(rest);
        if !plain.is_empty() {
            parts.push(Part::Text(plain));
        }
        Ok(Template { parts })
    }

    /// Whether it is nothing but this text.
    pub fn as_text(&self) -> Option<&str> {
        match &self.parts[..] {
            [] => Some(""),
            [Part::Text(text)] => Some(text),
            _ => None,
        }
    }

    /// The variables in it.
    pub fn variables(&self) -> impl Iterator<Item = &Variable> {
        self.parts.iter().filter_map(|part| match part {
            Part::Variable(variable) => Some(variable),
            Part::Text(_) => None,
        })
    }
}

/// The name that `text` begins with, and what follows it.
fn variable_name(text: &str) -> Result<(&str, &str), String> {
    if let Some(inner) = text.strip_prefix('(') {
        return inner.split_once(')').ok_or_else(|| {
            "`$(` has no `)`; write `$$(` for the characters themselves".to_owned()
        });
    }
    let end = match text.bytes().next() {
        Some(byte) if byte.is_ascii_digit() => 1,
        _ => text
            .find(|c: char| !c.is_ascii_alphanumeric() && c != '_')
            .unwrap_or(text.len()),
    };
    match end {
        0 => Err("`$` names no variable; write `$$` for the character itself".to_owned()),
        _ => Ok(text.split_at(end)),
    }
}

impl Variable {
    fn named(name: &str) -> Result<Variable, String> {
        if let Some((_, variable)) = PLAIN.iter().find(|(known, _)| *known == name) {
            return Ok(variable.clone());
        }
        let rest = |prefix| {
            name.strip_prefix(prefix)
                .filter(|rest: &&str| !rest.is_empty())
        };
        if let Some(field) = rest("http_") {
            return Ok(Variable::Field(
                field.to_ascii_lowercase().replace('_', "-"),
            ));
        }
        if let Some(cookie) = rest("cookie_") {
            return Ok(Variable::Cookie(cookie.to_owned()));
        }
        if let Some(argument) = rest("arg_") {
            return Ok(Variable::Argument(argument.to_owned()));
        }
        if let Ok(number @ 1..=9) = name.parse() {
            return Ok(Variable::Group(number));
        }
        let names = PLAIN.iter().map(|(known, _)| *known);
        Err(match nearest(name, names) {
            Some(meant) => format!("there is no variable `${name}`; did you mean `${meant}`?"),
            None => {
                let names: Vec<String> =
                    PLAIN.iter().map(|(known, _)| format!("${known}")).collect();
                format!(
                    "there is no variable `${name}`; there are {}, $http_NAME, $cookie_NAME, \
                     $arg_NAME and $1 to $9",
                    names.join(", ")
                )
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_taken_apart() {
        use Part::{Text, Variable as Is};
        use Variable::{Argument, Cookie, Field, Group, Host, RequestUri};
        let text = |text: &str| Text(text.to_owned());
        for (template, parts) in [
            ("", vec![]),
            ("plain", vec![text("plain")]),
            (
                "https://$host$request_uri",
                vec![text("https://"), Is(Host), Is(RequestUri)],
            ),
            ("$(host)x $$1", vec![Is(Host), text("x $1")]),
            ("$1$2x", vec![Is(Group(1)), Is(Group(2)), text("x")]),
            ("$http_X_Api_Key", vec![Is(Field("x-api-key".to_owned()))]),
            (
                "$cookie_user-$arg_q",
                vec![
                    Is(Cookie("user".to_owned())),
                    text("-"),
                    Is(Argument("q".to_owned())),
                ],
            ),
        ] {
            assert_eq!(
                Template::parse(template),
                Ok(Template { parts }),
                "{template}"
            );
        }
        for (wrong, word) in [
            ("$", "names no variable"),
            ("a $ b", "names no variable"),
            ("$(host", "no `)`"),
            ("$hots", "did you mean `$host`?"),
            ("$nonsense_of_it", "there are $host"),
            ("$http_", "there is no variable"),
            ("$0", "there is no variable"),
        ] {
            let error = Template::parse(wrong).unwrap_err();
            assert!(error.contains(word), "{wrong}: {error}");
        }
    }
}
