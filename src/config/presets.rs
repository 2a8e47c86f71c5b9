//! What is known of embedding providers and their models, as data: `embedder.preset` takes from here what the other
//! settings leave open.

mod table;

pub use self::table::PRESETS;
use self::table::UNNAMED;
use super::SettingsError;
use super::embedder::{EmbedderSettings, Provider};

/// How a provider wants to be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Api {
    /// `POST …/embeddings` as OpenAI documents it; `base64` where vectors may be asked for in that form.
    Openai { base64: bool },
    /// The same below a deployment's address, with the key in the header `api-key`.
    Azure,
    /// The same with `input_type`, `output_dimension` and `truncation`.
    Voyage,
    /// The same with `task`, `embedding_type` and `truncate`.
    Jina,
    /// The same, and `GET /info` tells the limits.
    Tei,
    /// `POST …/embed` with `texts`; its answer has no indexes.
    Cohere,
}

/// A provider. A limit of 0 is unknown, and nothing is held to it.
pub struct Preset {
    pub name: &'static str,
    pub api: Api,
    /// Empty where each customer has an address of their own.
    base_url: &'static str,
    /// Environment variables with the key, the first that is set.
    pub key_variables: &'static [&'static str],
    /// Without a key every call is refused.
    pub needs_key: bool,
    /// Texts in a request.
    inputs: usize,
    /// Tokens of a text, for models that aren't listed.
    input_tokens: usize,
    /// Tokens of a request.
    request_tokens: usize,
    models: &'static [Model],
}

/// A model of a provider.
pub struct Model {
    pub name: &'static str,
    dimensions: usize,
    /// Fewer dimensions can be asked for.
    shrinks: bool,
    /// Tokens of a text.
    input_tokens: usize,
    /// Tokens of a request where they differ from the provider's; 0 where not.
    request_tokens: usize,
    /// USD per million tokens.
    price: Option<f64>,
}

/// The version of Azure's API that is asked for unless `embedder.base_url` names another.
const AZURE_VERSION: &str = "2024-10-21";

fn refuse<T>(key: &'static str, problem: impl Into<String>) -> Result<T, SettingsError> {
    Err(SettingsError::Invalid { key, problem: problem.into() })
}

/// The provider that `embedder.preset` names, or what stands for none.
pub fn of(settings: &EmbedderSettings) -> Result<&'static Preset, SettingsError> {
    let name = settings.preset.split(':').next().unwrap_or_default();
    if name.is_empty() {
        return Ok(&UNNAMED);
    }
    PRESETS.iter().find(|preset| preset.name == name).map_or_else(
        || {
            let names = PRESETS.iter().map(|preset| preset.name).collect::<Vec<_>>().join(", ");
            refuse("embedder.preset", format!("there is no {name:?}; there are {names}, each followed by :MODEL"))
        },
        Ok,
    )
}

/// What `settings` come to with the preset's values in place of what they leave open. Resolving twice changes
/// nothing.
///
/// # Errors
/// [`SettingsError::Invalid`] with the key that must be set or changed.
pub fn resolve(settings: &EmbedderSettings) -> Result<EmbedderSettings, SettingsError> {
    let preset = of(settings)?;
    let mut settings = settings.clone();
    if settings.preset.is_empty() && settings.provider == Provider::Local {
        return Ok(settings);
    }
    settings.provider = Provider::Openai;
    let named = settings.preset.split_once(':').map(|(_, model)| model.to_owned()).unwrap_or_default();
    if settings.model.is_empty() {
        settings.model.clone_from(&named);
    }
    locate(&mut settings, preset, &named)?;
    if settings.model.is_empty() {
        return refuse_model(&settings, preset);
    }
    let known = known(&settings, preset);
    measure(&mut settings, preset, known);
    if settings.dimensions == 0 {
        return refuse("embedder.dimensions", format!("must say how many dimensions {} has", settings.model));
    }
    Ok(settings)
}

fn refuse_model<T>(settings: &EmbedderSettings, preset: &Preset) -> Result<T, SettingsError> {
    if settings.preset.is_empty() {
        return refuse("embedder.model", "is needed for embedder.provider = \"openai\"");
    }
    let example = preset.models.first().map_or("MODEL", |model| model.name);
    refuse("embedder.preset", format!("{0} needs a model, such as {0}:{example}", preset.name))
}

