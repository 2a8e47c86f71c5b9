//! A list of words: a list in a file, words with commas between them in an environment variable.

use serde::{Deserialize, Serialize};

/// Trimmed words, none of them empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Written")]
pub struct Words(Vec<String>);

#[derive(Deserialize)]
#[serde(untagged)]
enum Written {
    List(Vec<String>),
    Text(String),
}

impl From<Written> for Words {
    fn from(written: Written) -> Self {
        match written {
            Written::List(words) => Self::new(words.iter().map(String::as_str)),
            Written::Text(text) => Self::new(text.split(',')),
        }
    }
}

impl Words {
    pub fn new<'w>(words: impl IntoIterator<Item = &'w str>) -> Self {
        let words = words.into_iter().map(str::trim).filter(|word| !word.is_empty());
        Self(words.map(str::to_owned).collect())
    }

    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
