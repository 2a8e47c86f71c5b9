//! The embedded model `minilm-static-256-i8` as bytes: a static token table trained to agree with
//! all-MiniLM-L6-v2. NOTICE beside this crate says how it was made, SHA256SUMS what it must be.

/// `{"normalize": true}`: what Model2Vec calls the configuration.
pub static CONFIG: &[u8] = include_bytes!("../config.json");
/// The WordPiece tokenizer of the teacher, unmodified.
pub static TOKENIZER: &[u8] = include_bytes!("../tokenizer.json");
/// `embeddings` int8 `[30522, 256]` and `weights` f32 `[30522]`, the scale of each row.
pub static WEIGHTS: &[u8] = include_bytes!("../model.safetensors");
/// The first eight hex digits of the SHA-256 of [`WEIGHTS`]; part of the model's id.
pub const REVISION: &str = "7dfaf784";
