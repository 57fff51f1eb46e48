//! Images: upload, list, inspect, remove, and the collection of what nothing uses.

use super::host::{Loaded, Progress, Step};
use super::stream::Reply;
use super::upload::Upload;
use super::{Api, Fault, OPERATOR, tenant};
use crate::clock;
use crate::model::ClusterState;
use crate::model::command::{Action, ImageRecord};
use crate::model::ids::{Digest, TenantName};
use crate::proto::v1;
use futures_util::{Stream, StreamExt};
use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;
use tonic::{Request, Response, Status, Streaming};

#[tonic::async_trait]
impl v1::images_server::Images for Api {
    type LoadStream = Reply<v1::LoadProgress>;
    type BuildStaticStream = Reply<v1::LoadProgress>;

    async fn load(
        &self,
        request: Request<Streaming<v1::LoadChunk>>,
    ) -> Result<Response<Self::LoadStream>, Status> {
        let chunks = request.into_inner().map(|chunk| {
            chunk.map(|chunk| Chunk { tenant: chunk.tenant, name: chunk.default_name, data: chunk.data })
        });
        Ok(Response::new(self.import(Kind::Archive, Box::pin(chunks))))
    }

    async fn build_static(
        &self,
        request: Request<Streaming<v1::BuildChunk>>,
    ) -> Result<Response<Self::BuildStaticStream>, Status> {
        let chunks = request.into_inner().map(|chunk| {
            chunk.map(|chunk| Chunk { tenant: chunk.tenant, name: chunk.name, data: chunk.data })
        });
        Ok(Response::new(self.import(Kind::StaticFolder, Box::pin(chunks))))
    }

    async fn list(
        &self,
        request: Request<v1::ListImagesRequest>,
    ) -> Result<Response<v1::ListImagesReply>, Status> {
        let tenant = tenant(&request.get_ref().tenant)?;
        let view = self.view(false).await?;
        let users = users(&view.state, &tenant);
        let own = view.state.images.iter().filter(|((of, _), _)| *of == tenant);
        let images = own
            .map(|((_, name), record)| v1::NamedImage {
                name: name.clone(),
                image: Some(v1::ImageRecord::from(&**record)),
                used_by: users.get(&record.digest).cloned().unwrap_or_default(),
            })
            .collect();
        Ok(Response::new(v1::ListImagesReply { images }))
    }

    async fn inspect(
        &self,
        request: Request<v1::ImageRequest>,
    ) -> Result<Response<v1::InspectReply>, Status> {
        let request = request.into_inner();
        let tenant = tenant(&request.tenant)?;
        let view = self.view(false).await?;
        let (name, record) = self.find_image(&view.state, &tenant, &request.image)?;
        let image = self.host.image(&record.digest).await.map_err(Fault::from)?;
        let layer = |layer: super::host::Layer| v1::LayerInfo {
            digest: layer.digest.to_string(),
            diff_id: layer.diff_id,
            size_bytes: layer.size_bytes,
            media_type: layer.media_type,
        };
        Ok(Response::new(v1::InspectReply {
            name,
            image: Some(v1::ImageRecord::from(&*record)),
            layers: image.layers.into_iter().map(layer).collect(),
            entrypoint: image.entrypoint,
            command: image.command,
            user: image.user,
            working_dir: image.working_dir,
            env: image.env,
            exposed_ports: image.exposed_ports,
            labels: image.labels,
            config_json: image.config_json.into(),
        }))
    }

    async fn remove(
        &self,
        request: Request<v1::ImageRequest>,
    ) -> Result<Response<v1::RemoveImageReply>, Status> {
        let request = request.into_inner();
        let tenant = tenant(&request.tenant)?;
        let view = self.view(false).await?;
        let (name, record) = self.find_image(&view.state, &tenant, &request.image)?;
        if Digest::new(&request.image).is_ok() {
            let names: Vec<&str> = view
                .state
                .images
                .iter()
                .filter(|((of, _), other)| *of == tenant && other.digest == record.digest)
                .map(|((_, name), _)| name.as_str())
                .collect();
            if names.len() > 1 {
                let text =
                    format!("{} has several names: remove them by name, {}", record.digest, names.join(", "));
                return Err(Fault::Conflict(text).into());
            }
        }
        self.store.propose(OPERATOR, Action::RemoveImage { tenant, name }).await.map_err(Fault::from)?;
        Ok(Response::new(v1::RemoveImageReply {}))
    }

