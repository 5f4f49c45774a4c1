//! Dates of HTTP in their three forms (RFC 9110, 5.6.7), as seconds since 1970.

const MONTHS: [&str; 12] = [
    "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
];

/// Reads a date; `None` if it is none.
pub(crate) fn parse(text: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(text).ok()?.trim();
    let words: Vec<&str> = text.split([' ', '-']).filter(|w| !w.is_empty()).collect();
    let (day, month, year, time) = match (text.contains(','), &words[..]) {
        // Sun, 06 Nov 1994 08:49:37 GMT, or Sunday, 06-Nov-94 08:49:37 GMT
        (true, [_, day, month, year, time, "GMT"]) => (*day, *month, *year, *time),
        // Sun Nov  6 08:49:37 1994
        (false, [_, month, day, time, year]) => (*day, *month, *year, *time),
        _ => return None,
    };
    let number = |text: &str| text.parse::<i64>().ok().filter(|number| *number >= 0);
    let month = MONTHS.iter().position(|name| *name == month)? as i64;
    let (day, mut year) = (number(day)?, number(year)?);
    if year < 100 {
        // As far as it goes, a year of two digits is one that is not far ahead of 2020.
        year += if year < 70 { 2000 } else { 1900 };
    }
    let mut parts = time.split(':').map(number);
    let mut part = |most: i64| parts.next().flatten().filter(|part| *part <= most);
    let seconds = part(23)? * 3600 + part(59)? * 60 + part(60)?;
    if !(1..=31).contains(&day) || !(1970..=9999).contains(&year) {
        return None;
    }
    u64::try_from(days(year, month + 1, day) * 86_400 + seconds).ok()
}

/// Days from 1970 to a date of the Gregorian calendar (Hinnant's days_from_civil).
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let shifted = (month + 9) % 12;
    let day_of_year = (153 * shifted + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_three_forms_mean_the_same() {
        for text in [
            "Sun, 06 Nov 1994 08:49:37 GMT",
            "Sunday, 06-Nov-94 08:49:37 GMT",
            "Sun Nov  6 08:49:37 1994",
        ] {
            assert_eq!(parse(text.as_bytes()), Some(784_111_777), "{text}");
        }
        for seconds in [0, 68_256_000, 951_827_696, 1_709_164_800, 4_102_444_799] {
            let mut text = Vec::new();
            evener_http1::write::http_date(&mut text, seconds);
            assert_eq!(parse(&text), Some(seconds));
        }
        for wrong in [
            "",
            "now",
            "Sun, 06 Nov 1994 24:00:00 GMT",
            "Sun, 06 Nox 1994 08:49:37 GMT",
            "Sun, 06 Nov 1994 08:49 GMT",
            "Sun, 06 Nov 1994 08:49:37 CET",
            "Sun, 99 Nov 1994 08:49:37 GMT",
        ] {
            assert_eq!(parse(wrong.as_bytes()), None, "{wrong}");
        }
    }
}
