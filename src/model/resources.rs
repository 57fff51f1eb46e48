//! Quantities a node has and an instance needs: integers only, so that sums are exact.

use std::fmt;

/// CPU in thousandths of a core, memory and disk in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    pub cpu_milli: u64,
    pub memory_bytes: u64,
    pub disk_bytes: u64,
}

impl Resources {
    /// What is left of `self` after `used`; never below zero.
    pub fn saturating_sub(self, used: Resources) -> Resources {
        Resources {
            cpu_milli: self.cpu_milli.saturating_sub(used.cpu_milli),
            memory_bytes: self.memory_bytes.saturating_sub(used.memory_bytes),
            disk_bytes: self.disk_bytes.saturating_sub(used.disk_bytes),
        }
    }

    pub fn saturating_add(self, more: Resources) -> Resources {
        Resources {
            cpu_milli: self.cpu_milli.saturating_add(more.cpu_milli),
            memory_bytes: self.memory_bytes.saturating_add(more.memory_bytes),
            disk_bytes: self.disk_bytes.saturating_add(more.disk_bytes),
        }
    }

    /// Whether `self` is enough for `need`, in every dimension.
    pub fn covers(self, need: Resources) -> bool {
        self.cpu_milli >= need.cpu_milli
            && self.memory_bytes >= need.memory_bytes
            && self.disk_bytes >= need.disk_bytes
    }
}

/// Bytes for people: `256 MB`, `22.9 GB`; decimal units, as manifests write them.
pub struct Bytes(pub u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [(&str, u64); 4] =
            [("TB", 1_000_000_000_000), ("GB", 1_000_000_000), ("MB", 1_000_000), ("kB", 1_000)];
        for (unit, size) in UNITS {
            if self.0 >= size {
                let tenths = (u128::from(self.0) * 10 / u128::from(size)) as u64;
                let (whole, tenth) = (tenths / 10, tenths % 10);
                return if tenth == 0 {
                    write!(f, "{whole} {unit}")
                } else {
                    write!(f, "{whole}.{tenth} {unit}")
                };
            }
        }
        write!(f, "{} B", self.0)
    }
}

/// CPU for people: `250m`, `2`.
pub struct Cpu(pub u64);

impl fmt::Display for Cpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_multiple_of(1000) { write!(f, "{}", self.0 / 1000) } else { write!(f, "{}m", self.0) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_written_in_the_units_of_manifests() {
        for (bytes, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (256_000_000, "256 MB"),
            (22_950_000_000, "22.9 GB"),
            (64_000_000_000, "64 GB"),
        ] {
            assert_eq!(Bytes(bytes).to_string(), text);
        }
    }
}
