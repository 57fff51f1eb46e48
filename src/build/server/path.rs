//! From a request's path to a name below the root. Pure: what comes out has no `..`, no
//! empty or hidden part and no NUL. (The kernel confines the open all the same.)

use super::super::site::is_left_out;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

/// Where a request's path leads.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    /// Relative to the root; empty for the root itself.
    pub path: PathBuf,
    /// The path ended in a slash: a folder is meant.
    pub as_folder: bool,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum PathError {
    /// No path at all: percent signs without digits, NUL bytes.
    Malformed,
    /// A path that no site has.
    NotFound,
}

/// Decodes the path of a request's target, which starts with a slash.
pub(super) fn wanted(raw: &str) -> Result<Wanted, PathError> {
    let rest = raw.strip_prefix('/').ok_or(PathError::Malformed)?;
    let as_folder = rest.is_empty() || rest.ends_with('/');
    let trimmed = rest.strip_suffix('/').unwrap_or(rest);
    let mut path = PathBuf::new();
    if rest.is_empty() {
        return Ok(Wanted { path, as_folder });
    }
    // Split before decoding: an encoded slash is part of a name, and no name has one.
    for part in trimmed.split('/') {
        let name = decode(part)?;
        let odd = name.is_empty() || name == "." || name == ".." || name.as_bytes().contains(&b'/');
        if odd || is_left_out(&name) {
            return Err(PathError::NotFound);
        }
        path.push(name);
    }
    Ok(Wanted { path, as_folder })
}

fn decode(part: &str) -> Result<OsString, PathError> {
    let mut bytes = Vec::with_capacity(part.len());
    let mut rest = part.as_bytes();
    while let Some((first, others)) = rest.split_first() {
        rest = others;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let digits = rest.get(..2).ok_or(PathError::Malformed)?;
        let mut byte = [0];
        hex::decode_to_slice(digits, &mut byte).map_err(|_| PathError::Malformed)?;
        bytes.push(byte[0]);
        rest = &rest[2..];
    }
    if bytes.contains(&0) {
        return Err(PathError::Malformed);
    }
    Ok(OsString::from_vec(bytes))
}

/// The path as a request would name it: what is not plain is percent-encoded.
pub(super) fn encoded(path: &OsStr) -> String {
    let mut text = String::new();
    for byte in path.as_bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => {
                text.push(*byte as char)
            }
            other => text.push_str(&format!("%{other:02X}")),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_lead_below_the_root_or_nowhere() {
        let found = |path: &str, as_folder| Ok(Wanted { path: path.into(), as_folder });
        for (raw, expected) in [
            ("/", found("", true)),
            ("/a/b.html", found("a/b.html", false)),
            ("/a/", found("a", true)),
            ("/a%20b/%C3%BC", found("a b/ü", false)),
            ("/.well-known/x", found(".well-known/x", false)),
            ("/a%2e%2e", found("a..", false)),
            ("/..", Err(PathError::NotFound)),
            ("/%2e%2e/etc/passwd", Err(PathError::NotFound)),
            ("/a/%2E./b", Err(PathError::NotFound)),
            ("/a/./b", Err(PathError::NotFound)),
            ("/a%2fb", Err(PathError::NotFound)),
            ("/..%2fetc", Err(PathError::NotFound)),
            ("//evil.example/", Err(PathError::NotFound)),
            ("/a//b", Err(PathError::NotFound)),
            ("//", Err(PathError::NotFound)),
            ("/.git/config", Err(PathError::NotFound)),
            ("/%2egit/config", Err(PathError::NotFound)),
            ("/a%00.html", Err(PathError::Malformed)),
            ("/a%", Err(PathError::Malformed)),
            ("/a%2", Err(PathError::Malformed)),
            ("/a%zz", Err(PathError::Malformed)),
            ("/a%+1", Err(PathError::Malformed)),
            ("*", Err(PathError::Malformed)),
            ("", Err(PathError::Malformed)),
        ] {
            assert_eq!(wanted(raw), expected, "{raw}");
        }
    }
}
