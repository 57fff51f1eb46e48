//! Logs of many instances as one, and a command in one of them.

use super::{World, soon};
use crate::api::LogSource;
use crate::model::ids::{InstanceId, ProcessName};
use crate::model::instance::Phase;
use crate::proto::v1;
use crate::proto::v1::exec_input::Input;
use crate::proto::v1::exec_output::Output;
use futures_util::StreamExt;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};

fn logs(target: &str) -> v1::LogsRequest {
    v1::LogsRequest { target: target.into(), ..Default::default() }
}

impl World {
    async fn read_logs(&self, request: v1::LogsRequest) -> Vec<String> {
        let stream = self.instances().logs(request).await.expect("reads").into_inner();
        soon("the logs", stream.map(|entry| told(&entry.expect("an entry"))).collect()).await
    }
}

fn told(entry: &v1::LogEntry) -> String {
    format!("{} {}", entry.target, String::from_utf8_lossy(&entry.line))
}

#[tokio::test]
async fn what_is_kept_of_several_instances_comes_in_the_order_of_its_times() {
    let world = World::new().await;
    world.deployed("app = \"shop\"\n[process.web]\ncount = 2").await;
    for (instance, at, text) in [(1, 10, "a"), (1, 40, "d"), (2, 20, "b"), (2, 30, "c"), (2, 50, "e")] {
        world.host.write_log(instance, at, text);
    }
    assert_eq!(
        world.read_logs(logs("shop")).await,
        ["shop/web.1 a", "shop/web.2 b", "shop/web.2 c", "shop/web.1 d", "shop/web.2 e"]
    );
    assert_eq!(world.read_logs(logs("shop/web.1")).await, ["shop/web.1 a", "shop/web.1 d"]);
    let tail = v1::LogsRequest { tail: Some(1), ..logs("shop") };
    assert_eq!(world.read_logs(tail).await, ["shop/web.1 d", "shop/web.2 e"]);
    let status = world.instances().logs(logs("shp")).await.expect_err("unknown");
    assert_eq!(
        (status.code(), status.message()),
        (Code::NotFound, "there is no app shp: did you mean shop?")
    );
}

#[tokio::test]
async fn a_follower_gets_new_lines_and_new_instances_and_ends_with_the_app() {
    let world = World::new().await;
    world.deployed("app = \"shop\"").await;
    world.host.write_log(1, 10, "old");
    let request = v1::LogsRequest { follow: true, ..logs("shop") };
    let mut stream = world.instances().logs(request).await.expect("follows").into_inner();
    let mut next = async || soon("a line", stream.next()).await.map(|entry| told(&entry.expect("an entry")));
    assert_eq!(next().await.as_deref(), Some("shop/web.1 old"));
    world.host.write_log(1, 20, "new");
    assert_eq!(next().await.as_deref(), Some("shop/web.1 new"));

    let counts = [("web".to_owned(), 2)].into();
    world
        .apps()
        .scale(v1::ScaleRequest { app: "shop".into(), counts, ..Default::default() })
        .await
        .expect("scales");
    world.plan();
    let second = world.store.state().instances().map(|i| i.id.0).max().expect("two");
    world.host.write_log(second, 30, "hello");
    assert_eq!(next().await.as_deref(), Some("shop/web.2 hello"));

    let app = v1::AppRequest { app: "shop".into(), ..Default::default() };
    world.apps().remove(app).await.expect("removes");
    while !world.store.state().apps.is_empty() {
        world.plan();
        for instance in world.store.state().instances() {
            world.report(instance, Phase::Stopped, false, "");
        }
    }
    world.host.write_log(1, 40, "bye");
    assert_eq!(next().await.as_deref(), Some("shop/web.1 bye"));
    world.host.end_log(1);
    world.host.end_log(second);
    assert_eq!(next().await, None);
}

