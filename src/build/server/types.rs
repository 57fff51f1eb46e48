//! What a file's name says about its content and how long it may be kept.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// The media type by extension; text is UTF-8 (WHATWG says so for HTML, and nobody writes
/// anything else today).
pub(super) fn content_type(path: &Path) -> &'static str {
    let extension = path.extension().and_then(OsStr::to_str).unwrap_or_default().to_ascii_lowercase();
    match extension.as_str() {
        "html" | "htm" => "text/html; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "js" | "mjs" => "text/javascript; charset=utf-8",
        "txt" | "text" | "log" => "text/plain; charset=utf-8",
        "md" => "text/markdown; charset=utf-8",
        "csv" => "text/csv; charset=utf-8",
        "ics" => "text/calendar; charset=utf-8",
        "vtt" => "text/vtt; charset=utf-8",
        "xml" => "text/xml; charset=utf-8",
        "svg" => "image/svg+xml; charset=utf-8",
        "json" | "map" => "application/json",
        "webmanifest" => "application/manifest+json",
        "rss" => "application/rss+xml; charset=utf-8",
        "atom" => "application/atom+xml; charset=utf-8",
        "wasm" => "application/wasm",
        "pdf" => "application/pdf",
        "zip" => "application/zip",
        "gz" => "application/gzip",
        "png" => "image/png",
        "jpg" | "jpeg" => "image/jpeg",
        "gif" => "image/gif",
        "webp" => "image/webp",
        "avif" => "image/avif",
        "ico" => "image/vnd.microsoft.icon",
        "bmp" => "image/bmp",
        "woff" => "font/woff",
        "woff2" => "font/woff2",
        "ttf" => "font/ttf",
        "otf" => "font/otf",
        "mp3" => "audio/mpeg",
        "m4a" => "audio/mp4",
        "ogg" | "oga" | "opus" => "audio/ogg",
        "wav" => "audio/wav",
        "flac" => "audio/flac",
        "mp4" | "m4v" => "video/mp4",
        "webm" => "video/webm",
        "mov" => "video/quicktime",
        _ => "application/octet-stream",
    }
}

/// Everything is asked for again each time, which costs one small 304 and means that a
/// deployment is seen at once; but a name that has its content's hash in it never changes.
pub(super) fn cache_control(path: &Path) -> &'static str {
    if is_fingerprinted(path) { "public, max-age=31536000, immutable" } else { "no-cache" }
}

/// `app.0123456789abcdef01.js`: a part of at least 16 hex digits, letters and figures both,
/// so that no date or number is taken for a hash.
fn is_fingerprinted(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().as_bytes();
    name.split(|b| b".-_".contains(b)).any(|part| {
        part.len() >= 16
            && part.iter().all(u8::is_ascii_hexdigit)
            && part.iter().any(u8::is_ascii_digit)
            && part.iter().any(u8::is_ascii_alphabetic)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_with_a_hash_are_kept_for_long() {
        for (name, is_kept) in [
            ("app.3f2a9c1b77d0e4aa.js", true),
            ("app-3f2a9c1b77d0e4aa5566.css", true),
            ("index.html", false),
            ("report-2024010112000000.pdf", false),
            ("photo-20240101a.jpg", false),
            ("deadbeef.js", false),
        ] {
            assert_eq!(is_fingerprinted(Path::new(name)), is_kept, "{name}");
        }
    }
}
