//! The embedder that needs no server: a static token table (Model2Vec) on the CPU.

use std::io;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use model2vec_rs::model::StaticModel;
use sha2::{Digest, Sha256};

use super::{Answer, EmbedError, Embedder, Limits, Purpose, UNMEASURED_THRESHOLD, Unembeddable, panic_message};
use crate::domain::embedding::{Embedding, InvalidEmbedding};

/// The files of a Model2Vec directory.
const CONFIG: &str = "config.json";
const TOKENIZER: &str = "tokenizer.json";
const WEIGHTS: &str = "model.safetensors";

/// Measured on the sample with 46 judged queries (`tests/it/calibration.rs` prints the table): keeps 94 % of
/// the answers and drops 96 % of everything else. The model's cosines are centred (random pairs average 0.00,
/// 99 % of them lie under 0.26), so the 0.7 of another model would hide every answer.
const BUILTIN_THRESHOLD: f32 = 0.22;

/// A full call (8 MiB) takes about 200 ms of one core.
const LIMITS: Limits = Limits {
    max_inputs: 1_024,
    max_input_tokens: 8 * 1_024,
    max_call_tokens: 8 * 1_024 * 1_024,
    worthwhile_inputs: 64,
};

/// Why a model can't be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error("the directory {} does not exist", .0.display())]
    NoDirectory(PathBuf),
    #[error("the directory {} has no {file}; a Model2Vec directory holds {CONFIG}, {TOKENIZER} and {WEIGHTS}", dir.display())]
    Missing { dir: PathBuf, file: &'static str },
    #[error("{file} in the directory {} can't be read: {source}", dir.display())]
    Unreadable { dir: PathBuf, file: &'static str, source: io::Error },
    #[error("{name} holds no Model2Vec model: {reason}")]
    Invalid { name: String, reason: String },
}

/// A Model2Vec model in memory.
pub struct LocalEmbedder {
    model: StaticModel,
    id: String,
    threshold: f32,
}

impl LocalEmbedder {
    /// The model inside the binary.
    pub fn builtin() -> Result<Self, LoadError> {
        use minilm_static_256_i8::{CONFIG, REVISION, TOKENIZER, WEIGHTS};
        let name = "minilm-static-256-i8";
        let model = load(name, TOKENIZER, WEIGHTS, CONFIG)?;
        Ok(Self { model, id: format!("{name}@{REVISION}"), threshold: BUILTIN_THRESHOLD })
    }

    /// The model in a Model2Vec directory; its id is the directory's name, `@` and the first eight hex digits
    /// of the SHA-256 of its weights.
    pub fn from_dir(dir: impl AsRef<Path>) -> Result<Self, LoadError> {
        let dir = dir.as_ref();
        // Canonical, so that `.` and `models/x/` have a name too.
        let resolved = dir.canonicalize().map_err(|_| LoadError::NoDirectory(dir.to_owned()))?;
        let config = read(dir, CONFIG)?;
        let tokenizer = read(dir, TOKENIZER)?;
        let weights = read(dir, WEIGHTS)?;
        let model = load(&format!("the directory {}", dir.display()), &tokenizer, &weights, &config)?;
        let name = resolved.file_name().unwrap_or_default().to_string_lossy();
        Ok(Self { model, id: format!("{name}@{}", revision(&weights)), threshold: UNMEASURED_THRESHOLD })
    }

    /// Replaces the model's own threshold, if one is given.
    pub fn with_threshold(mut self, threshold: Option<f32>) -> Self {
        self.threshold = threshold.unwrap_or(self.threshold);
        self
    }
}

fn read(dir: &Path, file: &'static str) -> Result<Vec<u8>, LoadError> {
    std::fs::read(dir.join(file)).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => LoadError::Missing { dir: dir.to_owned(), file },
        _ => LoadError::Unreadable { dir: dir.to_owned(), file, source },
    })
}

fn load(name: &str, tokenizer: &[u8], weights: &[u8], config: &[u8]) -> Result<StaticModel, LoadError> {
    StaticModel::from_bytes(tokenizer, weights, config, None)
        .map_err(|error| LoadError::Invalid { name: name.to_owned(), reason: format!("{error:#}") })
}

fn revision(weights: &[u8]) -> String {
    Sha256::digest(weights).iter().take(4).map(|byte| format!("{byte:02x}")).collect()
}

#[async_trait]
impl Embedder for LocalEmbedder {
    fn model(&self) -> &str {
        &self.id
    }

    fn dimensions(&self) -> usize {
        self.model.dim()
    }

    fn limits(&self) -> Limits {
        LIMITS
    }

    fn is_paid(&self) -> bool {
        false
    }

    fn default_threshold(&self) -> f32 {
        self.threshold
    }

    /// Runs on tokio's blocking threads. A panic of the model is a [`EmbedError::Rejected`], so that the
    /// guilty text is found and the others get their vectors.
    async fn embed(&self, texts: &[String], _purpose: Purpose) -> Result<Answer, EmbedError> {
        let (model, texts) = (self.model.clone(), texts.to_vec());
        let answers = tokio::task::spawn_blocking(move || encode(&model, &texts)).await;
        answers.map(Answer::of).map_err(|error| match error.try_into_panic() {
            Ok(panic) => EmbedError::Rejected(format!("the model panicked: {}", panic_message(&*panic))),
            Err(_) => EmbedError::Transient("the process is shutting down".into()),
        })
    }
}