    async fn gc(&self, request: Request<v1::GcRequest>) -> Result<Response<v1::GcReply>, Status> {
        // Held until the end: no image can be named while what is unnamed is being freed.
        let Ok(_alone) = self.naming.try_write() else {
            let text = "an image is being loaded or deployed: collect again when that is done";
            return Err(Fault::Conflict(text.into()).into());
        };
        let view = self.view(false).await?;
        let named = view.state.images.values().map(|record| record.digest.clone());
        let released = view.state.releases.values().map(|release| release.image.clone());
        let keep: BTreeSet<Digest> = named.chain(released).collect();
        let freed = self.host.collect_garbage(keep, request.get_ref().dry_run).await.map_err(Fault::from)?;
        Ok(Response::new(v1::GcReply { blobs: freed.blobs, layers: freed.layers, bytes: freed.bytes }))
    }
}

/// The newest release of each app that uses an image: `shop v3`.
fn users(state: &ClusterState, tenant: &TenantName) -> BTreeMap<Digest, Vec<String>> {
    let mut newest = BTreeMap::new();
    for release in state.releases.values().filter(|release| release.app.tenant == *tenant) {
        newest.insert((release.image.clone(), release.app.app.clone()), release.number);
    }
    let mut users: BTreeMap<Digest, Vec<String>> = BTreeMap::new();
    for ((image, app), number) in newest {
        users.entry(image).or_default().push(format!("{app} v{number}"));
    }
    users
}

/// A piece of an upload, of either kind.
struct Chunk {
    tenant: String,
    name: String,
    data: bytes::Bytes,
}

type Chunks = Pin<Box<dyn Stream<Item = Result<Chunk, Status>> + Send>>;

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    /// docker-save or OCI layout: it may name its images.
    Archive,
    /// A tar of a folder: the caller names the image.
    StaticFolder,
}

impl Api {
    /// Receives, imports and names; a stream of how far it is. When the caller goes away, the
    /// stream is dropped, and with it the task and its file.
    fn import(&self, kind: Kind, chunks: Chunks) -> Reply<v1::LoadProgress> {
        let (progress, steps) = Progress::new();
        let task = tokio::spawn(self.clone().import_task(kind, chunks, progress));
        let import = Import { task: AbortOnDropHandle::new(task), steps };
        self.until_stopped(futures_util::stream::unfold(Some(import), Import::step))
    }

    async fn import_task(
        self,
        kind: Kind,
        mut chunks: Chunks,
        progress: Progress,
    ) -> Result<Vec<Loaded>, Fault> {
        let Some(first) = next(&mut chunks).await? else {
            return Err(Fault::Invalid("nothing was uploaded".into()));
        };
        let tenant = tenant(&first.tenant)?;
        // Checked before the upload, which may take minutes.
        let name = match (first.name.as_str(), kind) {
            ("", Kind::Archive) => None,
            ("", Kind::StaticFolder) => return Err(Fault::Invalid("the image to build has no name".into())),
            (written, _) => Some(self.host.image_name(written).map_err(Fault::Invalid)?),
        };
        let upload = self.receive(first, chunks, &progress).await?;
        if upload.bytes == 0 {
            return Err(Fault::Invalid("nothing was uploaded: the archive is empty".into()));
        }

        // Until the names are set, nothing else keeps the new content from being collected.
        let _naming = self.naming.read().await;
        progress.set("verifying", upload.bytes);
        let archive = upload.path().to_owned();
        let mut loaded = match kind {
            Kind::Archive => self.host.load_image(archive, progress).await?,
            Kind::StaticFolder => vec![self.host.build_static(archive, progress).await?],
        };
        drop(upload);
        give_names(&mut loaded, name, kind)?;
        self.set_names(&tenant, &loaded).await?;
        Ok(loaded)
    }

