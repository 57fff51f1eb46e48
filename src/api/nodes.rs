//! Nodes and the cluster as a whole.

use super::{Api, Fault, OPERATOR, View};
use crate::model::ClusterState;
use crate::model::command::{Action, Reply};
use crate::model::ids::NodeId;
use crate::model::near::nearest;
use crate::model::node::Node;
use crate::proto::v1;
use std::sync::Arc;
use tonic::{Request, Response, Status};

#[tonic::async_trait]
impl v1::nodes_server::Nodes for Api {
    async fn list(
        &self,
        request: Request<v1::ListNodesRequest>,
    ) -> Result<Response<v1::ListNodesReply>, Status> {
        let view = self.view(request.get_ref().stale).await?;
        Ok(Response::new(v1::ListNodesReply { nodes: node_views(&view.state) }))
    }

    async fn set_mode(
        &self,
        request: Request<v1::SetNodeModeRequest>,
    ) -> Result<Response<v1::SetNodeModeReply>, Status> {
        let request = request.into_inner();
        if request.cordoned.is_none() && request.draining.is_none() {
            return Err(Fault::Invalid("say what to set: cordoned or draining".into()).into());
        }
        let view = self.view(false).await?;
        let node = find(&view.state, &request.node)?.id;
        let action = Action::SetNodeMode { node, cordoned: request.cordoned, draining: request.draining };
        let reply = self.store.propose(OPERATOR, action).await.map_err(Fault::from)?;
        Ok(Response::new(v1::SetNodeModeReply { changed: reply != Reply::Unchanged }))
    }
}

#[tonic::async_trait]
impl v1::cluster_server::Cluster for Api {
    /// From this node's own state, so that it is answered without a leader too.
    async fn status(
        &self,
        _: Request<v1::ClusterStatusRequest>,
    ) -> Result<Response<v1::ClusterStatusReply>, Status> {
        let View { state, .. } = self.store.view();
        let leader = self.store.leader();
        let named = leader.raft_id.and_then(|id| state.nodes.values().find(|node| node.raft_id == Some(id)));
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        Ok(Response::new(v1::ClusterStatusReply {
            cluster_id: format!("{:032x}", state.cluster_id),
            term: leader.term,
            leader: named.map(|node| node.name.to_string()).unwrap_or_default(),
            index: state.index,
            nodes: node_views(&state),
            apps: count(state.apps.len()),
            instances: count(state.instances().count()),
            instances_ready: count(state.instances().filter(|instance| instance.is_ready()).count()),
            version: env!("CARGO_PKG_VERSION").into(),
        }))
    }
}

fn node_views(state: &ClusterState) -> Vec<v1::NodeView> {
    state
        .nodes
        .values()
        .map(|node| v1::NodeView {
            node: Some(v1::Node::from(&**node)),
            used: Some(state.used_on(node.id).into()),
            instances: u32::try_from(state.instances_on(node.id).count()).unwrap_or(u32::MAX),
        })
        .collect()
}

/// The node of that name or id.
pub(super) fn find<'a>(state: &'a ClusterState, text: &str) -> Result<&'a Arc<Node>, Fault> {
    if let Some(node) = state.nodes.values().find(|node| node.name.as_str() == text) {
        return Ok(node);
    }
    let id = Some(text).filter(|text| text.len() == 32).and_then(|text| text.parse::<NodeId>().ok());
    if let Some(node) = id.and_then(|id| state.nodes.get(&id)) {
        return Ok(node);
    }
    let names = state.nodes.values().map(|node| node.name.as_str());
    let hint = match nearest(text, names) {
        Some(near) => format!("did you mean {near}?"),
        None => "see `nodectl node ls`".into(),
    };
    Err(Fault::NotFound(format!("there is no node {text:?}: {hint}")))
}
