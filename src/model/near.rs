//! "Did you mean": the known name nearest to one that was mistyped.

/// The nearest of `candidates` that a slip of the fingers may have meant; `None` when all are
/// too far to be a help.
pub fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // Longer than any name of ours: not worth the time that comparing takes.
    if name.len() > 64 {
        return None;
    }
    // One slip for each three letters, at least one: `cout` is near `count`, `foo` near nothing.
    let reach = (name.chars().count() / 3).max(1);
    let name = name.to_lowercase();
    candidates
        .into_iter()
        .filter_map(|candidate| {
            let distance = strsim::damerau_levenshtein(&name, candidate);
            let is_part = name.len() >= 4 && candidate.starts_with(&name);
            (distance <= reach || is_part).then_some((distance, candidate))
        })
        .min()
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn a_slip_finds_its_name_and_a_stranger_finds_none() {
        let known = ["command", "count", "cpu", "cpu_max", "memory"];
        for (typed, meant) in [
            ("cout", Some("count")),
            ("Count", Some("count")),
            ("cuont", Some("count")),
            ("comand", Some("command")),
            ("memo", Some("memory")),
            ("cpux", Some("cpu")),
            ("zebra", None),
            ("", None),
        ] {
            assert_eq!(nearest(typed, known), meant, "{typed}");
        }
    }
}
