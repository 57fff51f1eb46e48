//! The command line: one file for each verb, and it talks only gRPC. What lives elsewhere: the
//! node itself (`dev` is parsed here and handed back to main, which owns the dispatch).
//!
//! Start reading at `args.rs` (what can be typed), then `run` below. `output.rs` says how things
//! look to people, `views.rs` how they look as JSON, `failure.rs` how they go wrong.

mod address;
mod app;
mod args;
mod client;
mod cluster;
mod completions;
mod deploy;
mod deploy_watch;
mod dev;
mod events;
mod exec;
mod failure;
mod follow;
mod image;
mod lifecycle;
mod logs;
mod node;
mod output;
mod scale;
mod service;
mod signals;
mod site;
mod status;
mod target;
mod terminal;
mod upload;
mod version;
mod views;
mod when;
mod why;
mod words;

use args::{AppVerb, Arguments, ClusterVerb, ImageVerb, NodeVerb, ServiceVerb, Verb};
use clap::{CommandFactory, Parser};
pub use dev::is_up as dev_is_up;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

/// What `nodectl dev` was asked for, with its defaults filled in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DevOptions {
    /// A folder with an index.html or a nodectl.toml, to be deployed once the node is up.
    pub site: Option<PathBuf>,
    pub data_dir: PathBuf,
    pub http: SocketAddr,
    /// SIGTERM ends the node and not what it runs.
    pub leave_running: bool,
}

/// What was typed, sorted by who acts on it.
pub enum Parsed {
    /// Start a node: not the client's business.
    Dev(DevOptions),
    /// Ask a node: call [`Request::run`].
    Client(Request),
    /// Help was printed, or usage was wrong and has been explained.
    Over(ExitCode),
}

/// A verb of the client, ready to run.
pub struct Request {
    addr: Option<String>,
    verb: Verb,
}

/// Reads the process's arguments and environment.
pub fn parse() -> Parsed {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help on standard output ends with 0, wrong usage on standard error with 2; a
            // reader that has gone away changes neither.
            _ = error.print();
            return Parsed::Over(ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2)));
        }
    };
    match arguments.verb {
        None => {
            _ = Arguments::command().print_help();
            Parsed::Over(ExitCode::SUCCESS)
        }
        Some(Verb::Dev(dev)) => match dev_options(dev) {
            Ok(options) => Parsed::Dev(options),
            Err(error) => Parsed::Over(failure::report(&error)),
        },
        Some(verb) => Parsed::Client(Request { addr: arguments.addr, verb }),
    }
}

/// Fills in defaults, and refuses a folder that could not be deployed before a node is started
/// for it. Paths become absolute: a node may change its working directory.
fn dev_options(args: args::DevArguments) -> anyhow::Result<DevOptions> {
    if let Some(site) = &args.dir {
        deploy::check_folder(site, "name another folder, or none: `nodectl dev` starts an empty node")?;
    }
    let data_dir = match args.data_dir {
        Some(data_dir) => data_dir,
        None => address::default_data_dir()?,
    };
    Ok(DevOptions {
        site: args.dir.map(std::path::absolute).transpose()?,
        data_dir: std::path::absolute(data_dir)?,
        http: args.http,
        leave_running: args.leave_running,
    })
}

impl Request {
    /// Does what was asked and returns the exit status: 0 done, 1 failed, 2 wrong usage, and for
    /// `exec` the command's own.
    pub fn run(self) -> ExitCode {
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => return failure::report(&anyhow::Error::new(error)),
        };
        let result = runtime.block_on(run(self.verb, client::Client::new(self.addr)));
        // A thread may sit in a read of standard input that never returns: leave it behind.
        runtime.shutdown_background();
        match result {
            Ok(code) => code,
            Err(error) => failure::report(&error),
        }
    }
}

async fn run(verb: Verb, client: client::Client) -> anyhow::Result<ExitCode> {
    match verb {
        Verb::Dev(_) => unreachable!("parse hands `dev` to main"),
        Verb::Deploy(args) => return deploy::run(args, client, true).await,
        Verb::Exec(args) => return exec::run(args, client).await,
        Verb::Abort(args) => lifecycle::abort(args, client).await?,
        Verb::Restart(args) => lifecycle::restart(args, client).await?,
        Verb::Stop(args) => lifecycle::stop(args, client).await?,
        Verb::Start(args) => lifecycle::start(args, client).await?,
        Verb::Status(args) => status::run(args, client).await?,
        Verb::Logs(args) => logs::run(args, client).await?,
        Verb::Scale(args) => scale::run(args, client).await?,
        Verb::App(AppVerb::Ls(args)) => app::list(args, client).await?,
        Verb::App(AppVerb::Rm(args)) => return app::remove(args, client).await,
        Verb::Events(args) => events::run(args, client).await?,
        Verb::Node(NodeVerb::Ls(args)) => node::list(args, client).await?,
        Verb::Node(NodeVerb::Cordon(args)) => node::set(args, node::Mode::Cordon, client).await?,
        Verb::Node(NodeVerb::Uncordon(args)) => node::set(args, node::Mode::Uncordon, client).await?,
        Verb::Node(NodeVerb::Drain(args)) => node::set(args, node::Mode::Drain, client).await?,
        Verb::Cluster(ClusterVerb::Status(args)) => cluster::status(args, client).await?,
        Verb::Image(ImageVerb::Load(args)) => image::load(args, client).await?,
        Verb::Image(ImageVerb::Ls(args)) => image::list(args, client).await?,
        Verb::Image(ImageVerb::Rm(args)) => image::remove(args, client).await?,
        Verb::Image(ImageVerb::Gc(args)) => image::gc(args, client).await?,
        Verb::Image(ImageVerb::Inspect(args)) => image::inspect(args, client).await?,
        Verb::Why(args) => why::run(args, client).await?,
        Verb::Service(ServiceVerb::Install(args)) => service::install(args)?,
        Verb::Completions(args) => completions::run(args)?,
        Verb::Version(args) => version::run(args, client).await?,
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tree_of_arguments_is_consistent() {
        Arguments::command().debug_assert();
    }
}
