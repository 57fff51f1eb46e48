//! `nodectl cluster status`.

use super::args::OutputOnly;
use super::client::{Client, request};
use super::failure::from_status;
use super::output::{Out, Tone};
use super::{node, views};
use crate::proto::v1::ClusterStatusRequest;

pub async fn status(args: OutputOnly, client: Client) -> anyhow::Result<()> {
    let out = Out::new(args.output);
    let message = ClusterStatusRequest {};
    let reply = client.cluster().await?.status(request(message)).await.map_err(from_status)?.into_inner();
    let leader = (!reply.leader.is_empty()).then(|| reply.leader.clone());
    if out.is_json() {
        return out.json(&views::Cluster {
            leader,
            nodes: reply.nodes.iter().map(views::Node::new).collect(),
            cluster_id: reply.cluster_id,
            term: reply.term,
            index: reply.index,
            version: reply.version,
            apps: reply.apps,
            instances: reply.instances,
            instances_ready: reply.instances_ready,
        });
    }
    let line = |label: &str, text: String| out.line(format!("{label:<11}{text}"));
    line("cluster", reply.cluster_id)?;
    line(
        "leader",
        leader.unwrap_or_else(|| out.paint.paint(Tone::Bad, "none: changes wait for an election")),
    )?;
    line("index", format!("{} (term {})", reply.index, reply.term))?;
    line("apps", reply.apps.to_string())?;
    line("instances", format!("{} of {} ready", reply.instances_ready, reply.instances))?;
    line("version", reply.version)?;
    out.line("")?;
    out.table(&node::table(&reply.nodes))
}
