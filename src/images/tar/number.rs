//! Numbers in tar headers: octal text, or GNU's base 256 when the top bit is set.

use super::super::error::{Fault, refuse, shown};

/// A size: never negative, at most what a file offset holds.
pub(super) fn size(field: &[u8], name: &str) -> Result<u64, Fault> {
    let number = signed(field, name)?;
    match u64::try_from(number) {
        Ok(number) if number <= i64::MAX as u64 => Ok(number),
        _ => refuse!("a header's {name} is negative or absurd: {number}"),
    }
}

/// A user or group id. 4294967295 means "nobody asked" to chown, so it is no id.
pub(super) fn id(field: &[u8], name: &str) -> Result<u32, Fault> {
    let number = signed(field, name)?;
    match u32::try_from(number) {
        Ok(id) if id != u32::MAX => Ok(id),
        _ => refuse!("a header's {name} is out of range: {number}"),
    }
}

/// Permission bits. Old writers keep the file's type in the upper bits.
pub(super) fn mode(field: &[u8]) -> Result<u32, Fault> {
    Ok((signed(field, "mode")? & 0o7777) as u32)
}

pub(super) fn time(field: &[u8]) -> Result<i64, Fault> {
    let number = signed(field, "time")?;
    match i64::try_from(number) {
        Ok(time) => Ok(time),
        Err(_) => refuse!("a header's time is out of range: {number}"),
    }
}

/// The sum that a header's checksum field should hold: its bytes, that field as spaces.
pub(super) fn checksum(header: &[u8; 512]) -> u64 {
    let sum = |bytes: &[u8]| bytes.iter().map(|b| u64::from(*b)).sum::<u64>();
    sum(&header[..148]) + 8 * u64::from(b' ') + sum(&header[156..])
}

fn signed(field: &[u8], name: &str) -> Result<i128, Fault> {
    match field.first() {
        Some(first) if first & 0x80 != 0 => base256(field, name),
        _ => octal(field, name),
    }
}

/// Two's complement, big-endian, the top bit only a mark; the next one is the sign.
fn base256(field: &[u8], name: &str) -> Result<i128, Fault> {
    let negative = field[0] & 0x40 != 0;
    let mut number: i128 = if negative { -1 } else { 0 };
    for (at, byte) in field.iter().enumerate() {
        let byte = if at == 0 && !negative { byte & 0x7f } else { *byte };
        // Twelve bytes at most: 96 bits and a sign fit.
        number = number << 8 | i128::from(byte);
    }
    if field.len() > 12 {
        refuse!("a header's {name} is too wide");
    }
    Ok(number)
}

fn octal(field: &[u8], name: &str) -> Result<i128, Fault> {
    let text = field.split(|b| *b == 0).next().unwrap_or_default().trim_ascii();
    let mut number: i128 = 0;
    for digit in text {
        match digit {
            b'0'..=b'7' => number = number << 3 | i128::from(digit - b'0'),
            _ => refuse!("a header's {name} is no number: {}", shown(text)),
        }
    }
    Ok(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_octal_or_base_256() {
        assert_eq!(size(b"0000644\0", "size").unwrap(), 0o644);
        assert_eq!(size(b"   644 \0", "size").unwrap(), 0o644);
        assert_eq!(size(b"\0\0\0\0\0\0\0\0", "size").unwrap(), 0);
        assert_eq!(size(&[0x80, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 1], "size").unwrap(), (2 << 32) + 1);
        assert_eq!(time(&[0xff; 12]).unwrap(), -1);
        for bad in [
            &b"12x4\0\0\0\0"[..],
            b"-1\0\0\0\0\0\0",
            &[0xff; 12],
            &[0x80, 0, 0, 0, 0xff, 0, 0, 0, 0, 0, 0, 0],
        ] {
            assert!(size(bad, "size").is_err(), "{bad:?}");
        }
        assert!(id(&[0x80, 0, 0, 0, 0xff, 0xff, 0xff, 0xff], "uid").is_err());
    }
}