    async fn receive(&self, first: Chunk, mut chunks: Chunks, progress: &Progress) -> Result<Upload, Fault> {
        // Overwritten at once unless others are before it.
        progress.set("waiting", 0);
        let mut upload = self.uploads.create().await?;
        let mut chunk = Some(first);
        while let Some(piece) = chunk {
            upload.write(&piece.data).await?;
            progress.set("receiving", upload.bytes);
            chunk = next(&mut chunks).await?;
        }
        upload.finish().await?;
        Ok(upload)
    }

    async fn set_names(&self, tenant: &TenantName, loaded: &[Loaded]) -> Result<(), Fault> {
        for image in loaded {
            for name in &image.names {
                let record = ImageRecord {
                    digest: image.digest.clone(),
                    size_bytes: image.size_bytes,
                    platform: image.platform.clone(),
                    loaded_at: clock::now(),
                };
                let action = Action::SetImage { tenant: tenant.clone(), name: name.clone(), image: record };
                self.store.propose(OPERATOR, action).await?;
            }
        }
        Ok(())
    }
}

/// `docker save | nodectl image load -` may think for a while before it writes; a client that
/// says nothing for so long is stopped or stuck, and keeps others from their turn.
const CHUNK_WITHIN: Duration = Duration::from_secs(300);

async fn next(chunks: &mut Chunks) -> Result<Option<Chunk>, Fault> {
    let broke_off = |status: Status| Fault::Invalid(format!("the upload broke off: {}", status.message()));
    match tokio::time::timeout(CHUNK_WITHIN, chunks.next()).await {
        Ok(chunk) => chunk.transpose().map_err(broke_off),
        Err(_) => Err(Fault::Invalid("the upload stalled: nothing came for five minutes".into())),
    }
}

/// An archive's own names win; `name` is for one image that has none. A built image has the
/// name that was asked for and no other.
fn give_names(loaded: &mut [Loaded], name: Option<String>, kind: Kind) -> Result<(), Fault> {
    if kind == Kind::StaticFolder {
        for image in loaded {
            image.names = name.iter().cloned().collect();
        }
        return Ok(());
    }
    let unnamed = loaded.iter().filter(|image| image.names.is_empty()).count();
    let Some(image) = loaded.iter_mut().find(|image| image.names.is_empty()) else { return Ok(()) };
    match name {
        Some(name) if unnamed == 1 => image.names.push(name),
        Some(_) => {
            return Err(Fault::Invalid(format!(
                "the archive has {unnamed} images without a name, and one name cannot be given to all: save them one by one"
            )));
        }
        None => {
            return Err(Fault::Invalid(
                "the archive does not name its image: give it a name with --name NAME".into(),
            ));
        }
    }
    Ok(())
}

/// An import under way, as its caller sees it.
struct Import {
    task: AbortOnDropHandle<Result<Vec<Loaded>, Fault>>,
    steps: watch::Receiver<Step>,
}

/// A progress bar needs no more than ten a second.
const PROGRESS_EVERY: Duration = Duration::from_millis(100);

impl Import {
    async fn step(this: Option<Self>) -> Option<(Result<v1::LoadProgress, Fault>, Option<Self>)> {
        let mut this = this?;
        let mut due = None;
        loop {
            tokio::select! {
                biased;
                result = &mut this.task => {
                    let bytes = this.steps.borrow().bytes;
                    let result = result.unwrap_or_else(|error| {
                        Err(Fault::Internal(format!("the import broke down, see the node's log: {error}")))
                    });
                    return Some((result.map(|loaded| done(loaded, bytes)), None));
                }
                () = tokio::time::sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                    let step = this.steps.borrow_and_update().clone();
                    let message = v1::LoadProgress { stage: step.stage.into(), bytes: step.bytes, images: Vec::new() };
                    return Some((Ok(message), Some(this)));
                }
                // An import lets its progress go before it ends: then only its end is left to wait for.
                Ok(()) = this.steps.changed(), if due.is_none() => due = Some(Instant::now() + PROGRESS_EVERY),
            }
        }
    }
}

fn done(loaded: Vec<Loaded>, bytes: u64) -> v1::LoadProgress {
    let image = |image: Loaded| v1::LoadedImage {
        names: image.names,
        digest: image.digest.to_string(),
        size_bytes: image.size_bytes,
        platform: image.platform,
    };
    v1::LoadProgress { stage: "done".into(), bytes, images: loaded.into_iter().map(image).collect() }
}
