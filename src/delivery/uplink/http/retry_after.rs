//! `Retry-After` (RFC 9110, section 10.2.3): a number of seconds, or a date.

use std::time::Duration;

use crate::platform::clock::days_from_civil;

const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// How long the receiver asks to wait. `sent` is the response's own `Date`: a date counts from there, so that this device's calendar does
/// not matter; without it `now` (Unix seconds) is used, if the device knows the time.
pub(super) fn delay(value: &str, sent: Option<&str>, now: Option<i64>) -> Option<Duration> {
    let value = value.trim();
    if let Some(seconds) = seconds(value) {
        return Some(seconds);
    }
    let until = http_date(value)?;
    let from = sent.and_then(http_date).or(now)?;
    // A date in the past means now.
    Some(Duration::from_secs(u64::try_from(until - from).unwrap_or(0)))
}

/// Digits, with the fraction that some servers send. A value that exceeds 32 bits is as good as for ever: the cap limits it.
fn seconds(text: &str) -> Option<Duration> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || !digits(whole) || !digits(fraction) {
        return None;
    }
    let begun = u32::from(fraction.bytes().any(|byte| byte != b'0'));
    let seconds = whole.parse::<u32>().unwrap_or(u32::MAX).saturating_add(begun);
    Some(Duration::from_secs(seconds.into()))
}

/// Unix seconds of a date in one of the three forms that RFC 9110, section 5.6.7, requires every recipient to accept:
/// `Sun, 06 Nov 1994 08:49:37 GMT`, `Sunday, 06-Nov-94 08:49:37 GMT`, `Sun Nov  6 08:49:37 1994`.
fn http_date(text: &str) -> Option<i64> {
    let words: heapless::Vec<&str, 6> =
        text.split([' ', '-', ',']).filter(|word| !word.is_empty()).take(6).collect();
    let (day, month, year, time) = match words[..] {
        [_, day, month, year, time, "GMT" | "UTC"] => (day, month, year, time),
        [_, month, day, time, year] => (day, month, year, time),
        _ => return None,
    };
    let month = MONTHS.iter().position(|name| *name == month)? as i64 + 1;
    let number = |text: &str| text.parse::<u16>().ok().map(i64::from);
    let year = match number(year)? {
        year if year < 70 => year + 2000,
        year if year < 100 => year + 1900,
        year => year,
    };
    let mut time = time.split(':').map(number);
    let (hour, minute, second) = (time.next()??, time.next()??, time.next()??);
    let day = number(day)?;
    let valid = (1..=31).contains(&day) && hour < 24 && minute < 60 && second <= 60 && time.next().is_none();
    valid.then(|| days_from_civil(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_read_in_all_three_forms() {
        // 784111777 is the example of RFC 9110; the others are `date -u -d … +%s`.
        for (text, unix) in [
            ("Sun, 06 Nov 1994 08:49:37 GMT", Some(784_111_777)),
            ("Sunday, 06-Nov-94 08:49:37 GMT", Some(784_111_777)),
            ("Sun Nov  6 08:49:37 1994", Some(784_111_777)),
            ("Thu, 29 Feb 2024 23:59:59 GMT", Some(1_709_251_199)),
            ("Thu, 01 Jan 1970 00:00:00 GMT", Some(0)),
            ("Mon, 30 Nov 2026 00:00:00 GMT", Some(1_795_996_800)),
            ("Mon, 30 Nov 2026 24:00:00 GMT", None),
            ("Mon, 30 Nov 2026 00:00 GMT", None),
            ("Mon, 00 Nov 2026 00:00:00 GMT", None),
            ("Mon, 30 Foo 2026 00:00:00 GMT", None),
            ("tomorrow", None),
            ("", None),
        ] {
            assert_eq!(http_date(text), unix, "{text}");
        }
    }

    #[test]
    fn the_delay_comes_from_seconds_or_a_date() {
        let (later, sent) = ("Sun, 06 Nov 1994 08:49:37 GMT", "Sun, 06 Nov 1994 08:47:37 GMT");
        for (value, sent, now, seconds) in [
            ("120", None, None, Some(120)),
            (" 0 ", None, None, Some(0)),
            ("1.5", None, None, Some(2)),
            ("2.0", None, None, Some(2)),
            ("4294967296", None, None, Some(u64::from(u32::MAX))),
            ("-1", None, None, None),
            ("", None, None, None),
            ("soon", Some(sent), Some(0), None),
            (later, Some(sent), None, Some(120)),
            (later, Some(sent), Some(5), Some(120)), // the date refers to the server's own clock
            (later, None, Some(784_111_777 - 30), Some(30)),
            (later, Some("?"), Some(784_111_777 - 30), Some(30)),
            (sent, Some(later), None, Some(0)),
            (later, None, None, None),
        ] {
            assert_eq!(delay(value, sent, now), seconds.map(Duration::from_secs), "{value} {sent:?} {now:?}");
        }
    }
}
