//! `nodectl version`: of this program, and of the node that it speaks with.

use super::args::OutputOnly;
use super::client::{Client, request};
use super::output::Out;
use super::views;
use crate::proto::v1::ClusterStatusRequest;

const OWN: &str = env!("CARGO_PKG_VERSION");

pub async fn run(args: OutputOnly, client: Client) -> anyhow::Result<()> {
    let out = Out::new(args.output);
    // An address that makes no sense is an error; a node that does not answer is an answer.
    client.address()?;
    let node = node_version(&client).await;
    if out.is_json() {
        return out.json(&views::Versions { client: OWN.to_owned(), node });
    }
    out.line(format!("nodectl {OWN}"))?;
    match node {
        Some(version) => out.line(format!("node    {version}")),
        None => out.line("node    none answers"),
    }
}

async fn node_version(client: &Client) -> Option<String> {
    let mut cluster = client.cluster().await.ok()?;
    let reply = cluster.status(request(ClusterStatusRequest {})).await.ok()?;
    Some(reply.into_inner().version)
}
