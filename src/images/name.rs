//! Image names as people type them, and the one form in which they are kept. Pure.
//!
//! ```text
//! shop                          shop:latest
//! docker.io/library/shop:1      shop:1
//! ghcr.io/acme/shop:1           ghcr.io/acme/shop:1
//! shop@sha256:…                 shop@sha256:…
//! ```
//! The grammar is that of the distribution project's reference package. Names that Docker
//! Hub would answer for are kept in their short form, since that is what people type.

use crate::model::ids::Digest;
use std::fmt;

/// Why a text is no image name; fit to show to its author.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("image name {name:?} {problem}; write it like shop, shop:1.2 or ghcr.io/acme/shop:1.2")]
pub struct NameError {
    pub name: String,
    pub problem: &'static str,
}

/// A normalised image name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ImageName {
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl ImageName {
    /// Parses and normalises what a person or an archive wrote. Without tag and digest the
    /// tag is `latest`.
    ///
    /// # Errors
    /// The text is not a name by the reference grammar.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        let problem = |problem| NameError { name: text.chars().take(300).collect(), problem };
        if text.is_empty() {
            return Err(problem("is empty"));
        }
        if text.contains("://") {
            return Err(problem("is an address; leave out the part before ://"));
        }
        let (rest, digest) = match text.split_once('@') {
            None => (text, None),
            Some((rest, digest)) => {
                let digest = Digest::new(digest)
                    .map_err(|_| problem("has a digest that is not sha256: and 64 hex digits"))?;
                (rest, Some(digest))
            }
        };
        // A colon after the last slash starts a tag; one before it is a port.
        let last_slash = rest.rfind('/').map_or(0, |at| at + 1);
        let (repository, tag) = match rest[last_slash..].find(':') {
            None => (rest, None),
            Some(at) => (&rest[..last_slash + at], Some(&rest[last_slash + at + 1..])),
        };
        if let Some(tag) = tag {
            check_tag(tag).map_err(problem)?;
        }
        let repository = normalise_repository(repository).map_err(problem)?;
        let tag = match (tag, &digest) {
            (Some(tag), _) => Some(tag.to_owned()),
            (None, Some(_)) => None,
            (None, None) => Some("latest".to_owned()),
        };
        Ok(ImageName { repository, tag, digest })
    }

    /// The name without tag and digest.
    pub fn repository(&self) -> &str {
        &self.repository
    }
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }
}

impl fmt::Display for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

impl std::str::FromStr for ImageName {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        Self::parse(text)
    }
}

/// The normal form of an image name as text: `shop` gives `shop:latest`.
///
/// # Errors
/// As [`ImageName::parse`].
pub fn normalise(text: &str) -> Result<String, NameError> {
    ImageName::parse(text).map(|name| name.to_string())
}

fn normalise_repository(text: &str) -> Result<String, &'static str> {
    let (host, path) = match text.split_once('/') {
        Some((first, rest)) if is_host(first) => (Some(first), rest),
        _ => (None, text),
    };
    if path.is_empty() {
        return Err("has no name");
    }
    for component in path.split('/') {
        check_component(component)?;
    }
    if path.len() + host.map_or(0, str::len) > 255 {
        return Err("is longer than 255 characters");
    }
    let host = match host {
        Some(host) if is_docker_hub(host) => None,
        Some(host) => {
            check_host(host)?;
            Some(host.to_ascii_lowercase())
        }
        None => None,
    };
    Ok(match host {
        Some(host) => format!("{host}/{path}"),
        // `library/` is where Docker Hub keeps names of one component.
        None => match path.strip_prefix("library/") {
            Some(short) if !short.contains('/') => short.to_owned(),
            _ => path.to_owned(),
        },
    })
}

/// The first component is a host when it could not be a plain name.
fn is_host(first: &str) -> bool {
    first == "localhost" || first.contains(['.', ':']) || first.bytes().any(|b| b.is_ascii_uppercase())
}

fn is_docker_hub(host: &str) -> bool {
    matches!(host, "docker.io" | "index.docker.io" | "registry-1.docker.io")
}

