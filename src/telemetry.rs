//! What the node says of itself while it runs: warnings on standard error, more with
//! `NODECTL_LOG=debug` (the syntax of tracing's `EnvFilter`).

use std::io::IsTerminal;
use tracing_subscriber::EnvFilter;

/// Starts logging for this process: warnings, without what the libraries of the store say of
/// what the node itself tells better; a second call changes nothing.
pub fn start() {
    let quiet = || EnvFilter::new("warn,openraft=off,sled=off");
    let filter = EnvFilter::try_from_env("NODECTL_LOG").unwrap_or_else(|_| quiet());
    let colours = std::io::stderr().is_terminal();
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(colours)
        .with_writer(std::io::stderr)
        .try_init();
}
