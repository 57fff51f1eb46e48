//! `nodectl image`: bring images in, look at them, free their space.

use super::args::{ImageArguments, ImageGcArguments, ImageLoadArguments, OutputOnly};
use super::client::{Client, request};
use super::failure::{Failure, from_status};
use super::output::{Cell, Out, Table, Tone};
use super::site::{Choice, Folder};
use super::upload::{TransferBar, Upload, spawn_upload};
use super::{target, views, when};
use crate::proto::v1::{self, GcRequest, ImageRequest, ListImagesRequest, LoadChunk, LoadedImage};
use std::fs::File;
use std::io;
use std::path::Path;
use tokio_stream::StreamExt;
use tonic::Streaming;

pub async fn load(args: ImageLoadArguments, client: Client) -> anyhow::Result<()> {
    let out = Out::new(args.output);
    let mut images = client.images().await?;
    let (upload, total_bytes) = open(&args.file)?;
    let default_name = args.name.or_else(|| name_of(&args.file)).unwrap_or_default();
    let bar = TransferBar::new(&out, total_bytes);
    let (chunks, sending) = upload.split();
    let counting = bar.clone();
    let mut name = Some(default_name);
    let chunks = chunks.map(move |data| {
        counting.sent(data.len());
        LoadChunk { tenant: String::new(), data, default_name: name.take().unwrap_or_default() }
    });
    let call = async {
        let stream = images.load(chunks).await.map_err(from_status)?.into_inner();
        watch_load(stream, &bar).await
    };
    let result = sending.drive(call).await;
    bar.clear();
    show_loaded(&out, &result?)
}

/// Follows what the node does with what it gets, to the images that came of it.
pub async fn watch_load(
    mut stream: Streaming<v1::LoadProgress>,
    bar: &TransferBar,
) -> anyhow::Result<Vec<LoadedImage>> {
    let mut loaded = None;
    while let Some(progress) = stream.message().await.map_err(from_status)? {
        bar.stage(&progress.stage);
        if progress.stage == "done" || !progress.images.is_empty() {
            loaded = Some(progress.images);
        }
    }
    loaded.ok_or_else(|| {
        Failure::new("the node stopped before the image was complete").hint("try again").into()
    })
}

/// A thread that sends the file, and its size where that is known.
fn open(path: &Path) -> anyhow::Result<(Upload, Option<u64>)> {
    let cannot_read = |error: io::Error| Failure::new(format!("could not read {}: {error}", path.display()));
    if path == Path::new("-") {
        if io::IsTerminal::is_terminal(&io::stdin()) {
            return Err(Failure::usage("`-` reads an archive from standard input, which is a terminal here")
                .hint("docker save NAME | nodectl image load -")
                .into());
        }
        return Ok((send(io::stdin()), None));
    }
    let file = File::open(path).map_err(cannot_read)?;
    let metadata = file.metadata().map_err(cannot_read)?;
    if !metadata.is_dir() {
        let size = metadata.is_file().then_some(metadata.len());
        return Ok((send(file), size));
    }
    if !path.join("oci-layout").exists() && !path.join("index.json").exists() {
        let mut failure = Failure::new(format!(
            "{} is a folder, but not an OCI layout: it has no oci-layout file",
            path.display()
        ));
        if path.join("index.html").exists() {
            failure = failure.hint(format!("it looks like a web site: nodectl deploy {}", path.display()));
        }
        return Err(failure.into());
    }
    let folder = Folder::scan(path, Choice::Everything)?;
    let size = folder.total_bytes;
    Ok((spawn_upload(move |writer| folder.write_tar(writer)), Some(size)))
}

fn send(mut source: impl io::Read + Send + 'static) -> Upload {
    spawn_upload(move |writer| {
        io::copy(&mut source, writer)?;
        Ok(())
    })
}

/// `shop` for `/tmp/shop.tar.gz`: a name for an archive that has none.
fn name_of(path: &Path) -> Option<String> {
    let name = path.file_name()?.to_str()?;
    let name = [".tar", ".tar.gz", ".tgz", ".tar.zst", ".tzst", ".oci"]
        .iter()
        .find_map(|end| name.strip_suffix(end))
        .unwrap_or(name);
    target::label_from(name)
}

fn show_loaded(out: &Out, images: &[LoadedImage]) -> anyhow::Result<()> {
    if out.is_json() {
        let images = images.iter().map(views::LoadedImage::new).collect();
        return out.json(&views::LoadedImages { images });
    }
    for image in images {
        let name = if image.names.is_empty() { "(no name)".to_owned() } else { image.names.join(", ") };
        let size = when::bytes(image.size_bytes);
        // A terminal has no room for all of it; `image inspect` shows it.
        let digest = if out.is_terminal { short_digest(&image.digest) } else { image.digest.clone() };
        out.line(format!("{}  {digest}  {size}  {}", out.paint.paint(Tone::Bold, &name), image.platform))?;
    }
    if let Some(image) = images.first() {
        out.next(format!("nodectl deploy --image {}", image.names.first().unwrap_or(&image.digest)));
    }
    Ok(())
}

