//! Quantities as people write them: `250m`, `256MB`, `2s`, `25%`. Text to integers, strictly:
//! a unit where one could be misunderstood, no rounding, no overflow.
//!
//! Each error is the end of a sentence that starts with the key's name.

use super::app::Share;
use std::time::Duration;

/// Thousandths of a core: `250m`, `0.5`, `2`.
///
/// # Errors
/// Says what a CPU quantity looks like.
pub fn parse_cpu_milli(text: &str) -> Result<u64, String> {
    const SHAPE: &str = "must be a part of a core, such as \"250m\", \"0.5\" or \"2\"";
    if let Some(milli) = text.strip_suffix('m') {
        return digits(milli).map_err(|fault| fault.explain(SHAPE, text));
    }
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    if fraction.len() > 3 {
        return Err(format!("can be no finer than a thousandth of a core, \"1m\": {text:?} is"));
    }
    let scale = 10_u64.pow(3 - fraction.len() as u32);
    let parsed = digits(whole).and_then(|whole| {
        let fraction = digits(fraction)? * scale;
        whole.checked_mul(1000).and_then(|milli| milli.checked_add(fraction)).ok_or(Fault::TooLarge)
    });
    parsed.map_err(|fault| fault.explain(SHAPE, text))
}

/// Bytes: `256MB`, `1GiB`, `512 kB`. Without a unit it is refused: bytes or megabytes?
///
/// # Errors
/// Says what a byte quantity looks like.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    const SHAPE: &str = "must be a size with its unit, such as \"256MB\" or \"1GiB\"";
    let (number, unit) = split_unit(text);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let size: u64 = match unit {
        "B" => 1,
        "kB" | "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "TB" => 1_000_000_000_000,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        // What Kubernetes and Docker users write; which of the two meanings is theirs to say.
        "K" | "k" | "M" | "G" | "T" | "Ki" | "Mi" | "Gi" | "Ti" | "m" | "g" | "mb" | "gb" => {
            let unit = unit.to_uppercase();
            let full = format!("{}B", unit.replace('I', "i").trim_end_matches('B'));
            return Err(format!("must name its unit in full: write \"{number}{full}\" for {text:?}"));
        }
        _ => return Err(Fault::Shape.explain(SHAPE, text)),
    };
    let parsed = digits(whole).and_then(|whole| {
        let whole = whole.checked_mul(size).ok_or(Fault::TooLarge)?;
        if !number.contains('.') {
            return Ok(whole);
        }
        let tenths = 10_u64.checked_pow(fraction.len() as u32).ok_or(Fault::Shape)?;
        let part = u128::from(digits(fraction)?) * u128::from(size);
        if !part.is_multiple_of(u128::from(tenths)) {
            return Err(Fault::Shape);
        }
        whole.checked_add((part / u128::from(tenths)) as u64).ok_or(Fault::TooLarge)
    });
    parsed.map_err(|fault| fault.explain(SHAPE, text))
}

/// A duration of one number and one unit: `500ms`, `2s`, `5m`, `1h`.
///
/// # Errors
/// Says what a duration looks like.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    const SHAPE: &str = "must be a duration with its unit, such as \"500ms\", \"10s\" or \"5m\"";
    let (number, unit) = split_unit(text);
    let unit_ms: u64 = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err(Fault::Shape.explain(SHAPE, text)),
    };
    digits(number)
        .and_then(|n| n.checked_mul(unit_ms).ok_or(Fault::TooLarge))
        .map(Duration::from_millis)
        .map_err(|fault| fault.explain(SHAPE, text))
}

/// A part of the wanted count, `25%`; a plain number is written without quotes.
///
/// # Errors
/// Says what a share looks like.
pub fn parse_percent(text: &str) -> Result<Share, String> {
    const SHAPE: &str = "must be a number of instances, such as 1, or a part of them, such as \"25%\"";
    let number = text.strip_suffix('%').ok_or(Fault::Shape);
    let percent = number.and_then(digits).map_err(|fault| fault.explain(SHAPE, text))?;
    match u32::try_from(percent) {
        Ok(percent) if percent <= 100 => Ok(Share::Percent(percent)),
        _ => Err(format!("must be at most \"100%\": {text:?} is more")),
    }
}

