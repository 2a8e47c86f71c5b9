//! The name of a span in a distributed trace, as it travels: W3C's `traceparent`
//! (<https://www.w3.org/TR/trace-context/#traceparent-header>).

use std::fmt;

/// `00-<trace, 32 hex>-<span, 16 hex>-<flags, 2 hex>`.
const LENGTH: usize = 55;

/// A span's name, valid by the standard: lower case, neither part all zeros.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct TraceParent([u8; LENGTH]);

impl TraceParent {
    /// `None` for what is none; by the standard it is then as if there were none. Of a later version than ours the
    /// known part is read.
    pub fn parse(text: &str) -> Option<Self> {
        let (known, rest) = text.trim().as_bytes().split_at_checked(LENGTH)?;
        let bytes: [u8; LENGTH] = known.try_into().ok()?;
        let hex = |from: usize, to: usize| bytes[from..to].iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        let zero = |from: usize, to: usize| bytes[from..to].iter().all(|b| *b == b'0');
        let dashes = [2, 35, 52].iter().all(|at| bytes[*at] == b'-');
        let ours = bytes.starts_with(b"00") && rest.is_empty();
        let later =
            !bytes.starts_with(b"00") && !bytes.starts_with(b"ff") && rest.first().is_none_or(|b| *b == b'-');
        let valid = hex(0, 2) && hex(3, 35) && hex(36, 52) && hex(53, 55) && !zero(3, 35) && !zero(36, 52);
        (dashes && valid && (ours || later)).then_some(Self(bytes))
    }

    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }

    /// 32 hex digits.
    pub fn trace_id(&self) -> &str {
        &self.as_str()[3..35]
    }

    /// 16 hex digits.
    pub fn span_id(&self) -> &str {
        &self.as_str()[36..52]
    }

    /// Whether whoever began the trace wants it recorded.
    pub fn is_sampled(&self) -> bool {
        u8::from_str_radix(&self.as_str()[53..], 16).is_ok_and(|flags| flags & 1 == 1)
    }
}

impl fmt::Debug for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn the_parts_of_a_valid_one_are_read() {
        let parent = TraceParent::parse(ONE).expect("valid");
        assert_eq!(parent.as_str(), ONE);
        assert_eq!(parent.trace_id(), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!(parent.span_id(), "00f067aa0ba902b7");
        assert!(parent.is_sampled());
        assert!(!TraceParent::parse(&ONE.replace("-01", "-00")).expect("valid").is_sampled());
        let later = format!("{}-more", ONE.replacen("00", "cc", 1));
        assert!(TraceParent::parse(&later).is_some());
    }

    #[test]
    fn what_is_no_traceparent_is_none() {
        let mut wrong =
            vec![String::new(), "ü".repeat(40), ONE.to_uppercase(), format!("{ONE}-more"), format!("{ONE}0")];
        wrong.push(ONE.replace('-', "_"));
        wrong.push(ONE.replacen("00", "ff", 1));
        wrong.push(ONE.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32)));
        wrong.push(ONE.replace("00f067aa0ba902b7", &"0".repeat(16)));
        wrong.push(ONE[..54].to_owned());
        for text in wrong {
            assert_eq!(TraceParent::parse(&text), None, "{text}");
        }
    }
}