fn check_host(host: &str) -> Result<(), &'static str> {
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) => (name, Some(port)),
        None => (host, None),
    };
    if port.is_some_and(|port| port.parse::<u16>().is_err() || port.starts_with('+')) {
        return Err("has a registry port that is not a number up to 65535");
    }
    let is_label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    if name.split('.').all(is_label) { Ok(()) } else { Err("has a registry that is not a host name") }
}

/// Lower-case letters and digits, joined by one dot, one or two underscores, or hyphens.
fn check_component(component: &str) -> Result<(), &'static str> {
    if component.is_empty() {
        return Err("has an empty part between slashes");
    }
    if component.bytes().any(|b| b.is_ascii_uppercase()) {
        return Err("has upper-case letters");
    }
    let is_word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    if !component.bytes().all(|b| is_word(b) || b"._-".contains(&b)) {
        return Err("has characters other than a-z, 0-9 and . _ - / :");
    }
    let bytes = component.as_bytes();
    if !is_word(bytes[0]) || !is_word(bytes[bytes.len() - 1]) {
        return Err("has a part that starts or ends with . _ or -");
    }
    let joins = component.split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
    for join in joins.filter(|join| !join.is_empty()) {
        if !(matches!(join, "." | "_" | "__") || join.bytes().all(|b| b == b'-')) {
            return Err("has a part with a doubled . or a mix of . _ -");
        }
    }
    Ok(())
}

fn check_tag(tag: &str) -> Result<(), &'static str> {
    let ok = (1..=128).contains(&tag.len())
        && tag.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
        && !tag.starts_with(['.', '-']);
    if ok { Ok(()) } else { Err("has a tag that is empty, too long or has odd characters") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_one_normal_form() {
        let hex = "a".repeat(64);
        for (typed, kept) in [
            ("shop", "shop:latest"),
            ("shop:1", "shop:1"),
            ("docker.io/library/shop:1", "shop:1"),
            ("index.docker.io/library/shop", "shop:latest"),
            ("docker.io/acme/shop:1", "acme/shop:1"),
            ("library/shop", "shop:latest"),
            ("library/a/b", "library/a/b:latest"),
            ("acme/shop", "acme/shop:latest"),
            ("ghcr.io/acme/shop:1.2-rc_3", "ghcr.io/acme/shop:1.2-rc_3"),
            ("GHCR.io/acme/shop", "ghcr.io/acme/shop:latest"),
            ("localhost/shop", "localhost/shop:latest"),
            ("localhost:5000/shop", "localhost:5000/shop:latest"),
            ("127.0.0.1:5000/a/b:c", "127.0.0.1:5000/a/b:c"),
            ("a--b__c.d", "a--b__c.d:latest"),
            (&format!("shop@sha256:{hex}"), &format!("shop@sha256:{hex}")),
            (&format!("shop:1@sha256:{hex}"), &format!("shop:1@sha256:{hex}")),
        ] {
            assert_eq!(normalise(typed).as_deref(), Ok(kept), "{typed}");
            assert_eq!(normalise(kept).as_deref(), Ok(kept), "{kept} is its own normal form");
        }
    }

    #[test]
    fn nonsense_is_refused_and_says_what_is_wrong() {
        for (typed, problem) in [
            ("", "is empty"),
            ("Shop", "upper-case"),
            ("acme/Shop", "upper-case"),
            ("shop:", "tag"),
            ("shop:.1", "tag"),
            ("shop:a b", "tag"),
            (&format!("shop:{}", "1".repeat(129)), "tag"),
            ("shop@sha256:12", "digest"),
            ("shop@md5:12", "digest"),
            ("https://ghcr.io/shop", "address"),
            ("a//b", "empty part"),
            ("/shop", "empty part"),
            ("shop/", "empty part"),
            ("../shop", "host name"),
            ("a/../b", "starts or ends"),
            ("-shop", "starts or ends"),
            ("a..b", "host name or doubled"),
            ("a._b", "mix"),
            ("sh op", "characters"),
            ("shöp", "characters"),
            ("sh\0p", "characters"),
            ("host:99999/shop", "port"),
            ("host:+1/shop", "port"),
            ("ghcr.io/", "no name"),
            (&"a".repeat(256), "longer"),
        ] {
            let error = normalise(typed).expect_err(typed);
            let expected =
                problem.split(" or ").any(|p| error.problem.contains(p)) || error.problem.contains(problem);
            assert!(expected, "{typed}: {error}");
        }
    }
}
