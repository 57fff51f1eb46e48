//! The command line as it is typed: verbs, flags, and their help. Nothing here acts; what a
//! verb does is in the file that carries its name.

use super::output::Format;
use super::target::{Target, parse_app, parse_target};
use clap::{Args, Parser, Subcommand, ValueHint};
use std::net::SocketAddr;
use std::path::PathBuf;

const FIRST_MINUTE: &str = "\
The first minute:
  nodectl dev ./public             start a node here and serve that folder; keep it running
  nodectl status                   in a second terminal: what runs, and where it answers
  nodectl image load app.tar       bring an image (docker save, or an OCI layout)
  nodectl deploy --image app       run it behind the proxy
  nodectl logs -f -a app           read what it writes

Targets: shop (an app), shop/web (a process), shop/web.3 (an instance). Without one, the app
of ./nodectl.toml. `nodectl help VERB` has an example for each verb.";

/// Run web applications on your own machines: scheduler, containers and proxy in one binary.
#[derive(Parser, Debug)]
#[command(name = "nodectl", version, max_term_width = 100, after_help = FIRST_MINUTE, after_long_help = FIRST_MINUTE)]
pub struct Arguments {
    /// Where the node's API is: unix:///PATH [default: the socket of the default data folder]
    #[arg(long, global = true, env = "NODECTL_ADDR", hide_env_values = true, value_name = "ADDR")]
    pub addr: Option<String>,
    #[command(subcommand)]
    pub verb: Option<Verb>,
}

#[derive(Subcommand, Debug)]
pub enum Verb {
    /// Start a node here, in the foreground, and serve a folder from it
    #[command(after_help = "Example:\n  nodectl dev ./public --http 127.0.0.1:8080")]
    Dev(DevArguments),
    /// Release an app: a folder, a manifest, or an image
    #[command(
        long_about = "Release an app and follow its rollout until it is over.\n\n\
        DIR with a nodectl.toml is deployed by it; DIR with an index.html becomes an image that serves it. \
        Without DIR, -f or --image it is the current folder. Ctrl-C leaves the rollout running.",
        after_help = "Examples:\n  nodectl deploy                          by ./nodectl.toml\n  \
        nodectl deploy ./public --name shop     a static site\n  \
        nodectl deploy --image shop:1.4 --port 8080"
    )]
    Deploy(DeployArguments),
    /// Stop a running rollout and go back to what served before
    #[command(after_help = "Example:\n  nodectl abort shop")]
    Abort(TargetOnly),
    /// What runs, where, and what is wrong
    #[command(
        after_help = "Examples:\n  nodectl status            the app of ./nodectl.toml, else every app\n  \
        nodectl status shop/web --watch"
    )]
    Status(StatusArguments),
    /// What instances write to standard output and standard error
    #[command(
        after_help = "Examples:\n  nodectl logs -f shop\n  nodectl logs shop/web.1 --since 5m --timestamps\n  \
        nodectl logs --tail 50 --previous     also what crashed attempts wrote"
    )]
    Logs(LogsArguments),
    /// Run a command inside an instance
    #[command(
        long_about = "Run a command inside an instance, confined as the instance is. Its exit status \
        becomes nodectl's.\n\nWith an app or a process as target, the first ready instance is used.",
        after_help = "Examples:\n  nodectl exec -it shop/web.1 sh\n  nodectl exec shop -- ls -l /\n  \
        echo hello | nodectl exec -i shop/web -- cat"
    )]
    Exec(ExecArguments),
    /// Set how many instances of a process run
    #[command(
        long_about = "Set how many instances of a process run. It holds over later deploys, until \
        `deploy --reset-scale`.",
        after_help = "Example:\n  nodectl scale web=5 worker=2 -a shop"
    )]
    Scale(ScaleArguments),
    /// Replace instances by fresh ones of the same release
    #[command(after_help = "Example:\n  nodectl restart shop/web")]
    Restart(TargetOnly),
    /// Stop every instance of an app and keep the app
    #[command(after_help = "Example:\n  nodectl stop shop")]
    Stop(TargetOnly),
    /// Start an app that was stopped
    #[command(after_help = "Example:\n  nodectl start shop")]
    Start(TargetOnly),
    /// List apps, remove one
    #[command(subcommand)]
    App(AppVerb),
    /// What happened, oldest first
    #[command(
        after_help = "Examples:\n  nodectl events -f\n  nodectl events --after 1200 -o json     resume after index 1200"
    )]
    Events(EventsArguments),
    /// List nodes, take one out of use
    #[command(subcommand)]
    Node(NodeVerb),
    /// The cluster as a whole
    #[command(subcommand)]
    Cluster(ClusterVerb),
    /// Bring images in, list them, free their space
    #[command(subcommand)]
    Image(ImageVerb),
    /// Why a thing is as it is, and what would change it
    #[command(
        after_help = "Examples:\n  nodectl why shop\n  nodectl why shop/web.3\n  nodectl why node-1     a node, by its name"
    )]
    Why(WhyArguments),
    /// Run the node as a service of this machine
    #[command(subcommand)]
    Service(ServiceVerb),
    /// Completions for a shell
    #[command(after_help = "Examples:\n  nodectl completions bash > /etc/bash_completion.d/nodectl\n  \
        source <(nodectl completions zsh)")]
    Completions(CompletionsArguments),
    /// Versions of this program and of the node
    #[command(after_help = "Example:\n  nodectl version -o json")]
    Version(OutputOnly),
}

