//! Leader-only: watch, plan, propose.

use crate::raft;
use tokio_util::sync::CancellationToken;

pub async fn run(raft: raft::Handle, shutdown: CancellationToken) {
    use crate::model::command::Action;
    let mut views = raft.subscribe();
    let mut leadership = raft.leadership();
    let mut wake_at = None;
    loop {
        let now = crate::clock::now();
        let pause = wake_at.map_or(std::time::Duration::from_secs(3600), |at: crate::model::time::Timestamp| at.since(now));
        tokio::select! {
            changed = views.changed() => if changed.is_err() { return },
            _ = leadership.changed() => {}
            () = tokio::time::sleep(pause) => {}
            () = shutdown.cancelled() => return,
        }
        let leads = *leadership.borrow();
        if !leads.is_leader { continue; }
        let plan = crate::scheduler::plan(&raft.view().state, None, crate::clock::now());
        wake_at = plan.wake_at;
        if !plan.changes.is_empty() {
            let _ = raft.propose_outcome("controller", Action::Apply { term: leads.term, changes: plan.changes }).await;
        }
    }
}
