//! `nodectl`: the server verbs go to `node`, everything else to `cli`.

use nodectl::cli::{self, Parsed};
use std::process::ExitCode;

fn main() -> ExitCode {
    // Hidden verbs (what the node starts of itself) are matched here, before anything is parsed.
    match cli::parse() {
        Parsed::Client(request) => request.run(),
        Parsed::Over(code) => code,
        Parsed::Dev(options) => {
            eprintln!(
                "error: this build has no node yet; it would keep its data in {}",
                options.data_dir.display()
            );
            ExitCode::FAILURE
        }
    }
}
