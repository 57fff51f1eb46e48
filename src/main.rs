#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    match std::env::args_os().nth(1).as_deref().and_then(|verb| verb.to_str()) {
        Some("proxy") => nodectl::proxy::main(),
        _ => std::process::ExitCode::FAILURE,
    }
}
