//! The chat page at `/`: its files as plain data, and the headers they go out with.
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

/// A file of the page.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PageFile {
    /// Path below the server's root, with its slash. The files name each other relatively, so a proxy may put a prefix before it.
    pub(crate) path: &'static str,
    /// For the `content-type` header.
    pub(crate) content_type: &'static str,
    /// The body.
    pub(crate) bytes: &'static [u8],
}

impl PageFile {
    /// For the `etag` header, in its quotes: the same for the same bytes.
    pub(crate) fn etag(&self) -> String {
        let mut hash = DefaultHasher::new();
        self.bytes.hash(&mut hash);
        format!("\"{:016x}\"", hash.finish())
    }
}

/// Headers of every file. The page loads nothing but its own files, and only its server hears from it; no other page may frame it.
/// Its files are asked for again each time, which the ETag makes cheap, so that a new server never meets an old page.
pub(crate) const HEADERS: [(&str, &str); 4] = [
    (
        "content-security-policy",
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    ("x-content-type-options", "nosniff"),
    ("referrer-policy", "no-referrer"),
    ("cache-control", "no-cache"),
];

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";

macro_rules! files {
    ($($path:literal $name:literal $content_type:expr;)*) => {
        /// Every file of the page.
        pub(crate) const FILES: &[PageFile] = &[$(PageFile {
            path: $path,
            content_type: $content_type,
            bytes: include_bytes!(concat!("../page/", $name)),
        }),*];
    };
}

files! {
    "/" "index.html" HTML;
    "/page/style.css" "style.css" CSS;
    "/page/theme.js" "theme.js" SCRIPT;
    "/page/app.js" "app.js" SCRIPT;
    "/page/answer.js" "answer.js" SCRIPT;
    "/page/api.js" "api.js" SCRIPT;
    "/page/chats.js" "chats.js" SCRIPT;
    "/page/clipboard.js" "clipboard.js" SCRIPT;
    "/page/code.js" "code.js" SCRIPT;
    "/page/markdown.js" "markdown.js" SCRIPT;
    "/page/messages.js" "messages.js" SCRIPT;
    "/page/settings.js" "settings.js" SCRIPT;
    "/page/shell.js" "shell.js" SCRIPT;
    "/page/icon.svg" "icon.svg" "image/svg+xml";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_of_the_folder_is_served_once_and_tagged_by_its_content() {
        let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/page");
        let mut on_disk: Vec<Vec<u8>> = std::fs::read_dir(dir)
            .unwrap()
            .map(|entry| std::fs::read(entry.unwrap().path()).unwrap())
            .collect();
        let mut served: Vec<Vec<u8>> = FILES.iter().map(|file| file.bytes.to_vec()).collect();
        on_disk.sort();
        served.sort();
        assert_eq!(served, on_disk);
        for (index, file) in FILES.iter().enumerate() {
            assert!(
                FILES[..index]
                    .iter()
                    .all(|other| other.path != file.path && other.etag() != file.etag())
            );
        }
    }
}
