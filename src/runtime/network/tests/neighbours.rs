//! Beside other people's firewalls, in the state in which Docker and ufw leave a host.

use std::process::Command;

use super::space::{GATEWAY_TCP, HOST_ADDRESS, WORLD_ADDRESS, block_on, leftovers};
use super::*;

/// Runs a program in the host's namespace; `None`, with a word why, if it is not installed.
fn try_run(host: &Host, program: &'static str, line: &str) -> Option<String> {
    let arguments: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
    let output = host.space.run(move || Command::new(program).args(arguments).output());
    let Ok(output) = output else {
        eprintln!("skipped: needs the program {program}");
        return None;
    };
    assert!(output.status.success(), "{program} {line}: {}", String::from_utf8_lossy(&output.stderr));
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Bridged packets pass through iptables as well, as they do wherever Docker has run.
fn call_iptables_from_bridges(host: &Host) -> bool {
    let path = "/proc/sys/net/bridge/bridge-nf-call-iptables";
    let set = host.space.run(move || std::fs::write(path, "1")).is_ok();
    if !set {
        eprintln!("skipped in part: needs br_netfilter");
    }
    set
}

const DOCKER: [&str; 7] = [
    "-P FORWARD DROP",
    "-N DOCKER-USER",
    "-N DOCKER-ISOLATION",
    "-A FORWARD -j DOCKER-USER",
    "-A FORWARD -j DOCKER-ISOLATION",
    "-A DOCKER-ISOLATION -j RETURN",
    "-A DOCKER-USER -j RETURN",
];
const UFW: [&str; 3] = ["-P INPUT DROP", "-P FORWARD DROP", "-A INPUT -i lo -j ACCEPT"];

fn works(host: &Host, container: &Space, attachment: Attachment) {
    let world: IpAddr = WORLD_ADDRESS.parse().expect("an address");
    let seen = converse(container, &host.world, world, 80).expect("egress");
    assert_eq!(seen.ip().to_string(), HOST_ADDRESS);
    converse(container, &host.space, attachment.gateway, GATEWAY_TCP).expect("the gateway's port");
    converse(container, &host.space, attachment.gateway, 22).expect_err("no other port");
}

fn containers_work_beside(iptables: &'static str, firewall: &[&str]) {
    if !is_root() {
        return;
    }
    let host = Host::new();
    for line in firewall {
        if try_run(&host, iptables, line).is_none() {
            return;
        }
    }
    if firewall == UFW {
        // What ufw does with answers; without it the host itself hears nothing.
        try_run(&host, iptables, "-A INPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT");
    }
    call_iptables_from_bridges(&host);
    let rules = |host: &Host| try_run(host, iptables, "-S").expect("lists");
    let (rules_before, before) = (rules(&host), leftovers(&host));
    let mut scene = Scene { network: Arc::new(host.open("t")), host, containers: Vec::new() };
    scene.add("1.1");
    let (container, attachment) = &scene.containers[0];
    works(&scene.host, container, *attachment);
    let inserted = rules(&scene.host);
    assert!(inserted.contains("nodectl-t"), "{inserted}");
    // Opened again: the rules are there once. Deleted by someone: a sweep puts them back.
    scene.network = Arc::new(scene.host.open("t"));
    assert_eq!(rules(&scene.host), inserted);
    let first = inserted.lines().find(|line| line.contains("nodectl-t")).expect("ours");
    try_run(&scene.host, iptables, &first.replacen("-A", "-D", 1).replace('"', ""));
    let keep = scene.network.keys();
    scene.host.with(&scene.network, async move |network| network.sweep(&keep).await).expect("sweeps");
    assert_eq!(rules(&scene.host).matches("nodectl-t").count(), inserted.matches("nodectl-t").count());
    works(&scene.host, container, *attachment);
    let host = scene.close();
    assert_eq!(rules(&host), rules_before);
    assert_eq!(leftovers(&host), before);
}

#[test]
fn containers_work_beside_docker_on_nftables() {
    containers_work_beside("iptables-nft", &DOCKER);
}

#[test]
fn containers_work_beside_docker_on_legacy_iptables() {
    containers_work_beside("iptables-legacy", &DOCKER);
}

#[test]
fn containers_work_beside_a_host_firewall_that_drops_input_too() {
    containers_work_beside("iptables-nft", &UFW);
}

/// Keeps the network's rules, as a node does, until it is dropped.
struct Keeper {
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Keeper {
    fn start(scene: &Scene) -> Keeper {
        let network = Arc::clone(&scene.network);
        let (stop, stopped) = tokio::sync::oneshot::channel();
        // A thread of its own, begun inside: the host's own runs the test's programs.
        let thread = scene.host.space.run(move || {
            std::thread::spawn(move || {
                block_on(async {
                    tokio::select! {
                        kept = network.keep(BTreeSet::new(), drop) => panic!("{kept:?}"),
                        _ = stopped => {}
                    }
                });
            })
        });
        Keeper { stop: Some(stop), thread: Some(thread) }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.stop.take();
        _ = self.thread.take().map(std::thread::JoinHandle::join);
    }
}

/// Waits until the container has egress and the firewall's tables are whole.
fn comes_back(scene: &Scene, what: &str) {
    let (container, _) = &scene.containers[0];
    let world: IpAddr = WORLD_ADDRESS.parse().expect("an address");
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while let Err(error) = converse(container, &scene.host.world, world, 80) {
        assert!(std::time::Instant::now() < deadline, "{what}: {error}");
    }
}

fn rules_are_put_back_after(first: &[&str], then: &[(&'static str, &str)]) {
    if !is_root() {
        return;
    }
    let host = Host::new();
    if try_run(&host, "nft", "list ruleset").is_none() || try_run(&host, "iptables-nft", "-V").is_none() {
        return;
    }
    call_iptables_from_bridges(&host);
    first.iter().for_each(|line| _ = try_run(&host, "iptables-nft", line));
    let mut scene = Scene { network: Arc::new(host.open("t")), host, containers: Vec::new() };
    scene.add("1.1");
    let keeper = Keeper::start(&scene);
    comes_back(&scene, "at first");
    for (program, line) in then {
        try_run(&scene.host, program, line);
    }
    comes_back(&scene, &format!("{then:?}"));
    let (container, attachment) = &scene.containers[0];
    converse(container, &scene.host.space, attachment.gateway, 22).expect_err("the node's ports stay shut");
    drop(keeper);
    let host = scene.close();
    let left = try_run(&host, "nft", "list ruleset").expect("lists");
    assert!(!left.contains("nodectl-t") && !left.contains("ndctl-t"), "{left}");
}

#[test]
fn a_docker_that_starts_after_the_node_is_lived_with() {
    rules_are_put_back_after(&[], &DOCKER.map(|line| ("iptables-nft", line)));
}

#[test]
fn what_a_flush_of_iptables_takes_is_put_back() {
    // Docker's chains stay, and nothing leads to them any more.
    rules_are_put_back_after(&DOCKER, &[("iptables-nft", "-F"), ("iptables-nft", "-t nat -F")]);
}

#[test]
fn what_a_flush_of_all_of_nftables_takes_is_put_back() {
    rules_are_put_back_after(&[], &[("nft", "flush ruleset")]);
    rules_are_put_back_after(&UFW, &[("nft", "delete table inet nodectl-t")]);
}

#[test]
fn a_network_that_docker_makes_later_is_shut_to_containers() {
    if !is_root() {
        return;
    }
    let scene = Scene::with_containers(1);
    let keeper = Keeper::start(&scene);
    let others = |host: &Host| try_run(host, "nft", "list set inet nodectl-t other_bridges");
    if others(&scene.host).is_none() {
        return;
    }
    for line in ["link add br-0123456789ab type bridge", "link set br-0123456789ab up"] {
        try_run(&scene.host, "ip", line);
    }
    // What makes a bridge for containers has rules for it, too.
    try_run(&scene.host, "nft", "add table ip docker-like");
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    // nft does not show names of this set; before, it has no elements.
    while !others(&scene.host).is_some_and(|set| set.contains("elements")) {
        assert!(std::time::Instant::now() < deadline, "the bridge is not known");
    }
    drop(keeper);
    scene.close();
}

#[test]
fn a_host_without_a_firewall_is_not_given_one() {
    if !is_root() {
        return;
    }
    let scene = Scene::with_containers(1);
    let legacy = scene.host.space.run(|| std::fs::read_to_string("/proc/thread-self/net/ip_tables_names"));
    assert_eq!(legacy.unwrap_or_default(), "", "no legacy table was conjured up");
    let chains = leftovers(&scene.host);
    let foreign = chains.iter().filter(|line| line.contains("HookedChain") && !line.contains("nodectl-t"));
    assert_eq!(foreign.count(), 0, "{chains:?}");
    let warnings = scene.host.with(&scene.network, async |network| network.diagnose().await).expect("looks");
    assert_eq!(warnings, []);
}

#[test]
fn an_nftables_firewall_that_drops_is_reported_and_its_remedy_helps() {
    if !is_root() {
        return;
    }
    let scene = Scene::with_containers(1);
    let (container, _) = &scene.containers[0];
    let world: IpAddr = WORLD_ADDRESS.parse().expect("an address");
    let firewall = "add table inet site; add chain inet site passing { type filter hook forward priority 10; policy drop; }";
    if try_run(&scene.host, "nft", firewall).is_none() {
        return;
    }
    converse(container, &scene.host.world, world, 80).expect_err("their chain drops");
    let warnings = scene.host.with(&scene.network, async |network| network.diagnose().await).expect("looks");
    assert_eq!(warnings.len(), 1);
    // The message is to be believed word for word.
    for remedy in warnings[0].message.split("with: nft ").nth(1).expect("a remedy").split(" and: nft ") {
        try_run(&scene.host, "nft", remedy);
    }
    converse(container, &scene.host.world, world, 81).expect("now it passes");
}

#[test]
fn what_nft_lists_of_our_tables_is_what_is_meant() {
    if !is_root() {
        return;
    }
    let scene = Scene::with_containers(1);
    let Some(listed) = try_run(&scene.host, "nft", "list ruleset") else { return };
    for expected in [
        "type ifname . ether_addr . ipv4_addr",
        "\"nvt-2\" . 0a:58:0a:d1:00:02 . 10.209.0.2",
        "iifname \"nvt-*\" jump from_container",
        "ip daddr 169.254.0.0/16 reject",
        "masquerade",
    ] {
        assert!(listed.contains(expected), "{expected} is not in\n{listed}");
    }
}

#[test]
fn forwarding_is_switched_off_again_only_by_who_switched_it_on() {
    if !is_root() {
        return;
    }
    let setting = |host: &Host| {
        host.space.run(|| std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward")).expect("reads")
    };
    for before in ["0", "1"] {
        let host = Host::new();
        host.space.run(move || std::fs::write("/proc/sys/net/ipv4/ip_forward", before)).expect("writes");
        let network = host.open("t");
        assert_eq!(setting(&host).trim(), "1");
        host.space.run(move || block_on(network.close())).expect("closes");
        assert_eq!(setting(&host).trim(), before);
    }
}

#[test]
fn a_hand_written_filter_table_that_iptables_cannot_read_does_not_stop_a_node() {
    if !is_root() {
        return;
    }
    let host = Host::new();
    // The names are iptables', the rules are not.
    let firewall = "add table ip filter; add chain ip filter FORWARD { type filter hook forward priority 5; policy drop; }; \
                    add set ip filter s { type ipv4_addr; }; add rule ip filter FORWARD ip saddr @s accept";
    if try_run(&host, "nft", firewall).is_none() {
        return;
    }
    let network = Arc::new(host.open("t"));
    let warnings = host.with(&network, async |network| network.diagnose().await).expect("looks");
    assert!(warnings.iter().any(|warning| warning.message.contains("ip filter FORWARD")), "{warnings:?}");
    Scene { host, network, containers: Vec::new() }.close();
}

#[test]
fn opening_again_rewrites_the_tables_in_place_and_replaces_those_of_another_make() {
    if !is_root() {
        return;
    }
    let mut scene = Scene::with_containers(1);
    let handles = |host: &Host| -> Option<Vec<String>> {
        let listed = try_run(host, "nft", "-a list ruleset")?;
        Some(listed.lines().filter(|line| line.contains("{ # handle")).map(str::to_owned).collect())
    };
    let Some(before) = handles(&scene.host) else { return };
    try_run(&scene.host, "nft", "flush set bridge nodectl-t ports");
    scene.network = Arc::new(scene.host.open("t"));
    assert_eq!(handles(&scene.host).as_ref(), Some(&before), "the same tables, sets and chains");
    works(&scene.host, &scene.containers[0].0, scene.containers[0].1);
    // As a later version might have it: the same names, but hooked in elsewhere.
    for line in [
        "delete table inet nodectl-t",
        "add table inet nodectl-t",
        "add chain inet nodectl-t forward { type filter hook output priority 3; }",
    ] {
        try_run(&scene.host, "nft", line);
    }
    scene.network = Arc::new(scene.host.open("t"));
    works(&scene.host, &scene.containers[0].0, scene.containers[0].1);
    let host = scene.close();
    assert_eq!(handles(&host), Some(Vec::new()));
}