#[derive(Args, Debug, Clone, Copy, Default)]
pub struct OutputArguments {
    /// Tables for people, or JSON with stable field names
    #[arg(short = 'o', long = "output", value_enum, default_value_t = Format::Human, value_name = "FORMAT", hide_default_value = true)]
    pub format: Format,
}

/// An app, process or instance: named, or taken from `-a` or ./nodectl.toml.
#[derive(Args, Debug, Clone)]
pub struct TargetArguments {
    /// APP, APP/PROCESS or APP/PROCESS.N [default: the app of ./nodectl.toml]
    #[arg(value_parser = parse_target)]
    pub target: Option<Target>,
    /// The app, in place of a target
    #[arg(short, long, value_parser = parse_app, conflicts_with = "target")]
    pub app: Option<String>,
}

#[derive(Args, Debug)]
pub struct TargetOnly {
    #[command(flatten)]
    pub target: TargetArguments,
    #[command(flatten)]
    pub output: OutputArguments,
}

#[derive(Args, Debug)]
pub struct OutputOnly {
    #[command(flatten)]
    pub output: OutputArguments,
}

#[derive(Args, Debug)]
pub struct DevArguments {
    /// A folder with an index.html or a nodectl.toml, deployed once the node is up
    #[arg(value_hint = ValueHint::DirPath)]
    pub dir: Option<PathBuf>,
    /// Where the node keeps everything [default: /var/lib/nodectl for root, else
    /// ~/.local/share/nodectl]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub data_dir: Option<PathBuf>,
    /// Where the proxy listens
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8080")]
    pub http: SocketAddr,
    /// SIGTERM ends the node and not what it runs: for the service
    #[arg(long, hide = true)]
    pub leave_running: bool,
}

#[derive(Args, Debug, Default)]
pub struct DeployArguments {
    /// A folder with a nodectl.toml, or with an index.html
    #[arg(value_hint = ValueHint::DirPath, conflicts_with_all = ["file", "image"])]
    pub dir: Option<PathBuf>,
    /// The manifest [default: ./nodectl.toml]
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath, conflicts_with = "image")]
    pub file: Option<PathBuf>,
    /// An image that was loaded, in place of a manifest
    #[arg(long, value_name = "REF")]
    pub image: Option<String>,
    /// The app's name, where no manifest gives it [default: the folder's or the image's name]
    #[arg(long, visible_alias = "app", visible_short_alias = 'a', value_name = "APP", value_parser = parse_app)]
    pub name: Option<String>,
    /// The port that the image listens on [default: the one that it exposes]
    #[arg(long, value_name = "N", requires = "image", value_parser = clap::value_parser!(u16).range(1..))]
    pub port: Option<u16>,
    /// Return once the rollout has started
    #[arg(long)]
    pub detach: bool,
    /// Take the place of a rollout that is still running
    #[arg(long)]
    pub force: bool,
    /// Go back to the manifest's counts where `scale` changed them
    #[arg(long)]
    pub reset_scale: bool,
    #[command(flatten)]
    pub output: OutputArguments,
}

