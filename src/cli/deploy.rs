//! `nodectl deploy`: find out what is to be deployed, send it, start the rollout. Following the
//! rollout is in `deploy_watch.rs`; what a manifest means is the server's to say.

use super::args::DeployArguments;
use super::client::{Client, request};
use super::deploy_watch::{self, Rollout};
use super::failure::{Failure, from_status};
use super::image::watch_load;
use super::output::{Out, Tone};
use super::site::{Choice, Folder};
use super::target::{MANIFEST, label_from, parse_app};
use super::upload::{TransferBar, spawn_upload};
use super::{views, when};
use crate::proto::v1::{self, BuildChunk, DeployRequest, ImageSource, ManifestSource};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use tokio_stream::StreamExt;

/// What is to be deployed, as it was found.
#[derive(Debug)]
enum Source {
    Manifest { file_name: String, text: String, folder: PathBuf },
    Site { folder: PathBuf },
    Image { image: String },
}

/// `leaves_on_interrupt`: Ctrl-C ends the following and leaves the rollout; else it is for
/// somebody else to handle.
pub async fn run(
    args: DeployArguments,
    client: Client,
    leaves_on_interrupt: bool,
) -> anyhow::Result<ExitCode> {
    let out = Out::new(args.output).surviving_reader();
    let mut notes = Vec::new();
    let source = find(&args, &mut notes)?;
    if let (Source::Manifest { file_name, .. }, Some(_)) = (&source, &args.name) {
        return Err(Failure::usage(format!(
            "--name is for folders and images: {file_name} names the app itself"
        ))
        .into());
    }
    let message = prepare(&args, source, &client, &out, &mut notes).await?;
    let reply = client.apps().await?.deploy(request(message)).await.map_err(from_status)?.into_inner();
    notes.extend(reply.notes.iter().cloned());
    show_started(&out, &reply, &notes)?;
    let rollout =
        Rollout { app: reply.app, release: reply.release, deployment: reply.deployment, urls: reply.urls };
    if args.detach {
        return show_detached(&out, &rollout);
    }
    deploy_watch::follow(&out, &client, &rollout, leaves_on_interrupt).await
}

fn find(args: &DeployArguments, notes: &mut Vec<String>) -> anyhow::Result<Source> {
    if let Some(image) = &args.image {
        return Ok(Source::Image { image: image.clone() });
    }
    if let Some(file) = &args.file {
        return manifest(file);
    }
    let folder = match &args.dir {
        Some(folder) => folder.clone(),
        None => PathBuf::from("."),
    };
    let by_default = args.dir.is_none();
    let instead =
        "name a folder, a manifest (-f FILE) or an image (--image NAME; `nodectl image ls` lists them)";
    match check_folder(&folder, instead)? {
        Holds::Manifest if by_default => {
            notes.push(format!("manifest ./{MANIFEST}"));
            manifest(Path::new(MANIFEST))
        }
        Holds::Manifest => manifest(&folder.join(MANIFEST)),
        Holds::Page => {
            if by_default {
                notes.push("this folder, by its index.html".to_owned());
            }
            Ok(Source::Site { folder })
        }
    }
}

/// What a folder is deployed by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holds {
    Manifest,
    Page,
}

/// What a folder can be deployed by; a manifest goes first. `instead`: what to try otherwise.
///
/// # Errors
/// There is no such folder, or neither is in it.
pub fn check_folder(folder: &Path, instead: &str) -> anyhow::Result<Holds> {
    let shown =
        if folder == Path::new(".") { "this folder".to_owned() } else { folder.display().to_string() };
    if folder.is_file() {
        return Err(Failure::usage(format!("{shown} is a file"))
            .hint(format!(
                "a manifest: nodectl deploy -f {shown}\nan archive of an image: nodectl image load {shown}"
            ))
            .into());
    }
    if folder.join(MANIFEST).exists() {
        return Ok(Holds::Manifest);
    }
    if folder.join("index.html").is_file() {
        return Ok(Holds::Page);
    }
    if !folder.exists() {
        return Err(Failure::usage(format!("there is no folder {shown}")).into());
    }
    Err(Failure::usage(format!("nothing to deploy: {shown} has neither a {MANIFEST} nor an index.html"))
        .hint(instead)
        .into())
}

fn manifest(file: &Path) -> anyhow::Result<Source> {
    let text = std::fs::read_to_string(file)
        .map_err(|error| Failure::new(format!("could not read {}: {error}", file.display())))?;
    let folder = match file.parent() {
        Some(parent) if parent != Path::new("") => parent.to_owned(),
        _ => PathBuf::from("."),
    };
    Ok(Source::Manifest { file_name: file.display().to_string(), text, folder })
}

/// Builds what has to be built and makes the request.
async fn prepare(
    args: &DeployArguments,
    source: Source,
    client: &Client,
    out: &Out,
    notes: &mut Vec<String>,
) -> anyhow::Result<DeployRequest> {
    let mut message =
        DeployRequest { force: args.force, reset_scale: args.reset_scale, ..DeployRequest::default() };
    message.source = Some(match source {
        Source::Image { image } => v1::deploy_request::Source::Image(ImageSource {
            image,
            app: args.name.clone().unwrap_or_default(),
            port: args.port.map(u32::from),
        }),
        Source::Site { folder } => {
            let app = match &args.name {
                Some(name) => name.clone(),
                None => app_of(&folder, notes)?,
            };
            let image = build_site(client, out, &folder, &app, notes).await?;
            v1::deploy_request::Source::Image(ImageSource { image, app, port: None })
        }
        Source::Manifest { file_name, text, folder } => {
            if let Some((app, public)) = static_build(&text) {
                let public = folder.join(public);
                if !public.join("index.html").is_file() {
                    return Err(Failure::new(format!(
                        "{file_name}: [build] static: {} has no index.html",
                        public.display()
                    ))
                    .into());
                }
                message.image_override = Some(build_site(client, out, &public, &app, notes).await?);
            }
            v1::deploy_request::Source::Manifest(ManifestSource { file_name, text })
        }
    });
    Ok(message)
}

