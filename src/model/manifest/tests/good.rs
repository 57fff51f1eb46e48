//! What is accepted, and the spec that it means.

use super::read;
use crate::model::app::*;
use crate::model::ids::ProcessName;
use crate::model::manifest::{ImageFacts, from_image};
use std::time::Duration;

fn name(text: &str) -> ProcessName {
    ProcessName::new(text).expect("a name")
}

/// One process, `web`, all defaults.
fn base() -> AppSpec {
    AppSpec { processes: [(name("web"), ProcessSpec::default())].into(), ..AppSpec::default() }
}

fn web(change: impl FnOnce(&mut ProcessSpec)) -> AppSpec {
    let mut spec = base();
    change(spec.processes.get_mut(&name("web")).expect("web"));
    spec
}

fn with(change: impl FnOnce(&mut AppSpec)) -> AppSpec {
    let mut spec = base();
    change(&mut spec);
    spec
}

fn route(host: Option<&str>, path: &str) -> RouteSpec {
    RouteSpec { host: host.map(Into::into), path: path.into(), process: name("web") }
}

#[test]
fn each_key_means_what_it_says() {
    let strings = |items: &[&str]| items.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
    let env = |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
    let cases: Vec<(&str, AppSpec)> = vec![
        ("", base()),
        ("process = {}", base()),
        ("image = \"shop:1.4\"", base()),
        ("[build]\nstatic = \"public\"", base()),
        ("[process.web]", base()),
        (
            "[process.web]\ncommand = [\"/app/server\", \"-v\"]",
            web(|p| p.command = Some(strings(&["/app/server", "-v"]))),
        ),
        ("[process.web]\ncount = 0", web(|p| p.count = 0)),
        ("[process.web]\ncount = 10_000", web(|p| p.count = 10_000)),
        ("[process.web]\ncount = 0x10", web(|p| p.count = 16)),
        ("[process.web]\ncpu = \"250m\"", web(|p| p.cpu_milli = 250)),
        ("[process.web]\ncpu = 2", web(|p| p.cpu_milli = 2000)),
        ("[process.web]\ncpu = 0.5", web(|p| p.cpu_milli = 500)),
        ("[process.web]\ncpu_max = \"1\"", web(|p| p.cpu_max_milli = Some(1000))),
        (
            "[process.web]\ncpu = \"1\"\ncpu_max = \"1\"",
            web(|p| {
                p.cpu_milli = 1000;
                p.cpu_max_milli = Some(1000);
            }),
        ),
        ("[process.web]\nmemory = \"1GiB\"", web(|p| p.memory_bytes = 1 << 30)),
        ("[process.web]\npids = 64", web(|p| p.pids_max = 64)),
        ("[process.web]\nport = 3000", web(|p| p.port = Some(3000))),
        ("process.web.port = 3000", web(|p| p.port = Some(3000))),
        ("[process.web]\nport = 65535", web(|p| p.port = Some(65535))),
        ("[process.web]\nread_only = true", web(|p| p.read_only_root = true)),
        ("[process.web]\nuserns = \"host\"", web(|p| p.user_namespace = UserNamespace::Host)),
        ("[process.web]\nuserns = \"private\"", base()),
        (
            "[process.web]\nhealth = { http = \"/healthz?deep=1\" }",
            web(|p| p.health.check = Check::Http { path: "/healthz?deep=1".into() }),
        ),
        ("[process.web]\nhealth = { tcp = true }", base()),
        (
            "[process.web]\nhealth = { command = [\"/check\"] }",
            web(|p| p.health.check = Check::Command { command: strings(&["/check"]) }),
        ),
        (
            "[process.web.health]\ninterval = \"5s\"\ntimeout = \"500ms\"\nunhealthy = 5\ngrace = \"2m\"",
            web(|p| {
                p.health.interval = Duration::from_secs(5);
                p.health.timeout = Duration::from_millis(500);
                p.health.unhealthy = 5;
                p.health.grace = Duration::from_secs(120);
            }),
        ),
        (
            "[process.web]\nstop = { signal = \"QUIT\", grace = \"1m\" }",
            web(|p| {
                p.stop = StopPolicy { signal: Some(3), grace: Duration::from_secs(60) };
            }),
        ),
        ("[process.web]\nstop.signal = \"SIGRTMIN+3\"", web(|p| p.stop.signal = Some(37))),
        (
            "[process.web]\nenv = { A = \"1\", \"B.c-d\" = \"=\" }",
            web(|p| p.env = env(&[("A", "1"), ("B.c-d", "=")])),
        ),
        (
            "[env]\nLOG_LEVEL = \"info\"\nEMPTY = \"\"",
            with(|s| s.env = env(&[("LOG_LEVEL", "info"), ("EMPTY", "")])),
        ),
        (
            "[process.worker]\ncount = 2\n[process.web]",
            with(|s| {
                s.processes.insert(name("worker"), ProcessSpec { count: 2, ..ProcessSpec::default() });
            }),
        ),
        (
            "[[route]]\nhost = \"Shop.Example.COM.\"",
            with(|s| s.routes = vec![route(Some("shop.example.com"), "/")]),
        ),
        ("[[route]]\npath = \"/api/\"", with(|s| s.routes = vec![route(None, "/api")])),
        (
            "[[route]]\nhost = \"b.example\"\n[[route]]\nhost = \"a.example\"\npath = \"/x/y\"\nprocess = \"web\"",
            with(|s| {
                s.routes = vec![route(Some("b.example"), "/"), route(Some("a.example"), "/x/y")];
            }),
        ),
        ("route = [{ host = \"localhost\" }]", with(|s| s.routes = vec![route(Some("localhost"), "/")])),
        ("[deploy]\nstrategy = \"recreate\"", with(|s| s.deploy.strategy = Strategy::Recreate)),
        (
            "[deploy]\nmax_surge = 2\nmax_unavailable = \"50%\"",
            with(|s| {
                s.deploy.max_surge = Share::Count(2);
                s.deploy.max_unavailable = Share::Percent(50);
            }),
        ),
        (
            "[deploy]\nmax_surge = 0\nmax_unavailable = 1",
            with(|s| {
                s.deploy.max_surge = Share::Count(0);
                s.deploy.max_unavailable = Share::Count(1);
            }),
        ),
        (
            "[deploy]\ndeadline = \"90s\"\nauto_revert = false",
            with(|s| {
                s.deploy.deadline = Duration::from_secs(90);
                s.deploy.auto_revert = false;
            }),
        ),
    ];
    for (text, spec) in cases {
        assert_eq!(read(&format!("app = \"shop\"\n{text}")).spec, spec, "{text}");
    }
}