#[tokio::test]
async fn logs_outlive_their_instances() {
    let world = World::new().await;
    world.deployed("app = \"shop\"").await;
    let web = || ProcessName::new("web").expect("a name");
    *world.host.kept.lock().expect("no panic") =
        [90, 91].map(|id| LogSource { instance: InstanceId(id), process: web(), slot: 1 }).to_vec();
    world.host.write_log(90, 1, "first");
    world.host.write_log(91, 2, "second");
    world.host.write_log(1, 3, "third");
    assert_eq!(world.read_logs(logs("shop")).await, ["shop/web.1 third"]);
    let previous = v1::LogsRequest { previous: true, ..logs("shop/web.1") };
    assert_eq!(
        world.read_logs(previous).await,
        ["shop/web.1 first", "shop/web.1 second", "shop/web.1 third"]
    );
    // An app that is gone: the last instance of each slot.
    assert_eq!(world.read_logs(logs("gone")).await, ["shop/web.1 second"].map(|l| l.replace("shop", "gone")));
    *world.host.kept.lock().expect("no panic") = Vec::new();
    assert_eq!(world.instances().logs(logs("gone")).await.expect_err("nothing").code(), Code::NotFound);
}

type Client = v1::instances_client::InstancesClient<tonic::transport::Channel>;

struct Session {
    to: mpsc::Sender<v1::ExecInput>,
    from: tonic::Streaming<v1::ExecOutput>,
}

impl Session {
    async fn say(&self, input: Input) {
        self.to.send(v1::ExecInput { input: Some(input) }).await.expect("open");
    }
    async fn hear(&mut self) -> Option<Result<Output, Status>> {
        let message = soon("output", self.from.next()).await?;
        Some(message.map(|output| output.output.expect("something")))
    }
}

fn start(target: &str, command: &[&str]) -> v1::ExecStart {
    let command = command.iter().map(|word| (*word).to_owned()).collect();
    v1::ExecStart { target: target.into(), command, ..Default::default() }
}

impl World {
    async fn exec(&self, first: Input) -> Result<Session, Status> {
        self.exec_by(self.instances(), first).await
    }

    async fn exec_by(&self, mut client: Client, first: Input) -> Result<Session, Status> {
        let (to, inputs) = mpsc::channel(4);
        to.send(v1::ExecInput { input: Some(first) }).await.expect("open");
        let from = client.exec(ReceiverStream::new(inputs)).await?.into_inner();
        Ok(Session { to, from })
    }
}

#[tokio::test]
async fn a_command_hears_and_is_heard_until_its_exit_status() {
    let world = World::new().await;
    world.deployed("app = \"shop\"\n[process.job]\n[process.web]").await;
    let size = v1::TerminalSize { rows: 24, columns: 100_000 };
    let first =
        v1::ExecStart { terminal: true, size: Some(size), user: "nobody".into(), ..start("shop", &["sh"]) };
    let mut session = world.exec(Input::Start(first)).await.expect("starts");
    session.say(Input::Stdin("ls\n".into())).await;
    assert_eq!(session.hear().await.expect("said").expect("good"), Output::Stdout("ls\n".into()));
    session.say(Input::Resize(v1::TerminalSize { rows: 50, columns: 132 })).await;
    assert_eq!(session.hear().await.expect("said").expect("good"), Output::Stderr("50x132".into()));
    session.say(Input::Signal(0)).await;
    session.say(Input::Signal(15)).await;
    assert_eq!(session.hear().await.expect("said").expect("good"), Output::ExitStatus(143));
    assert!(session.hear().await.is_none());
    let asked = world.host.exec.lock().expect("no panic").clone().expect("asked");
    let state = world.store.state();
    let instance = state.instance(asked.instance).expect("there");
    assert_eq!(instance.name(), "shop/web.1", "web is what an app's name means first");
    assert_eq!(asked.size.map(|size| (size.rows, size.columns)), Some((24, u16::MAX)));
    assert_eq!((asked.terminal, asked.user.as_str()), (true, "nobody"));
}

