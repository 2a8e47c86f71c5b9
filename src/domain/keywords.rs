//! The words of a query that a keyword search should look for.

/// English words that stand in nearly every text, and so tell nothing apart.
const STOP_WORDS: &[&str] = &[
    "a",
    "about",
    "after",
    "all",
    "am",
    "an",
    "and",
    "any",
    "are",
    "as",
    "at",
    "be",
    "been",
    "but",
    "by",
    "can",
    "could",
    "did",
    "do",
    "does",
    "for",
    "from",
    "get",
    "go",
    "had",
    "has",
    "have",
    "he",
    "her",
    "here",
    "him",
    "his",
    "how",
    "i",
    "if",
    "in",
    "into",
    "is",
    "it",
    "its",
    "just",
    "like",
    "me",
    "more",
    "most",
    "my",
    "near",
    "no",
    "nor",
    "not",
    "of",
    "off",
    "on",
    "or",
    "our",
    "out",
    "over",
    "she",
    "should",
    "so",
    "some",
    "someone",
    "something",
    "somewhere",
    "than",
    "that",
    "the",
    "their",
    "them",
    "then",
    "there",
    "these",
    "they",
    "this",
    "to",
    "too",
    "up",
    "us",
    "very",
    "was",
    "we",
    "were",
    "what",
    "when",
    "where",
    "which",
    "who",
    "will",
    "with",
    "would",
    "you",
    "your",
];

/// More words than this narrow nothing further and only cost time.
const MAX_WORDS: usize = 16;

/// The distinct content words of `query`, lower case, in order. When the query has stop words only, those.
pub fn content_words(query: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    for word in query.split(|c: char| !c.is_alphanumeric() && !is_mark(c)).filter(|w| !w.is_empty()) {
        let word = word.to_lowercase();
        if !words.contains(&word) {
            words.push(word);
        }
    }
    let telling: Vec<String> = words.iter().filter(|w| !STOP_WORDS.contains(&w.as_str())).cloned().collect();
    let mut chosen = if telling.is_empty() { words } else { telling };
    chosen.truncate(MAX_WORDS);
    chosen
}

/// Marks that stand inside a word and are no letters by themselves: accents of their own, and what joins or alters
/// the letters of Hebrew, Arabic, Indian, Thai, Lao, Khmer and Burmese words.
fn is_mark(c: char) -> bool {
    let indian = ('\u{900}'..'\u{e00}').contains(&c) && matches!(u32::from(c) & 0x7f, 0x3c | 0x4d);
    let others = matches!(c, '\u{300}'..='\u{36f}' | '\u{591}'..='\u{5bd}' | '\u{64b}'..='\u{65f}' | '\u{dca}'
        | '\u{e47}'..='\u{e4e}' | '\u{ec8}'..='\u{ecd}' | '\u{1039}' | '\u{103a}' | '\u{17d2}' | '\u{3099}' | '\u{309a}');
    indian || others
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stop_words_go_unless_there_is_nothing_else() {
        assert_eq!(content_words("Somewhere quiet to work with my laptop!"), ["quiet", "work", "laptop"]);
        assert_eq!(content_words("to be or not to be"), ["to", "be", "or", "not"]);
        assert_eq!(content_words("  \"NEAR(x, y)\" *  "), ["x", "y"]);
        assert!(content_words("…!?").is_empty());
    }

    #[test]
    fn the_list_is_sorted_and_short_queries_stay_short() {
        assert!(STOP_WORDS.is_sorted());
        let long = (0..100).map(|n| format!("w{n} ")).collect::<String>();
        assert_eq!(content_words(&long).len(), MAX_WORDS);
    }
}
