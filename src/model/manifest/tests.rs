//! Manifests as people write them, good and bad, with what must come of them.

mod bad;
mod good;

use super::*;

/// The faults of a text, one a line.
fn faults(text: &str) -> String {
    match parse("nodectl.toml", text) {
        Ok(manifest) => panic!("accepted: {text}\n{manifest:?}"),
        Err(errors) => errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"),
    }
}

fn read(text: &str) -> Manifest {
    parse("nodectl.toml", text).unwrap_or_else(|errors| {
        let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
        panic!("refused: {text}\n{}", errors.join("\n"))
    })
}
