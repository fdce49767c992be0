//! A client for the part of the hub's API that a download needs: the files of a repository, where
//! one lies, and its bytes.
//!
//! Not the `hf-hub` crate: up to 0.5 it takes `ureq` with default features, so TLS in C that
//! neither the Mac cross build nor a fresh machine can compile, and has no time limits; 1.0 is
//! built on tokio, which lives in the server only. Here TLS is rustls over graviola: pure Rust.
use super::error::{HubError, StoreError};
use super::partial::Partial;
use super::progress::Progress;
use serde::Deserialize;
use std::io::Read as _;
use std::sync::Arc;
use std::time::Duration;
use ureq::config::RedirectAuthHeaders;
use ureq::http::{HeaderMap, Response, header};
use ureq::tls::TlsConfig;
use ureq::{Agent, Body, RequestExt as _};

/// A name is looked up and a connection made within these two.
const RESOLVE_MAX: Duration = Duration::from_millis(1000);
const CONNECT_MAX: Duration = Duration::from_millis(1500);
/// What a hub may cost in all before another source is asked.
pub(crate) const ANSWER_MAX: Duration = Duration::from_millis(2500);
/// What it may take to answer when there is no other source.
pub(crate) const ANSWER_ASKED_MAX: Duration = Duration::from_secs(30);
/// A transfer that brings nothing for this long is broken.
const STALL_MAX: Duration = Duration::from_secs(30);
/// Connections that may break within one download, each after it brought something.
const RECONNECTS_MAX: usize = 8;
const REDIRECTS_MAX: usize = 5;
const BLOCK_BYTES: usize = 1 << 18;

#[derive(Debug)]
pub(crate) struct Hub {
    agent: Agent,
    /// Without a slash at the end.
    endpoint: String,
    token: Option<String>,
}

/// What the hub says of a file before it sends it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Located {
    pub(crate) url: String,
    pub(crate) bytes: Option<u64>,
    pub(crate) sha256: Option<String>,
}

/// `GET /api/models/{repo}`
#[derive(Deserialize)]
struct RepoInfo {
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
}

/// The public hub; `HF_ENDPOINT` names another. The one place of the tree that knows it.
fn public_endpoint() -> String {
    format!("https://{}", ["huggingface", "co"].join("."))
}

impl Hub {
    /// `answer_max` bounds everything up to the head of an answer.
    pub(crate) fn new(
        endpoint: Option<&str>,
        token: Option<&str>,
        answer_max: Duration,
    ) -> Result<Self, HubError> {
        let endpoint = endpoint.map_or_else(public_endpoint, str::to_owned);
        if endpoint.starts_with("https:")
            && let Some(missing) = missing_for_tls()
        {
            return Err(HubError::NoTls { missing });
        }
        let tls = TlsConfig::builder()
            .unversioned_rustls_crypto_provider(Arc::new(rustls_graviola::default_provider()))
            .build();
        let agent = Agent::config_builder()
            .tls_config(tls)
            .http_status_as_error(false)
            .redirect_auth_headers(RedirectAuthHeaders::SameHost)
            .user_agent(concat!("russet/", env!("CARGO_PKG_VERSION")))
            .timeout_resolve(Some(RESOLVE_MAX))
            .timeout_connect(Some(CONNECT_MAX))
            .timeout_recv_response(Some(answer_max))
            .timeout_per_read(Some(STALL_MAX))
            .build()
            .new_agent();
        let endpoint = endpoint.trim_end_matches('/').to_owned();
        Ok(Self { agent, endpoint, token: token.map(str::to_owned) })
    }

    /// Host and port, for messages.
    pub(crate) fn host(&self) -> &str {
        self.endpoint.split_once("://").map_or(self.endpoint.as_str(), |(_, rest)| rest)
    }

    /// Every file of a repository's main revision.
    pub(crate) fn files(&self, repo: &str) -> Result<Vec<String>, HubError> {
        let url = format!("{}/api/models/{repo}", self.endpoint);
        let request = self.authorized(ureq::http::Request::get(&url));
        let mut response = self.answer(repo, self.agent.run(self.request(repo, request)?))?;
        let bytes = response.body_mut().read_to_vec().map_err(|error| self.unreachable(&error))?;
        let info: RepoInfo = serde_json::from_slice(&bytes).map_err(|error| {
            HubError::Protocol { what: repo.to_owned(), why: format!("no list of files: {error}") }
        })?;
        Ok(info.siblings.into_iter().map(|sibling| sibling.rfilename).collect())
    }

