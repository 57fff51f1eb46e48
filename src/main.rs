//! `nodectl`: what a node starts of itself is matched first, then `dev` goes to `node` and
//! everything else to `cli`.

use nodectl::cli::{self, Parsed};
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // Hidden verbs: nobody types them.
    let mut args = std::env::args_os().skip(1);
    match args.next().as_deref().and_then(|verb| verb.to_str()) {
        Some("shim") => return nodectl::runtime::shim::main(),
        Some("exec-helper") => return nodectl::runtime::exec::helper::main(),
        Some("proxy") => return nodectl::proxy::main(),
        Some("static-server") => return nodectl::build::static_server_main(args),
        _ => {}
    }
    match cli::parse() {
        Parsed::Client(request) => request.run(),
        Parsed::Over(code) => code,
        Parsed::Dev(options) => {
            todo!()
        }
    }
}
