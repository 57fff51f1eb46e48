//! Living beside other people's firewalls: what must be inserted into iptables' chains so that
//! they let our bridge be, and what can only be warned of.
//!
//! A packet must be accepted by every base chain it meets. Docker, ufw and many administrators
//! set FORWARD (and INPUT) to DROP in iptables' filter table; there we insert accept rules for
//! our bridge and tag them with a comment. They give nothing away: our own tables have judged the
//! same packets. Chains of a hand-written nftables ruleset are not ours to edit: see [`diagnose`].

use std::fs;
use std::io;
use std::process::{Command, Stdio};

use super::netlink::Socket;
use super::nft::{HookedChain, hooked_chains};

/// Something outside of our tables that will get in the way, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    pub message: String,
}

/// Inserts what is missing into each iptables that is in use here.
pub fn insert_accepts(bridge: &str, comment: &str) -> io::Result<()> {
    for (program, rules) in readable_rules()? {
        for command in plan_inserts(&rules, bridge, comment) {
            run(&program, &command)?;
        }
    }
    Ok(())
}

/// Deletes all rules that carry our comment.
pub fn remove_accepts(comment: &str) -> io::Result<()> {
    for (program, rules) in readable_rules()? {
        for command in plan_deletes(&rules, comment) {
            run(&program, &command)?;
        }
    }
    Ok(())
}

/// What will block our containers although our own rules are right. Tries once more to insert
/// what is missing, to say why it cannot be.
pub fn diagnose(bridge: &str, comment: &str) -> io::Result<Vec<Warning>> {
    let chains = hooked_chains(&mut Socket::netfilter()?)?;
    let is_read = readable_rules().is_ok_and(|all| !all.is_empty());
    let mut found = warnings(&chains, bridge, is_read);
    if let Err(error) = insert_accepts(bridge, comment) {
        let message = format!("could not let {bridge} through the host's iptables rules: {error}");
        found.push(Warning { message });
    }
    Ok(found)
}

const HOOK_INPUT: u32 = 1;
const HOOK_FORWARD: u32 = 2;
const FAMILY_INET: u8 = 1;
const FAMILY_IPV4: u8 = 2;

/// `iptables_is_read`: whether iptables' own chains are in our hands (see [`plan_inserts`]).
fn warnings(chains: &[HookedChain], bridge: &str, iptables_is_read: bool) -> Vec<Warning> {
    let mut found = Vec::new();
    for chain in chains {
        let HookedChain { table, name, .. } = chain;
        let is_firewalld = table == "firewalld" && chain.hook == HOOK_FORWARD;
        let is_iptables = iptables_is_read && chain.family == FAMILY_IPV4 && table == "filter";
        let concerns_us = matches!(chain.family, FAMILY_INET | FAMILY_IPV4)
            && matches!(chain.hook, HOOK_INPUT | HOOK_FORWARD);
        let message = if is_firewalld {
            format!(
                "firewalld may reject what containers send; if so: \
                 firewall-cmd --permanent --zone=trusted --add-interface={bridge} && firewall-cmd --reload"
            )
        } else if concerns_us && chain.drops_by_default && !is_iptables {
            let family = if chain.family == FAMILY_INET { "inet" } else { "ip" };
            let back = if chain.hook == HOOK_FORWARD {
                format!(" and: nft insert rule {family} {table} {name} oifname {bridge} accept")
            } else {
                String::new()
            };
            format!(
                "the chain {name} of the nftables table {family} {table} drops by default; \
                 let containers pass with: nft insert rule {family} {table} {name} iifname {bridge} accept{back}"
            )
        } else {
            continue;
        };
        found.push(Warning { message });
    }
    found
}

fn legacy_is_loaded() -> bool {
    fs::read_to_string("/proc/thread-self/net/ip_tables_names")
        .is_ok_and(|names| names.lines().any(|name| name == "filter"))
}