    /// Asks for a file's size and hash without following the redirect to where its bytes lie: that
    /// answer carries the hash. All of it stays within `within`.
    pub(crate) fn locate(
        &self,
        repo: &str,
        revision: &str,
        file: &str,
        within: Duration,
    ) -> Result<Located, HubError> {
        let what = format!("{repo}/{file}");
        let url = format!("{}/{repo}/resolve/{revision}/{}", self.endpoint, encoded(file));
        let mut at = url.clone();
        for _ in 0..REDIRECTS_MAX {
            let request = self.authorized(ureq::http::Request::head(&at));
            let request = self.request(&what, request)?;
            let configured = request
                .with_agent(&self.agent)
                .configure()
                .max_redirects(0)
                .max_redirects_will_error(false)
                .timeout_global(Some(within))
                .run();
            let response = configured.map_err(|error| self.unreachable(&error))?;
            let headers = response.headers();
            let here = header_text(headers, header::LOCATION.as_str())
                .filter(|_| response.status().is_redirection())
                .filter(|to| to.starts_with('/'));
            if let Some(path) = here {
                at = format!("{}{path}", self.origin());
                continue;
            }
            if !response.status().is_redirection() {
                self.check_status(&what, response.status().as_u16())?;
            }
            return Ok(Located { url, bytes: bytes_of(&response), sha256: sha256_in(headers) });
        }
        Err(HubError::Protocol { what, why: "redirects in a circle".to_owned() })
    }

    /// Brings what is missing of a file, over as many connections as it takes.
    pub(crate) fn fetch(
        &self,
        located: &Located,
        partial: &mut Partial,
        progress: &mut dyn Progress,
    ) -> Result<(), StoreError> {
        let what = located.url.rsplit('/').next().unwrap_or(&located.url);
        for _ in 0..=RECONNECTS_MAX {
            if located.bytes.is_some_and(|bytes| partial.bytes() == bytes) {
                return Ok(());
            }
            if located.bytes.is_some_and(|bytes| partial.bytes() > bytes) {
                partial.restart()?;
            }
            let before = partial.bytes();
            let Some(mut response) = self.open_at(what, &located.url, partial, progress)? else {
                continue;
            };
            let whole = self.copy(response.body_mut(), partial, progress)?;
            match located.bytes {
                None if whole => return Ok(()),
                Some(bytes) if partial.bytes() >= bytes => return Ok(()),
                _ if partial.bytes() <= before => break,
                _ => progress
                    .say(&format!("pull: the connection broke at {} bytes", partial.bytes())),
            }
        }
        Err(HubError::Interrupted { what: what.to_owned(), bytes: partial.bytes() }.into())
    }

    /// Asks for the rest of a file. A server that cannot send a part sends everything, and the
    /// partial file starts again. `None`: the server has nothing at that offset, ask again.
    fn open_at(
        &self,
        what: &str,
        url: &str,
        partial: &mut Partial,
        progress: &mut dyn Progress,
    ) -> Result<Option<Response<Body>>, StoreError> {
        let from = partial.bytes();
        let mut request = self.authorized(ureq::http::Request::get(url));
        if from > 0 {
            request = request.header(header::RANGE, format!("bytes={from}-"));
        }
        let answer = self.agent.run(self.request(what, request)?);
        let response = answer.map_err(|error| self.unreachable(&error))?;
        match response.status().as_u16() {
            206 => {
                let range = header_text(response.headers(), header::CONTENT_RANGE.as_str());
                let start = range.and_then(range_start);
                if start != Some(from) {
                    let why = format!("asked for bytes from {from}, got {range:?}");
                    return Err(HubError::Protocol { what: what.to_owned(), why }.into());
                }
                progress.say(&format!("pull: going on at {from} bytes"));
            }
            416 if from > 0 => {
                partial.restart()?;
                return Ok(None);
            }
            status => {
                self.check_status(what, status)?;
                if from > 0 {
                    progress.say("pull: the server cannot go on in the middle; starting again");
                    partial.restart()?;
                }
            }
        }
        Ok(Some(response))
    }

