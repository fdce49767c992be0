//! `--callback-url`: telling whoever started a worker that it answers.
use crate::args::ServeArguments;
use crate::store::missing_for_tls;
use anyhow::bail;
use serde_json::{Value, json};
use server::Served;
use std::sync::Arc;
use std::time::Duration;
use ureq::tls::TlsConfig;

/// How often it is tried, and how long each time may take.
const TRIES: u32 = 5;
const TRY_TIME_MAX: Duration = Duration::from_secs(5);
/// Before the second time; each pause is twice the one before.
const PAUSE: Duration = Duration::from_millis(200);

/// What is to be told, and to whom.
#[derive(Debug)]
pub(crate) struct Callback {
    url: String,
    worker_id: String,
    model_ref: String,
    uri: Option<String>,
}

impl Callback {
    /// None when nobody wants to be told.
    pub(crate) fn new(arguments: &ServeArguments) -> anyhow::Result<Option<Self>> {
        let Some(url) = arguments.callback_url.clone() else { return Ok(None) };
        if !["http://", "https://"].iter().any(|scheme| url.starts_with(scheme)) {
            bail!("--callback-url {url}: expected http://... or https://...");
        }
        if url.starts_with("https:")
            && let Some(missing) = missing_for_tls()
        {
            bail!("--callback-url {url}: TLS cannot be had on this processor: it lacks {missing}");
        }
        let drawn = || format!("{:016x}", server::drawn());
        Ok(Some(Self {
            url,
            worker_id: arguments.worker_id.clone().unwrap_or_else(drawn),
            model_ref: arguments.model_ref.clone().unwrap_or_else(|| arguments.model.model.clone()),
            uri: arguments.uri.clone(),
        }))
    }

    /// POSTs it. What the other side does not take is not tried again; what does not reach it is.
    #[expect(clippy::disallowed_methods, reason = "the other side is given time to come up")]
    pub(crate) fn deliver(&self, address: &str, served: &Served) -> Result<(), String> {
        let body = self.body(address, served).to_string();
        let tls = TlsConfig::builder()
            .unversioned_rustls_crypto_provider(Arc::new(rustls_graviola::default_provider()))
            .build();
        let agent = ureq::Agent::config_builder()
            .tls_config(tls)
            .http_status_as_error(false)
            .timeout_global(Some(TRY_TIME_MAX))
            .build()
            .new_agent();
        let mut why = String::new();
        for number in 0..TRIES {
            if number > 0 {
                std::thread::sleep(PAUSE * (1 << (number - 1)));
            }
            let request = agent.post(&self.url).content_type("application/json");
            match request.send(&body) {
                Ok(answer) if answer.status().is_success() => return Ok(()),
                Ok(answer) => why = format!("it answered {}", answer.status()),
                Err(error) => why = error.to_string(),
            }
            tracing::warn!(why, "the ready callback was not delivered");
        }
        Err(format!("the ready callback to {} was tried {TRIES} times: {why}", self.url))
    }

    fn body(&self, address: &str, served: &Served) -> Value {
        let facts = &served.facts;
        json!({
            "worker_id": self.worker_id,
            "model_ref": self.model_ref,
            "memory_bytes": facts.memory_bytes,
            "memory_architecture": served.memory_architecture(),
            "uri": self.uri.as_deref().unwrap_or(address),
            "worker_type": facts.device.kind.name(),
            "capabilities": served.capabilities(),
        })
    }
}
