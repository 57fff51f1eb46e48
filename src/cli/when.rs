//! Times and sizes for people and for JSON: ages, RFC 3339 in UTC, durations, bytes.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Milliseconds since 1970, by this machine's clock: only for ages and `--since`.
pub fn now_ms() -> u64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX)
}

/// `12s`, `3m`, `5h`, `4d` since then; the future counts as now.
pub fn age(at_ms: u64) -> String {
    short_duration(Duration::from_millis(now_ms().saturating_sub(at_ms)))
}

fn short_duration(duration: Duration) -> String {
    match duration.as_secs() {
        seconds @ ..60 => format!("{seconds}s"),
        seconds @ 60..3600 => format!("{}m", seconds / 60),
        seconds @ 3600..172_800 => format!("{}h", seconds / 3600),
        seconds => format!("{}d", seconds / 86_400),
    }
}

/// `3.2 s`, `4 min 10 s`.
pub fn duration(ms: u64) -> String {
    match ms {
        ..60_000 => format!("{}.{} s", ms / 1000, ms % 1000 / 100),
        _ => format!("{} min {} s", ms / 60_000, ms % 60_000 / 1000),
    }
}

/// `256 MB`, `22.9 GB`: decimal units, as manifests write them.
pub fn bytes(bytes: u64) -> String {
    const UNITS: [(&str, u64); 4] =
        [("TB", 1_000_000_000_000), ("GB", 1_000_000_000), ("MB", 1_000_000), ("kB", 1_000)];
    let Some((unit, size)) = UNITS.into_iter().find(|&(_, size)| bytes >= size) else {
        return format!("{bytes} B");
    };
    let tenths = bytes % size / (size / 10);
    if tenths == 0 { format!("{} {unit}", bytes / size) } else { format!("{}.{tenths} {unit}", bytes / size) }
}

/// `0.25`, `2`: CPUs out of thousandths.
pub fn cpus(milli: u64) -> String {
    let text = format!("{}.{:03}", milli / 1000, milli % 1000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// `2026-11-21T13:10:21.000Z`.
pub fn rfc3339(at_ms: u64) -> String {
    let (date, ms) = (at_ms / 86_400_000, at_ms % 86_400_000);
    let (year, month, day) = civil_from_days(i64::try_from(date).unwrap_or(0));
    let (hour, minute, second) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1000 % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z", ms % 1000)
}

/// From when on: relative to now, or an instant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Since {
    Ago(Duration),
    AtMs(u64),
}

impl Since {
    pub fn to_ms(self) -> u64 {
        match self {
            Since::Ago(ago) => now_ms().saturating_sub(u64::try_from(ago.as_millis()).unwrap_or(u64::MAX)),
            Since::AtMs(at) => at,
        }
    }
}

/// Reads `90s`, `5m`, `1h30m`, `2d`, or an RFC 3339 instant.
///
/// # Errors
/// It is neither.
pub fn parse_since(text: &str) -> Result<Since, String> {
    if let Some(ago) = parse_duration(text) {
        return Ok(Since::Ago(ago));
    }
    match parse_rfc3339(text) {
        Some(at) => Ok(Since::AtMs(at)),
        None => Err("give a time ago (90s, 5m, 2h, 1d) or an instant (2026-11-21T13:00:00Z)".to_owned()),
    }
}

fn parse_duration(text: &str) -> Option<Duration> {
    let mut total: u64 = 0;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let number: u64 = rest.get(..digits)?.parse().ok()?;
        let unit = rest.get(digits..)?.chars().next()?;
        let seconds = match unit {
            's' => 1,
            'm' => 60,
            'h' => 3600,
            'd' => 86_400,
            _ => return None,
        };
        total = total.checked_add(number.checked_mul(seconds)?)?;
        rest = rest.get(digits + 1..)?;
    }
    (!text.is_empty()).then(|| Duration::from_secs(total))
}