/// The app's name and the folder, if the manifest asks for a static site. What is wrong with a
/// manifest is the server's to say, so that every client gets the same errors: then `None`.
fn static_build(text: &str) -> Option<(String, PathBuf)> {
    let table: toml::Table = toml::from_str(text).ok()?;
    let folder = table.get("build")?.get("static")?.as_str()?;
    let app = parse_app(table.get("app")?.as_str()?).ok()?;
    Some((app, PathBuf::from(folder)))
}

/// The folder's own name as an app.
fn app_of(folder: &Path, notes: &mut Vec<String>) -> anyhow::Result<String> {
    let real = std::fs::canonicalize(folder)
        .map_err(|error| Failure::new(format!("could not read {}: {error}", folder.display())))?;
    let name = real.file_name().and_then(|name| label_from(&name.to_string_lossy()));
    let Some(name) = name else {
        return Err(Failure::usage(format!("{} gives no name for the app", real.display()))
            .hint("name it: --name APP")
            .into());
    };
    notes.push(format!("app {name} (the folder's name; --name gives another)"));
    Ok(name)
}

/// Sends a folder and returns the image that serves it: by digest, so that a build that somebody
/// else finishes under the same name meanwhile is not taken for this one.
async fn build_site(
    client: &Client,
    out: &Out,
    folder: &Path,
    app: &str,
    notes: &mut Vec<String>,
) -> anyhow::Result<String> {
    let mut images = client.images().await?;
    let site = Folder::scan(folder, Choice::Site)?;
    if !site.left_out.is_empty() {
        notes.push(format!("left out {}", some_of(&site.left_out)));
    }
    let bar = TransferBar::new(out, Some(site.total_bytes));
    let (chunks, sending) = spawn_upload(move |writer| site.write_tar(writer)).split();
    let counting = bar.clone();
    let mut name = Some(app.to_owned());
    let chunks = chunks.map(move |data| {
        counting.sent(data.len());
        BuildChunk { tenant: String::new(), data, name: name.take().unwrap_or_default() }
    });
    let call = async {
        let stream = images.build_static(chunks).await.map_err(from_status)?.into_inner();
        watch_load(stream, &bar).await
    };
    let result = sending.drive(call).await;
    bar.clear();
    match result?.into_iter().next() {
        Some(image) => Ok(image.digest),
        None => Err(Failure::new("the node built no image out of the folder").into()),
    }
}

/// The first few of a list that may be long.
fn some_of(names: &[String]) -> String {
    const SHOWN: usize = 5;
    let mut text = names.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(", ");
    if names.len() > SHOWN {
        text.push_str(&format!(" and {} more", names.len() - SHOWN));
    }
    text
}

fn show_started(out: &Out, reply: &v1::DeployReply, notes: &[String]) -> anyhow::Result<()> {
    if out.is_json() {
        return out.json_line(&views::DeployLine::Started {
            app: reply.app.clone(),
            release: reply.release,
            deployment: reply.deployment,
            reused: reply.reused,
            notes: notes.to_vec(),
            urls: reply.urls.clone(),
        });
    }
    for note in notes {
        out.note(note);
    }
    let reused = if reply.reused { " again (nothing changed since)" } else { "" };
    out.line(format!("deploying {} v{}{reused}", out.paint.paint(Tone::Bold, &reply.app), reply.release))
}

fn show_detached(out: &Out, rollout: &Rollout) -> anyhow::Result<ExitCode> {
    if out.is_json() {
        let running = rollout.result_line("running", None, String::new(), None, Vec::new());
        out.json_line(&running)?;
    } else {
        for url in &rollout.urls {
            out.line(format!("  {url}"))?;
        }
        out.next(format!("nodectl status {} --watch", rollout.app));
    }
    Ok(ExitCode::SUCCESS)
}

/// How long a rollout took, if it is over.
pub fn took_ms(deployment: &v1::Deployment) -> Option<u64> {
    deployment.finished_at_ms.map(|end| end.saturating_sub(deployment.started_at_ms))
}

/// `in 3.2 s`, or nothing if that is not known.
pub fn took_text(deployment: &v1::Deployment) -> String {
    took_ms(deployment).map(|ms| format!(" in {}", when::duration(ms))).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_static_build_is_read_from_a_good_manifest_and_left_to_the_server_in_a_bad_one() {
        let build = static_build("app = \"shop\"\n[build]\nstatic = \"public\"\n");
        assert_eq!(build, Some(("shop".to_owned(), PathBuf::from("public"))));
        for text in
            ["app = ", "app = \"Shop\"\n[build]\nstatic = \"x\"", "[build]\nstatic = \"x\"", "app = \"x\""]
        {
            assert_eq!(static_build(text), None, "{text}");
        }
    }
}
