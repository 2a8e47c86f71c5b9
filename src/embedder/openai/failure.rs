//! What a failed call asks of us: wait, try again, change the settings, or split the batch.

use std::error::Error;
use std::time::Duration;

use chrono::{DateTime, Utc};
use reqwest::StatusCode;
use reqwest::header::{HeaderMap, RETRY_AFTER};
use serde_json::Value;

use super::EmbedError;
use crate::config::secret::Secret;

/// When a rate limit says nothing of when it ends.
const DEFAULT_WAIT: Duration = Duration::from_secs(1);
/// However far away a provider's clock or quota is, look again after this.
const MAX_WAIT: Duration = Duration::from_secs(600);
/// Of a provider's message, in characters.
const MAX_MESSAGE: usize = 300;

/// Parameters that every call carries: refused once, they are refused always.
const OUR_PARAMETERS: [&str; 3] = ["model", "dimensions", "encoding_format"];

/// The error of a call that got no whole answer.
pub fn of_transport(error: reqwest::Error, timeout: Duration) -> EmbedError {
    EmbedError::Transient(if error.is_timeout() && !error.is_connect() {
        format!("the provider did not answer within {} ms", timeout.as_millis())
    } else {
        format!("the call to the provider failed: {}", bounded(&chain(&error.without_url())))
    })
}

/// An error and what caused it, which reqwest's own text leaves out.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}

/// The error that an answer other than 2xx stands for. `key` is blotted out of the provider's message, which
/// may quote it.
pub fn of_status(status: StatusCode, headers: &HeaderMap, body: &[u8], key: &Secret) -> EmbedError {
    let refusal = Refusal::parse(body);
    let message = match key.is_empty() {
        true => refusal.message.clone(),
        false => refusal.message.replace(key.expose(), "***"),
    };
    let mut reason = format!("the provider answered {status}");
    if !message.is_empty() {
        reason = format!("{reason}: {}", bounded(&message));
    }
    match status.as_u16() {
        429 if refusal.says("insufficient_quota") => EmbedError::Misconfigured(reason),
        429 => EmbedError::Wait { after: wait(headers), reason },
        503 if headers.contains_key(RETRY_AFTER) => EmbedError::Wait { after: wait(headers), reason },
        408 | 409 | 425 | 500.. => EmbedError::Transient(reason),
        400 | 413 | 422 if OUR_PARAMETERS.contains(&refusal.param.as_str()) => EmbedError::Misconfigured(reason),
        400 | 413 | 422 => EmbedError::Rejected(reason),
        300..400 => EmbedError::Misconfigured(format!("{reason}; embedder.base_url must name the final address")),
        _ => EmbedError::Misconfigured(reason),
    }
}

/// The body of an error, in any of the shapes that servers give it; absent fields are empty.
#[derive(Default)]
struct Refusal {
    message: String,
    /// OpenAI's `error.type` and `error.code`.
    kinds: [String; 2],
    /// The parameter that is to blame.
    param: String,
}

impl Refusal {
    /// OpenAI: `{"error": {"message", "type", "code", "param"}}`; Ollama: `{"error": "…"}`; others
    /// `{"message": "…"}`, `{"detail": …}` or plain text.
    fn parse(body: &[u8]) -> Self {
        let Ok(json) = serde_json::from_slice::<Value>(body) else {
            return Self { message: squeeze(&String::from_utf8_lossy(body)), ..Self::default() };
        };
        let text = |value: &Value| value.as_str().map(squeeze).unwrap_or_default();
        let error = &json["error"];
        let candidates = [&error["message"], error, &json["message"], &json["detail"]];
        let message = candidates.into_iter().find(|value| value.is_string());
        Self {
            message: message.map_or_else(|| squeeze(&json.to_string()), text),
            kinds: [text(&error["type"]), text(&error["code"])],
            param: text(&error["param"]),
        }
    }

    fn says(&self, kind: &str) -> bool {
        self.kinds.iter().any(|k| k == kind)
    }
}

fn squeeze(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// At most [`MAX_MESSAGE`] characters of `text`, and a sign that there was more.
pub fn bounded(text: &str) -> String {
    match text.char_indices().nth(MAX_MESSAGE) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// How long a rate limit lasts: `Retry-After`, else the slowest of OpenAI's exhausted limits, else a second.
fn wait(headers: &HeaderMap) -> Duration {
    let header = |name: &str| headers.get(name)?.to_str().ok().map(str::trim);
    let asked = header("retry-after").and_then(retry_after);
    let reset = ["requests", "tokens"].into_iter().filter_map(|limit| {
        let left = header(&format!("x-ratelimit-remaining-{limit}"));
        let exhausted = left.is_none_or(|left| left == "0");
        header(&format!("x-ratelimit-reset-{limit}")).filter(|_| exhausted).and_then(duration)
    });
    // "Now" is when we were refused: to ask again at once would be a loop without a pause.
    asked.or_else(|| reset.max()).filter(|wait| !wait.is_zero()).unwrap_or(DEFAULT_WAIT).min(MAX_WAIT)
}

/// Seconds, or an HTTP date (RFC 9110, 10.2.3).
fn retry_after(value: &str) -> Option<Duration> {
    if let Ok(seconds) = value.parse::<f64>() {
        return Duration::try_from_secs_f64(seconds).ok();
    }
    let at = DateTime::parse_from_rfc2822(value).ok()?;
    // A moment that is past means now.
    Some((at.to_utc() - Utc::now()).to_std().unwrap_or_default())
}

/// A duration as Go writes it: `12ms`, `1.5s`, `6m0s`, `1h0m3s`.
fn duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let unit_at = rest.find(|c: char| c != '.' && !c.is_ascii_digit())?;
        let (number, tail) = rest.split_at(unit_at);
        let unit_end = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
        let seconds = match &tail[..unit_end] {
            "us" | "µs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3_600.0,
            _ => return None,
        };
        let part = Duration::try_from_secs_f64(number.parse::<f64>().ok()? * seconds).ok()?;
        total = total.checked_add(part)?;
        rest = &tail[unit_end..];
    }
    (!text.is_empty()).then_some(total)
}

