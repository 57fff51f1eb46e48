use std::process::ExitCode;

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    match args.next() {
        Some(verb) if verb == "static-server" => nodectl::build::static_server_main(args),
        _ => ExitCode::SUCCESS,
    }
}
