//! Deploy: a manifest's text or an image's name → a complete spec, its content hash, and the
//! command that is proposed.

use super::host::Image;
use super::{Api, Fault, OPERATOR, View, show, target, tenant};
use crate::model::ClusterState;
use crate::model::app::AppSpec;
use crate::model::command::{Action, ImageRecord, Reply};
use crate::model::ids::{AppKey, AppName, Digest, TenantName};
use crate::model::manifest::{self, ImageFacts, Manifest, Resolved};
use crate::model::near::nearest;
use crate::model::node::NodeStatus;
use crate::proto::v1;
use crate::proto::v1::deploy_request::Source;
use prost::Message;
use std::collections::BTreeSet;
use std::sync::Arc;

/// BLAKE3 over the image's digest and the spec's message, hex. Equal input, equal hash, on
/// every machine: the message's maps are ordered, and protobuf writes fields by number.
pub fn content_hash(image: &Digest, spec: &AppSpec) -> String {
    let mut hasher = blake3::Hasher::new();
    // A digest has one length, so nothing of the spec can be taken for a part of it.
    hasher.update(image.as_str().as_bytes());
    hasher.update(&v1::AppSpec::from(spec).encode_to_vec());
    hasher.finalize().to_hex().to_string()
}

impl Api {
    pub(super) async fn deploy_app(&self, request: v1::DeployRequest) -> Result<v1::DeployReply, Fault> {
        let tenant = tenant(&request.tenant)?;
        let source = request
            .source
            .ok_or_else(|| Fault::Invalid("nothing to deploy: give a manifest or an image".into()))?;
        let wish = Wish::read(source, request.image_override)?;
        // Until it is in a release, nothing else keeps a nameless image from being collected.
        let _naming = self.naming.read().await;
        let View { state, .. } = self.view(false).await?;
        let (image_name, record) = self.find_image(&state, &tenant, &wish.image)?;
        check_platform(&state, &image_name, &record.platform)?;
        let image = self.host.image(&record.digest).await?;
        let resolved = wish.resolve(&image)?;

        let app = AppKey { tenant, app: wish.app };
        check_not_leaving(&state, &app)?;
        let hash = content_hash(&record.digest, &resolved.spec);
        let urls = show::urls(app.app.as_str(), &resolved.spec, self.host.http_port());
        let action = Action::Deploy {
            app: app.clone(),
            image: record.digest.clone(),
            image_name,
            spec: Arc::new(resolved.spec),
            hash,
            force: request.force,
            reset_scale: request.reset_scale,
        };
        let mut notes = wish.notes;
        notes.extend(resolved.notes);
        notes.extend(kept_scale(&state, &app, request.reset_scale));
        match self.store.propose(OPERATOR, action).await? {
            Reply::Deployed { release, deployment, reused } => Ok(v1::DeployReply {
                app: app.app.to_string(),
                release: release.0,
                deployment: deployment.0,
                reused,
                notes,
                urls,
            }),
            Reply::Done | Reply::Unchanged => {
                Err(Fault::Internal("the store answered a deploy with no release".into()))
            }
        }
    }

    /// The image of that name or digest, under the name by which it is known.
    pub(super) fn find_image(
        &self,
        state: &ClusterState,
        tenant: &TenantName,
        written: &str,
    ) -> Result<(String, Arc<ImageRecord>), Fault> {
        let own = || state.images.iter().filter(|((of, _), _)| of == tenant);
        // By digest, as `image ls` prints it; a name's own `@sha256:…` must agree with it.
        if let Ok(digest) = Digest::new(written) {
            let found = own().find(|(_, record)| record.digest == digest);
            let ((_, name), record) = found.ok_or_else(|| no_image(written, std::iter::empty()))?;
            return Ok((name.clone(), record.clone()));
        }
        let name = self.host.image_name(written).map_err(Fault::Invalid)?;
        match state.images.get(&(tenant.clone(), name.clone())) {
            Some(record) => Ok((name, record.clone())),
            None => Err(no_image(&name, own().map(|((_, name), _)| name.as_str()))),
        }
    }
}

/// A name is free once what had it is gone.
fn check_not_leaving(state: &ClusterState, key: &AppKey) -> Result<(), Fault> {
    if state.app(key).is_none_or(|app| !app.removing) {
        return Ok(());
    }
    let left = match state.instances_of(key).count() {
        0 => String::new(),
        1 => ", and 1 instance is still stopping".to_owned(),
        count => format!(", and {count} instances are still stopping"),
    };
    Err(Fault::Conflict(format!(
        "app {key} is being removed{left}: deploy it anew once it is gone (`nodectl app rm {key}` waits for that)"
    )))
}

/// What was asked for, before the image is known.
struct Wish {
    app: AppName,
    image: String,
    by: By,
    notes: Vec<String>,
}

enum By {
    Manifest(Box<Manifest>),
    Image { port: Option<u16> },
}

