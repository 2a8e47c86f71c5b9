//! What the headers of an answer say of rate limits.

use std::time::Duration;

use chrono::{DateTime, Utc};
use reqwest::header::HeaderMap;

use crate::embedder::{Allowance, Quota};

/// When a rate limit says nothing of when it ends.
pub const DEFAULT_WAIT: Duration = Duration::from_secs(1);
/// However far away a provider's clock or quota is, look again after this.
pub const MAX_WAIT: Duration = Duration::from_secs(600);

/// How the providers call what they count, after `x-ratelimit-limit-` and its like: OpenAI and Azure, then Mistral.
const REQUESTS: [&str; 3] = ["requests", "req-minute", "requests-minute"];
const TOKENS: [&str; 2] = ["tokens", "tokens-minute"];

fn text<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers.get(name)?.to_str().ok().map(str::trim)
}

/// The limits that a provider tells with its answer.
pub fn allowance(headers: &HeaderMap) -> Allowance {
    Allowance { requests: quota(headers, &REQUESTS), tokens: quota(headers, &TOKENS) }
}

fn quota(headers: &HeaderMap, names: &[&str]) -> Quota {
    let first = |what: &str| names.iter().find_map(|name| text(headers, &format!("x-ratelimit-{what}-{name}")));
    // Azure writes -1 for what it doesn't know, which is no number here.
    let number = |what: &str| first(what)?.parse::<u64>().ok();
    Quota { limit: number("limit"), left: number("remaining"), reset: first("reset").and_then(reset) }
}

/// How long a rate limit lasts: what the provider asks for, else the slowest of the exhausted limits, else a second.
pub fn wait(headers: &HeaderMap) -> Duration {
    let precise = text(headers, "retry-after-ms").and_then(|ms| ms.parse::<f64>().ok());
    let precise = precise.and_then(|ms| Duration::try_from_secs_f64(ms / 1_000.0).ok());
    let asked = precise.or_else(|| text(headers, "retry-after").and_then(retry_after));
    let exhausted = [&REQUESTS[..], &TOKENS[..]].into_iter().flatten().filter_map(|name| {
        let left = text(headers, &format!("x-ratelimit-remaining-{name}"));
        let reset = text(headers, &format!("x-ratelimit-reset-{name}")).and_then(reset);
        reset.filter(|_| left.is_none_or(|left| left == "0"))
    });
    // "Now" is when we were refused: to ask again at once would be a loop without a pause.
    asked.or_else(|| exhausted.max()).filter(|wait| !wait.is_zero()).unwrap_or(DEFAULT_WAIT).min(MAX_WAIT)
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

/// A duration as Go writes it, or in seconds.
fn reset(value: &str) -> Option<Duration> {
    go_duration(value).or_else(|| Duration::try_from_secs_f64(value.parse().ok()?).ok())
}

/// A duration as Go writes it: `12ms`, `1.5s`, `6m0s`, `1h0m3s`.
fn go_duration(text: &str) -> Option<Duration> {
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

    fn ms(pairs: &[(&'static str, &str)]) -> u128 {
        wait(&headers(pairs)).as_millis()
    }

    #[test]
    fn the_wait_is_what_the_provider_says() {
        assert_eq!(ms(&[("retry-after", "7")]), 7_000);
        assert_eq!(ms(&[("retry-after", "7"), ("retry-after-ms", "250")]), 250);
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
        let resets = [("x-ratelimit-reset-requests", "12ms"), ("x-ratelimit-reset-tokens", "6m0s")];
        assert_eq!(ms(&resets), 360_000);
        assert_eq!(ms(&[resets[0], resets[1], ("x-ratelimit-remaining-tokens", "90")]), 12);
        // Azure's "unknown" is not "none left".
        assert_eq!(ms(&[resets[0], resets[1], ("x-ratelimit-remaining-tokens", "-1")]), 12);
    }

    #[test]
    fn an_allowance_is_read_under_every_name() {
        let openai = allowance(&headers(&[
            ("x-ratelimit-limit-requests", "5000"),
            ("x-ratelimit-remaining-requests", "4999"),
            ("x-ratelimit-reset-requests", "12ms"),
            ("x-ratelimit-limit-tokens", "1000000"),
            ("x-ratelimit-remaining-tokens", "-1"),
        ]));
        let reset = Some(Duration::from_millis(12));
        assert_eq!(openai.requests, Quota { limit: Some(5_000), left: Some(4_999), reset });
        assert_eq!(openai.tokens, Quota { limit: Some(1_000_000), left: None, reset: None });
        let mistral = allowance(&headers(&[
            ("x-ratelimit-limit-tokens-minute", "5000000"),
            ("x-ratelimit-remaining-tokens-minute", "4999911"),
            ("x-ratelimit-limit-req-minute", "720"),
        ]));
        assert_eq!((mistral.tokens.limit, mistral.tokens.left), (Some(5_000_000), Some(4_999_911)));
        assert_eq!(mistral.requests.limit, Some(720));
        assert_eq!(allowance(&headers(&[])), Allowance::default());
    }

    #[test]
    fn durations_are_read_as_go_writes_them() {
        let cases =
            [("12ms", 12), ("1s", 1_000), ("1.5s", 1_500), ("6m0s", 360_000), ("1h2m3s", 3_723_000), ("0s", 0)];
        for (text, ms) in cases {
            assert_eq!(reset(text), Some(Duration::from_millis(ms)), "{text}");
        }
        assert_eq!(reset("12"), Some(Duration::from_secs(12)));
        for text in ["", "ms", "1x", "-1s", "1..2s", "99999999999999999999h"] {
            assert_eq!(reset(text), None, "{text}");
        }
    }
}