/// The iptables programs whose kernel side holds a filter table in this namespace. One that does
/// not is never run: merely listing an unused legacy table would create it.
fn programs_in_use() -> io::Result<Vec<String>> {
    let chains = hooked_chains(&mut Socket::netfilter()?)?;
    let nft = chains.iter().any(|chain| chain.family == FAMILY_IPV4 && chain.table == "filter");
    let legacy = legacy_is_loaded();
    let mut found = Vec::new();
    if nft {
        found.extend(first_of(&["iptables-nft", "iptables"], |version| version.contains("nf_tables")));
    }
    if legacy {
        found.extend(first_of(&["iptables-legacy", "iptables"], |version| !version.contains("nf_tables")));
    }
    Ok(found)
}

fn first_of(names: &[&str], is_right: impl Fn(&str) -> bool) -> Option<String> {
    // A service's PATH may lack the sbin folders.
    let paths = ["", "/usr/sbin/", "/sbin/"].into_iter();
    let mut candidates = paths.flat_map(|dir| names.iter().map(move |name| format!("{dir}{name}")));
    candidates.find(|program| {
        let output = Command::new(program).arg("-V").stdin(Stdio::null()).output();
        output.is_ok_and(|output| is_right(&String::from_utf8_lossy(&output.stdout)))
    })
}

