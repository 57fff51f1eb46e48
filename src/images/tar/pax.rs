//! PAX extension records (POSIX pax, "pax Extended Header"): `LENGTH KEY=VALUE\n`.

use super::super::error::{Fault, refuse, shown};
use super::sparse::PaxSparse;
use std::collections::BTreeSet;

/// What the records say, as far as layers use it.
#[derive(Debug, Default)]
pub(super) struct Pax {
    pub path: Option<Vec<u8>>,
    pub link: Option<Vec<u8>>,
    pub size: Option<u64>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub mtime: Option<(i64, u32)>,
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub sparse: PaxSparse,
    touches_entries: bool,
}

impl Pax {
    pub fn parse(mut content: &[u8]) -> Result<Self, Fault> {
        let mut pax = Pax::default();
        let mut seen = BTreeSet::new();
        while !content.is_empty() {
            let (key, value, rest) = record(content)?;
            content = rest;
            // Sparse maps of format 0.0 are repeated pairs; everything else is said once,
            // since readers differ in whether the first or the last counts.
            let repeats = matches!(key, b"GNU.sparse.offset" | b"GNU.sparse.numbytes");
            if !repeats && !seen.insert(key) {
                refuse!("conflicting PAX records: {} is set twice for one entry", shown(key));
            }
            pax.apply(key, value)?;
        }
        Ok(pax)
    }

    /// Whether nothing in it changes an entry (comments of `git archive`, character sets).
    pub fn is_commentary(&self) -> bool {
        !self.touches_entries
    }

    fn apply(&mut self, key: &[u8], value: &[u8]) -> Result<(), Fault> {
        self.touches_entries = true;
        match key {
            b"path" => self.path = Some(name(value, "path")?),
            b"linkpath" => self.link = Some(name(value, "linkpath")?),
            b"size" => self.size = Some(decimal(value, "size")?),
            b"uid" => self.uid = Some(id(value, "uid")?),
            b"gid" => self.gid = Some(id(value, "gid")?),
            b"mtime" => self.mtime = Some(time(value)?),
            _ => match (key.strip_prefix(b"SCHILY.xattr."), key.strip_prefix(b"GNU.sparse.")) {
                (Some(xattr), _) => self.xattrs.push((xattr.to_vec(), value.to_vec())),
                (_, Some(sparse)) => self.sparse.apply(sparse, value)?,
                // Access times, names of users, comments: nothing a layer needs.
                _ => self.touches_entries = false,
            },
        }
        Ok(())
    }
}

type Record<'a> = (&'a [u8], &'a [u8], &'a [u8]);

/// The first record of `content` as (key, value, what follows).
fn record(content: &[u8]) -> Result<Record<'_>, Fault> {
    let malformed = || Fault::Refused("a PAX record is malformed".to_owned());
    let space = content.iter().take(12).position(|b| *b == b' ').ok_or_else(malformed)?;
    let length = usize::try_from(decimal(&content[..space], "length")?).map_err(|_| malformed())?;
    if length <= space + 1 || length > content.len() || content[length - 1] != b'\n' {
        return Err(malformed());
    }
    let body = &content[space + 1..length - 1];
    let equals = body.iter().position(|b| *b == b'=').ok_or_else(malformed)?;
    if equals == 0 {
        return Err(malformed());
    }
    Ok((&body[..equals], &body[equals + 1..], &content[length..]))
}

fn name(value: &[u8], what: &str) -> Result<Vec<u8>, Fault> {
    if value.is_empty() || value.contains(&0) {
        refuse!("a PAX {what} is empty or has a NUL byte: {}", shown(value));
    }
    Ok(value.to_vec())
}

/// Digits only: no sign, no spaces.
pub(super) fn decimal(value: &[u8], what: &str) -> Result<u64, Fault> {
    let number = std::str::from_utf8(value)
        .ok()
        .filter(|text| text.bytes().all(|b| b.is_ascii_digit()))
        .and_then(|text| text.parse::<u64>().ok())
        .filter(|number| *number <= i64::MAX as u64);
    match number {
        Some(number) => Ok(number),
        None => refuse!("a PAX {what} is no possible number: {}", shown(value)),
    }
}

fn id(value: &[u8], what: &str) -> Result<u32, Fault> {
    match u32::try_from(decimal(value, what)?) {
        Ok(id) if id != u32::MAX => Ok(id),
        _ => refuse!("a PAX {what} is out of range: {}", shown(value)),
    }
}

/// `SECONDS[.FRACTION]`, perhaps negative; digits beyond nanoseconds are cut.
fn time(value: &[u8]) -> Result<(i64, u32), Fault> {
    let text = String::from_utf8_lossy(value);
    let (negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.as_ref()),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let seconds = decimal(whole.as_bytes(), "mtime")? as i64;
    if whole.is_empty() || !fraction.bytes().all(|b| b.is_ascii_digit()) {
        refuse!("a PAX mtime is no time: {}", shown(value));
    }
    let nanos: u32 = format!("{:0<9}", &fraction[..fraction.len().min(9)]).parse().unwrap_or_default();
    Ok(match (negative, nanos) {
        (false, _) => (seconds, nanos),
        (true, 0) => (-seconds, 0),
        // Nanoseconds count upwards: -1.25 is 0.75 after -2.
        (true, _) => (-seconds - 1, 1_000_000_000 - nanos),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(records: &[u8]) -> Result<Pax, Fault> {
        Pax::parse(records)
    }

    #[test]
    fn records_are_read() {
        let pax = parse(b"9 path=a\n19 mtime=-1.250000\n28 SCHILY.xattr.user.k=a\nb=\n").unwrap();
        assert_eq!(pax.path.as_deref(), Some(&b"a"[..]));
        assert_eq!(pax.mtime, Some((-2, 750_000_000)));
        assert_eq!(pax.xattrs, [(b"user.k".to_vec(), b"a\nb=".to_vec())]);
        assert!(parse(b"13 comment=x\n").unwrap().is_commentary());
    }

    #[test]
    fn malformed_records_are_refused() {
        for bad in [
            &b"path=a\n"[..],
            b"99 path=a\n",
            b"8 path=a\n",
            b"9 path=a ",
            b"5 ab\n",
            b"5 =a\n",
            b"9 path=a\n9 path=b\n",
            b"10 path=a\0\n",
            b"8 path=\n",
            b"9 size=x\n",
            b"10 size=-1\n",
            b"10 size=+1\n",
            b"29 size=99999999999999999999\n",
            b"18 uid=4294967295\n",
            b"11 mtime=.\n",
            b"0 \n",
            b"18446744073709551617 path=a\n",
        ] {
            assert!(parse(bad).is_err(), "{}", shown(bad));
        }
    }
}
