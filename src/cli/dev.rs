//! What `nodectl dev` says once its node is up, and the folder that it deploys.

use super::args::DeployArguments;
use super::client::Client;
use super::deploy;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

/// Deploys `site`, if one was named, and prints the line that starts with `ready`.
///
/// # Errors
/// The folder could not be deployed.
pub async fn is_up(
    socket: PathBuf,
    http: SocketAddr,
    site: Option<PathBuf>,
    warnings: Vec<String>,
) -> anyhow::Result<()> {
    for warning in warnings {
        eprintln!("warning: {warning}");
    }
    let address = format!("unix://{}", socket.display());
    if let Some(dir) = site {
        let args = DeployArguments { dir: Some(dir), force: true, ..DeployArguments::default() };
        let code = deploy::run(args, Client::new(Some(address.clone())), false).await?;
        if code != ExitCode::SUCCESS {
            eprintln!("the node goes on without it; Ctrl-C ends it");
        }
    }
    println!("ready: apps answer at http://APP.localhost:{}/, Ctrl-C stops the node", http.port());
    let default = super::address::default_data_dir().map(|dir| dir.join("api.sock"));
    if default.ok().as_deref() != Some(socket.as_path()) {
        println!("in another terminal: export NODECTL_ADDR={address}");
    }
    Ok(())
}
