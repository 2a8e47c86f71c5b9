//! Asks a running service over its API.

use std::time::Duration;

use anyhow::{Context, anyhow};
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Body, Method, RequestBuilder};
use serde::de::DeserializeOwned;
use serde_json::Value;
use uuid::Uuid;

use crate::config::secret::Secret;

/// Time to connect; the answer itself may take as long as it needs.
const CONNECT: Duration = Duration::from_secs(5);

/// A service at an address.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    base: String,
}

impl Client {
    /// Shows `token` with every request, if there is one.
    pub fn new(base: &str, token: Option<&Secret>) -> anyhow::Result<Self> {
        // Who the audit names, unless a user is.
        let mut headers =
            HeaderMap::from_iter([(HeaderName::from_static("x-actor"), HeaderValue::from_static("cli"))]);
        if let Some(token) = token {
            let value = HeaderValue::try_from(format!("Bearer {}", token.expose()));
            let mut value = value.map_err(|_| anyhow!("--token: a token is ASCII without line ends"))?;
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        let http = reqwest::Client::builder().connect_timeout(CONNECT).default_headers(headers).build()?;
        Ok(Self { http, base: base.trim_end_matches('/').to_owned() })
    }

    pub fn base(&self) -> &str {
        &self.base
    }

    /// `data` of a GET.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        self.data(self.request(Method::GET, path)).await
    }

    /// `data` of a POST of JSON, as `user`.
    pub async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &Value,
        user: Option<Uuid>,
    ) -> anyhow::Result<T> {
        let mut request = self.request(Method::POST, path).json(body);
        if let Some(user) = user {
            request = request.header("x-user-id", user.to_string());
        }
        self.data(request).await
    }

    /// `data` of a PATCH of JSON.
    pub async fn patch<T: DeserializeOwned>(&self, path: &str, body: &Value) -> anyhow::Result<T> {
        self.data(self.request(Method::PATCH, path).json(body)).await
    }

    /// `data` of a DELETE.
    pub async fn delete<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        self.data(self.request(Method::DELETE, path)).await
    }

    /// `data` of a POST of a stream of lines.
    pub async fn post_lines<T: DeserializeOwned>(&self, path: &str, lines: Body) -> anyhow::Result<T> {
        let request = self.request(Method::POST, path).header("content-type", "application/x-ndjson").body(lines);
        self.data(request).await
    }

    /// Whether a mapx-embeddings service answers here, within `patience`.
    pub async fn is_alive(&self, patience: Duration) -> bool {
        let request = self.request(Method::GET, "/health/live").timeout(patience);
        let answer: anyhow::Result<Value> = self.data(request).await;
        answer.is_ok_and(|data| data["status"] == "live")
    }

    /// Status code and envelope of a GET.
    pub async fn probe(&self, path: &str, patience: Duration) -> anyhow::Result<(u16, Value)> {
        let response = self.request(Method::GET, path).timeout(patience).send().await;
        let response = response.with_context(|| format!("can't reach {}", self.base))?;
        Ok((response.status().as_u16(), response.json().await.unwrap_or(Value::Null)))
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.base))
    }

    async fn data<T: DeserializeOwned>(&self, request: RequestBuilder) -> anyhow::Result<T> {
        let response = request.send().await.with_context(|| format!("can't reach {}", self.base))?;
        let status = response.status();
        let mut envelope: Value =
            response.json().await.with_context(|| format!("{} is no such service", self.base))?;
        if !status.is_success() {
            let message = envelope["message"].as_str().unwrap_or("no message");
            let hint = if status == 401 { "; --token or MAPX_TOKEN holds it" } else { "" };
            return Err(anyhow!("{message} (status {}){hint}", status.as_u16()));
        }
        serde_json::from_value(envelope["data"].take()).context("the service's answer has another shape")
    }
}
