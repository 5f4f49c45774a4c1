//! The name that was probably meant.

/// The nearest of `names` to `given`, if it is near enough to be meant.
pub fn nearest<'a>(given: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let bound = (given.chars().count() / 3).max(1);
    names
        .into_iter()
        .map(|name| (distance(given, name), name))
        .filter(|(distance, _)| *distance <= bound)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

/// Edits between two names: letters added, dropped, changed, or two neighbours swapped (the
/// restricted distance of Damerau and Levenshtein). `_` and `-` count as the same.
fn distance(one: &str, other: &str) -> usize {
    let letters = |name: &str| -> Vec<char> {
        name.chars()
            .map(|c| {
                if c == '-' {
                    '_'
                } else {
                    c.to_ascii_lowercase()
                }
            })
            .collect()
    };
    let (one, other) = (letters(one), letters(other));
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=other.len()).collect();
    for (i, a) in one.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, b) in other.iter().enumerate() {
            let mut least = (last[j] + usize::from(a != b))
                .min(last[j + 1] + 1)
                .min(row[j] + 1);
            if i > 0 && j > 0 && *a == other[j - 1] && one[i - 1] == *b {
                least = least.min(before[j - 1] + 1);
            }
            row.push(least);
        }
        before = std::mem::replace(&mut last, row);
    }
    last.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_of_the_pen_are_recognised_and_other_words_are_not() {
        let names = ["round_robin", "least_conn", "ip_hash", "hash", "path"];
        for (given, meant) in [
            ("round-robin", Some("round_robin")),
            ("roundrobin", Some("round_robin")),
            ("least_con", Some("least_conn")),
            ("hsah", Some("hash")),
            ("IP_HASH", Some("ip_hash")),
            ("pth", Some("path")),
            ("cluster", None),
            ("x", None),
        ] {
            assert_eq!(nearest(given, names), meant, "{given}");
        }
    }
}