impl Wish {
    fn read(source: Source, image_override: Option<String>) -> Result<Self, Fault> {
        match source {
            Source::Manifest(v1::ManifestSource { file_name, text }) => {
                let file = if file_name.is_empty() { "nodectl.toml" } else { &file_name };
                let manifest = manifest::parse(file, &text).map_err(Fault::Manifest)?;
                let mut notes = Vec::new();
                let image = match (&image_override, &manifest.image, &manifest.build) {
                    (Some(given), own, _) => {
                        if let Some(own) = own.as_ref().filter(|own| *own != given) {
                            notes.push(format!("image {given} in place of the manifest's {own}"));
                        }
                        given.clone()
                    }
                    (None, Some(own), _) => own.clone(),
                    (None, None, Some(build)) => {
                        return Err(Fault::Invalid(format!(
                            "{file} builds its image from the folder {:?}: build it first and give its name; `nodectl deploy` does both",
                            build.folder
                        )));
                    }
                    (None, None, None) => {
                        return Err(Fault::Invalid(format!(
                            "{file} names no image: add image = \"NAME\", or [build] with static = \"FOLDER\""
                        )));
                    }
                };
                let app = manifest.app.clone();
                Ok(Wish { app, image, by: By::Manifest(Box::new(manifest)), notes })
            }
            Source::Image(v1::ImageSource { image, app, port }) => {
                let image = image_override.unwrap_or(image);
                if image.is_empty() {
                    return Err(Fault::Invalid("no image is named: see `nodectl image ls`".into()));
                }
                let port = match port {
                    Some(port) => {
                        Some(u16::try_from(port).ok().filter(|port| *port > 0).ok_or_else(|| {
                            Fault::Invalid(format!("the port must be from 1 to 65535; it is {port}"))
                        })?)
                    }
                    None => None,
                };
                let mut notes = Vec::new();
                let app = if app.is_empty() {
                    let app = app_of_image(&image)?;
                    notes.push(format!("app {app} (from the image's name)"));
                    app
                } else {
                    target::app_name(&app)?
                };
                Ok(Wish { app, image, by: By::Image { port }, notes })
            }
        }
    }

    fn resolve(&self, image: &Image) -> Result<Resolved, Fault> {
        let facts: ImageFacts = image.facts();
        match &self.by {
            By::Manifest(manifest) => manifest.resolve(&facts).map_err(Fault::Manifest),
            By::Image { port } => manifest::from_image(&facts, *port)
                .map_err(|problem| Fault::Invalid(format!("image {}: {problem}", self.image))),
        }
    }
}

/// `ghcr.io/acme/my_shop:1.4` → `my-shop`.
fn app_of_image(image: &str) -> Result<AppName, Fault> {
    let name = image.split('@').next().unwrap_or_default();
    let last = name.rsplit('/').next().unwrap_or_default();
    let last = last.split(':').next().unwrap_or_default();
    let label = last.to_ascii_lowercase().replace(['_', '.'], "-");
    AppName::new(&label).map_err(|_| {
        Fault::Invalid(format!(
            "no app's name can be made of the image's, {image:?}: name the app with --name"
        ))
    })
}

fn no_image<'a>(name: &str, known: impl Iterator<Item = &'a str> + Clone) -> Fault {
    let repository = |name: &'a str| name.rsplit_once(':').map_or(name, |(repository, _)| repository);
    let asked = name.rsplit_once(':').map_or(name, |(repository, _)| repository);
    let mut near: BTreeSet<&str> = known.clone().filter(|other| repository(other) == asked).collect();
    // By the repository alone: `nope:latest` and `site:latest` have more than half in common.
    near.extend(known.filter(|other| nearest(asked, [repository(other)]).is_some()).take(3));
    let hint = if near.is_empty() {
        "`nodectl image ls` lists what there is, `nodectl image load FILE` brings one in".to_owned()
    } else {
        let near: Vec<&str> = near.into_iter().take(5).collect();
        format!("did you mean {}? `nodectl image ls` lists all", near.join(" or "))
    };
    Fault::NotFound(format!("there is no image {name}: {hint}"))
}

/// A node that can run the image must exist; which one is the scheduler's to choose.
fn check_platform(state: &ClusterState, name: &str, platform: &str) -> Result<(), Fault> {
    let nodes: BTreeSet<&str> = state
        .nodes
        .values()
        .filter(|node| node.status == NodeStatus::Up)
        .map(|node| node.platform.as_str())
        .collect();
    // `linux/arm64/v8` runs where `linux/arm64` does.
    let base = |platform: &str| platform.splitn(3, '/').take(2).collect::<Vec<_>>().join("/");
    if nodes.is_empty() || nodes.iter().any(|node| base(node) == base(platform)) {
        return Ok(());
    }
    let nodes: Vec<&str> = nodes.into_iter().collect();
    Err(Fault::Conflict(format!(
        "image {name} is {platform}, this cluster's nodes are {}: build or load it for one of those",
        nodes.join(", ")
    )))
}

/// A live `scale` goes on winning over the manifest, which nobody should have to find out.
fn kept_scale(state: &ClusterState, app: &AppKey, reset: bool) -> Option<String> {
    let scale = &state.app(app)?.scale;
    if scale.is_empty() || reset {
        return None;
    }
    let counts: Vec<String> = scale.iter().map(|(process, count)| format!("{process}={count}")).collect();
    Some(format!(
        "count {} (from `nodectl scale`; --reset-scale goes back to the manifest)",
        counts.join(" ")
    ))
}
