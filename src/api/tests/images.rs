//! Images: what is uploaded is named or leaves nothing.

use super::host::digest_of;
use super::{World, soon};
use crate::proto::v1;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use tonic::{Code, Status};

fn chunks(text: &str, name: &str) -> Vec<v1::LoadChunk> {
    let pieces: Vec<&[u8]> = text.as_bytes().chunks(3).collect();
    let chunk = |(at, data): (usize, &&[u8])| v1::LoadChunk {
        data: Bytes::copy_from_slice(data),
        default_name: if at == 0 { name.to_owned() } else { String::new() },
        ..Default::default()
    };
    pieces.iter().enumerate().map(chunk).collect()
}

impl World {
    /// The last message of a load.
    async fn load(&self, text: &str, name: &str) -> Result<v1::LoadProgress, Status> {
        let mut stream = self.images().load(stream::iter(chunks(text, name))).await?.into_inner();
        let mut last = None;
        while let Some(progress) = soon("progress", stream.next()).await {
            last = Some(progress?);
        }
        Ok(last.expect("at least the end"))
    }

    fn uploads(&self) -> usize {
        std::fs::read_dir(self.dir.path().join("uploads")).expect("the folder").count()
    }

    fn image_names(&self) -> Vec<String> {
        self.store.state().images.keys().map(|(_, name)| name.clone()).collect()
    }
}

#[tokio::test]
async fn an_archive_s_images_are_named_in_the_cluster() {
    let world = World::new().await;
    let done = world.load("a:1\nb:2", "").await.expect("loads");
    assert_eq!((done.stage.as_str(), done.bytes, done.images.len()), ("done", 7, 2));
    assert_eq!(done.images[1].names, ["b:2"]);
    assert_eq!(done.images[1].digest, digest_of(b"1a:1\nb:2").to_string());
    assert_eq!(world.image_names(), ["a:1", "b:2", "shop:latest"]);
    assert_eq!(world.uploads(), 0);
}

#[tokio::test]
async fn an_archive_without_a_name_takes_the_given_one_or_asks_for_it() {
    let world = World::new().await;
    let done = world.load("-", "given").await.expect("loads");
    assert_eq!(done.images[0].names, ["given:latest"]);
    world.load("own:1", "given2").await.expect("loads");
    assert_eq!(world.image_names(), ["given:latest", "own:1", "shop:latest"], "an own name wins");
    for (text, name, message) in [
        ("-", "", "the archive does not name its image: give it a name with --name NAME"),
        (
            "-\n-",
            "one",
            "the archive has 2 images without a name, and one name cannot be given to all: save them one by one",
        ),
        ("x:1", "a b", "\"a b\" is no image name"),
        ("refuse", "", "layer 1 has a path with .."),
    ] {
        let status = world.load(text, name).await.expect_err(message);
        assert_eq!((status.code(), status.message()), (Code::InvalidArgument, message));
        assert_eq!(world.uploads(), 0, "{message}");
    }
    let status = world.images().load(stream::empty::<v1::LoadChunk>()).await.expect("answers");
    let error = soon("the end", status.into_inner().next()).await.expect("told").expect_err("nothing came");
    assert_eq!(error.message(), "nothing was uploaded");
}