/// One answer a text. The library hands every chunk to rayon's global pool, which one long call would fill
/// while the queries of searches wait behind it; a chunk of one runs right here instead. So a call takes one
/// core, and who wants more cores makes more calls at once, as the workers do.
fn encode(model: &StaticModel, texts: &[String]) -> Vec<Result<Embedding, Unembeddable>> {
    // No limit of tokens: with one the library would cut the text in silence.
    let vectors = model.encode_with_args(texts, None, 1);
    vectors.into_iter().map(|vector| embedding(vector, model.dim())).collect()
}

fn embedding(vector: Vec<f32>, dimensions: usize) -> Result<Embedding, Unembeddable> {
    Embedding::new(vector, dimensions).map_err(|error| {
        Unembeddable(match error {
            InvalidEmbedding::Zero => "no word of the text is known to the model".into(),
            other => format!("the model's vector {other}"),
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::embedder::batch::{DocumentError, embed_documents};
    use serde_json::json;

    /// A Model2Vec directory with the words `good`, `fine` and `poison`, the last of which is beyond the table
    /// of weights, so that the library panics.
    fn broken_model() -> tempfile::TempDir {
        let dir = tempfile::Builder::new().prefix("tiny-").tempdir().unwrap();
        let tokenizer = json!({
            "version": "1.0", "added_tokens": [], "post_processor": null, "decoder": null,
            "normalizer": {"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
                           "strip_accents": null, "lowercase": true},
            "pre_tokenizer": {"type": "BertPreTokenizer"},
            "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
                      "max_input_chars_per_word": 100, "vocab": {"[UNK]": 0, "good": 1, "fine": 2, "poison": 3}},
        });
        let table: Vec<f32> = vec![0.0, 0.0, 1.0, 0.0, 0.0, 1.0];
        let header = json!({"embeddings": {"dtype": "F32", "shape": [3, 2], "data_offsets": [0, 24]}}).to_string();
        let mut weights = (header.len() as u64).to_le_bytes().to_vec();
        weights.extend(header.as_bytes());
        weights.extend(table.iter().flat_map(|v| v.to_le_bytes()));
        std::fs::write(dir.path().join(CONFIG), r#"{"normalize": true}"#).unwrap();
        std::fs::write(dir.path().join(TOKENIZER), tokenizer.to_string()).unwrap();
        std::fs::write(dir.path().join(WEIGHTS), weights).unwrap();
        dir
    }

    #[test]
    fn the_builtin_model_knows_its_id_and_shape() {
        let model = LocalEmbedder::builtin().unwrap();
        assert_eq!(model.model(), "minilm-static-256-i8@7dfaf784");
        assert_eq!(revision(minilm_static_256_i8::WEIGHTS), minilm_static_256_i8::REVISION);
        assert_eq!((model.dimensions(), model.default_threshold()), (256, BUILTIN_THRESHOLD));
        assert_eq!(model.with_threshold(Some(0.4)).default_threshold(), 0.4);
    }

    #[test]
    fn a_directory_gives_name_and_revision() {
        let dir = broken_model();
        let model = LocalEmbedder::from_dir(dir.path()).unwrap();
        let name = dir.path().file_name().unwrap().to_str().unwrap();
        let digits = model.model().strip_prefix(&format!("{name}@")).unwrap();
        assert_eq!(digits.len(), 8);
        assert_eq!((model.dimensions(), model.default_threshold()), (2, 0.7));
    }

    #[test]
    fn what_a_directory_lacks_is_named() {
        let dir = broken_model();
        let shown = dir.path().display().to_string();
        let error = || LocalEmbedder::from_dir(dir.path()).err().unwrap().to_string();
        std::fs::write(dir.path().join(WEIGHTS), "no tensors").unwrap();
        assert!(error().contains(&shown) && error().contains("holds no Model2Vec model"), "{}", error());
        std::fs::remove_file(dir.path().join(WEIGHTS)).unwrap();
        assert!(error().contains(&format!("{shown} has no {WEIGHTS}")), "{}", error());
        let nowhere = LocalEmbedder::from_dir(dir.path().join("nowhere")).err().unwrap();
        assert!(nowhere.to_string().contains("nowhere does not exist"), "{nowhere}");
    }

    #[tokio::test]
    async fn a_panic_costs_only_the_text_that_caused_it() {
        let dir = broken_model();
        let model = LocalEmbedder::from_dir(dir.path()).unwrap();
        let texts: Vec<String> = ["good", "fine good", "poison", "fine"].map(String::from).into();
        let whole = model.embed(&texts, Purpose::Document).await.unwrap_err();
        assert!(matches!(&whole, EmbedError::Rejected(why) if why.starts_with("the model panicked: ")), "{whole}");
        let answers = embed_documents(&model, &texts).await;
        assert_eq!(answers.iter().map(Result::is_ok).collect::<Vec<_>>(), [true, true, false, true]);
        assert!(matches!(&answers[2], Err(DocumentError::Unembeddable(why)) if why.0.contains("panicked")));
    }
}
