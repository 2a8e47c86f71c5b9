//! Text as HTML. Whatever goes into the page passes through here.

/// Text between tags or within an attribute's double quotes.
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            c => escaped.push(c),
        }
    }
    escaped
}

/// A line of a doc comment: what stands between backticks is code.
pub fn line(text: &str) -> String {
    let mut pieces = text.split('`').map(escape);
    let mut html = pieces.next().unwrap_or_default();
    // Of an odd number of backticks the last one is just that.
    let pieces: Vec<String> = pieces.collect();
    for (at, piece) in pieces.iter().enumerate() {
        match (at % 2 == 0, at + 1 == pieces.len()) {
            (true, false) => html.push_str(&format!("<code>{piece}</code>")),
            (true, true) => html.push_str(&format!("`{piece}")),
            (false, _) => html.push_str(piece),
        }
    }
    html
}

/// Paragraphs, with blank lines between them.
pub fn paragraphs(text: &str) -> String {
    let all = text.split("\n\n").map(str::trim).filter(|paragraph| !paragraph.is_empty());
    all.map(|paragraph| format!("<p>{}</p>\n", line(paragraph))).collect()
}

/// Something to read or to copy as it is; the keyboard can scroll it.
pub fn code(label: &str, text: &str) -> String {
    let (label, text) = (escape(label), escape(text));
    format!("<pre tabindex=\"0\" aria-label=\"{label}\"><code>{text}</code></pre>\n")
}

/// What an anchor may consist of.
pub fn anchor(text: &str) -> String {
    text.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_a_text_becomes_a_tag() {
        let text = "<script>alert('x')</script> & \"y\"";
        assert_eq!(escape(text), "&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt; &amp; &quot;y&quot;");
        assert_eq!(line("a `<b>` c"), "a <code>&lt;b&gt;</code> c");
        assert_eq!(paragraphs("<i>\n\n\n`x`"), "<p>&lt;i&gt;</p>\n<p><code>x</code></p>\n");
        assert!(code("\"><b>", "</pre>").starts_with("<pre tabindex=\"0\" aria-label=\"&quot;&gt;&lt;b&gt;\">"));
        assert_eq!(anchor("dead letters\"<"), "dead-letters--");
    }

    #[test]
    fn a_lonely_backtick_stays() {
        assert_eq!(line("a ` b"), "a ` b");
        assert_eq!(line("`a` and `b"), "<code>a</code> and `b");
    }
}
