//! Which of an image's platforms this machine runs. Pure, but for asking the CPU what it
//! is. Names are Go's (OCI image-spec, image-index.md#platform-variants).

use std::fmt;

/// `linux/amd64`, `linux/arm/v7`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Platform {
    pub os: String,
    pub architecture: String,
    pub variant: Option<String>,
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        match &self.variant {
            Some(variant) => write!(f, "/{variant}"),
            None => Ok(()),
        }
    }
}

impl Platform {
    pub fn new(os: &str, architecture: &str, variant: Option<&str>) -> Self {
        Platform {
            os: os.to_owned(),
            architecture: architecture.to_owned(),
            variant: variant.filter(|v| !v.is_empty()).map(str::to_owned),
        }
    }

    /// The machine that this program runs on. Containers are Linux whatever the kernel.
    pub fn of_this_machine() -> Self {
        let architecture = go_architecture(std::env::consts::ARCH);
        Platform::new("linux", architecture, machine_variant(architecture))
    }

    /// How well an image for `self` runs on `machine`: `None` not at all, lower is better.
    pub fn rank_on(&self, machine: &Platform) -> Option<u32> {
        if self.os != machine.os || self.architecture != machine.architecture {
            return None;
        }
        let most = level(&machine.architecture, machine.variant.as_deref())?;
        let wanted = level(&self.architecture, self.variant.as_deref())?;
        most.checked_sub(wanted)
    }
}

/// Rust's name of an architecture in Go's words.
fn go_architecture(rust: &'static str) -> &'static str {
    match rust {
        "x86_64" => "amd64",
        "x86" => "386",
        "aarch64" => "arm64",
        "powerpc64" => "ppc64le",
        "loongarch64" => "loong64",
        same => same, // arm, riscv64, s390x
    }
}

/// The highest variant that this machine's processor runs.
fn machine_variant(architecture: &str) -> Option<&'static str> {
    match architecture {
        "amd64" => Some(amd64_level()),
        "arm64" => Some("v8"),
        "arm" => Some("v7"),
        _ => None,
    }
}

#[cfg(target_arch = "x86_64")]
fn amd64_level() -> &'static str {
    let v2 = is_x86_feature_detected!("sse4.2") && is_x86_feature_detected!("popcnt");
    let v3 = v2
        && is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("bmi2")
        && is_x86_feature_detected!("fma");
    match (v2, v3) {
        (_, true) => "v3",
        (true, _) => "v2",
        _ => "v1",
    }
}
#[cfg(not(target_arch = "x86_64"))]
fn amd64_level() -> &'static str {
    "v1"
}

/// A variant as a number; within an architecture a processor runs every lower one. No
/// variant means the least that the architecture's images are commonly built for.
fn level(architecture: &str, variant: Option<&str>) -> Option<u32> {
    let digits = |v: &str| v.strip_prefix('v').and_then(|n| n.parse().ok());
    match (architecture, variant) {
        ("amd64", None) => Some(1),
        ("arm64", None) => Some(8),
        ("arm", None) => Some(7),
        ("amd64" | "arm64" | "arm", Some(v)) => digits(v),
        (_, None) => Some(0),
        (_, Some(_)) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Platform {
        let mut parts = text.split('/');
        let (os, architecture) = (parts.next().unwrap(), parts.next().unwrap());
        Platform::new(os, architecture, parts.next())
    }

    #[test]
    fn images_rank_by_what_the_machine_runs() {
        for (image, machine, rank) in [
            ("linux/amd64", "linux/amd64/v3", Some(2)),
            ("linux/amd64/v3", "linux/amd64/v3", Some(0)),
            ("linux/amd64/v4", "linux/amd64/v3", None),
            ("linux/arm64", "linux/amd64/v3", None),
            ("windows/amd64", "linux/amd64/v3", None),
            ("linux/arm64/v8", "linux/arm64/v8", Some(0)),
            ("linux/arm64", "linux/arm64/v8", Some(0)),
            ("linux/arm/v6", "linux/arm/v7", Some(1)),
            ("linux/arm", "linux/arm/v7", Some(0)),
            ("unknown/unknown", "linux/amd64/v1", None),
            ("linux/riscv64", "linux/riscv64", Some(0)),
        ] {
            assert_eq!(parse(image).rank_on(&parse(machine)), rank, "{image} on {machine}");
        }
    }

    #[test]
    fn this_machine_runs_its_own_plain_architecture() {
        let machine = Platform::of_this_machine();
        let plain = Platform { variant: None, ..machine.clone() };
        assert!(plain.rank_on(&machine).is_some(), "{machine}");
    }
}
