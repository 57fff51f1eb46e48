//! `nodectl`: what a node starts of itself is matched first, then `dev` goes to `node` and
//! everything else to `cli`.

use nodectl::cli::{self, Parsed};
use nodectl::{build, node, proxy, runtime};
use std::ffi::OsString;
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // Hidden verbs: nobody types them.
    let args: Vec<OsString> = std::env::args_os().skip(1).collect();
    let verb = args.first().and_then(|verb| verb.to_str());
    // What `top` shows: executed from a descriptor, the kernel would call it by its number.
    let _ = rustix::thread::set_name(match verb {
        Some("shim") => c"nodectl-shim",
        Some("proxy") => c"nodectl-proxy",
        _ => c"nodectl",
    });
    match verb {
        Some("shim") => return runtime::shim::main(&args[1..]),
        Some("exec-helper") => return runtime::exec::helper::main(&args[1..]),
        Some("proxy") => return proxy::main(),
        Some("static-server") => return build::static_server_main(args.into_iter().skip(1)),
        _ => {}
    }
    match cli::parse() {
        Parsed::Client(request) => request.run(),
        Parsed::Over(code) => code,
        Parsed::Dev(options) => {
            runtime::run_from_sealed_copy();
            let cli::DevOptions { site, data_dir, http, leave_running } = options;
            node::main(node::Options { data_dir, http, leave_running }, |up| {
                cli::dev_is_up(up.socket, up.http, site, up.warnings)
            })
        }
    }
}