pub async fn list(args: OutputOnly, client: Client) -> anyhow::Result<()> {
    let out = Out::new(args.output);
    let message = ListImagesRequest::default();
    let reply = client.images().await?.list(request(message)).await.map_err(from_status)?.into_inner();
    if out.is_json() {
        return out.json(&views::ImageList { images: reply.images.iter().map(views::Image::new).collect() });
    }
    if reply.images.is_empty() {
        out.line("no images yet")?;
        out.next("nodectl image load FILE");
        return Ok(());
    }
    let mut table = Table::new(&["IMAGE", "DIGEST", "SIZE", "PLATFORM", "AGE", "USED BY"]);
    for image in &reply.images {
        let record = image.image.clone().unwrap_or_default();
        table.row(vec![
            Cell::toned(image.name.clone(), Tone::Bold),
            short_digest(&record.digest).into(),
            when::bytes(record.size_bytes).into(),
            record.platform.into(),
            when::age(record.loaded_at_ms).into(),
            image.used_by.join(", ").into(),
        ]);
    }
    out.table(&table)
}

/// Enough of a digest to tell images apart.
fn short_digest(digest: &str) -> String {
    let hex = digest.strip_prefix("sha256:").unwrap_or(digest);
    hex.chars().take(12).collect()
}

pub async fn remove(args: ImageArguments, client: Client) -> anyhow::Result<()> {
    let out = Out::new(args.output);
    let message = ImageRequest { tenant: String::new(), image: args.image.clone() };
    client.images().await?.remove(request(message)).await.map_err(from_status)?;
    if out.is_json() {
        return out.json(&views::ImageRemoved { image: args.image, removed: true });
    }
    out.line(format!("removed {}", args.image))?;
    out.next("nodectl image gc, which frees what nothing uses any more");
    Ok(())
}

pub async fn gc(args: ImageGcArguments, client: Client) -> anyhow::Result<()> {
    let out = Out::new(args.output);
    // Deleting much takes a while: no deadline.
    let message = GcRequest { dry_run: args.dry_run };
    let reply = client.images().await?.gc(message).await.map_err(from_status)?.into_inner();
    let v1::GcReply { blobs, layers, bytes: freed_bytes } = reply;
    if out.is_json() {
        return out.json(&views::Freed { dry_run: args.dry_run, blobs, layers, freed_bytes });
    }
    let verb = if args.dry_run { "would free" } else { "freed" };
    let plural = |count: u64| if count == 1 { "" } else { "s" };
    out.line(format!(
        "{verb} {}: {blobs} blob{}, {layers} unpacked layer{}",
        when::bytes(freed_bytes),
        plural(blobs),
        plural(layers)
    ))?;
    if args.dry_run && blobs + layers > 0 {
        out.next("nodectl image gc");
    }
    Ok(())
}

pub async fn inspect(args: ImageArguments, client: Client) -> anyhow::Result<()> {
    let out = Out::new(args.output);
    let message = ImageRequest { tenant: String::new(), image: args.image.clone() };
    let reply = client.images().await?.inspect(request(message)).await.map_err(from_status)?.into_inner();
    if out.is_json() {
        return out.json(&views::ImageDetails::new(&reply));
    }
    let record = reply.image.clone().unwrap_or_default();
    let line = |label: &str, text: &str| match text {
        "" => Ok(()),
        text => out.line(format!("{label:<13}{}", super::output::plain(text))),
    };
    line("name", &reply.name)?;
    line("digest", &record.digest)?;
    line("size", &when::bytes(record.size_bytes))?;
    line("platform", &record.platform)?;
    line("loaded", &format!("{} ago", when::age(record.loaded_at_ms)))?;
    line("entrypoint", &command_text(&reply.entrypoint))?;
    line("command", &command_text(&reply.command))?;
    line("user", &reply.user)?;
    line("working dir", &reply.working_dir)?;
    line("ports", &reply.exposed_ports.join(" "))?;
    for variable in &reply.env {
        line("env", variable)?;
    }
    for (name, value) in &reply.labels {
        line("label", &format!("{name}={value}"))?;
    }
    if reply.layers.is_empty() {
        return Ok(());
    }
    out.line("")?;
    let mut table = Table::new(&["LAYER", "SIZE", "TYPE"]);
    for layer in &reply.layers {
        let size = when::bytes(layer.size_bytes);
        table.row(vec![short_digest(&layer.digest).into(), size.into(), layer.media_type.clone().into()]);
    }
    out.table(&table)
}

/// As it would be typed, where that is clear; else as a list.
fn command_text(words: &[String]) -> String {
    let is_plain = |word: &String| {
        !word.is_empty() && !word.contains(|c: char| c.is_whitespace() || "\"'\\$".contains(c))
    };
    if words.iter().all(is_plain) { words.join(" ") } else { format!("{words:?}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_without_a_name_gets_the_files() {
        for (path, name) in
            [("/tmp/Shop.tar.gz", Some("shop")), ("app.tar", Some("app")), ("-", None), ("x", Some("x"))]
        {
            assert_eq!(name_of(Path::new(path)).as_deref(), name, "{path}");
        }
    }
}