#[test]
fn the_manifest_of_the_product_page_without_later_keys_is_read_whole() {
    let manifest = read(
        r#"
        app = "shop"
        image = "shop:1.4"
        [env]
        LOG_LEVEL = "info"
        [process.web]
        command = ["/app/server"]
        count = 3
        cpu = "250m"
        memory = "256MB"
        port = 8080
        health = { http = "/healthz", interval = "2s", timeout = "1s", unhealthy = 3, grace = "30s" }
        stop = { signal = "TERM", grace = "10s" }
        [[route]]
        host = "shop.example.com"
        path = "/"
        process = "web"
        [deploy]
        strategy = "rolling"
        max_surge = "25%"
        max_unavailable = 0
        deadline = "5m"
        auto_revert = true
        "#,
    );
    assert_eq!(manifest.app.as_str(), "shop");
    assert_eq!(manifest.image.as_deref(), Some("shop:1.4"));
    assert_eq!(manifest.notes, Vec::<String>::new(), "nothing was left to a default");
    let web = &manifest.spec.processes[&name("web")];
    assert_eq!((web.count, web.cpu_milli, web.port), (3, 250, Some(8080)));
    assert_eq!(web.stop.signal, Some(15));
}

#[test]
fn defaults_that_acted_are_told() {
    let notes = |text: &str, ports: &[u16]| {
        let image = ImageFacts { tcp_ports: ports.to_vec(), has_command: true };
        read(text).resolve(&image).expect("resolves").notes
    };
    assert_eq!(
        notes("app = \"shop\"", &[80]),
        [
            "one process, web, that runs the image's own command (no [process.NAME])",
            "web: count 1, cpu 100m, memory 256 MB, health tcp (defaults)",
            "deploy: strategy rolling, deadline 5m (defaults)",
            "web: port 80 (the image exposes it)",
        ]
    );
    let written = "app = \"shop\"\n[process.web]\ncount = 1\ncpu = 1\nmemory = \"1GB\"\n[deploy]\ndeadline = \"1m\"\n[[route]]\nhost = \"a.example\"";
    assert_eq!(
        notes(written, &[]),
        [
            "web: health tcp (default)",
            "route a.example/ leads to web (default)",
            "deploy: strategy rolling (default)",
            "web: port 8080 (default: the image exposes none)",
        ]
    );
    assert_eq!(
        notes("app = \"shop\"\n[process.worker]\n[deploy]\nstrategy = \"rolling\"\ndeadline = \"1m\"", &[80]),
        [
            "worker: count 1, cpu 100m, memory 256 MB (defaults)",
            "no process has a port, so the app has no URL: name one web, or add port = 8080",
        ]
    );
}

#[test]
fn only_web_takes_its_port_from_the_image() {
    for (ports, port) in [(vec![], 8080), (vec![80], 80), (vec![80, 443], 8080)] {
        let image = ImageFacts { tcp_ports: ports, has_command: true };
        let resolved =
            read("app = \"shop\"\n[process.web]\n[process.worker]").resolve(&image).expect("resolves");
        assert_eq!(resolved.spec.processes[&name("web")].port, Some(port));
        assert_eq!(resolved.spec.processes[&name("worker")].port, None);
        let written = read("app = \"shop\"\n[process.web]\nport = 9000").resolve(&image).expect("resolves");
        assert_eq!(written.spec.processes[&name("web")].port, Some(9000));
    }
}

#[test]
fn a_process_without_a_command_needs_an_image_with_one() {
    let manifest = read("app = \"shop\"\n[process.web]\ncommand = [\"/a\"]\n[process.worker]");
    let errors = manifest.resolve(&ImageFacts::default()).expect_err("worker has none");
    assert_eq!(
        errors.iter().map(ToString::to_string).collect::<Vec<_>>(),
        [
            "nodectl.toml:4: process worker has no command, and its image names none: add command = [\"/path/to/program\"] to [process.worker]"
        ]
    );
}

#[test]
fn an_image_alone_is_one_web_process() {
    let image = |ports: &[u16], has_command| ImageFacts { tcp_ports: ports.to_vec(), has_command };
    for (ports, given, port, note) in [
        (&[][..], None, 8080, "web: port 8080 (default: the image exposes none)"),
        (&[80][..], None, 80, "web: port 80 (the image exposes it)"),
        (
            &[80, 443][..],
            None,
            8080,
            "web: port 8080 (default: the image exposes 80, 443, choose one with port)",
        ),
        (&[80][..], Some(3000), 3000, "web: port 3000 (--port)"),
    ] {
        let resolved = from_image(&image(ports, true), given).expect("resolves");
        assert_eq!(resolved.spec, web(|p| p.port = Some(port)));
        assert_eq!(resolved.notes[1], note);
    }
    assert!(from_image(&image(&[80], false), None).expect_err("nothing to run").contains("names no command"));
}
