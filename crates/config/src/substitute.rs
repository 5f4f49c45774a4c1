//! Environment variables in text: `${NAME}`, and `${NAME:-default}` for one that is unset or empty.
//! `$${` stands for `${` itself. Variables of a request are written without braces (`$host`), so
//! the two cannot be mistaken for each other.

/// Replaces the variables in `text`; an error says what is wrong.
pub(crate) fn substitute(
    text: &str,
    variable: &dyn Fn(&str) -> Option<String>,
) -> Result<String, String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find("${") {
        if rest[..start].ends_with('$') {
            out.push_str(&rest[..start]);
            out.push('{');
            rest = &rest[start + 2..];
            continue;
        }
        out.push_str(&rest[..start]);
        let Some(end) = rest[start..].find('}') else {
            return Err("`${` has no `}`; write `$${` for the characters themselves".to_owned());
        };
        let inside = &rest[start + 2..start + end];
        let (name, default) = match inside.split_once(":-") {
            Some((name, default)) => (name, Some(default)),
            None => (inside, None),
        };
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if name.is_empty()
            || name.starts_with(|c: char| c.is_ascii_digit())
            || !name.chars().all(plain)
        {
            return Err(format!(
                "`${{{inside}}}` does not name an environment variable; write `$${{` for the \
                 characters themselves"
            ));
        }
        match (variable(name).filter(|value| !value.is_empty()), default) {
            (Some(value), _) => out.push_str(&value),
            (None, Some(default)) => out.push_str(default),
            (None, None) => {
                return Err(format!(
                    "the environment variable `{name}` is not set; set it, or write \
                     `${{{name}:-default}}`"
                ));
            }
        }
        rest = &rest[start + end + 1..];
    }
    out.push_str(rest);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_defaults_and_escapes() {
        let variable = |name: &str| match name {
            "HOST" => Some("db".to_owned()),
            "EMPTY" => Some(String::new()),
            _ => None,
        };
        for (text, expected) in [
            ("plain $host", "plain $host"),
            ("${HOST}:1", "db:1"),
            ("${HOST:-x}${NONE:-y}", "dby"),
            ("${EMPTY:-d}${NONE:-}", "d"),
            ("$${HOST} ${HOST}", "${HOST} db"),
        ] {
            assert_eq!(
                substitute(text, &variable).as_deref(),
                Ok(expected),
                "{text}"
            );
        }
        for (text, word) in [
            ("${NONE}", "`NONE` is not set"),
            ("${HOST", "has no `}`"),
            ("${a b}", "does not name"),
            ("${1}", "does not name"),
        ] {
            let error = substitute(text, &variable).unwrap_err();
            assert!(error.contains(word), "{text}: {error}");
        }
    }
}
