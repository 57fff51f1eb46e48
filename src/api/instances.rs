//! What goes on inside an instance: a command in it, and (in `logs.rs`) what it writes.

use super::host::{self, ExecRequest, ExecSession, TerminalSize};
use super::stream::Reply;
use super::{Api, Fault, View, target, tenant};
use crate::model::ClusterState;
use crate::model::ids::TenantName;
use crate::model::instance::{Desired, Instance, Phase};
use crate::model::target::Target;
use crate::proto::v1::exec_input::Input;
use crate::proto::v1::exec_output::Output;
use crate::proto::{INSTANCE_KEY, v1};
use futures_util::StreamExt;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;
use tonic::{Request, Response, Status, Streaming};

#[tonic::async_trait]
impl v1::instances_server::Instances for Api {
    type LogsStream = Reply<v1::LogEntry>;
    type ExecStream = Reply<v1::ExecOutput>;

    async fn logs(&self, request: Request<v1::LogsRequest>) -> Result<Response<Self::LogsStream>, Status> {
        Ok(Response::new(self.read_logs(request.into_inner()).await?))
    }

    async fn exec(
        &self,
        request: Request<Streaming<v1::ExecInput>>,
    ) -> Result<Response<Self::ExecStream>, Status> {
        let mut inputs = request.into_inner();
        let first = tokio::time::timeout(START_WITHIN, inputs.next()).await;
        let start = match first {
            Ok(Some(Ok(v1::ExecInput { input: Some(Input::Start(start)) }))) => start,
            Ok(Some(Err(status))) => return Err(status),
            Ok(_) => {
                return Err(Fault::Invalid("the first message of an exec says what to start".into()).into());
            }
            Err(_) => return Err(Fault::Invalid("nothing was said to start".into()).into()),
        };
        let (ExecSession { input, output }, chosen) = self.start(start).await?;
        let pump = AbortOnDropHandle::new(tokio::spawn(pump(inputs, input)));
        let outputs = futures_util::stream::unfold(Some((output, pump)), forward);
        let mut response = Response::new(self.until_stopped(outputs));
        if let Some(name) = chosen.and_then(|instance| instance.name().parse().ok()) {
            response.metadata_mut().insert(INSTANCE_KEY, name);
        }
        Ok(response)
    }
}

/// A client sends its first message with the call; one that does not is broken.
const START_WITHIN: Duration = Duration::from_secs(10);

impl Api {
    /// The newest view there is: linearizable while there is a leader, else this node's own,
    /// since its instances run on without one.
    pub(super) async fn view_of_here(&self) -> Result<View, Fault> {
        match self.view(false).await {
            Err(Fault::Unavailable(_)) if !self.stopping.is_cancelled() => Ok(self.store.view()),
            other => other,
        }
    }

    /// The session, and where it is if another instance could have been meant.
    async fn start(&self, start: v1::ExecStart) -> Result<(ExecSession, Option<Arc<Instance>>), Fault> {
        let tenant = tenant(&start.tenant)?;
        let target = target::parse(&start.target)?;
        if start.command.first().is_none_or(String::is_empty) {
            return Err(Fault::Invalid(format!("no command is given: nodectl exec {target} -- COMMAND")));
        }
        let texts = || start.command.iter().chain(start.env.keys()).chain(start.env.values());
        if texts().any(|text| text.contains('\0')) {
            return Err(Fault::Invalid("a command and its environment cannot have NUL characters".into()));
        }
        if let Some(name) = start.env.keys().find(|name| name.is_empty() || name.contains('=')) {
            return Err(Fault::Invalid(format!("{name:?} is no name for a variable")));
        }
        let view = self.view_of_here().await?;
        let (instance, is_only) = choose(&view.state, &tenant, &target)?;
        let request = ExecRequest {
            instance: instance.id,
            command: start.command,
            terminal: start.terminal,
            size: start.size.map(terminal_size),
            env: start.env,
            user: start.user,
            working_dir: start.working_dir,
        };
        Ok((self.host.exec(request).await?, (!is_only).then_some(instance)))
    }
}

