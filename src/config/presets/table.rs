//! The providers and their models, a row each.

use super::{Api, Model, Preset};

const fn model(name: &'static str, dimensions: usize, input_tokens: usize) -> Model {
    Model { name, dimensions, shrinks: false, input_tokens, request_tokens: 0, price: None }
}

impl Model {
    const fn shrinks(self) -> Self {
        Self { shrinks: true, ..self }
    }

    const fn a_request(self, request_tokens: usize) -> Self {
        Self { request_tokens, ..self }
    }

    const fn costs(self, price: f64) -> Self {
        Self { price: Some(price), ..self }
    }
}

// Prices in USD, not read off the providers' pages of today: Voyage's and Cohere's from catalogues of prices of 2025 and
// 2026, Mistral's from opencode.ai/data, OpenAI's as commonly stated. Voyage's limits of a request are those of MongoDB's
// description of its API. What Jina, Mistral and Ollama take in a request (texts, tokens) is a careful guess: a request
// that is too large is split. Check what matters; `embedder.price_per_million_tokens` and the limits win over a row.
const OPENAI: &[Model] = &[
    model("text-embedding-3-small", 1_536, 8_192).shrinks().costs(0.02),
    model("text-embedding-3-large", 3_072, 8_192).shrinks().costs(0.13),
    model("text-embedding-ada-002", 1_536, 8_192).costs(0.10),
];
const VOYAGE: &[Model] = &[
    model("voyage-4-large", 1_024, 32_000).shrinks().a_request(120_000).costs(0.12),
    model("voyage-4", 1_024, 32_000).shrinks().a_request(320_000).costs(0.06),
    model("voyage-4-lite", 1_024, 32_000).shrinks().a_request(1_000_000).costs(0.02),
    model("voyage-3.5", 1_024, 32_000).shrinks().a_request(320_000).costs(0.06),
    model("voyage-3.5-lite", 1_024, 32_000).shrinks().a_request(1_000_000).costs(0.02),
    model("voyage-3-large", 1_024, 32_000).shrinks().costs(0.18),
    model("voyage-code-3", 1_024, 32_000).shrinks().costs(0.18),
    model("voyage-finance-2", 1_024, 32_000).costs(0.12),
    model("voyage-law-2", 1_024, 16_000).costs(0.12),
];
const COHERE: &[Model] = &[
    model("embed-v4.0", 1_536, 128_000).shrinks().costs(0.12),
    model("embed-english-v3.0", 1_024, 512),
    model("embed-multilingual-v3.0", 1_024, 512),
    model("embed-english-light-v3.0", 384, 512),
    model("embed-multilingual-light-v3.0", 384, 512),
];
const JINA: &[Model] = &[
    model("jina-embeddings-v3", 1_024, 8_192).shrinks(),
    model("jina-embeddings-v4", 2_048, 32_768).shrinks(),
    model("jina-embeddings-v2-base-en", 768, 8_192),
];
const MISTRAL: &[Model] = &[model("mistral-embed", 1_024, 8_000).costs(0.10)];
/// Ollama cuts longer texts without a word, so these are what the models were made for.
const OLLAMA: &[Model] = &[
    model("nomic-embed-text", 768, 2_048),
    model("mxbai-embed-large", 1_024, 512),
    model("all-minilm", 384, 256),
    model("bge-m3", 1_024, 8_192),
];

const fn server(name: &'static str, base64: bool, base_url: &'static str, models: &'static [Model]) -> Preset {
    Preset {
        name,
        api: Api::Openai { base64 },
        base_url,
        key_variables: &[],
        needs_key: false,
        inputs: 2_048,
        input_tokens: 8_000,
        request_tokens: 300_000,
        models,
    }
}

impl Preset {
    const fn key(self, key_variables: &'static [&'static str], needs_key: bool) -> Self {
        Self { key_variables, needs_key, ..self }
    }

    const fn api(self, api: Api) -> Self {
        Self { api, ..self }
    }

    const fn limits(self, inputs: usize, input_tokens: usize, request_tokens: usize) -> Self {
        Self { inputs, input_tokens, request_tokens, ..self }
    }
}

pub const PRESETS: &[Preset] = &[
    server("openai", true, "https://api.openai.com/v1", OPENAI).key(&["OPENAI_API_KEY"], true),
    server("azure", true, "", OPENAI).api(Api::Azure).key(&["AZURE_OPENAI_API_KEY"], true),
    server("voyage", true, "https://api.voyageai.com/v1", VOYAGE)
        .api(Api::Voyage)
        .key(&["VOYAGE_API_KEY"], true)
        .limits(1_000, 32_000, 120_000),
    server("cohere", false, "https://api.cohere.com/v2", COHERE)
        .api(Api::Cohere)
        .key(&["COHERE_API_KEY", "CO_API_KEY"], true)
        .limits(96, 512, 0),
    server("jina", true, "https://api.jina.ai/v1", JINA)
        .api(Api::Jina)
        .key(&["JINA_API_KEY"], true)
        .limits(512, 8_192, 0),
    server("mistral", false, "https://api.mistral.ai/v1", MISTRAL)
        .key(&["MISTRAL_API_KEY"], true)
        .limits(128, 8_000, 16_000),
    server("ollama", false, "http://localhost:11434/v1", OLLAMA).limits(512, 2_048, 0),
    // As long as /info hasn't been read; nothing is sent before that.
    server("tei", true, "http://localhost:8080/v1", &[]).api(Api::Tei).limits(32, 0, 16_384),
    server("vllm", true, "http://localhost:8000/v1", &[]).key(&["VLLM_API_KEY"], false),
    server("localai", false, "http://localhost:8080/v1", &[]).key(&["LOCALAI_API_KEY"], false),
    server("litellm", false, "http://localhost:4000/v1", OPENAI).key(&["LITELLM_API_KEY"], false),
];

/// What stands for a preset without one: a server of which only the shape of its API is known.
pub(super) const UNNAMED: Preset = server("openai", false, "", OPENAI).key(&["OPENAI_API_KEY"], false);
