//! Reads the sources as tokens: no types, no macros expanded, but comments, literals and `super` understood.

use std::fs;
use std::path::Path;

#[derive(Clone, Copy, PartialEq)]
pub enum Kind {
    Word,
    Sign,
    /// A text literal, without its quotes.
    Text,
}

pub struct Token {
    pub line: usize,
    pub kind: Kind,
    pub text: String,
    /// Inside an item under `#[cfg(test)]`.
    pub test: bool,
}

/// A file under `src/`.
pub struct Source {
    pub path: String,
    pub lines: Vec<String>,
    pub tokens: Vec<Token>,
}

impl Source {
    pub fn new(path: &str, text: &str) -> Self {
        let mut tokens = tokens(text);
        mark_tests(&mut tokens);
        Self { path: path.to_owned(), lines: text.lines().map(str::to_owned).collect(), tokens }
    }

    pub fn room(&self) -> &str {
        self.path.split(['/', '.']).next().unwrap()
    }

    /// How many `super` lead from the top of this file to the root of the crate.
    fn depth(&self) -> usize {
        let path = self.path.trim_end_matches(".rs").trim_end_matches("/mod");
        if ["lib", "main"].contains(&path) { 0 } else { path.split('/').count() }
    }

    fn is(&self, at: usize, kind: Kind, text: &str) -> bool {
        self.tokens.get(at).is_some_and(|token| token.kind == kind && token.text == text)
    }

    pub fn word(&self, at: usize, text: &str) -> bool {
        self.is(at, Kind::Word, text)
    }

    fn sign(&self, at: usize, text: &str) -> bool {
        self.is(at, Kind::Sign, text)
    }

    pub fn path_goes_on(&self, at: usize) -> bool {
        self.sign(at, ":") && self.sign(at + 1, ":")
    }

    /// `(line, name)` of everything that is named from the root of the crate.
    pub fn uses(&self) -> Vec<(usize, String)> {
        let (mut found, mut braces, mut at) = (Vec::new(), Vec::new(), 0);
        while at < self.tokens.len() {
            let line = self.tokens[at].line;
            let mut root = None;
            if self.sign(at, "{") {
                braces.push(at >= 2 && self.word(at - 2, "mod"));
            } else if self.sign(at, "}") {
                braces.pop();
            } else if self.word(at, "crate") || self.word(at, "mapx_embeddings") {
                root = Some(at + 1);
            } else if self.word(at, "super") {
                let mut supers = 1;
                while self.path_goes_on(at + 1) && self.word(at + 3, "super") {
                    (at, supers) = (at + 3, supers + 1);
                }
                let depth = self.depth() + braces.iter().filter(|module| **module).count();
                root = (supers >= depth).then_some(at + 1);
            }
            // `pub(crate)` and `pub(super)` name nothing.
            if let Some(next) = root.filter(|next| !self.sign(*next, ")")) {
                found.extend(self.heads(next).into_iter().map(|name| (line, name)));
            }
            at += 1;
        }
        found
    }

    /// The first names of the path or the group of paths that goes on here.
    fn heads(&self, at: usize) -> Vec<String> {
        if !self.path_goes_on(at) {
            return vec!["the whole crate".to_owned()];
        }
        if !self.sign(at + 2, "{") {
            return vec![self.tokens[at + 2].text.clone()];
        }
        let (mut names, mut depth) = (Vec::new(), 0);
        for (at, token) in self.tokens.iter().enumerate().skip(at + 2) {
            if depth == 1 && !self.sign(at, "}") && (self.sign(at - 1, "{") || self.sign(at - 1, ",")) {
                names.push(token.text.clone());
            }
            depth += usize::from(self.sign(at, "{"));
            depth -= usize::from(self.sign(at, "}"));
            if depth == 0 {
                break;
            }
        }
        names
    }

    /// Modules of their own file that exist for tests alone, as `dir/name`.
    pub fn test_modules(&self) -> impl Iterator<Item = String> {
        let dir = self.path.trim_end_matches(".rs").trim_end_matches("/mod");
        let declared = self.tokens.windows(3).filter(|w| w[0].test && w[0].text == "mod" && w[2].text == ";");
        declared.map(move |w| format!("{dir}/{}", w[1].text))
    }

    pub fn panics(&self) -> Vec<usize> {
        let panics = |at: usize| {
            let called = at > 0 && self.sign(at - 1, ".") && self.sign(at + 1, "(");
            let macros = ["panic", "todo", "unimplemented", "unreachable", "dbg"];
            called && (self.word(at, "unwrap") || self.word(at, "expect"))
                || self.sign(at + 1, "!") && macros.iter().any(|name| self.word(at, name))
        };
        let outside = |at: &usize| !self.tokens[*at].test && panics(*at);
        (0..self.tokens.len()).filter(outside).map(|at| self.tokens[at].line).collect()
    }
}