#[cfg(test)]
mod tests {
    use super::*;
    use reqwest::header::{HeaderName, HeaderValue};

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &str)| {
            (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())
        };
        pairs.iter().map(pair).collect()
    }

    fn classified(status: u16, body: &str) -> EmbedError {
        of_status(StatusCode::from_u16(status).unwrap(), &HeaderMap::new(), body.as_bytes(), &Secret::default())
    }

    #[test]
    fn every_status_asks_for_one_thing() {
        for status in [408, 409, 425, 500, 502, 503, 504, 529] {
            assert!(matches!(classified(status, ""), EmbedError::Transient(_)), "{status}");
        }
        for status in [301, 302, 307, 401, 402, 403, 404, 405] {
            assert!(matches!(classified(status, ""), EmbedError::Misconfigured(_)), "{status}");
        }
        for status in [400, 413, 422] {
            assert!(matches!(classified(status, ""), EmbedError::Rejected(_)), "{status}");
        }
        assert!(matches!(classified(429, ""), EmbedError::Wait { after: DEFAULT_WAIT, .. }));
    }

    #[test]
    fn the_body_can_say_that_only_a_person_helps() {
        let quota =
            r#"{"error": {"message": "You exceeded your quota", "type": "insufficient_quota", "code": null}}"#;
        assert!(matches!(classified(429, quota), EmbedError::Misconfigured(why) if why.contains("your quota")));
        let param = r#"{"error": {"message": "too few", "param": "dimensions", "type": "invalid_request_error"}}"#;
        assert!(matches!(classified(400, param), EmbedError::Misconfigured(_)));
        let input = r#"{"error": {"message": "too long", "param": null, "type": "invalid_request_error"}}"#;
        assert_eq!(classified(400, input).to_string(), "the provider answered 400 Bad Request: too long");
    }

    #[test]
    fn messages_of_any_shape_are_found_and_bounded() {
        let bodies =
            [r#"{"error": "no luck"}"#, r#"{"message": "no  luck"}"#, r#"{"detail": "no luck"}"#, "no\nluck "];
        for body in bodies {
            assert!(classified(500, body).to_string().ends_with(": no luck"), "{body}");
        }
        assert_eq!(classified(500, "").to_string(), "the provider answered 500 Internal Server Error");
        let long = classified(400, &"ä".repeat(5_000)).to_string();
        assert!(long.ends_with("ä…") && long.chars().count() < 350, "{long}");
    }

    #[test]
    fn the_key_is_blotted_out_before_the_message_is_cut() {
        let key = Secret::new("sk-very-secret");
        let body = format!("{}sk-very-secret", "x".repeat(MAX_MESSAGE - 7));
        let error = of_status(StatusCode::UNAUTHORIZED, &HeaderMap::new(), body.as_bytes(), &key).to_string();
        assert!(error.ends_with("x***"), "{error}");
    }

    #[test]
    fn the_wait_is_what_the_provider_says() {
        let ms = |pairs: &[(&'static str, &str)]| wait(&headers(pairs)).as_millis();
        assert_eq!(ms(&[("retry-after", "7")]), 7_000);
        assert_eq!(ms(&[("retry-after", "0.25"), ("x-ratelimit-reset-requests", "9s")]), 250);
        assert_eq!(ms(&[("retry-after", "Wed, 21 Oct 2015 07:28:00 GMT")]), DEFAULT_WAIT.as_millis());
        assert_eq!(ms(&[("retry-after", "0")]), DEFAULT_WAIT.as_millis());
        assert_eq!(ms(&[("retry-after", "Wed, 21 Oct 2099 07:28:00 GMT")]), MAX_WAIT.as_millis());
        let soon = (Utc::now() + Duration::from_secs(60)).format("%a, %d %b %Y %H:%M:%S GMT").to_string();
        assert!((58_000..=60_000).contains(&ms(&[("retry-after", &soon)])));
        for nonsense in ["soon", "-3", "NaN", "inf"] {
            assert_eq!(ms(&[("retry-after", nonsense)]), DEFAULT_WAIT.as_millis(), "{nonsense}");
        }
    }

    #[test]
    fn only_exhausted_limits_are_waited_for() {
        let ms = |pairs: &[(&'static str, &str)]| wait(&headers(pairs)).as_millis();
        let resets = [("x-ratelimit-reset-requests", "12ms"), ("x-ratelimit-reset-tokens", "6m0s")];
        assert_eq!(ms(&resets), 360_000);
        assert_eq!(ms(&[resets[0], resets[1], ("x-ratelimit-remaining-tokens", "90")]), 12);
    }

    #[test]
    fn durations_are_read_as_go_writes_them() {
        let cases =
            [("12ms", 12), ("1s", 1_000), ("1.5s", 1_500), ("6m0s", 360_000), ("1h2m3s", 3_723_000), ("0s", 0)];
        for (text, ms) in cases {
            assert_eq!(duration(text), Some(Duration::from_millis(ms)), "{text}");
        }
        for text in ["", "12", "ms", "1x", "-1s", "1..2s", "99999999999999999999h"] {
            assert_eq!(duration(text), None, "{text}");
        }
    }
}