/// Milliseconds since 1970; RFC 3339, and a bare date, which is its midnight in UTC.
fn parse_rfc3339(text: &str) -> Option<u64> {
    let (date, time) = match text.split_once(['T', 't', ' ']) {
        Some((date, time)) => (date, time),
        None => (text, "00:00:00Z"),
    };
    let mut parts = date.split('-');
    let (year, month, day) =
        (digits(parts.next()?, 4)?, digits(parts.next()?, 2)?, digits(parts.next()?, 2)?);
    if parts.next().is_some() || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    let at = time.find(['Z', 'z', '+', '-'])?;
    let (clock, zone) = time.split_at(at);
    let (clock, fraction) = clock.split_once('.').unwrap_or((clock, "0"));
    let mut parts = clock.split(':');
    let (hour, minute, second) =
        (digits(parts.next()?, 2)?, digits(parts.next()?, 2)?, digits(parts.next()?, 2)?);
    if parts.next().is_some() || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    if fraction.is_empty() || !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let ms: i64 = format!("{fraction:0<3}").get(..3)?.parse().ok()?;
    let days = days_from_civil(year, month, day);
    if civil_from_days(days) != (year, month, day) {
        return None;
    }
    let local = ((days * 24 + hour) * 60 + minute) * 60 + second;
    u64::try_from((local - zone_seconds(zone)?) * 1000 + ms).ok()
}

fn zone_seconds(zone: &str) -> Option<i64> {
    if zone.eq_ignore_ascii_case("z") {
        return Some(0);
    }
    let sign = if zone.starts_with('-') { -1 } else { 1 };
    let (hours, minutes) = zone.get(1..)?.split_once(':')?;
    let (hours, minutes) = (digits(hours, 2)?, digits(minutes, 2)?);
    (hours < 24 && minutes < 60).then_some(sign * (hours * 3600 + minutes * 60))
}

fn digits(text: &str, count: usize) -> Option<i64> {
    (text.len() == count && text.bytes().all(|b| b.is_ascii_digit())).then(|| text.parse().ok())?
}

/// Days since 1970-01-01; Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms".
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

/// Year, month, day; the same source.
fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instants_read_back_as_they_were_written() {
        for (text, ms) in [
            ("1970-01-01T00:00:00.000Z", 0),
            ("2026-11-21T13:10:21.007Z", 1_795_266_621_007),
            ("2000-02-29T23:59:59.999Z", 951_868_799_999),
        ] {
            assert_eq!(rfc3339(ms), text);
            assert_eq!(parse_rfc3339(text), Some(ms), "{text}");
        }
    }

    #[test]
    fn since_takes_durations_dates_and_zones() {
        let seconds = |s| Since::Ago(Duration::from_secs(s));
        for (text, since) in [
            ("90s", seconds(90)),
            ("5m", seconds(300)),
            ("1h30m", seconds(5400)),
            ("2d", seconds(172_800)),
            ("1970-01-02", Since::AtMs(86_400_000)),
            ("1970-01-01T01:00:00+01:00", Since::AtMs(0)),
            ("1970-01-01T00:00:00.5Z", Since::AtMs(500)),
        ] {
            assert_eq!(parse_since(text), Ok(since), "{text}");
        }
        for text in
            ["", "5", "5x", "m", "2026-13-01", "2026-02-30", "1970-01-01T00:00:00", "99999999999999999999s"]
        {
            assert!(parse_since(text).is_err(), "{text}");
        }
    }

    #[test]
    fn durations_sizes_and_cpus_read_well() {
        assert_eq!(short_duration(Duration::from_secs(59)), "59s");
        assert_eq!(short_duration(Duration::from_secs(200)), "3m");
        assert_eq!(short_duration(Duration::from_secs(90_000)), "25h");
        assert_eq!(duration(3_260), "3.2 s");
        assert_eq!(duration(250_000), "4 min 10 s");
        assert_eq!(bytes(999), "999 B");
        assert_eq!(bytes(256_000_000), "256 MB");
        assert_eq!(bytes(22_950_000_000), "22.9 GB");
        assert_eq!(cpus(250), "0.25");
        assert_eq!(cpus(2000), "2");
        assert_eq!(cpus(0), "0");
    }
}
