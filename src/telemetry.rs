//! What the node says of itself while it runs: warnings on standard error, more with
//! `NODECTL_LOG=debug` (the syntax of tracing's `EnvFilter`).

use tracing_subscriber::EnvFilter;

/// Starts logging for this process; a second call changes nothing.
pub fn start() {
    let quiet = || EnvFilter::new("warn,openraft=error");
    let filter = EnvFilter::try_from_env("NODECTL_LOG").unwrap_or_else(|_| quiet());
    let _ = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).try_init();
}