#[tokio::test]
async fn an_upload_that_breaks_off_leaves_nothing() {
    let world = World::new().await;
    // While it is received: the client sends a piece, then goes away.
    let endless = stream::iter(chunks("part", "")).chain(stream::pending());
    let (channel, kill) = world.mortal_client().await;
    let mut images = v1::images_client::ImagesClient::new(channel);
    let mut progress = images.load(endless).await.expect("answers").into_inner();
    let step = soon("progress", progress.next()).await.expect("one").expect("good");
    assert_eq!((step.stage.as_str(), world.uploads()), ("receiving", 1));
    kill();
    soon("the file's end", async {
        while world.uploads() > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    // While it is imported.
    let mut hanging = world.host.hanging.subscribe();
    let (channel, kill) = world.mortal_client().await;
    let mut images = v1::images_client::ImagesClient::new(channel);
    let _progress = images.load(stream::iter(chunks("hang", ""))).await.expect("answers").into_inner();
    soon("the import", hanging.wait_for(|n| *n == 1)).await.expect("open");
    assert_eq!(world.uploads(), 1);
    let busy = world.images().gc(v1::GcRequest::default()).await.expect_err("an import is under way");
    assert_eq!(busy.code(), Code::FailedPrecondition);
    kill();
    soon("the file's end", async {
        while world.uploads() > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(world.image_names(), ["shop:latest"]);
}

#[tokio::test]
async fn what_a_killed_node_left_is_removed_at_the_next_start() {
    let dir = tempfile::tempdir().expect("a folder");
    std::fs::write(dir.path().join("upload-7"), "half").expect("writes");
    std::fs::write(dir.path().join("other"), "not ours").expect("writes");
    super::super::upload::Uploads::open(dir.path().to_owned()).expect("opens");
    let left: Vec<_> =
        std::fs::read_dir(dir.path()).expect("lists").map(|e| e.expect("reads").file_name()).collect();
    assert_eq!(left, ["other"]);
}

#[tokio::test]
async fn a_static_folder_becomes_the_image_that_was_named() {
    let world = World::new().await;
    let build = async |name: &str| {
        let chunk = v1::BuildChunk { data: "tar".into(), name: name.into(), ..Default::default() };
        let mut stream =
            world.images().build_static(stream::iter([chunk])).await.expect("answers").into_inner();
        let mut last = None;
        while let Some(progress) = soon("progress", stream.next()).await {
            last = Some(progress);
        }
        last.expect("the end")
    };
    assert_eq!(build("site").await.expect("builds").images[0].names, ["site:latest"]);
    assert_eq!(build("").await.expect_err("no name").message(), "the image to build has no name");
    assert_eq!(world.image_names(), ["shop:latest", "site:latest"]);
}

#[tokio::test]
async fn images_are_listed_with_their_users_inspected_and_removed() {
    let world = World::new().await;
    world.deployed("app = \"shop\"").await;
    world.deployed("app = \"shop\"\n[process.web]\ncount = 2").await;
    world.load("b:2", "").await.expect("loads");
    let list =
        world.images().list(v1::ListImagesRequest::default()).await.expect("lists").into_inner().images;
    let used: Vec<_> = list.iter().map(|image| (image.name.as_str(), image.used_by.join(" "))).collect();
    assert_eq!(used, [("b:2", String::new()), ("shop:latest", "shop v2".into())]);

    let request = |image: &str| v1::ImageRequest { image: image.into(), ..Default::default() };
    let shop = world.images().inspect(request("shop")).await.expect("inspects").into_inner();
    assert_eq!(
        (shop.exposed_ports, shop.entrypoint),
        (vec!["80/tcp".to_owned()], vec!["/server".to_owned()])
    );

    world.images().remove(request("b:2")).await.expect("removes");
    let gone = world.images().remove(request("b:2")).await.expect_err("is gone");
    assert_eq!(
        (gone.code(), gone.message()),
        (
            Code::NotFound,
            "there is no image b:2: `nodectl image ls` lists what there is, `nodectl image load FILE` brings one in"
        )
    );
    // The name goes, the content stays while a release may need it.
    let digest = world.store.state().images.values().next().expect("shop").digest.clone();
    world.images().remove(request("shop")).await.expect("removes");
    let freed = world.images().gc(v1::GcRequest { dry_run: true }).await.expect("collects").into_inner();
    assert_eq!((freed.blobs, freed.layers, freed.bytes), (1, 2, 3));
    let collected = world.host.collected.lock().expect("no panic").clone();
    assert_eq!(collected, Some(([digest].into(), true)));
}
