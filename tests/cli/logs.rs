//! Logs: one instance or several, whole lines, and a follow that survives the node.

use crate::fixtures::*;
use crate::golden::Run;
use crate::node::{Node, Step, eventually};
use nodectl::proto::v1::*;
use std::io::{BufRead, BufReader};
use std::process::Stdio;
use tonic::Status;

fn entry(slot: u64, at_nanos: u64, line: &str) -> LogEntry {
    LogEntry {
        target: format!("shop/web.{slot}"),
        at_unix_nanos: FIXED_MS * 1_000_000 + at_nanos,
        stream: 1,
        line: line.as_bytes().to_vec().into(),
        partial: false,
        instance: slot,
        attempt: 1,
    }
}

fn steps(entries: Vec<LogEntry>) -> Vec<Step<LogEntry>> {
    entries.into_iter().map(Step::Send).collect()
}

fn node(instances: u32, entries: Vec<LogEntry>) -> Node {
    let node = Node::start();
    let instances = (1..=instances).map(|slot| instance(slot, 3, ready())).collect();
    node.scripts.status.answer(status_of(app(instances)));
    node.scripts.logs.reply(steps(entries));
    node
}

#[test]
fn the_lines_of_a_single_instance_stand_alone() {
    let node = node(1, vec![entry(1, 0, "starting"), entry(1, 5_000_000, "listening on 8080")]);
    node.run(&["logs", "shop"]).matches("logs-one", &[]);
    node.run(&["logs", "shop/web.1", "--timestamps", "--tail", "20", "--previous"])
        .matches("logs-timestamps", &[]);
    let request = &node.scripts.logs.requests()[1];
    assert_eq!((request.target.as_str(), request.tail, request.previous), ("shop/web.1", Some(20), true));
}

#[test]
fn lines_of_several_instances_carry_their_names() {
    let mut error = entry(10, 2, "to standard error");
    error.stream = 2;
    let node = node(10, vec![entry(1, 0, "one"), error]);
    node.run(&["logs", "shop"]).matches("logs-several", &[]);
    node.run(&["logs", "shop", "-o", "json"]).matches("logs-json", &[]);
}

#[test]
fn logs_of_an_app_that_is_gone_are_read_as_long_as_they_are_kept() {
    let node = Node::start();
    node.scripts.status.fail(Status::not_found("there is no app \"shop\""));
    node.scripts.logs.reply(steps(vec![entry(1, 0, "one"), entry(2, 1, "two")]));
    let run = node.run(&["logs", "shop"]);
    // The second instance is a surprise: names begin with it.
    assert_eq!((run.stdout.as_str(), run.code), ("one\nweb.2 | two\n", Some(0)), "{}", run.stderr);
}

#[test]
fn pieces_of_a_long_line_are_put_together() {
    let piece = |slot, at, text: &str, partial| LogEntry { partial, ..entry(slot, at, text) };
    let node = node(
        2,
        vec![
            piece(1, 1, "a long ", true),
            piece(2, 2, "in between", false),
            piece(1, 3, "line", false),
            piece(1, 4, "without an end", true),
        ],
    );
    node.run(&["logs", "shop"]).matches("logs-partial", &[]);
}

#[test]
fn since_is_an_instant_or_an_age() {
    let node = node(1, vec![]);
    node.run(&["logs", "shop/web.1", "--since", "2001-09-09T01:46:40Z"]);
    let before = now_ms();
    node.run(&["logs", "shop/web.1", "--since", "5m"]);
    let requests = node.scripts.logs.requests();
    assert_eq!(requests[0].since_ms, Some(FIXED_MS));
    let since = requests[1].since_ms.expect("a time");
    assert!((before - 300_000..=now_ms() - 300_000).contains(&since));
}

#[test]
fn a_follow_goes_on_after_a_crash_without_a_line_lost_or_repeated() {
    let mut node = Node::start();
    node.scripts.logs.reply(
        [steps(vec![entry(1, 0, "one"), entry(1, 7, "two"), entry(1, 7, "two again")]), vec![Step::Hold]]
            .concat(),
    );
    node.scripts.logs.reply(
        [
            steps(vec![
                entry(1, 0, "one"),
                entry(1, 7, "two"),
                entry(1, 7, "two again"),
                entry(1, 7, "also at 7"),
                entry(1, 9, "three"),
            ]),
            vec![Step::Fail(Status::not_found("there is no app \"shop\" any more"))],
        ]
        .concat(),
    );
    let mut command = node.command(&["logs", "-f", "shop/web.1"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it runs");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let mut next = || lines.next().expect("a line").expect("read");
    assert_eq!([next(), next(), next()], ["one", "two", "two again"]);
    node.restart();
    assert_eq!([next(), next()], ["also at 7", "three"]);
    assert!(lines.next().is_none(), "nothing more");
    let run = Run::of_child(&command, child);
    run.matches("logs-follow-ended", &[]);
    let requests = node.scripts.logs.requests();
    assert_eq!(requests[1].since_ms, Some(FIXED_MS - 10_000));
}

#[test]
fn a_follow_waits_for_a_node_that_stops_and_ends_where_the_log_ends() {
    let node = Node::start();
    let stops = Step::Fail(Status::unavailable("the node is stopping"));
    node.scripts.logs.reply(vec![Step::Send(entry(1, 0, "one")), stops]);
    node.scripts.logs.reply(steps(vec![entry(1, 1, "two")]));
    node.run(&["logs", "-f", "shop/web.1"]).matches("logs-follow", &[]);
}

#[test]
fn a_reader_of_a_follow_that_goes_away_ends_it_quietly() {
    let lines =
        (0..5000).map(|n| entry(1, n, "a line that is long enough to fill a pipe before long")).collect();
    let node = node(1, lines);
    let mut child = node
        .command(&["logs", "-f", "shop/web.1"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it runs");
    let mut first = String::new();
    BufReader::with_capacity(16, child.stdout.take().expect("piped")).read_line(&mut first).expect("a line");
    let status = eventually("the end", || child.try_wait().expect("waited"));
    assert_eq!(status.code(), Some(0));
    let output = child.wait_with_output().expect("it ended");
    assert_eq!(output.stderr, b"");
}
