//! Which part of a file a request gets, if any: preconditions and ranges (RFC 9110,
//! sections 13 and 14). Pure.

use http::header::{IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, IF_UNMODIFIED_SINCE, RANGE};
use http::{HeaderMap, HeaderName, Method};
use std::time::{Duration, SystemTime};

/// What identifies a file's content.
#[derive(Clone, Debug)]
pub(super) struct Validators {
    /// Strong, quoted.
    pub etag: String,
    /// In whole seconds; `None` when the file's time means nothing.
    pub modified: Option<SystemTime>,
    pub length: u64,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Full,
    /// First byte and count, the count not 0.
    Part(u64, u64),
    NotModified,
    PreconditionFailed,
    Unsatisfiable,
}

/// In the order of RFC 9110, section 13.2.2.
pub(super) fn decide(method: &Method, headers: &HeaderMap, file: &Validators) -> Answer {
    if let Some(tags) = text(headers, IF_MATCH) {
        if !lists(&tags, |tag| tag == file.etag) {
            return Answer::PreconditionFailed;
        }
    } else if let (Some(limit), Some(modified)) = (date(headers, IF_UNMODIFIED_SINCE), file.modified)
        && modified > limit
    {
        return Answer::PreconditionFailed;
    }
    if let Some(tags) = text(headers, IF_NONE_MATCH) {
        // Weak comparison: W/ does not count.
        if lists(&tags, |tag| tag.strip_prefix("W/").unwrap_or(tag) == file.etag) {
            return Answer::NotModified;
        }
    } else if let (Some(since), Some(modified)) = (date(headers, IF_MODIFIED_SINCE), file.modified)
        && modified <= since
    {
        return Answer::NotModified;
    }
    if *method != Method::GET || !range_applies(headers, file) {
        return Answer::Full;
    }
    match text(headers, RANGE) {
        Some(range) => part(&range, file.length),
        None => Answer::Full,
    }
}

/// `If-Range` asks for the whole file should it be another one by now.
fn range_applies(headers: &HeaderMap, file: &Validators) -> bool {
    let Some(condition) = text(headers, IF_RANGE) else { return true };
    if condition.starts_with('"') || condition.starts_with("W/") {
        return condition == file.etag;
    }
    let said = httpdate::parse_http_date(&condition).ok();
    // Dates are whole seconds: only one that has passed for a minute is a strong
    // validator (section 8.8.2.2), and a mere match of seconds is what it compares.
    said.is_some() && said == file.modified
}

/// One range; several, other units and nonsense mean the whole file.
fn part(range: &str, length: u64) -> Answer {
    let unit = range.get(..6).filter(|unit| unit.eq_ignore_ascii_case("bytes="));
    let Some(spec) = unit.and(range.get(6..)).map(str::trim) else { return Answer::Full };
    let Some((first, last)) = spec.split_once('-') else { return Answer::Full };
    match (number(first), number(last)) {
        (Digits::Bad, _) | (_, Digits::Bad) | (Digits::None, Digits::None) => Answer::Full,
        (Digits::None, Digits::Some(suffix)) if suffix == 0 || length == 0 => Answer::Unsatisfiable,
        (Digits::None, Digits::Some(suffix)) => {
            let count = suffix.min(length);
            Answer::Part(length - count, count)
        }
        (Digits::Some(first), Digits::Some(last)) if first > last => Answer::Full,
        (Digits::Some(first), _) if first >= length => Answer::Unsatisfiable,
        (Digits::Some(first), Digits::None) => Answer::Part(first, length - first),
        (Digits::Some(first), Digits::Some(last)) => Answer::Part(first, last.min(length - 1) - first + 1),
    }
}

enum Digits {
    None,
    Some(u64),
    Bad,
}

/// Numbers too large for us count as the largest.
fn number(text: &str) -> Digits {
    match text.trim() {
        "" => Digits::None,
        digits if digits.bytes().all(|b| b.is_ascii_digit()) => {
            Digits::Some(digits.parse().unwrap_or(u64::MAX))
        }
        _ => Digits::Bad,
    }
}

/// The field's lines as one list.
fn text(headers: &HeaderMap, name: HeaderName) -> Option<String> {
    let lines: Vec<&str> = headers.get_all(name).iter().filter_map(|value| value.to_str().ok()).collect();
    (!lines.is_empty()).then(|| lines.join(", "))
}

fn lists(tags: &str, is_it: impl Fn(&str) -> bool) -> bool {
    // No ETag of ours has a comma in it, so one that is cut in two matches nothing.
    tags.trim() == "*" || tags.split(',').any(|tag| is_it(tag.trim()))
}

