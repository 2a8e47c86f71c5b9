//! What a failed call asks of us: wait, try again, change the settings, or split the batch.

use std::error::Error;
use std::time::Duration;

use reqwest::StatusCode;
use reqwest::header::{HeaderMap, LOCATION, RETRY_AFTER};
use serde_json::Value;

use super::EmbedError;
use super::blot::Blot;
use super::limits::{DEFAULT_WAIT, MAX_WAIT, wait};

/// Parameters that every call carries: refused once, they are refused always.
const OUR_PARAMETERS: [&str; 5] = ["model", "dimensions", "output_dimension", "encoding_format", "input_type"];

/// How OpenAI and those after it, and Mistral, name a model that isn't there, whatever the status.
const NO_MODEL: [&str; 2] = ["model_not_found", "invalid_model"];

/// How a server says that it isn't ready, in small letters: Ollama, llama.cpp, text-embeddings-inference, Hugging Face.
const NOT_READY: [&str; 5] = ["loading model", "model is loading", "currently loading", "overloaded", "unhealthy"];

/// The error of a call that got no whole answer.
pub fn of_transport(error: reqwest::Error, timeout: Duration, blot: &Blot) -> EmbedError {
    if error.is_timeout() && !error.is_connect() {
        let reason = format!("the provider did not answer within {} ms", timeout.as_millis());
        return EmbedError::Transient(reason);
    }
    let why = blot.quote(&chain(&error.without_url()));
    let hint = match why.contains("certificate") {
        true => "; embedder.ca_file names a private certificate authority",
        false => "",
    };
    EmbedError::Transient(format!("the call to the provider failed: {why}{hint}"))
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

/// The error that an answer other than 2xx to `inputs` texts stands for.
pub fn of_status(status: StatusCode, headers: &HeaderMap, body: &[u8], inputs: usize, blot: &Blot) -> EmbedError {
    let refusal = Refusal::parse(body);
    let mut reason = format!("the provider answered {status}");
    if !refusal.message.is_empty() {
        reason = format!("{reason}: {}", blot.quote(&refusal.message));
    }
    if refusal.names_no_model() {
        return EmbedError::Misconfigured(reason);
    }
    match status.as_u16() {
        429 if refusal.says("insufficient_quota") => EmbedError::Misconfigured(reason),
        429 if refusal.is_beyond_the_limit() => EmbedError::Rejected(match inputs {
            1 => format!("{reason}; this text alone is larger than the provider's rate limit"),
            _ => format!("{reason}; these texts together are larger than the provider's rate limit"),
        }),
        429 => EmbedError::Wait { after: wait(headers), reason },
        500.. if refusal.is_not_ready() => {
            EmbedError::Wait { after: refusal.estimate.unwrap_or_else(|| wait(headers)), reason }
        }
        503 if headers.contains_key(RETRY_AFTER) => EmbedError::Wait { after: wait(headers), reason },
        408 | 409 | 425 | 499 | 500.. => EmbedError::Transient(reason),
        400 | 413 | 422 if OUR_PARAMETERS.contains(&refusal.param.as_str()) => EmbedError::Misconfigured(reason),
        400 | 413 | 422 => EmbedError::Rejected(reason),
        300..400 => EmbedError::Misconfigured(redirected(reason, headers, blot)),
        _ => EmbedError::Misconfigured(reason),
    }
}

fn redirected(reason: String, headers: &HeaderMap, blot: &Blot) -> String {
    let to = headers.get(LOCATION).and_then(|to| to.to_str().ok()).map(|to| format!(" to {}", blot.quote(to)));
    let to = to.unwrap_or_default();
    format!("{reason}, a redirect{to} that is not followed; embedder.base_url must name the final address")
}

/// Whether the server refuses the form in which it was asked to write vectors.
pub fn blames_encoding(status: StatusCode, body: &[u8]) -> bool {
    let refusal = Refusal::parse(body);
    let named = |text: &str| ["encoding_format", "embedding_type", "base64"].iter().any(|name| text.contains(name));
    matches!(status.as_u16(), 400 | 415 | 422 | 500 | 501) && (named(&refusal.param) || named(&refusal.message))
}

/// The body of an error, in any of the shapes that servers give it; absent fields are empty.
#[derive(Default)]
struct Refusal {
    message: String,
    /// OpenAI's `error.type` and `error.code`, or these without `error`; text-embeddings-inference's `error_type`.
    kinds: [String; 5],
    /// The parameter that is to blame.
    param: String,
    /// Hugging Face's `estimated_time` until a model is loaded.
    estimate: Option<Duration>,
}

impl Refusal {
    /// OpenAI: `{"error": {"message", "type", "code", "param"}}`; Ollama and text-embeddings-inference:
    /// `{"error": "…"}`; others `{"message": "…"}`, `{"detail": …}` or plain text.
    fn parse(body: &[u8]) -> Self {
        let Ok(json) = serde_json::from_slice::<Value>(body) else {
            return Self { message: String::from_utf8_lossy(body).trim().to_owned(), ..Self::default() };
        };
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let error = &json["error"];
        let candidates = [&error["message"], error, &json["message"], &json["detail"]];
        let message = candidates.into_iter().find(|value| value.is_string());
        let estimate = json["estimated_time"].as_f64().and_then(|s| Duration::try_from_secs_f64(s).ok());
        Self {
            message: message.map_or_else(|| json.to_string(), text),
            kinds: [&error["type"], &error["code"], &json["type"], &json["code"], &json["error_type"]].map(text),
            param: text(&error["param"]),
            estimate: estimate.map(|estimate| estimate.clamp(DEFAULT_WAIT, MAX_WAIT)),
        }
    }

    fn says(&self, kind: &str) -> bool {
        self.kinds.iter().any(|k| k == kind)
    }

    /// By its kind, or by how the message begins. Not by what is anywhere in it: a server may quote a text, which must
    /// not stop the others.
    fn names_no_model(&self) -> bool {
        let message = self.message.to_lowercase();
        let begins = message.starts_with("invalid model")
            || message.starts_with("model ")
                && ["not found", "not supported", "does not exist"].iter().any(|end| message.contains(end));
        NO_MODEL.iter().any(|kind| self.says(kind)) || begins
    }

    fn is_not_ready(&self) -> bool {
        let message = self.message.to_lowercase();
        let kinds = self.kinds.iter().map(|kind| kind.to_lowercase());
        NOT_READY.iter().any(|sign| message.contains(sign))
            || kinds.into_iter().any(|k| NOT_READY.contains(&k.as_str()))
    }

    /// A request that no wait makes small enough: `Request too large for …: Limit 10000, Requested 12000`.
    fn is_beyond_the_limit(&self) -> bool {
        let message = self.message.to_lowercase();
        let number = |name: &str| {
            // The word may come before without a number: "rate limit reached".
            message.split(name).skip(1).find_map(|rest| {
                rest.chars().take_while(char::is_ascii_digit).collect::<String>().parse::<u64>().ok()
            })
        };
        let more = number("limit ").zip(number("requested ")).is_some_and(|(limit, asked)| asked > limit);
        message.starts_with("request too large") || more
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn classified(status: u16, body: &str) -> EmbedError {
        let status = StatusCode::from_u16(status).unwrap();
        of_status(status, &HeaderMap::new(), body.as_bytes(), 2, &Blot::default())
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
        let models = [
            r#"{"object": "error", "message": "Invalid model: x", "type": "invalid_model", "code": "1500"}"#,
            r#"{"detail": "Model x is not supported. Supported models are y."}"#,
            r#"{"error": {"message": "no x", "code": "model_not_found"}}"#,
        ];
        for body in models {
            assert!(matches!(classified(400, body), EmbedError::Misconfigured(_)), "{body}");
        }
        let quoted = r#"{"error": {"message": "Bad text: model trains not found", "param": null}}"#;
        assert!(matches!(classified(400, quoted), EmbedError::Rejected(_)), "a text is not what is configured");
        let input = r#"{"error": {"message": "too long", "param": null, "type": "invalid_request_error"}}"#;
        assert_eq!(classified(400, input).to_string(), "the provider answered 400 Bad Request: too long");
    }

    #[test]
    fn a_server_that_is_not_ready_is_waited_for() {
        let seconds = |status, body| match classified(status, body) {
            EmbedError::Wait { after, .. } => after.as_secs(),
            other => panic!("{other:?}"),
        };
        assert_eq!(seconds(503, r#"{"error": "llm server loading model"}"#), 1);
        assert_eq!(seconds(500, r#"{"error": {"message": "Loading model", "type": "unavailable_error"}}"#), 1);
        assert_eq!(seconds(503, r#"{"error": "Model m is currently loading", "estimated_time": 20.0}"#), 20);
        assert_eq!(seconds(503, r#"{"error": "no permits", "error_type": "unhealthy"}"#), 1);
        assert_eq!(seconds(429, r#"{"error": "Model is overloaded", "error_type": "overloaded"}"#), 1);
    }

    #[test]
    fn a_request_beyond_the_limit_itself_is_split_and_not_waited_for() {
        let large = "Request too large for m in organization o on tokens per min (TPM): Limit 100, Requested 120.";
        let error =
            of_status(StatusCode::TOO_MANY_REQUESTS, &HeaderMap::new(), large.as_bytes(), 1, &Blot::default());
        assert!(
            matches!(&error, EmbedError::Rejected(why) if why.contains("this text alone is larger")),
            "{error}"
        );
        assert!(matches!(classified(429, large), EmbedError::Rejected(_)));
        let busy = "Rate limit reached for m on tokens per min (TPM): Limit 1000, Used 990, Requested 20.";
        let never = "Rate limit reached for m on tokens per min. Limit 1000, Requested 2000.";
        assert!(matches!(classified(429, never), EmbedError::Rejected(_)));
        assert!(matches!(classified(429, busy), EmbedError::Wait { .. }));
    }

    #[test]
    fn messages_of_any_shape_are_found() {
        let bodies =
            [r#"{"error": "no luck"}"#, r#"{"message": "no  luck"}"#, r#"{"detail": "no luck"}"#, "no\nluck "];
        for body in bodies {
            assert!(classified(500, body).to_string().ends_with(": no luck"), "{body}");
        }
        assert_eq!(classified(500, "").to_string(), "the provider answered 500 Internal Server Error");
    }
}
