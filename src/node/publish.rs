//! Projections to their consumers: the routing table to the proxy, the assignments to the
//! agent. Both follow the state; the newest wins.

use crate::model::ids::NodeId;
use crate::model::project::{self, Assignments};
use crate::model::routes::RoutingTable;
use crate::raft;
use tokio::sync::watch;

/// Publishes the table of each view that changes it, until the store closes.
pub async fn routes(mut views: raft::Subscription, publish: impl Fn(RoutingTable)) -> anyhow::Result<()> {
    let mut last = RoutingTable::default();
    let mut first = true;
    while let Ok((view, touched)) = views.changed().await {
        if touched.apps.is_empty() && !first {
            continue;
        }
        let table = project::routing_table(&view.state);
        let same = table.rules == last.rules && table.services == last.services;
        if !same || first {
            publish(table.clone());
            last = table;
            first = false;
        }
    }
    Ok(())
}

/// Keeps `to` at this node's assignments, until the store closes.
pub async fn assignments(
    mut views: raft::Subscription,
    node: NodeId,
    to: watch::Sender<Assignments>,
) -> anyhow::Result<()> {
    while let Ok((view, touched)) = views.changed().await {
        if !touched.nodes.contains(&node) && !to.borrow().instances.is_empty() {
            // What is assigned here did not change; the view's index is still worth knowing
            // only with a change.
            continue;
        }
        let new = project::assignments(&view.state, node);
        to.send_if_modified(|old| {
            let changed =
                old.instances != new.instances || old.version.incarnation != new.version.incarnation;
            *old = new;
            changed
        });
    }
    Ok(())
}
