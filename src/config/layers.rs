//! Merges the layers key by key. Each layer's keys are brought to the names of `default.toml` first, so
//! that MapX's camelCase, which names the same thing, replaces a default instead of standing beside it.

use std::collections::HashMap;
use std::path::Path;

use config::{Config, Environment, File, FileFormat, Map, Source, Value, ValueKind};

use super::{DEFAULTS, SettingsError};

/// MapX's names that differ by more than their case.
const RENAMED: &[(&str, &str)] = &[("queue.retrydelay", "queue.retry_delay_ms")];

/// A table with names of the user's, HTTP headers: their case doesn't count, and environment variables, which hold no
/// dashes, have underscores for them.
const OPEN: &str = "embedder.headers.";

/// Defaults, then `file`, then the variables `MAPX__SECTION__KEY` of `environment`.
pub(super) fn merge(file: Option<&Path>, environment: &HashMap<String, String>) -> Result<Config, SettingsError> {
    let defaults = flatten(File::from_str(DEFAULTS, FileFormat::Toml).collect()?);
    let known: Vec<String> = defaults.iter().map(|(key, _)| key.clone()).collect();
    let mut builder = Config::builder().add_source(Layer(defaults.into_iter().collect()));
    if let Some(path) = file {
        // Not the crate's own search for a matching extension: the file that was named, or an error.
        let layer = named(flatten(File::from(path).format(FileFormat::Toml).collect()?), &known)?;
        builder = builder.add_source(layer);
    }
    // Values stay text until their type is known: "007" is a fine API key and no number.
    let variables = Environment::with_prefix("MAPX").prefix_separator("__").separator("__");
    let layer = named(flatten(variables.source(Some(environment.clone())).collect()?), &known)?;
    Ok(builder.add_source(layer).build()?)
}

/// A layer whose keys are dotted paths.
#[derive(Clone, Debug)]
struct Layer(Map<String, Value>);

impl Source for Layer {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<Map<String, Value>, config::ConfigError> {
        Ok(self.0.clone())
    }
}

/// Every scalar of a tree with its dotted path.
fn flatten(table: Map<String, Value>) -> Vec<(String, Value)> {
    let mut flat = Vec::new();
    for (key, value) in table {
        match value.kind {
            ValueKind::Table(inner) => {
                flat.extend(flatten(inner).into_iter().map(|(rest, value)| (format!("{key}.{rest}"), value)));
            }
            _ => flat.push((key, value)),
        }
    }
    flat
}

/// The layer under the names of `known`, or an error that names the first key that isn't one.
fn named(flat: Vec<(String, Value)>, known: &[String]) -> Result<Layer, SettingsError> {
    let mut layer = Map::new();
    for (key, value) in flat {
        let Some(name) = canonical(&key, known) else {
            let origin = value.origin().unwrap_or("the configuration").to_owned();
            return Err(SettingsError::UnknownKey { hint: hint(&key, known), key, origin });
        };
        layer.insert(name, value);
    }
    Ok(Layer(layer))
}

/// `maxConcurrent`, `MAXCONCURRENT` and `max_concurrent` are one key.
fn canonical(key: &str, known: &[String]) -> Option<String> {
    let lower = key.to_lowercase();
    if let Some(name) = lower.strip_prefix(OPEN).filter(|name| !name.is_empty()) {
        return Some(format!("{OPEN}{}", name.replace('_', "-")));
    }
    let plain = plain(key);
    let renamed = RENAMED.iter().find(|(from, _)| *from == plain).map(|(_, to)| (*to).to_owned());
    renamed.or_else(|| known.iter().find(|name| self::plain(name) == plain).cloned())
}

pub(super) fn plain(key: &str) -> String {
    key.replace('_', "").to_lowercase()
}

/// `; did you mean queue.max_concurrent?` for the known key with the most letters in common at both ends.
fn hint(key: &str, known: &[String]) -> String {
    let (key, shared) = (plain(key), |a: &str, b: &str| {
        let front = a.chars().zip(b.chars()).take_while(|(x, y)| x == y).count();
        let back = a.chars().rev().zip(b.chars().rev()).take_while(|(x, y)| x == y).count();
        front + back
    });
    let best = known.iter().max_by_key(|name| shared(&key, &plain(name)));
    match best.filter(|name| shared(&key, &plain(name)) * 10 >= key.len() * 7) {
        Some(name) => format!("; did you mean {name}?"),
        None => "; `mapx-embeddings config --defaults` lists the keys".to_owned(),
    }
}