/// The instance that runs a command: the one that is named, else the first that is ready,
/// else the first that runs at all (one that never gets ready is one to look into); and whether
/// there was nothing to choose from.
fn choose(
    state: &ClusterState,
    tenant: &TenantName,
    target: &Target,
) -> Result<(Arc<Instance>, bool), Fault> {
    let mut instances = target::instances(state, tenant, target)?;
    // `web` first: what people mean by an app's name.
    instances.sort_by_key(|i| (!i.is_ready(), i.process.as_str() != "web", i.process.clone(), i.slot));
    let runs = |i: &&Arc<Instance>| matches!(i.observed.phase, Phase::Starting | Phase::Running);
    let mut running = instances.iter().filter(runs);
    if let Some(instance) = running.next() {
        return Ok((instance.clone(), running.next().is_none()));
    }
    Err(Fault::Conflict(match instances.first() {
        Some(instance) if target.slot.is_some() => {
            format!("{target} does not run now: it is {}; see `nodectl status {target}`", phase(instance))
        }
        _ => format!("no instance of {target} runs: see `nodectl status {}`", target.app),
    }))
}

fn phase(instance: &Instance) -> &'static str {
    match instance.observed.phase {
        _ if instance.desired == Desired::Stop => "being stopped",
        Phase::Pending => "not yet taken up by its node",
        Phase::Preparing => "being prepared",
        Phase::Starting | Phase::Running => "running",
        Phase::Backoff => "waiting to be started again",
        Phase::Stopping => "being stopped",
        Phase::Stopped => "stopped",
    }
}

/// What a terminal can have; a size beyond is some client's slip, not worth a session.
fn terminal_size(size: v1::TerminalSize) -> TerminalSize {
    let bounded = |n: u32| u16::try_from(n).unwrap_or(u16::MAX);
    TerminalSize { rows: bounded(size.rows), columns: bounded(size.columns) }
}

/// Client → command. Ends when either does. Letting go of `to` without `Eof` is what hangs the
/// command up: so it is when the client breaks off, and when it breaks the protocol.
async fn pump(mut inputs: Streaming<v1::ExecInput>, to: mpsc::Sender<host::ExecInput>) {
    let mut is_open = true;
    loop {
        let message = match inputs.next().await {
            Some(Ok(message)) => message,
            // The client will say no more; it may go on listening.
            None => {
                if is_open {
                    let _ended = to.send(host::ExecInput::Eof).await;
                }
                return to.closed().await;
            }
            Some(Err(_)) => return,
        };
        let input = match message.input {
            Some(Input::Stdin(data)) if is_open => host::ExecInput::Stdin(data),
            Some(Input::Eof(_)) if is_open => {
                is_open = false;
                host::ExecInput::Eof
            }
            Some(Input::Resize(size)) => host::ExecInput::Resize(terminal_size(size)),
            Some(Input::Signal(number)) if (1..=64).contains(&number) => host::ExecInput::Signal(number),
            // A second start, input after its end, no signal of ours, or a newer client's message.
            _ => continue,
        };
        if to.send(input).await.is_err() {
            return;
        }
    }
}

type Session = (mpsc::Receiver<host::ExecOutput>, AbortOnDropHandle<()>);

/// Command → client, until its exit status.
async fn forward(session: Option<Session>) -> Option<(Result<v1::ExecOutput, Fault>, Option<Session>)> {
    let (mut output, pump) = session?;
    let (message, next) = match output.recv().await {
        Some(host::ExecOutput::Stdout(data)) => (Output::Stdout(data), Some((output, pump))),
        Some(host::ExecOutput::Stderr(data)) => (Output::Stderr(data), Some((output, pump))),
        Some(host::ExecOutput::Exit(status)) => (Output::ExitStatus(status), None),
        Some(host::ExecOutput::Failed(why)) => return Some((Err(Fault::Internal(why)), None)),
        None => return Some((Err(Fault::Internal("the command's session broke off".into())), None)),
    };
    Some((Ok(v1::ExecOutput { output: Some(message) }), next))
}