fn date(headers: &HeaderMap, name: HeaderName) -> Option<SystemTime> {
    httpdate::parse_http_date(headers.get(name)?.to_str().ok()?).ok()
}

/// A file's time in whole seconds. A time of 0 is what images made by `nodectl` carry, so
/// that equal content is an equal image: it says nothing, and the ETag says all.
pub(super) fn modified(seconds: i64) -> Option<SystemTime> {
    let seconds = u64::try_from(seconds).ok().filter(|seconds| *seconds > 0)?;
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(method: Method, headers: &[(HeaderName, &str)]) -> Answer {
        let headers = headers.iter().map(|(name, value)| (name.clone(), value.parse().unwrap())).collect();
        let file = Validators { etag: "\"abc\"".into(), modified: modified(784_111_777), length: 100 };
        decide(&method, &headers, &file)
    }

    #[test]
    fn ranges_follow_the_standard() {
        for (range, expected) in [
            ("bytes=0-9", Answer::Part(0, 10)),
            ("bytes=90-", Answer::Part(90, 10)),
            ("bytes=-10", Answer::Part(90, 10)),
            ("bytes=-1000", Answer::Part(0, 100)),
            ("bytes=50-1000", Answer::Part(50, 50)),
            ("bytes=99-99", Answer::Part(99, 1)),
            ("BYTES=0-0", Answer::Part(0, 1)),
            ("bytes=100-", Answer::Unsatisfiable),
            ("bytes=-0", Answer::Unsatisfiable),
            ("bytes=9-0", Answer::Full),
            ("bytes=0-1,5-6", Answer::Full),
            ("bytes=a-b", Answer::Full),
            ("bytes=-", Answer::Full),
            ("bytes=1-x", Answer::Full),
            ("lines=0-1", Answer::Full),
            ("bytes=0-99999999999999999999999", Answer::Part(0, 100)),
            ("bytes=+1-2", Answer::Full),
            ("b\u{e4}", Answer::Full),
        ] {
            assert_eq!(answer(Method::GET, &[(RANGE, range)]), expected, "{range}");
        }
        assert_eq!(answer(Method::HEAD, &[(RANGE, "bytes=0-9")]), Answer::Full);
    }

    #[test]
    fn preconditions_follow_the_standard() {
        let then = "Sun, 06 Nov 1994 08:49:37 GMT"; // the file's time
        let before = "Sun, 06 Nov 1994 08:49:36 GMT";
        for (headers, expected) in [
            (vec![(IF_NONE_MATCH, "\"abc\"")], Answer::NotModified),
            (vec![(IF_NONE_MATCH, "W/\"abc\"")], Answer::NotModified),
            (vec![(IF_NONE_MATCH, "\"x\", \"abc\"")], Answer::NotModified),
            (vec![(IF_NONE_MATCH, "*")], Answer::NotModified),
            (vec![(IF_NONE_MATCH, "\"x\"")], Answer::Full),
            (vec![(IF_MODIFIED_SINCE, then)], Answer::NotModified),
            (vec![(IF_MODIFIED_SINCE, before)], Answer::Full),
            (vec![(IF_MODIFIED_SINCE, "yesterday")], Answer::Full),
            // The tag wins over the date.
            (vec![(IF_NONE_MATCH, "\"x\""), (IF_MODIFIED_SINCE, then)], Answer::Full),
            (vec![(IF_MATCH, "\"x\"")], Answer::PreconditionFailed),
            (vec![(IF_MATCH, "W/\"abc\"")], Answer::PreconditionFailed),
            (vec![(IF_MATCH, "\"abc\"")], Answer::Full),
            (vec![(IF_UNMODIFIED_SINCE, before)], Answer::PreconditionFailed),
            (vec![(IF_UNMODIFIED_SINCE, then)], Answer::Full),
            (vec![(RANGE, "bytes=0-0"), (IF_RANGE, "\"abc\"")], Answer::Part(0, 1)),
            (vec![(RANGE, "bytes=0-0"), (IF_RANGE, "\"x\"")], Answer::Full),
            (vec![(RANGE, "bytes=0-0"), (IF_RANGE, "W/\"abc\"")], Answer::Full),
            (vec![(RANGE, "bytes=0-0"), (IF_RANGE, then)], Answer::Part(0, 1)),
            (vec![(RANGE, "bytes=0-0"), (IF_RANGE, before)], Answer::Full),
            (vec![(RANGE, "bytes=0-0"), (IF_NONE_MATCH, "\"abc\"")], Answer::NotModified),
        ] {
            assert_eq!(answer(Method::GET, &headers), expected, "{headers:?}");
        }
    }
}
