//! The binary: hidden verbs of helper processes first, before anything else runs.

use nodectl::runtime;
use std::ffi::OsString;
use std::process::ExitCode;

fn main() -> ExitCode {
    let argv: Vec<OsString> = std::env::args_os().collect();
    let rest = argv.get(2..).unwrap_or_default();
    match argv.get(1).and_then(|verb| verb.to_str()) {
        Some("shim") => runtime::shim::main(rest),
        Some("exec-helper") => runtime::exec::helper::main(rest),
        _ => {
            println!("hi");
            ExitCode::SUCCESS
        }
    }
}