#[derive(Args, Debug)]
pub struct StatusArguments {
    #[command(flatten)]
    pub target: TargetArguments,
    /// Every app, also inside an app's folder
    #[arg(short = 'A', long, conflicts_with_all = ["target", "app"])]
    pub all: bool,
    /// Show it again at each change, until Ctrl-C
    #[arg(short, long)]
    pub watch: bool,
    /// Answer from the node's own state without asking the leader
    #[arg(long)]
    pub stale: bool,
    #[command(flatten)]
    pub output: OutputArguments,
}

#[derive(Args, Debug)]
pub struct LogsArguments {
    #[command(flatten)]
    pub target: TargetArguments,
    /// Go on with what is written from now on, also after the node restarts
    #[arg(short, long)]
    pub follow: bool,
    /// Only the last N lines of each instance [default: all that is kept]
    #[arg(short = 'n', long, value_name = "N")]
    pub tail: Option<u32>,
    /// Only lines since a time ago (90s, 5m, 2h, 1d) or an instant (2026-11-21T13:00:00Z)
    #[arg(long, value_name = "TIME", value_parser = super::when::parse_since)]
    pub since: Option<super::when::Since>,
    /// Also what earlier attempts and replaced instances wrote
    #[arg(short, long)]
    pub previous: bool,
    /// Write each line's time (UTC) before it
    #[arg(short, long)]
    pub timestamps: bool,
    #[command(flatten)]
    pub output: OutputArguments,
}

#[derive(Args, Debug)]
pub struct ExecArguments {
    /// Hand standard input to the command
    #[arg(short, long)]
    pub interactive: bool,
    /// Give the command a terminal
    #[arg(short, long)]
    pub tty: bool,
    /// User (name or uid, with :group if wanted) [default: the image's]
    #[arg(short, long, value_name = "USER")]
    pub user: Option<String>,
    /// Folder inside the instance [default: the image's]
    #[arg(short, long, value_name = "DIR")]
    pub workdir: Option<String>,
    /// A variable for the command; K alone takes its value from here (repeatable)
    #[arg(short, long, value_name = "K=V")]
    pub env: Vec<String>,
    /// APP, APP/PROCESS or APP/PROCESS.N
    #[arg(value_parser = parse_target)]
    pub target: Target,
    /// The command and its arguments
    #[arg(trailing_var_arg = true, required = true, value_name = "CMD", value_hint = ValueHint::CommandWithArguments)]
    pub command: Vec<String>,
}

#[derive(Args, Debug)]
pub struct ScaleArguments {
    /// PROCESS=COUNT, several at once if wanted
    #[arg(required = true, value_name = "PROCESS=COUNT", value_parser = super::scale::parse_count)]
    pub counts: Vec<super::scale::Count>,
    /// The app [default: the app of ./nodectl.toml]
    #[arg(short, long, value_parser = parse_app)]
    pub app: Option<String>,
    #[command(flatten)]
    pub output: OutputArguments,
}

#[derive(Subcommand, Debug)]
pub enum AppVerb {
    /// List apps
    #[command(after_help = "Example:\n  nodectl app ls -o json")]
    Ls(OutputOnly),
    /// Stop an app and forget it, with its releases; returns when it is gone
    #[command(after_help = "Example:\n  nodectl app rm shop")]
    Rm(AppRmArguments),
}

#[derive(Args, Debug)]
pub struct AppRmArguments {
    /// The app; always named, never taken from ./nodectl.toml
    #[arg(value_parser = parse_app)]
    pub app: String,
    /// Return once the removal has started
    #[arg(long)]
    pub detach: bool,
    #[command(flatten)]
    pub output: OutputArguments,
}

#[derive(Args, Debug)]
pub struct EventsArguments {
    #[command(flatten)]
    pub target: TargetArguments,
    /// Every event, also inside an app's folder
    #[arg(short = 'A', long, conflicts_with_all = ["target", "app"])]
    pub all: bool,
    /// Go on with what happens from now on
    #[arg(short, long)]
    pub follow: bool,
    /// Only events after this index (N), or after one event of it (N.SUB)
    #[arg(long, value_name = "N", value_parser = super::events::parse_position)]
    pub after: Option<super::events::Position>,
    #[command(flatten)]
    pub output: OutputArguments,
}