/// Fills in `base_url`.
fn locate(settings: &mut EmbedderSettings, preset: &Preset, deployment: &str) -> Result<(), SettingsError> {
    if settings.base_url.is_empty() {
        preset.base_url.clone_into(&mut settings.base_url);
    }
    if settings.base_url.is_empty() {
        let problem = match preset.api {
            Api::Azure => "must name the resource, such as https://NAME.openai.azure.com",
            _ => "is needed for embedder.provider = \"openai\"",
        };
        return refuse("embedder.base_url", problem);
    }
    if preset.api == Api::Azure {
        if deployment.is_empty() && !settings.base_url.contains("/deployments/") {
            return refuse("embedder.preset", "azure needs the deployment's name: azure:DEPLOYMENT");
        }
        settings.base_url = azure_url(&settings.base_url, deployment);
    }
    Ok(())
}

/// The address of a deployment, without the `/embeddings` at its end.
fn azure_url(base_url: &str, deployment: &str) -> String {
    let (path, query) = base_url.split_once('?').unwrap_or((base_url, ""));
    let path = path.trim_end_matches('/');
    let path = match path.contains("/deployments/") {
        true => path.to_owned(),
        false => format!("{}/openai/deployments/{deployment}", path.trim_end_matches("/openai")),
    };
    match query {
        "" => format!("{path}?api-version={AZURE_VERSION}"),
        query => format!("{path}?{query}"),
    }
}

/// The model's row, its vendor and its tag left aside: `openai/text-embedding-3-small`, `nomic-embed-text:latest`.
fn known(settings: &EmbedderSettings, preset: &Preset) -> Option<&'static Model> {
    let name = settings.model.rsplit('/').next().unwrap_or_default();
    let bare = name.split(':').next().unwrap_or_default();
    preset.models.iter().find(|model| model.name == name || model.name == bare)
}

/// Fills in dimensions, limits and price.
fn measure(settings: &mut EmbedderSettings, preset: &Preset, known: Option<&Model>) {
    let fill = |value: &mut usize, with: usize| {
        if *value == 0 {
            *value = with;
        }
    };
    // Only a preset may: a dimension that nobody stated would be a guess about a server that nobody named.
    if !settings.preset.is_empty() {
        fill(&mut settings.dimensions, known.map_or(0, |model| model.dimensions));
    }
    fill(&mut settings.max_inputs, preset.inputs);
    // A server without a name keeps the limit that was measured in bytes before there were presets.
    let named = known.filter(|_| !settings.preset.is_empty());
    fill(&mut settings.max_input_tokens, named.map_or(preset.input_tokens, |model| model.input_tokens));
    let a_request = named.map_or(0, |model| model.request_tokens);
    fill(&mut settings.max_request_tokens, if a_request == 0 { preset.request_tokens } else { a_request });
    if settings.price_per_million_tokens == 0.0 {
        settings.price_per_million_tokens = named.and_then(|model| model.price).unwrap_or_default();
    }
}

