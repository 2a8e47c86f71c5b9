//! What text-embeddings-inference tells of itself: `GET /info`.

use reqwest::StatusCode;
use serde::Deserialize;

use super::{EmbedError, RemoteEmbedder, failure, read};
use crate::embedder::Limits;

/// Where a server tells no limits, as behind a gateway that hides `/info`: what its models mostly take.
const UNTOLD_INPUT_TOKENS: usize = 512;
/// The answer has some twenty short fields.
const MAX_INFO_BYTES: usize = 64 * 1024;

#[derive(Deserialize)]
struct Info {
    model_id: String,
    max_input_length: usize,
    max_batch_tokens: usize,
    max_client_batch_size: usize,
}

impl RemoteEmbedder {
    /// Reads the server's limits, once. A limit of the settings stays.
    ///
    /// # Errors
    /// When the server is away, as any call's; [`EmbedError::Misconfigured`] when it serves another model.
    pub(super) async fn learn(&self) -> Result<(), EmbedError> {
        self.learnt.get_or_try_init(|| self.ask_info()).await.map(|limits| self.set_limits(*limits))
    }

    async fn ask_info(&self) -> Result<Limits, EmbedError> {
        let transport = |error| failure::of_transport(error, self.timeout, &self.blot);
        let mut response = self.client.get(self.info.clone()).send().await.map_err(transport)?;
        let status = response.status();
        let mut body = Vec::new();
        let whole = read(&mut response, MAX_INFO_BYTES, self.timeout, &self.blot, &mut body).await;
        let untold = Limits { max_input_tokens: UNTOLD_INPUT_TOKENS, ..self.limits_in_force() };
        if matches!(status, StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED) {
            return Ok(self.kept(untold));
        }
        if !status.is_success() {
            return Err(failure::of_status(status, response.headers(), &body, 0, &self.blot));
        }
        whole?;
        let Ok(info) = serde_json::from_slice::<Info>(&body) else { return Ok(self.kept(untold)) };
        self.same_model(&info.model_id)?;
        // A server waits for ever for a batch that has room for a text beyond max_batch_tokens
        // (huggingface/text-embeddings-inference#723).
        let input = info.max_input_length.min(info.max_batch_tokens);
        let told = Limits {
            max_inputs: info.max_client_batch_size.max(1),
            max_input_tokens: input.max(1),
            max_call_tokens: info.max_batch_tokens.max(1),
            ..untold
        };
        let Limits { max_inputs, max_input_tokens, max_call_tokens, .. } = told;
        tracing::info!(max_inputs, max_input_tokens, max_call_tokens, "the provider told its limits");
        Ok(self.kept(told))
    }

    /// What the settings say of a limit stands, whatever the server tells.
    fn kept(&self, told: Limits) -> Limits {
        let or = |own: Option<usize>, told: usize| own.unwrap_or(told);
        Limits {
            max_inputs: or(self.fixed.max_inputs, told.max_inputs),
            max_input_tokens: or(self.fixed.max_input_tokens, told.max_input_tokens),
            max_call_tokens: or(self.fixed.max_call_tokens, told.max_call_tokens),
            ..told
        }
    }

    /// Vectors of two models never mix. A path is how a server names a model from its own disk.
    fn same_model(&self, served: &str) -> Result<(), EmbedError> {
        if served == self.shape.model || served.starts_with(['/', '.']) {
            return Ok(());
        }
        let (served, model) = (self.blot.quote(served), &self.shape.model);
        Err(EmbedError::Misconfigured(format!("the provider serves {served}, embedder.model says {model}")))
    }
}