#[derive(Subcommand, Debug)]
pub enum NodeVerb {
    /// List nodes with what they have and what is taken
    #[command(after_help = "Example:\n  nodectl node ls")]
    Ls(OutputOnly),
    /// Place nothing more on a node
    #[command(after_help = "Example:\n  nodectl node cordon node-1")]
    Cordon(NodeArguments),
    /// Place on a node again
    #[command(after_help = "Example:\n  nodectl node uncordon node-1")]
    Uncordon(NodeArguments),
    /// Place nothing more on a node, and move what runs there
    #[command(after_help = "Example:\n  nodectl node drain node-1")]
    Drain(NodeArguments),
}

#[derive(Args, Debug)]
pub struct NodeArguments {
    /// The node's name or id
    pub node: String,
    #[command(flatten)]
    pub output: OutputArguments,
}

#[derive(Subcommand, Debug)]
pub enum ClusterVerb {
    /// Leader, nodes, and how much runs
    #[command(after_help = "Example:\n  nodectl cluster status")]
    Status(OutputOnly),
}

#[derive(Subcommand, Debug)]
pub enum ImageVerb {
    /// Bring in an archive: docker save, or an OCI layout (archive or folder); `-` reads standard input
    #[command(
        after_help = "Examples:\n  nodectl image load app.tar\n  docker save shop:1.4 | nodectl image load - --name shop:1.4"
    )]
    Load(ImageLoadArguments),
    /// List images and what uses them
    #[command(after_help = "Example:\n  nodectl image ls")]
    Ls(OutputOnly),
    /// Remove an image's name; `image gc` frees its space once nothing uses it
    #[command(after_help = "Example:\n  nodectl image rm shop:1.3")]
    Rm(ImageArguments),
    /// Free the space of what no name, release or instance uses
    #[command(after_help = "Example:\n  nodectl image gc --dry-run")]
    Gc(ImageGcArguments),
    /// What is inside an image
    #[command(after_help = "Example:\n  nodectl image inspect shop:1.4")]
    Inspect(ImageArguments),
}

#[derive(Args, Debug)]
pub struct ImageLoadArguments {
    /// An archive, a folder with an OCI layout, or - for standard input
    #[arg(value_hint = ValueHint::AnyPath)]
    pub file: PathBuf,
    /// The image's name, where the archive has none [default: the file's name]
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    #[command(flatten)]
    pub output: OutputArguments,
}

#[derive(Args, Debug)]
pub struct ImageArguments {
    /// A name or a digest
    pub image: String,
    #[command(flatten)]
    pub output: OutputArguments,
}

#[derive(Args, Debug)]
pub struct ImageGcArguments {
    /// Say what would be freed and free nothing
    #[arg(long)]
    pub dry_run: bool,
    #[command(flatten)]
    pub output: OutputArguments,
}

#[derive(Args, Debug)]
pub struct WhyArguments {
    /// APP, APP/PROCESS, APP/PROCESS.N or a node's name [default: the app of ./nodectl.toml]
    #[arg(value_name = "THING")]
    pub thing: Option<String>,
    /// The app, in place of a thing
    #[arg(short, long, value_parser = parse_app, conflicts_with = "thing")]
    pub app: Option<String>,
    #[command(flatten)]
    pub output: OutputArguments,
}

#[derive(Subcommand, Debug)]
pub enum ServiceVerb {
    /// Write a systemd unit that runs this program's node
    #[command(after_help = "Examples:\n  nodectl service install --print     only show the unit\n  \
        nodectl service install --http 0.0.0.0:80")]
    Install(ServiceInstallArguments),
}

#[derive(Args, Debug)]
pub struct ServiceInstallArguments {
    /// Show the unit and write nothing
    #[arg(long)]
    pub print: bool,
    /// Where the node keeps everything
    #[arg(long, value_name = "DIR", default_value = "/var/lib/nodectl", value_hint = ValueHint::DirPath)]
    pub data_dir: PathBuf,
    /// Where the proxy listens
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8080")]
    pub http: SocketAddr,
    #[command(flatten)]
    pub output: OutputArguments,
}

#[derive(Args, Debug)]
pub struct CompletionsArguments {
    pub shell: clap_complete::Shell,
}
