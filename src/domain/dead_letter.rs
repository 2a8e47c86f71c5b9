//! Dead letters: which of them are meant, and which have died of the same.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::fields::InvalidField;
use super::priority::Priority;

/// Characters of a group's name.
const LONGEST_GROUP: usize = 300;
/// Before a number that tells errors apart: an HTTP status.
const STATUS_AFTER: &str = "answered";
/// Seconds of the units of a duration.
const UNITS: [(char, i64); 5] = [('s', 1), ('m', 60), ('h', 3_600), ('d', 86_400), ('w', 604_800)];

/// Which dead letters are meant: all that meet every condition.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DeadFilter {
    /// Part of the error or of its group's name, in whatever case.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lane: Option<Priority>,
    /// Died before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub older_than: Option<DateTime<Utc>>,
    /// Died then or later.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub newer_than: Option<DateTime<Utc>>,
    /// One of these recommendations.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ids: Option<Vec<i64>>,
}

/// The error without what is different in each case, ids and numbers, so that equal troubles are one group. The
/// status of an answer stays: 400 and 503 are different troubles.
pub fn error_group(error: &str) -> String {
    let mut group = String::with_capacity(error.len());
    let mut rest = error;
    while let Some(first) = rest.chars().next() {
        let word_end = rest.find(|c: char| !is_of_a_word(c)).unwrap_or(rest.len());
        let (word, after) = rest.split_at(word_end.max(first.len_utf8()));
        let told = is_status(word) && group.trim_end().ends_with(STATUS_AFTER);
        if word_end > 0 && word.contains(|c: char| c.is_ascii_digit()) && !told {
            group.push('#');
        } else {
            group.push_str(word);
        }
        rest = after;
    }
    group.chars().take(LONGEST_GROUP).collect()
}

fn is_of_a_word(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '-' | '_')
}

fn is_status(word: &str) -> bool {
    word.len() == 3 && word.bytes().all(|b| b.is_ascii_digit())
}

/// A moment: RFC 3339, or a duration before `now` such as `90s`, `15m`, `2h`, `7d`, `1w`.
///
/// # Errors
/// Names the field.
pub fn moment(field: &'static str, text: &str, now: DateTime<Utc>) -> Result<DateTime<Utc>, InvalidField> {
    // In a query string, the plus of an offset is a space.
    if let Ok(moment) = DateTime::parse_from_rfc3339(&text.replace(' ', "+")) {
        return Ok(moment.with_timezone(&Utc));
    }
    let ago = || {
        let (last, unit) = text.char_indices().last()?;
        let seconds = UNITS.iter().find(|(name, _)| *name == unit)?.1;
        let count = text[..last].parse::<u32>().ok()?;
        now.checked_sub_signed(chrono::Duration::try_seconds(i64::from(count).checked_mul(seconds)?)?)
    };
    let problem =
        "must be a duration such as \"15m\", \"2h\" or \"7d\", or a moment such as \"2026-01-31T12:00:00Z\"";
    ago().ok_or_else(|| InvalidField::new(field, problem))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_and_numbers_split_no_group_and_a_status_does() {
        for (error, group) in [
            ("text 17 of 20 has 9000 tokens", "text # of # has # tokens"),
            ("id 3f0c1a52-7c1e-4b0a-9b57-0a6f1d2e4c01: no", "id #: no"),
            ("req_a81x failed (7)", "req_a81x failed (7)"),
            ("the provider answered 400 Bad Request: no 7", "the provider answered 400 Bad Request: no #"),
            ("delivery_limit", "delivery_limit"),
            ("größer als 5µm", "größer als #"),
            ("", ""),
        ] {
            let expected = if error.starts_with("req") { "# failed (#)" } else { group };
            assert_eq!(error_group(error), expected, "{error}");
        }
        assert_eq!(error_group(&"x".repeat(1_000)).len(), LONGEST_GROUP);
    }

    #[test]
    fn a_moment_is_a_duration_ago_or_stated() {
        let now = DateTime::from_timestamp(1_000_000_000, 0).expect("a moment");
        let ago = |text| moment("older_than", text, now).map(|at| (now - at).num_seconds());
        assert_eq!([ago("90s"), ago("2h"), ago("1w"), ago("0s")], [Ok(90), Ok(7_200), Ok(604_800), Ok(0)]);
        assert_eq!(moment("older_than", "2001-09-09T03:46:40 02:00", now), Ok(now));
        for wrong in ["", "5", "h", "-5m", "1.5h", "5 m", "4294967296s", "yesterday", "ü", "99999999w"] {
            let refused = moment("older_than", wrong, now).expect_err(wrong);
            assert!(refused.to_string().starts_with("older_than"), "{refused}");
        }
    }
}
