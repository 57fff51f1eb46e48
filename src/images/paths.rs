//! Names inside a layer, checked once: what an entry's path, a link's target and a
//! whiteout may be. Pure; nothing here touches a file system.
//!
//! Whiteouts: OCI image-spec, layer.md#whiteouts.

use super::error::{Fault, refuse, shown};
use super::limits::Limits;

const WHITEOUT: &[u8] = b".wh.";
const RESERVED: &[u8] = b".wh..wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";

/// Where an entry goes. Paths are relative to the layer's root, components joined by
/// single slashes, without `.` and `..`; the root itself is the empty path.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Root,
    At {
        parent: Vec<u8>,
        name: Vec<u8>,
    },
    /// Lower layers' `parent/name` is hidden.
    Whiteout {
        parent: Vec<u8>,
        name: Vec<u8>,
    },
    /// Lower layers' content of `folder` is hidden.
    Opaque {
        folder: Vec<u8>,
    },
}

/// Checks and classifies an entry's path.
pub(crate) fn place(raw: &[u8], limits: &Limits) -> Result<Place, Fault> {
    let mut components = components(raw, limits)?;
    let Some(name) = components.pop() else { return Ok(Place::Root) };
    if let Some(odd) = components.iter().find(|c| c.starts_with(WHITEOUT)) {
        refuse!("{} has {} as a folder, and whiteouts have nothing inside", shown(raw), shown(odd));
    }
    let parent = components.join(&b'/');
    if name == OPAQUE {
        return Ok(Place::Opaque { folder: parent });
    }
    if name.starts_with(RESERVED) {
        refuse!("{} is a reserved whiteout name", shown(raw));
    }
    match name.strip_prefix(WHITEOUT) {
        None => Ok(Place::At { parent, name: name.to_vec() }),
        Some(b"" | b"." | b"..") => refuse!("{} is a whiteout of no name", shown(raw)),
        Some(hidden) => Ok(Place::Whiteout { parent, name: hidden.to_vec() }),
    }
}

/// Checks the target of a hard link: the path of an earlier entry, as (parent, name).
pub(crate) fn hard_link_target(raw: &[u8], limits: &Limits) -> Result<(Vec<u8>, Vec<u8>), Fault> {
    match place(raw, limits).map_err(|fault| fault.within("hard link target"))? {
        Place::At { parent, name } => Ok((parent, name)),
        Place::Root => refuse!("hard link target {} is the root", shown(raw)),
        Place::Whiteout { .. } | Place::Opaque { .. } => {
            refuse!("hard link target {} is a whiteout", shown(raw))
        }
    }
}

/// Checks the target of a symbolic link at `parent/…`. Absolute targets mean the
/// container's own root and are kept; a relative one must not climb above it (Docker
/// refuses the same ones).
pub(crate) fn symlink_target(parent: &[u8], target: &[u8], limits: &Limits) -> Result<(), Fault> {
    if target.is_empty() {
        refuse!("a symbolic link has no target");
    }
    if target.contains(&0) {
        refuse!("symbolic link target {} has a NUL byte", shown(target));
    }
    if target.len() > limits.max_path_bytes {
        refuse!(
            "a symbolic link target has {} bytes, and {} are the limit",
            target.len(),
            limits.max_path_bytes
        );
    }
    if target.starts_with(b"/") {
        return Ok(());
    }
    let mut depth = parent.split(|b| *b == b'/').filter(|c| !c.is_empty()).count();
    for component in target.split(|b| *b == b'/') {
        match component {
            b"" | b"." => {}
            b".." if depth == 0 => {
                refuse!("symbolic link target {} leads out of the root", shown(target))
            }
            b".." => depth -= 1,
            _ => depth += 1,
        }
    }
    Ok(())
}

/// The components of a relative path without `.`; everything else odd is refused.
pub(crate) fn components<'a>(raw: &'a [u8], limits: &Limits) -> Result<Vec<&'a [u8]>, Fault> {
    if raw.is_empty() {
        refuse!("an entry has an empty name");
    }
    if raw.contains(&0) {
        refuse!("the name {} has a NUL byte", shown(raw));
    }
    if raw.starts_with(b"/") {
        refuse!("the name {} is absolute", shown(raw));
    }
    if raw.len() > limits.max_path_bytes {
        refuse!("a name has {} bytes, and {} are the limit", raw.len(), limits.max_path_bytes);
    }
    let mut kept = Vec::new();
    for component in raw.split(|b| *b == b'/') {
        match component {
            b"" | b"." => continue,
            b".." => refuse!("the name {} has a `..`", shown(raw)),
            long if long.len() > limits.max_name_bytes => {
                refuse!("{} has a component of {} bytes", shown(raw), long.len())
            }
            plain => kept.push(plain),
        }
    }
    if kept.len() > limits.max_path_depth {
        refuse!("{} is {} folders deep", shown(raw), kept.len());
    }
    Ok(kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason(result: Result<impl std::fmt::Debug, Fault>) -> String {
        match result {
            Err(Fault::Refused(reason)) => reason,
            other => panic!("not refused: {other:?}"),
        }
    }

    fn at(parent: &str, name: &str) -> Place {
        Place::At { parent: parent.into(), name: name.into() }
    }

    #[test]
    fn paths_are_classified() {
        let limits = Limits::default();
        for (raw, expected) in [
            ("./", Place::Root),
            (".", Place::Root),
            ("a", at("", "a")),
            ("./a//b/./c/", at("a/b", "c")),
            ("a/.wh.b", Place::Whiteout { parent: "a".into(), name: "b".into() }),
            ("a/.wh..b", Place::Whiteout { parent: "a".into(), name: ".b".into() }),
            (".wh..wh..opq", Place::Opaque { folder: "".into() }),
            ("a/b/.wh..wh..opq", Place::Opaque { folder: "a/b".into() }),
            (".who", at("", ".who")),
            ("..a", at("", "..a")),
        ] {
            assert_eq!(place(raw.as_bytes(), &limits).unwrap(), expected, "{raw}");
        }
    }

    #[test]
    fn odd_paths_are_refused() {
        let limits = Limits::default();
        let long = "x".repeat(256);
        let deep = "d/".repeat(300);
        for (raw, expected) in [
            ("", "empty name"),
            ("/etc/passwd", "absolute"),
            ("../x", "`..`"),
            ("a/../b", "`..`"),
            ("a/..", "`..`"),
            ("a\0b", "NUL"),
            (long.as_str(), "256 bytes"),
            (deep.as_str(), "300 folders deep"),
            (".wh.", "no name"),
            (".wh..", "no name"),
            (".wh...", "no name"),
            (".wh..wh.x", "reserved"),
            (".wh.a/b", "nothing inside"),
        ] {
            let text = reason(place(raw.as_bytes(), &limits));
            assert!(text.contains(expected), "{raw}: {text}");
        }
    }

    #[test]
    fn symbolic_links_stay_inside_or_are_absolute() {
        let limits = Limits::default();
        for (parent, target) in
            [("", "a"), ("a", "../b"), ("a/b", "../../c"), ("", "/etc/x"), ("a", "b/../../c")]
        {
            assert!(
                symlink_target(parent.as_bytes(), target.as_bytes(), &limits).is_ok(),
                "{parent} {target}"
            );
        }
        for (parent, target) in [("", ".."), ("a", "../../b"), ("a/b", "../../../etc"), ("", "a/../../b")] {
            let text = reason(symlink_target(parent.as_bytes(), target.as_bytes(), &limits));
            assert!(text.contains("out of the root"), "{parent} {target}: {text}");
        }
    }
}
