//! Events: each once, in order, across resumes; and told when some are gone.

use super::{World, soon};
use crate::model::command::Action;
use crate::model::ids::TenantName;
use crate::proto::v1;
use futures_util::StreamExt;

fn request(after: (u64, u32), follow: bool) -> v1::WatchEventsRequest {
    v1::WatchEventsRequest { after_index: after.0, after_sub: after.1, follow, ..Default::default() }
}

/// One event for each call.
fn happen(world: &World, count: usize) {
    let digest = world.host.add_image("linux/amd64", &[], &["/a"]);
    for n in 0..count {
        if n % 2 == 0 {
            world.name_image("tick:latest", &digest);
        } else {
            let tenant = TenantName::default_tenant();
            world.propose(Action::RemoveImage { tenant, name: "tick:latest".into() });
        }
    }
}

fn places(batch: &v1::EventBatch) -> Vec<(u64, u32)> {
    batch.events.iter().map(|event| (event.index, event.sub)).collect()
}

#[tokio::test]
async fn a_watch_that_is_broken_off_and_resumed_loses_and_repeats_nothing() {
    let world = World::new().await;
    let mut seen = Vec::new();
    let mut place = (0, 0);
    // Each round follows for a batch or two while more happens, breaks off, and resumes.
    for round in 0..12 {
        happen(&world, 150);
        let mut stream = world.events().watch(request(place, true)).await.expect("watches").into_inner();
        happen(&world, 50);
        for _ in 0..=(round % 2) {
            let Ok(Some(batch)) =
                tokio::time::timeout(std::time::Duration::from_millis(200), stream.next()).await
            else {
                break;
            };
            let batch = batch.expect("a batch");
            assert!(!batch.gap);
            seen.extend(places(&batch));
            place = (batch.index, batch.sub);
        }
    }
    let mut rest = world.events().watch(request(place, false)).await.expect("watches").into_inner();
    while let Some(batch) = soon("the rest", rest.next()).await {
        seen.extend(places(&batch.expect("a batch")));
    }
    let all: Vec<(u64, u32)> = {
        use crate::api::Store;
        world.store.view().events.iter().map(|event| (event.index, event.sub)).collect()
    };
    assert!(all.len() > 2000);
    assert_eq!(seen, all);
}

#[tokio::test]
async fn without_follow_the_end_carries_the_place_to_resume_from() {
    let world = World::new().await;
    let index = world.store.state().index;
    let mut stream =
        world.events().watch(request((index, u32::MAX), false)).await.expect("watches").into_inner();
    let batch = soon("a batch", stream.next()).await.expect("one").expect("good");
    assert_eq!((batch.events.len(), batch.index, batch.gap), (0, index, false));
    assert!(soon("the end", stream.next()).await.is_none());
    happen(&world, 1);
    let mut stream =
        world.events().watch(request((batch.index, batch.sub), false)).await.expect("watches").into_inner();
    let batch = soon("a batch", stream.next()).await.expect("one").expect("good");
    assert_eq!(places(&batch), [(index + 1, 0)]);
}

#[tokio::test]
async fn a_resume_from_what_is_forgotten_says_so_once() {
    let world = World::new().await;
    let early = world.store.state().index;
    happen(&world, 5000);
    let mut stream = world.events().watch(request((early, 0), true)).await.expect("watches").into_inner();
    let first = soon("a batch", stream.next()).await.expect("one").expect("good");
    assert!(first.gap);
    let second = soon("a batch", stream.next()).await.expect("one").expect("good");
    assert!(!second.gap);
    assert!(places(&first).last() < places(&second).first());
    // From the beginning means all that is kept: nothing was promised that is missing.
    let mut stream = world.events().watch(request((0, 0), false)).await.expect("watches").into_inner();
    assert!(!soon("a batch", stream.next()).await.expect("one").expect("good").gap);
}

#[tokio::test]
async fn a_slow_client_is_told_what_it_missed_and_costs_no_queue() {
    let world = World::new().await;
    let mut stream = world.events().watch(request((0, 0), true)).await.expect("watches").into_inner();
    let mut place = {
        let batch = soon("a batch", stream.next()).await.expect("one").expect("good");
        (batch.index, batch.sub)
    };
    // Far more than the ring keeps and than the transport buffers.
    happen(&world, 30_000);
    let last = (world.store.state().index, 0);
    let mut gaps = 0;
    let mut events = 0;
    while place < last {
        let batch = soon("a batch", stream.next()).await.expect("one").expect("good");
        let read = places(&batch);
        assert!(read.windows(2).all(|pair| pair[0] < pair[1]));
        assert!(read.first().is_none_or(|first| *first > place), "nothing twice");
        gaps += u32::from(batch.gap);
        events += read.len();
        place = (batch.index, batch.sub);
    }
    assert!(gaps >= 1 && events < 30_000, "gaps {gaps}, events {events}");
}

#[tokio::test]
async fn a_target_narrows_the_events() {
    let world = World::new().await;
    world.deployed("app = \"shop\"\n[process.web]\n[process.worker]").await;
    world.deployed("app = \"blog\"").await;
    let read = async |target: &str| {
        let request = v1::WatchEventsRequest { target: target.into(), ..Default::default() };
        let mut stream = world.events().watch(request).await.expect("watches").into_inner();
        let batch = soon("a batch", stream.next()).await.expect("one").expect("good");
        let targets: std::collections::BTreeSet<String> =
            batch.events.into_iter().map(|e| e.target).collect();
        targets.into_iter().collect::<Vec<_>>()
    };
    assert_eq!(read("shop").await, ["shop", "shop/web.1", "shop/worker.1"]);
    assert_eq!(read("shop/web").await, ["shop/web.1"]);
    assert_eq!(read("shop/web.1").await, ["shop/web.1"]);
    assert_eq!(read("shop/web.2").await, Vec::<String>::new());
    let request = v1::WatchEventsRequest { target: "Shop".into(), ..Default::default() };
    assert_eq!(
        world.events().watch(request).await.expect_err("no target").code(),
        tonic::Code::InvalidArgument
    );
}
