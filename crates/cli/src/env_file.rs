//! Reads an environment file (`--env-file`): lines of `NAME=VALUE`, as python-dotenv reads them
//! without interpolation.

/// The variables in the order of the file; the error names the line.
pub(crate) fn parse(text: &str) -> Result<Vec<(String, String)>, String> {
    let mut variables = Vec::new();
    for (index, line) in text.trim_start_matches('\u{feff}').lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let wrong = |what: &str| format!("line {}: {what}", index + 1);
        let line = line.strip_prefix("export ").unwrap_or(line);
        let Some((name, value)) = line.split_once('=') else {
            return Err(wrong("there is no `=`; write NAME=VALUE"));
        };
        let name = name.trim().trim_matches('\'');
        let valid = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
        if name.is_empty() || !name.chars().all(valid) {
            return Err(wrong(&format!("`{name}` cannot be the name of a variable")));
        }
        variables.push((
            name.to_owned(),
            unquote(value.trim()).map_err(|what| wrong(&what))?,
        ));
    }
    Ok(variables)
}

fn unquote(value: &str) -> Result<String, String> {
    let Some(quote @ ('\'' | '"')) = value.chars().next() else {
        // A comment begins at a `#` after white space.
        let end = value
            .char_indices()
            .find(|(index, c)| *c == '#' && value[..*index].ends_with(char::is_whitespace));
        return Ok(value[..end.map_or(value.len(), |(index, _)| index)]
            .trim_end()
            .to_owned());
    };
    let mut result = String::new();
    let mut characters = value[1..].chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' => match (quote, characters.next()) {
                ('"', Some('n')) => result.push('\n'),
                ('"', Some('t')) => result.push('\t'),
                ('"', Some('r')) => result.push('\r'),
                (_, Some(escaped)) if escaped == quote || escaped == '\\' => result.push(escaped),
                (_, Some(other)) => result.extend(['\\', other]),
                (_, None) => break,
            },
            _ if character == quote => {
                let rest = characters.as_str().trim();
                return if rest.is_empty() || rest.starts_with('#') {
                    Ok(result)
                } else {
                    Err(format!("`{rest}` after the closing quote"))
                };
            }
            _ => result.push(character),
        }
    }
    Err("the quote is not closed".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_as_dotenv_reads_them() {
        let text = "# comment\n\nA=1\nexport B = two words # comment\nC='it''\n";
        assert!(parse(text).unwrap_err().starts_with("line 5"));
        let text =
            "A=1\nexport B = two words # comment\nC='a # b' # c\nD=\"x\\n\\\"y\\\"\"\nE=\nF=a#b\n";
        let expected = [
            ("A", "1"),
            ("B", "two words"),
            ("C", "a # b"),
            ("D", "x\n\"y\""),
            ("E", ""),
            ("F", "a#b"),
        ];
        let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(parse(text).unwrap(), expected);
        assert_eq!(
            parse("A=1\nnothing").unwrap_err(),
            "line 2: there is no `=`; write NAME=VALUE"
        );
        assert!(parse("A B=1").is_err());
        assert!(parse("A='open").is_err());
    }
}