/// Enough of Rust's lexer: comments, raw and byte strings, characters and lifetimes.
fn tokens(source: &str) -> Vec<Token> {
    let chars: Vec<char> = source.chars().collect();
    let char_at = |at: usize| chars.get(at).copied().unwrap_or('\0');
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let (mut tokens, mut at, mut line) = (Vec::new(), 0, 1);
    while at < chars.len() {
        let start = at;
        let mut token = None;
        match (char_at(at), char_at(at + 1)) {
            ('/', '/') => at += chars[at..].iter().take_while(|c| **c != '\n').count(),
            ('/', '*') => {
                let mut open = 0;
                loop {
                    match (char_at(at), char_at(at + 1)) {
                        ('/', '*') => (at, open) = (at + 2, open + 1),
                        ('*', '/') => (at, open) = (at + 2, open - 1),
                        _ => at += 1,
                    }
                    if open == 0 || at >= chars.len() {
                        break;
                    }
                }
            }
            ('\'', '\\') => {
                at += 3;
                at += chars[at..].iter().take_while(|c| **c != '\'').count() + 1;
            }
            ('\'', _) => at += if char_at(at + 2) == '\'' { 3 } else { 1 },
            ('"', _) => {
                at += 1;
                while at < chars.len() && chars[at] != '"' {
                    at += 1 + usize::from(chars[at] == '\\');
                }
                token = Some((Kind::Text, start + 1, at));
                at += 1;
            }
            (c, _) if is_word(c) => {
                at += chars[at..].iter().take_while(|c| is_word(**c)).count();
                let prefix: String = chars[start..at].iter().collect();
                let hashes = chars[at..].iter().take_while(|c| **c == '#').count();
                if ["r", "br", "cr"].contains(&prefix.as_str()) && char_at(at + hashes) == '"' {
                    let text = at + hashes + 1;
                    let closes = |at: usize| char_at(at) == '"' && (1..=hashes).all(|n| char_at(at + n) == '#');
                    let end = (text..chars.len()).find(|at| closes(*at)).unwrap_or(chars.len());
                    token = Some((Kind::Text, text, end));
                    at = end + hashes + 1;
                } else {
                    token = Some((Kind::Word, start, at));
                }
            }
            (c, _) => {
                at += 1;
                token = (!c.is_whitespace()).then_some((Kind::Sign, start, at));
            }
        }
        at = at.min(chars.len());
        if let Some((kind, from, to)) = token {
            tokens.push(Token { line, kind, text: chars[from..to].iter().collect(), test: false });
        }
        line += chars[start..at].iter().filter(|c| **c == '\n').count();
    }
    tokens
}

/// Marks each item that follows a `#[cfg(test)]`: up to its `;`, or to the end of its block.
fn mark_tests(tokens: &mut [Token]) {
    for start in 0..tokens.len().saturating_sub(7) {
        let here = tokens[start..].iter().map(|token| token.text.as_str());
        if !here.take(7).eq(["#", "[", "cfg", "(", "test", ")", "]"]) {
            continue;
        }
        let mut depth = 0;
        for token in &mut tokens[start + 7..] {
            token.test = true;
            let sign = if token.kind == Kind::Sign { token.text.as_str() } else { "" };
            match sign {
                "{" | "(" | "[" => depth += 1,
                "}" | ")" | "]" => depth -= 1,
                _ => {}
            }
            if depth == 0 && (sign == "}" || sign == ";") {
                break;
            }
        }
    }
}

pub fn sources() -> Vec<Source> {
    fn collect(root: &Path, dir: &Path, sources: &mut Vec<Source>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                collect(root, &path, sources);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(root).unwrap().to_str().unwrap().replace('\\', "/");
                sources.push(Source::new(&name, &fs::read_to_string(&path).unwrap()));
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut sources = Vec::new();
    collect(&root, &root, &mut sources);
    sources.sort_by(|a, b| a.path.cmp(&b.path));
    assert!(!sources.is_empty(), "no source found");
    sources
}

#[test]
fn the_reading_of_sources_sees_through_rust() {
    let names = |path: &str, text: &str| -> Vec<String> {
        Source::new(path, text).uses().into_iter().map(|(_, name)| name).collect()
    };
    assert_eq!(
        names("db/a.rs", "use crate::{http, a::{b, c}, self as d, };\nfn f() { crate::app::g() }"),
        ["http", "a", "self", "app"]
    );
    assert_eq!(
        names("db/a.rs", "use {crate::relay::Relay, std::fmt}; use crate::*; use crate as x;"),
        ["relay", "*", "the whole crate"]
    );
    // `super` leaves the room only when it reaches the root.
    assert_eq!(names("db/a/b.rs", "use super::super::x; use super::super::super::http;"), ["http"]);
    assert_eq!(
        names("relay.rs", "use super::http; mod tests { use super::x; use super::super::{app, cli}; }"),
        ["http", "app", "cli"]
    );
    assert_eq!(names("db/mod.rs", "pub(super) fn f() {} pub(crate) fn g() {} pub(in crate::db) fn h() {}"), ["db"]);
    assert_eq!(names("main.rs", "mapx_embeddings::cli::run()"), ["cli"]);
    // Comments, texts and characters are no code.
    let quiet = r###"// crate::a
        /* crate::b /* crate::c */ crate::d */ "crate::e \" crate::f" r#"crate::g " crate::h"# b'"' '\'' '"' &'a str"###;
    assert_eq!(names("db/a.rs", &format!("{quiet} crate::seen")), ["seen"]);
    let panics = |text: &str| Source::new("db/a.rs", text).panics();
    assert_eq!(panics("a.unwrap();\nb.expect(\"c\");\npanic!();\nd.unwrap_or(e); // f.unwrap()"), [1, 2, 3]);
    assert_eq!(
        panics("#[cfg(test)]\nmod tests { fn f([x; 2]: [u8; 2]) { a.unwrap(); } }\nfn g() { todo!() }"),
        [3]
    );
    assert_eq!(panics("#[cfg(test)]\nuse a::b;\nfn g() { dbg!(1); }"), [3]);
    assert_eq!(
        Source::new("db/mod.rs", "#[cfg(test)]\nmod fake; mod real;").test_modules().collect::<Vec<_>>(),
        ["db/fake"]
    );
}