/// Whether the model of resolved `settings` must be told how many dimensions are wanted; those that have but one
/// size refuse the parameter.
pub fn asks_for_dimensions(settings: &EmbedderSettings) -> bool {
    of(settings).ok().and_then(|preset| known(settings, preset)).is_some_and(|model| model.shrinks)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Settings;

    fn resolved(pairs: &[(&str, &str)]) -> Result<EmbedderSettings, String> {
        let pairs = pairs.iter().map(|(key, value)| {
            let name = if key.ends_with("_API_KEY") { (*key).into() } else { format!("MAPX__EMBEDDER__{key}") };
            (name, (*value).to_owned())
        });
        Settings::load(None, pairs).map(|settings| settings.embedder).map_err(|error| error.to_string())
    }

    #[test]
    fn a_preset_and_a_key_are_enough() {
        let small = resolved(&[("PRESET", "openai:text-embedding-3-small"), ("OPENAI_API_KEY", "sk-1")]).unwrap();
        assert_eq!(
            (small.base_url.as_str(), small.model.as_str()),
            ("https://api.openai.com/v1", "text-embedding-3-small")
        );
        assert_eq!((small.provider, small.dimensions, small.api_key.expose()), (Provider::Openai, 1_536, "sk-1"));
        assert_eq!((small.max_inputs, small.max_input_tokens, small.max_request_tokens), (2_048, 8_192, 300_000));
        assert_eq!(small.price_per_million_tokens, 0.02);
        let voyage = resolved(&[("PRESET", "voyage:voyage-3.5"), ("VOYAGE_API_KEY", "pa-1")]).unwrap();
        assert_eq!(
            (voyage.max_inputs, voyage.max_input_tokens, voyage.max_request_tokens),
            (1_000, 32_000, 320_000)
        );
        let ollama = resolved(&[("PRESET", "ollama:nomic-embed-text:latest"), ("OPENAI_API_KEY", "sk-1")]).unwrap();
        assert_eq!((ollama.model.as_str(), ollama.dimensions), ("nomic-embed-text:latest", 768));
        assert!(ollama.api_key.is_empty(), "OpenAI's key is for OpenAI");
    }

    #[test]
    fn what_is_set_wins_over_the_preset() {
        let own = resolved(&[
            ("PRESET", "cohere:embed-v4.0"),
            ("BASE_URL", "http://gateway/v2"),
            ("MODEL", "embed-english-v3.0"),
            ("DIMENSIONS", "256"),
            ("API_KEY", "k"),
            ("MAX_INPUTS", "7"),
            ("MAX_INPUT_TOKENS", "99"),
            ("MAX_REQUEST_TOKENS", "999"),
            ("PRICE_PER_MILLION_TOKENS", "0.5"),
        ])
        .unwrap();
        assert_eq!((own.base_url.as_str(), own.model.as_str()), ("http://gateway/v2", "embed-english-v3.0"));
        assert_eq!((own.dimensions, own.max_inputs, own.max_input_tokens), (256, 7, 99));
        assert_eq!((own.max_request_tokens, own.price_per_million_tokens), (999, 0.5));
        assert_eq!(resolve(&own).unwrap(), own, "resolving twice changes nothing");
    }

    #[test]
    fn what_a_preset_lacks_is_named() {
        let problem = |pairs: &[(&str, &str)]| resolved(pairs).unwrap_err();
        let unknown = problem(&[("PRESET", "opeanai:x")]);
        assert!(
            unknown.starts_with("embedder.preset: there is no \"opeanai\"; there are openai, azure, "),
            "{unknown}"
        );
        assert_eq!(
            problem(&[("PRESET", "openai")]),
            "embedder.preset: openai needs a model, such as openai:text-embedding-3-small"
        );
        assert!(
            problem(&[("PRESET", "tei:BAAI/bge-m3")])
                .starts_with("embedder.dimensions: must say how many dimensions BAAI")
        );
        let key = problem(&[("PRESET", "mistral:mistral-embed"), ("OPENAI_API_KEY", "sk-1")]);
        assert_eq!(
            key,
            "embedder.api_key: is empty and MISTRAL_API_KEY isn't set; mistral answers nobody without a key"
        );
        let azure = [("PRESET", "azure:mine"), ("AZURE_OPENAI_API_KEY", "k"), ("DIMENSIONS", "8")];
        assert!(problem(&azure).starts_with("embedder.base_url: must name the resource"));
    }

    #[test]
    fn azure_is_asked_below_the_deployment() {
        let url = |base: &str| azure_url(base, "mine");
        let expected = "https://n.openai.azure.com/openai/deployments/mine?api-version=2024-10-21";
        for base in
            ["https://n.openai.azure.com", "https://n.openai.azure.com/", "https://n.openai.azure.com/openai/"]
        {
            assert_eq!(url(base), expected);
        }
        assert_eq!(url(expected), expected);
        let other = "https://gateway/openai/deployments/other?api-version=1";
        assert_eq!(url(other), other);
    }

    #[test]
    fn only_models_of_several_sizes_are_told_which() {
        let asks = |preset: &str, model: &str| {
            let settings =
                EmbedderSettings { preset: preset.into(), model: model.into(), ..EmbedderSettings::default() };
            asks_for_dimensions(&settings)
        };
        for (preset, model, expected) in [
            ("", "text-embedding-3-small", true),
            ("", "openai/text-embedding-3-large", true),
            ("", "text-embedding-ada-002", false),
            ("", "nomic-embed-text", false),
            ("voyage:voyage-3.5", "voyage-3.5", true),
            ("cohere:embed-english-v3.0", "embed-english-v3.0", false),
        ] {
            assert_eq!(asks(preset, model), expected, "{model}");
        }
    }

    #[test]
    fn names_are_those_of_one_preset_each() {
        let mut names: Vec<_> = PRESETS.iter().map(|preset| preset.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), PRESETS.len());
    }
}
