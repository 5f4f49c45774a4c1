//! Wall-clock time as text, without a date library: RFC 3339 in UTC with milliseconds, and the
//! forms of gunicorn's logs in local time.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Appends `2026-01-31T23:59:59.123Z`.
pub(crate) fn push_rfc3339(out: &mut Vec<u8>, time: SystemTime) {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let (days, second) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    let (year, month, day) = civil_from_days(days);
    push_padded(out, year, 4);
    out.push(b'-');
    push_padded(out, month, 2);
    out.push(b'-');
    push_padded(out, day, 2);
    out.push(b'T');
    push_padded(out, second / 3600, 2);
    out.push(b':');
    push_padded(out, second / 60 % 60, 2);
    out.push(b':');
    push_padded(out, second % 60, 2);
    out.push(b'.');
    push_padded(out, u64::from(since.subsec_millis()), 3);
    out.push(b'Z');
}

/// A moment in local time, which is `utc_offset` seconds ahead of UTC.
struct Local {
    year: u64,
    month: u64,
    day: u64,
    second: u64,
    utc_offset: i32,
}

impl Local {
    fn of(time: SystemTime, utc_offset: i32) -> Local {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        let seconds = since.as_secs().saturating_add_signed(i64::from(utc_offset));
        let (year, month, day) = civil_from_days(seconds / 86_400);
        Local {
            year,
            month,
            day,
            second: seconds % 86_400,
            utc_offset,
        }
    }

    /// `23:59:59 +0100`
    fn push_time(&self, out: &mut Vec<u8>) {
        push_padded(out, self.second / 3600, 2);
        out.push(b':');
        push_padded(out, self.second / 60 % 60, 2);
        out.push(b':');
        push_padded(out, self.second % 60, 2);
        out.extend_from_slice(if self.utc_offset < 0 { b" -" } else { b" +" });
        let minutes = u64::from(self.utc_offset.unsigned_abs() / 60);
        push_padded(out, minutes / 60, 2);
        push_padded(out, minutes % 60, 2);
    }
}

/// Appends `[31/Jan/2026:23:59:59 +0100]`, as common log formats have it.
pub(crate) fn push_common_log(out: &mut Vec<u8>, time: SystemTime, utc_offset: i32) {
    const MONTHS: [&[u8; 3]; 12] = [
        b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov",
        b"Dec",
    ];
    let local = Local::of(time, utc_offset);
    out.push(b'[');
    push_padded(out, local.day, 2);
    out.push(b'/');
    let month = usize::try_from(local.month).unwrap_or(1);
    out.extend_from_slice(MONTHS[(month - 1) % 12]);
    out.push(b'/');
    push_padded(out, local.year, 4);
    out.push(b':');
    local.push_time(out);
    out.push(b']');
}

/// Appends `[2026-01-31 23:59:59 +0100]`, as gunicorn's error log has it.
pub(crate) fn push_error_log(out: &mut Vec<u8>, time: SystemTime, utc_offset: i32) {
    let local = Local::of(time, utc_offset);
    out.push(b'[');
    push_padded(out, local.year, 4);
    out.push(b'-');
    push_padded(out, local.month, 2);
    out.push(b'-');
    push_padded(out, local.day, 2);
    out.push(b' ');
    local.push_time(out);
    out.push(b']');
}

/// Days since 1970-01-01 to year, month, day, by Howard Hinnant's `civil_from_days`, for dates
/// from 1970 on.
fn civil_from_days(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

pub(crate) fn push_padded(out: &mut Vec<u8>, value: u64, width: u32) {
    for place in (0..width).rev() {
        out.push(b'0' + u8::try_from(value / 10u64.pow(place) % 10).expect("a decimal digit"));
    }
}

/// Appends a number in decimal.
pub(crate) fn push_decimal(out: &mut Vec<u8>, value: u64) {
    let mut digits = [0; 20];
    let mut start = digits.len();
    let mut rest = value;
    loop {
        start -= 1;
        digits[start] = b'0' + u8::try_from(rest % 10).expect("a decimal digit");
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[start..]);
}

/// Appends a duration in milliseconds with three decimals.
pub(crate) fn push_millis(out: &mut Vec<u8>, value: Duration) {
    let micros = u64::try_from(value.as_micros()).unwrap_or(u64::MAX);
    push_decimal(out, micros / 1000);
    out.push(b'.');
    push_padded(out, micros % 1000, 3);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_rfc_3339_has_them() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00.007Z"),
            (951_782_399, "2000-02-28T23:59:59.007Z"),
            (951_782_400, "2000-02-29T00:00:00.007Z"),
            (1_709_251_199, "2024-02-29T23:59:59.007Z"),
            (4_102_444_800, "2100-01-01T00:00:00.007Z"),
        ] {
            let mut out = Vec::new();
            push_rfc3339(
                &mut out,
                UNIX_EPOCH + Duration::from_millis(seconds * 1000 + 7),
            );
            assert_eq!(String::from_utf8(out).unwrap(), text);
        }
    }

    #[test]
    fn local_times_are_written_as_gunicorn_has_them() {
        let time = UNIX_EPOCH + Duration::from_secs(1_709_251_199);
        let mut out = Vec::new();
        push_common_log(&mut out, time, 3600);
        push_error_log(&mut out, time, -(4 * 3600 + 30 * 60));
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "[01/Mar/2024:00:59:59 +0100][2024-02-29 19:29:59 -0430]"
        );
    }

    #[test]
    fn numbers_are_written_in_full() {
        let mut out = Vec::new();
        push_decimal(&mut out, 0);
        out.push(b' ');
        push_decimal(&mut out, u64::MAX);
        out.push(b' ');
        push_millis(&mut out, Duration::from_micros(12_045));
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "0 18446744073709551615 12.045"
        );
    }
}