/// Each iptables program in use, with the rules it lists. A table with rules that iptables does
/// not understand is someone's own nftables work under iptables' names, and left alone.
fn readable_rules() -> io::Result<Vec<(String, String)>> {
    let mut found = Vec::new();
    for program in programs_in_use()? {
        match run(&program, &["-S".to_owned()]) {
            // "# Table `filter' contains incompatible base-chains, use 'nft' tool to list them."
            Ok(rules) if rules.contains("incompatible") => {}
            Err(error) if error.to_string().contains("incompatible") => {}
            Ok(rules) => found.push((program, rules)),
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

fn run(program: &str, arguments: &[String]) -> io::Result<String> {
    // -w: wait for whoever holds iptables' lock, but not for ever.
    let output = Command::new(program).args(["-w", "5"]).args(arguments).stdin(Stdio::null()).output()?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ");
    Err(io::Error::other(format!("{program} {}: {said}", arguments.join(" "))))
}

/// The insertions that are missing from `rules`, the output of `iptables -S`.
fn plan_inserts(rules: &str, bridge: &str, comment: &str) -> Vec<Vec<String>> {
    // Docker promises to leave DOCKER-USER alone and to ask it first; its other chains it rewrites.
    // It asks nothing while FORWARD does not lead there, as after `iptables -F`.
    let asked = has_line(rules, "-N DOCKER-USER") && has_line(rules, "-A FORWARD -j DOCKER-USER");
    let forward = if asked { "DOCKER-USER" } else { "FORWARD" };
    let wanted = [(forward, "-i"), (forward, "-o"), ("INPUT", "-i")];
    wanted
        .into_iter()
        .filter(|(chain, direction)| {
            let may_drop = has_line(rules, &format!("-P {chain} DROP"))
                || rules.lines().any(|line| line.starts_with(&format!("-A {chain} ")))
                || forward == *chain && *chain != "FORWARD";
            may_drop && !holds(rules, chain, direction, bridge, comment)
        })
        .map(|(chain, direction)| {
            let rule =
                ["-I", chain, "1", direction, bridge, "-m", "comment", "--comment", comment, "-j", "ACCEPT"];
            rule.map(str::to_owned).to_vec()
        })
        .collect()
}

/// The deletions that undo [`plan_inserts`].
fn plan_deletes(rules: &str, comment: &str) -> Vec<Vec<String>> {
    let ours = rules.lines().filter(|line| has_comment(line, comment));
    ours.filter_map(|line| {
        let rest = line.strip_prefix("-A ")?;
        let words = rest.split_whitespace().map(|word| word.trim_matches('"').to_owned());
        Some(std::iter::once("-D".to_owned()).chain(words).collect())
    })
    .collect()
}

fn holds(rules: &str, chain: &str, direction: &str, bridge: &str, comment: &str) -> bool {
    let start = format!("-A {chain} {direction} {bridge} ");
    rules.lines().any(|line| line.starts_with(&start) && has_comment(line, comment))
}

fn has_line(rules: &str, wanted: &str) -> bool {
    rules.lines().any(|line| line == wanted)
}

fn has_comment(line: &str, comment: &str) -> bool {
    let mut words = line.split_whitespace();
    words.any(|word| word == "--comment")
        && words.next().is_some_and(|word| word.trim_matches('"') == comment)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BARE: &str = "-P INPUT ACCEPT\n-P FORWARD ACCEPT\n-P OUTPUT ACCEPT\n";
    const DROPPING: &str = "-P INPUT DROP\n-P FORWARD DROP\n-P OUTPUT ACCEPT\n";
    const DOCKER: &str = "-P INPUT ACCEPT\n-P FORWARD DROP\n-P OUTPUT ACCEPT\n-N DOCKER-USER\n\
                          -A FORWARD -j DOCKER-USER\n-A DOCKER-USER -j RETURN\n";

    fn planned(rules: &str) -> Vec<String> {
        plan_inserts(rules, "ndctl-a", "nodectl-a").iter().map(|words| words.join(" ")).collect()
    }

    #[test]
    fn accepts_are_inserted_where_something_may_drop_and_nowhere_else() {
        assert!(planned(BARE).is_empty());
        let tail = "-m comment --comment nodectl-a -j ACCEPT";
        assert_eq!(
            planned(DROPPING),
            [
                format!("-I FORWARD 1 -i ndctl-a {tail}"),
                format!("-I FORWARD 1 -o ndctl-a {tail}"),
                format!("-I INPUT 1 -i ndctl-a {tail}"),
            ]
        );
        let docker = planned(DOCKER);
        assert!(docker.iter().all(|rule| rule.starts_with("-I DOCKER-USER 1 ")), "{docker:?}");
        assert_eq!(docker.len(), 2);
        let flushed = planned("-P INPUT ACCEPT\n-P FORWARD DROP\n-P OUTPUT ACCEPT\n-N DOCKER-USER\n");
        assert!(flushed.iter().all(|rule| rule.starts_with("-I FORWARD 1 ")), "{flushed:?}");
        assert_eq!(flushed.len(), 2);
    }

    #[test]
    fn what_is_there_is_not_inserted_again_and_is_deleted_at_the_end() {
        let rules = format!(
            "{DROPPING}-A INPUT -i ndctl-a -m comment --comment nodectl-a -j ACCEPT\n\
             -A FORWARD -o ndctl-a -m comment --comment \"nodectl-a\" -j ACCEPT\n\
             -A FORWARD -o ndctl-b -m comment --comment nodectl-ab -j ACCEPT\n"
        );
        let missing = planned(&rules);
        assert_eq!(missing.len(), 1, "{missing:?}");
        assert!(missing[0].starts_with("-I FORWARD 1 -i ndctl-a"));
        let deletes: Vec<_> = plan_deletes(&rules, "nodectl-a").iter().map(|words| words.join(" ")).collect();
        assert_eq!(
            deletes,
            [
                "-D INPUT -i ndctl-a -m comment --comment nodectl-a -j ACCEPT",
                "-D FORWARD -o ndctl-a -m comment --comment nodectl-a -j ACCEPT",
            ]
        );
    }

    #[test]
    fn a_foreign_nftables_chain_that_drops_is_warned_of_with_the_remedy() {
        let chain = |family, table: &str, hook, drops_by_default| HookedChain {
            family,
            table: table.into(),
            name: "forward".into(),
            hook,
            drops_by_default,
        };
        let harmless = [chain(2, "filter", 2, true), chain(1, "mine", 2, false), chain(10, "v6", 2, true)];
        assert_eq!(warnings(&harmless, "ndctl-a", true), []);
        assert_eq!(warnings(&harmless, "ndctl-a", false).len(), 1, "nobody reads that filter table");
        let dropping = [chain(1, "mine", 2, true), chain(1, "firewalld", 2, false)];
        let found = warnings(&dropping, "ndctl-a", true);
        assert!(found[0].message.contains("nft insert rule inet mine forward iifname ndctl-a accept"));
        assert!(found[0].message.contains("oifname ndctl-a accept"));
        assert!(found[1].message.contains("firewall-cmd"));
    }
}
