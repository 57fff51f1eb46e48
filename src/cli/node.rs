//! `nodectl node`: what nodes there are, and whether anything is placed on them.

use super::args::{NodeArguments, OutputOnly};
use super::client::{Client, request};
use super::failure::from_status;
use super::output::{Cell, Out, Table, Tone};
use super::{views, when, words};
use crate::proto::v1::{ListNodesRequest, NodeView, SetNodeModeRequest};

pub async fn list(args: OutputOnly, client: Client) -> anyhow::Result<()> {
    let out = Out::new(args.output);
    let message = ListNodesRequest::default();
    let reply = client.nodes().await?.list(request(message)).await.map_err(from_status)?.into_inner();
    if out.is_json() {
        return out.json(&views::NodeList { nodes: reply.nodes.iter().map(views::Node::new).collect() });
    }
    out.table(&table(&reply.nodes))
}

/// A line for each node; `cluster status` shows the same.
pub fn table(nodes: &[NodeView]) -> Table {
    let mut table =
        Table::new(&["NODE", "STATE", "ZONE", "POOL", "CPU", "MEMORY", "INSTANCES", "VERSION", "ADDRESS"]);
    for view in nodes {
        let node = view.node.clone().unwrap_or_default();
        let (state, tone) = words::node_state(&node);
        let used = view.used.unwrap_or_default();
        let capacity = node.capacity.unwrap_or_default();
        table.row(vec![
            Cell::toned(node.name, Tone::Bold),
            Cell::toned(state, tone),
            node.zone.into(),
            node.pool.into(),
            format!("{}/{}", when::cpus(used.cpu_milli), when::cpus(capacity.cpu_milli)).into(),
            format!("{}/{}", when::bytes(used.memory_bytes), when::bytes(capacity.memory_bytes)).into(),
            view.instances.to_string().into(),
            node.version.into(),
            node.addresses.join(" ").into(),
        ]);
    }
    table
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Cordon,
    Uncordon,
    Drain,
}

pub async fn set(args: NodeArguments, mode: Mode, client: Client) -> anyhow::Result<()> {
    let out = Out::new(args.output);
    let (cordoned, draining) = match mode {
        Mode::Cordon => (Some(true), None),
        // What was drained takes instances again, too.
        Mode::Uncordon => (Some(false), Some(false)),
        Mode::Drain => (Some(true), Some(true)),
    };
    let message = SetNodeModeRequest { node: args.node.clone(), cordoned, draining };
    let reply = client.nodes().await?.set_mode(request(message)).await.map_err(from_status)?.into_inner();
    let node = args.node;
    if out.is_json() {
        return out.json(&views::NodeMode { node, changed: reply.changed });
    }
    out.line(match (mode, reply.changed) {
        (Mode::Cordon, true) => {
            format!("{node} is cordoned: nothing more is placed on it, what runs there stays")
        }
        (Mode::Cordon, false) => format!("{node} was cordoned already"),
        (Mode::Uncordon, true) => format!("{node} takes instances again"),
        (Mode::Uncordon, false) => format!("{node} was not cordoned"),
        (Mode::Drain, true) => format!("{node} is draining: its instances move to other nodes"),
        (Mode::Drain, false) => format!("{node} was draining already"),
    })?;
    match mode {
        Mode::Cordon => out.next(format!("nodectl node drain {node}, or nodectl node uncordon {node}")),
        Mode::Uncordon => out.next("nodectl node ls"),
        Mode::Drain => out.next(format!("nodectl status -A --watch, and later nodectl node uncordon {node}")),
    }
    Ok(())
}