/// A duration for people, in the largest unit that is exact: `5m`, `1500ms`.
pub struct Span(pub Duration);

impl std::fmt::Display for Span {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ms = self.0.as_millis();
        for (unit, size) in [("h", 3_600_000), ("m", 60_000), ("s", 1_000)] {
            if ms >= size && ms.is_multiple_of(size) {
                return write!(f, "{}{unit}", ms / size);
            }
        }
        if ms == 0 { f.write_str("0s") } else { write!(f, "{ms}ms") }
    }
}

/// Why a number was refused.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    Shape,
    TooLarge,
}

impl Fault {
    fn explain(self, shape: &str, text: &str) -> String {
        match self {
            Fault::Shape => format!("{shape}; it is {text:?}"),
            Fault::TooLarge => format!("is too large: {text:?}"),
        }
    }
}

/// ASCII digits only: `parse` alone would take a sign.
fn digits(text: &str) -> Result<u64, Fault> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(Fault::Shape);
    }
    text.parse().map_err(|_| Fault::TooLarge)
}

/// Number and unit, with at most one space between them.
fn split_unit(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    (number, unit.strip_prefix(' ').unwrap_or(unit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_is_read_to_the_thousandth_and_no_finer() {
        for (text, milli) in
            [("250m", 250), ("0.5", 500), ("2", 2000), ("1.025", 1025), ("0", 0), ("1.5", 1500)]
        {
            assert_eq!(parse_cpu_milli(text), Ok(milli), "{text}");
        }
        for text in ["", "m", "-1", "+1", "1.", ".5", "1,5", "0.0001", "2 cores", "1e3", "½", "0.5m"] {
            assert!(parse_cpu_milli(text).is_err(), "{text}");
        }
        assert_eq!(
            parse_cpu_milli("18446744073709551"),
            Ok(18_446_744_073_709_551_000),
            "just below the limit"
        );
        for text in ["18446744073709552", "18446744073709551.616", "99999999999999999999m"] {
            assert_eq!(parse_cpu_milli(text), Err(format!("is too large: {text:?}")));
        }
    }

    #[test]
    fn sizes_need_a_unit_that_has_one_meaning() {
        for (text, bytes) in [
            ("256MB", 256_000_000),
            ("1GiB", 1 << 30),
            ("1.5GiB", 3 << 29),
            ("0.5 GB", 500_000_000),
            ("512kB", 512_000),
            ("7B", 7),
            ("16777215TiB", 16_777_215 << 40),
        ] {
            assert_eq!(parse_bytes(text), Ok(bytes), "{text}");
        }
        for text in ["", "MB", "256", "-1MB", "1e3MB", "0.3B", "1.MB", "1..5MB", "256  MB", "256MB "] {
            assert!(parse_bytes(text).is_err(), "{text}");
        }
        assert_eq!(parse_bytes("16777216TiB"), Err("is too large: \"16777216TiB\"".into()));
        assert_eq!(
            parse_bytes("512Mi"),
            Err("must name its unit in full: write \"512MiB\" for \"512Mi\"".into())
        );
        assert_eq!(
            parse_bytes("256m"),
            Err("must name its unit in full: write \"256MB\" for \"256m\"".into())
        );
        assert!(parse_bytes("0.00000000000000000000001TB").is_err());
    }

    #[test]
    fn durations_are_one_number_and_one_unit() {
        for (text, ms) in [("500ms", 500), ("2s", 2000), ("5m", 300_000), ("1h", 3_600_000), ("0s", 0)] {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(ms)), "{text}");
            assert_eq!(Span(Duration::from_millis(ms)).to_string(), text);
        }
        for text in ["", "2", "s", "1.5s", "-1s", "1m30s", "2 s s", "2d", "99999999999999999999s"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
        assert_eq!(
            parse_duration("18446744073709551615h"),
            Err("is too large: \"18446744073709551615h\"".into())
        );
    }

    #[test]
    fn shares_are_at_most_the_whole() {
        assert_eq!(parse_percent("25%"), Ok(Share::Percent(25)));
        assert_eq!(parse_percent("101%"), Err("must be at most \"100%\": \"101%\" is more".into()));
        for text in ["", "%", "25", "-1%", "2.5%", "1 %", "99999999999999999999%"] {
            assert!(parse_percent(text).is_err(), "{text}");
        }
    }
}
