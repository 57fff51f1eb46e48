//! The composition root: opens the stores, starts the loops, orders the shutdown. No logic
//! of its own. Start with `dev.rs`.

mod dev;
mod folder;
mod gate;
mod host;
mod machine;
mod publish;
mod store;
mod tasks;
mod wiring;

pub use dev::{Options, Up};

use std::process::ExitCode;

/// Runs a node in the foreground until it is told to end; see [`dev::run`]. Errors are told on
/// standard error, with what to try.
pub fn main<F>(options: Options, on_up: impl FnOnce(Up) -> F) -> ExitCode
where
    F: Future<Output = anyhow::Result<()>>,
{
    crate::telemetry::start();
    // What the node writes is for nobody else: state, images, logs. What containers see has its
    // modes set one by one, and shims and execs have an umask of their own.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    // Two: one may wait for a lock or a disk while the other answers; containers and requests
    // have processes of their own.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let ended = match runtime {
        Ok(runtime) => {
            let ended = runtime.block_on(dev::run(options, on_up));
            runtime.shutdown_timeout(std::time::Duration::from_secs(2));
            ended
        }
        Err(error) => Err(error.into()),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let text = format!("{error:#}");
            eprintln!("error: {text}");
            if let Some(hint) = hint(&text) {
                eprintln!("  {hint}");
            }
            ExitCode::FAILURE
        }
    }
}

/// What to try where the cause is the system's own word for it, from whichever store it came.
fn hint(text: &str) -> Option<&'static str> {
    let of_disk = [
        (
            "No space left on device",
            "its disk is full: free some space, or choose another folder with --data-dir",
        ),
        (
            "Disk quota exceeded",
            "its quota is used up: free some space, or choose another folder with --data-dir",
        ),
        (
            "Read-only file system",
            "it cannot be written to: choose another folder with --data-dir, or mount it rw",
        ),
    ];
    of_disk.into_iter().find(|(sign, _)| text.contains(sign)).map(|(_, hint)| hint)
}