#[tokio::test]
async fn the_end_of_input_is_passed_on_whether_said_or_shown() {
    let world = World::new().await;
    world.deployed("app = \"shop\"").await;
    let mut session = world.exec(Input::Start(start("shop/web.1", &["cat"]))).await.expect("starts");
    session.say(Input::Eof(v1::ExecEof {})).await;
    assert_eq!(session.hear().await.expect("said").expect("good"), Output::ExitStatus(0));
    let Session { to, mut from } = world.exec(Input::Start(start("shop", &["cat"]))).await.expect("starts");
    drop(to);
    let last = soon("the status", from.next()).await.expect("said").expect("good");
    assert_eq!(last.output, Some(Output::ExitStatus(0)));
}

#[tokio::test]
async fn a_command_is_hung_up_when_its_client_goes_away() {
    let world = World::new().await;
    world.deployed("app = \"shop\"").await;
    let mut hung_up = world.host.hung_up.subscribe();
    let (channel, kill) = world.mortal_client().await;
    let first = Input::Start(start("shop", &["sh"]));
    let _session = world.exec_by(Client::new(channel), first).await.expect("starts");
    kill();
    soon("the hang-up", hung_up.wait_for(|n| *n == 1)).await.expect("open");
}

#[tokio::test]
async fn what_cannot_be_started_says_why() {
    let world = World::new().await;
    world.deployed("app = \"shop\"").await;
    world.deploy("app = \"slow\"").await.expect("deploys");
    world.plan();
    let env = v1::ExecStart { env: [("A=B".to_owned(), String::new())].into(), ..start("shop", &["sh"]) };
    for (first, code, message) in [
        (
            Input::Eof(v1::ExecEof {}),
            Code::InvalidArgument,
            "the first message of an exec says what to start",
        ),
        (
            Input::Start(start("shop", &[])),
            Code::InvalidArgument,
            "no command is given: nodectl exec shop -- COMMAND",
        ),
        (
            Input::Start(start("shop", &["a\0"])),
            Code::InvalidArgument,
            "a command and its environment cannot have NUL characters",
        ),
        (Input::Start(env), Code::InvalidArgument, "\"A=B\" is no name for a variable"),
        (
            Input::Start(start("shop", &["absent"])),
            Code::FailedPrecondition,
            "shop/web.1 has no command `absent`",
        ),
        (
            Input::Start(start("slow", &["sh"])),
            Code::FailedPrecondition,
            "no instance of slow runs: see `nodectl status slow`",
        ),
        (
            Input::Start(start("slow/web.1", &["sh"])),
            Code::FailedPrecondition,
            "slow/web.1 does not run now: it is not yet taken up by its node; see `nodectl status slow/web.1`",
        ),
        (Input::Start(start("shp", &["sh"])), Code::NotFound, "there is no app shp: did you mean shop?"),
    ] {
        let status = world.exec(first).await.err().expect(message);
        assert_eq!((status.code(), status.message()), (code, message));
        let exit_status = status.metadata().get(crate::proto::EXIT_STATUS_KEY).map(|value| value.as_bytes());
        assert_eq!(exit_status, message.contains("no command `").then_some(&b"127"[..]), "{message}");
    }
}

#[tokio::test]
async fn an_answer_names_the_instance_where_several_could_have_been_meant() {
    let world = World::new().await;
    world.deployed("app = \"shop\"\n[process.web]\ncount = 2").await;
    for (target, named) in
        [("shop", Some("shop/web.1")), ("shop/web", Some("shop/web.1")), ("shop/web.2", None)]
    {
        let (_to, inputs) = mpsc::channel(4);
        let first = v1::ExecInput { input: Some(Input::Start(start(target, &["sh"]))) };
        _to.send(first).await.expect("open");
        let answer = world.instances().exec(ReceiverStream::new(inputs)).await.expect("starts");
        let said = answer.metadata().get(crate::proto::INSTANCE_KEY).map(|name| name.to_str().expect("text"));
        assert_eq!(said, named, "{target}");
    }
}
