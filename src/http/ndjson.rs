//! Lines of a body that is never in memory as a whole.

/// Cuts a stream of bytes into lines. Holds one unfinished line of at most `limit` bytes.
pub struct Lines {
    limit: usize,
    partial: Vec<u8>,
    overlong: bool,
    number: u64,
}

/// A line with its number, from 1.
#[derive(Debug, PartialEq)]
pub struct Line {
    pub number: u64,
    /// `None` for one that is longer than allowed.
    pub text: Option<Vec<u8>>,
}

impl Lines {
    pub fn new(limit: usize) -> Self {
        Self { limit, partial: Vec::new(), overlong: false, number: 0 }
    }

    /// The lines that `chunk` completes; blank ones are counted and left out.
    pub fn push(&mut self, chunk: &[u8]) -> Vec<Line> {
        let mut lines = Vec::new();
        let mut rest = chunk;
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            self.extend(&rest[..end]);
            lines.extend(self.complete());
            rest = &rest[end + 1..];
        }
        self.extend(rest);
        lines
    }

    /// The last line, if it had no line end.
    pub fn finish(mut self) -> Option<Line> {
        self.complete()
    }

    fn extend(&mut self, bytes: &[u8]) {
        if self.overlong || self.partial.len() + bytes.len() > self.limit {
            self.overlong = true;
            self.partial.clear();
        } else {
            self.partial.extend_from_slice(bytes);
        }
    }

    fn complete(&mut self) -> Option<Line> {
        self.number += 1;
        let (text, overlong) = (std::mem::take(&mut self.partial), std::mem::take(&mut self.overlong));
        if overlong {
            return Some(Line { number: self.number, text: None });
        }
        let blank = text.trim_ascii().is_empty();
        (!blank).then_some(Line { number: self.number, text: Some(text) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(number: u64, text: &str) -> Line {
        Line { number, text: Some(text.as_bytes().to_vec()) }
    }

    #[test]
    fn lines_are_cut_wherever_the_chunks_end() {
        let mut lines = Lines::new(100);
        assert_eq!(lines.push(b"one\n\nth"), [line(1, "one")]);
        assert_eq!(lines.push(b"ree\r\nfo"), [line(3, "three\r")]);
        assert_eq!(lines.finish(), Some(line(4, "fo")));
        assert_eq!(Lines::new(9).finish(), None);
    }

    #[test]
    fn a_line_that_is_too_long_is_named_and_not_kept() {
        let mut lines = Lines::new(5);
        assert_eq!(lines.push(b"123456"), []);
        assert_eq!(lines.push(b"7890"), []);
        assert_eq!(lines.push(b"1\nok\n"), [Line { number: 1, text: None }, line(2, "ok")]);
    }
}