    /// Copies until the body ends; `false` when it broke.
    fn copy(
        &self,
        body: &mut Body,
        partial: &mut Partial,
        progress: &mut dyn Progress,
    ) -> Result<bool, StoreError> {
        let mut block = vec![0; BLOCK_BYTES];
        let mut reader = body.as_reader();
        loop {
            match reader.read(&mut block) {
                Ok(0) => return Ok(true),
                Ok(count) => partial.write(&block[..count])?,
                Err(_) => return Ok(false),
            }
            progress.at(partial.bytes());
        }
    }

    fn authorized(&self, request: ureq::http::request::Builder) -> ureq::http::request::Builder {
        match &self.token {
            Some(token) => request.header(header::AUTHORIZATION, format!("Bearer {token}")),
            None => request,
        }
    }

    fn request(
        &self,
        what: &str,
        request: ureq::http::request::Builder,
    ) -> Result<ureq::http::Request<()>, HubError> {
        request.body(()).map_err(|error| HubError::Protocol {
            what: what.to_owned(),
            why: format!("cannot be asked for: {error}"),
        })
    }

    fn answer(
        &self,
        what: &str,
        answer: Result<Response<Body>, ureq::Error>,
    ) -> Result<Response<Body>, HubError> {
        let response = answer.map_err(|error| self.unreachable(&error))?;
        self.check_status(what, response.status().as_u16())?;
        Ok(response)
    }

    fn check_status(&self, what: &str, status: u16) -> Result<(), HubError> {
        let what = what.to_owned();
        match status {
            200..=299 => Ok(()),
            401 | 403 => Err(HubError::Refused { what, status }),
            404 => Err(HubError::NotFound { what }),
            _ => Err(HubError::Status { what, status }),
        }
    }

    fn unreachable(&self, error: &ureq::Error) -> HubError {
        HubError::Unreachable { host: self.host().to_owned(), why: error.to_string() }
    }

    /// Scheme, host and port of the endpoint.
    fn origin(&self) -> &str {
        let start = self.endpoint.find("://").map_or(0, |at| at + 3);
        let end = self.endpoint[start..].find('/').map_or(self.endpoint.len(), |at| start + at);
        &self.endpoint[..end]
    }
}

fn header_text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// Large files are stored apart; the answer then names the size of the file, not of itself.
fn bytes_of(response: &Response<Body>) -> Option<u64> {
    let headers = response.headers();
    let length = || header_text(headers, header::CONTENT_LENGTH.as_str());
    let direct = response.status().is_success();
    header_text(headers, "x-linked-size").or_else(|| length().filter(|_| direct))?.parse().ok()
}

/// The tag of a file that is stored apart is its sha256; other files have other tags.
fn sha256_in(headers: &HeaderMap) -> Option<String> {
    let tag = header_text(headers, "x-linked-etag").or_else(|| header_text(headers, "etag"))?;
    let tag = tag.trim_start_matches("W/").trim_matches('"');
    let is_hash = tag.len() == 64 && tag.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_hash.then(|| tag.to_ascii_lowercase())
}

/// `bytes 100-199/200` starts at 100.
fn range_start(range: &str) -> Option<u64> {
    range.strip_prefix("bytes ")?.split('-').next()?.parse().ok()
}

/// A path in a URL; slashes stay.
fn encoded(path: &str) -> String {
    let mut text = String::with_capacity(path.len());
    for byte in path.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte) {
            text.push(char::from(byte));
        } else {
            text.push_str(&format!("%{byte:02X}"));
        }
    }
    text
}

/// Graviola panics without these; its README lists them.
pub(crate) fn missing_for_tls() -> Option<&'static str> {
    #[cfg(target_arch = "x86_64")]
    let fine = is_x86_feature_detected!("aes")
        && is_x86_feature_detected!("ssse3")
        && is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("adx")
        && is_x86_feature_detected!("bmi2")
        && is_x86_feature_detected!("pclmulqdq");
    #[cfg(target_arch = "aarch64")]
    let fine = std::arch::is_aarch64_feature_detected!("aes")
        && std::arch::is_aarch64_feature_detected!("sha2")
        && std::arch::is_aarch64_feature_detected!("pmull");
    if fine {
        return None;
    }
    Some(if cfg!(target_arch = "x86_64") {
        "aes, ssse3, avx2, adx, bmi2, pclmulqdq"
    } else {
        "aes, sha2, pmull"
    })
}
