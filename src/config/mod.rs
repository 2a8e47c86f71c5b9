//! The settings: one struct a section; defaults, then a file, then the environment.
//!
//! `config/default.toml` is both the documentation and the list of the keys that exist: a key that isn't
//! in it stops the boot.

pub mod auth;
pub mod broker;
pub mod embedder;
mod layers;
pub mod live;
pub mod presets;
pub mod secret;
pub mod sections;
pub mod traces;
mod validate;
pub mod webhook;
pub mod words;

use std::path::Path;

use serde::{Deserialize, Serialize};

use auth::AuthSettings;
use broker::BrokerSettings;
use embedder::EmbedderSettings;
use sections::{
    DatabaseSettings, LogSettings, MetricsSettings, QueueSettings, RegenerationSettings, SearchSettings,
    ServerSettings,
};
use traces::TraceSettings;
use webhook::WebhookSettings;

/// The annotated defaults, as shipped.
pub const DEFAULTS: &str = include_str!("../../config/default.toml");

/// Everything that can be set.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    pub server: ServerSettings,
    pub database: DatabaseSettings,
    pub broker: BrokerSettings,
    pub queue: QueueSettings,
    pub regeneration: RegenerationSettings,
    pub embedder: EmbedderSettings,
    pub search: SearchSettings,
    pub log: LogSettings,
    pub metrics: MetricsSettings,
    pub traces: TraceSettings,
    pub auth: AuthSettings,
    pub webhook: WebhookSettings,
}

/// Which parts a process runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// HTTP, relay and worker in one process.
    All,
    /// HTTP and relay.
    Serve,
    Worker,
}

impl Role {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Serve => "serve",
            Self::Worker => "worker",
        }
    }
}

/// Why the program can't start with these settings. The message names the key.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    #[error("{0}")]
    Read(#[from] config::ConfigError),
    #[error("unknown key {key} in {origin}{hint}")]
    UnknownKey { key: String, origin: String, hint: String },
    #[error("{key}: {problem}")]
    Invalid { key: &'static str, problem: String },
}

impl Settings {
    /// Defaults, then `file`, then `environment` (name and value pairs; the process's own in production).
    pub fn load(
        file: Option<&Path>,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, SettingsError> {
        let environment = environment.into_iter().collect();
        let mut settings: Self = layers::merge(file, &environment)?.try_deserialize()?;
        validate::ranges(&settings)?;
        settings.embedder = presets::resolve(&settings.embedder)?;
        let preset = presets::of(&settings.embedder)?;
        if settings.embedder.api_key.is_empty()
            && let Some(key) = preset.key_variables.iter().find_map(|name| environment.get(*name))
        {
            settings.embedder.api_key = secret::Secret::new(key.trim());
        }
        validate::key(&settings.embedder, preset)?;
        Ok(settings)
    }

    /// Refuses combinations that can't work for `role`.
    pub fn check_role(&self, role: Role) -> Result<(), SettingsError> {
        validate::role(self, role)
    }

    /// The settings as TOML, secrets hidden.
    pub fn to_toml(&self) -> String {
        toml::to_string_pretty(self).expect("settings are tables of scalars")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(env: &[(&str, &str)]) -> Result<Settings, String> {
        let env = env.iter().map(|(k, v)| (k.to_string(), v.to_string()));
        Settings::load(None, env).map_err(|e| e.to_string())
    }

    fn load_file(text: &str) -> Result<Settings, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("local.toml");
        std::fs::write(&path, text).unwrap();
        Settings::load(Some(&path), []).map_err(|e| e.to_string())
    }

    #[test]
    fn the_defaults_are_those_of_mapx() {
        let settings = load(&[]).unwrap();
        assert_eq!(settings.queue.max_concurrent, 3);
        assert_eq!(settings.queue.retry_delay_ms, 5000);
        assert_eq!(settings.queue.max_retries, 3);
        assert_eq!(settings.queue.batch_size, 5);
        assert_eq!(settings.server.bind.to_string(), "127.0.0.1:3000");
        settings.check_role(Role::All).unwrap();
    }

    #[test]
    fn environment_beats_file_beats_defaults() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("local.toml");
        std::fs::write(&path, "[queue]\nmax_concurrent = 4\nbatch_size = 6\n").unwrap();
        let env = [("MAPX__QUEUE__MAX_CONCURRENT".to_string(), "9".to_string())];
        let settings = Settings::load(Some(&path), env).unwrap();
        assert_eq!((settings.queue.max_concurrent, settings.queue.batch_size), (9, 6));
    }

    #[test]
    fn the_names_of_mapx_are_accepted() {
        let settings =
            load_file("[queue]\nmaxConcurrent = 7\nretryDelay = 100\nmaxRetries = 2\nbatchSize = 9").unwrap();
        let queue = &settings.queue;
        let values = (queue.max_concurrent, queue.retry_delay_ms, queue.max_retries, queue.batch_size);
        assert_eq!(values, (7, 100, 2, 9));
        assert_eq!(load(&[("MAPX__QUEUE__MAXCONCURRENT", "8")]).unwrap().queue.max_concurrent, 8);
        assert_eq!(load(&[("MAPX__QUEUE__RETRYDELAY", "8")]).unwrap().queue.retry_delay_ms, 8);
    }

    #[test]
    fn an_unknown_key_is_named_with_its_place() {
        let error = load(&[("MAPX__QUEUE__MAX_CONCURENT", "8")]).unwrap_err();
        assert!(error.contains("queue.max_concurent") && error.contains("environment"), "{error}");
        assert!(error.contains("queue.max_concurrent?"), "{error}");
        let error = load_file("[qeue]\nbatch_size = 1").unwrap_err();
        assert!(error.contains("qeue.batch_size") && error.contains("local.toml"), "{error}");
        assert!(load_file("speed = 1").unwrap_err().contains("speed"));
    }

    #[test]
    fn a_wrong_type_names_the_key() {
        let error = load(&[("MAPX__QUEUE__MAX_RETRIES", "many")]).unwrap_err();
        assert!(error.contains("queue.max_retries"), "{error}");
        let error = load_file("[server]\nbind = 3000").unwrap_err();
        assert!(error.contains("server.bind"), "{error}");
        assert!(load_file("[queue\n").unwrap_err().contains("local.toml"));
    }

    #[test]
    fn what_can_not_work_names_the_key() {
        let bad = [
            ("MAPX__QUEUE__BATCH_SIZE", "0", "queue.batch_size"),
            ("MAPX__QUEUE__MAX_CONCURRENT", "0", "queue.max_concurrent"),
            ("MAPX__DATABASE__URL", "mysql://x/y", "database.url"),
            ("MAPX__BROKER__URL", "kafka://x", "broker.url"),
            ("MAPX__BROKER__PREFIX", "a b", "broker.prefix"),
            ("MAPX__SERVER__BIND", "0.0.0.0:80", "server.bind"),
            ("MAPX__EMBEDDER__PROVIDER", "openai", "embedder.base_url"),
            ("MAPX__QUEUE__MIN_CONCURRENT", "0", "queue.min_concurrent"),
            ("MAPX__REGENERATION__WINDOW", "0", "regeneration.window"),
            ("MAPX__QUEUE__MAX_CONCURRENT_LIMIT", "1001", "queue.max_concurrent_limit"),
            ("MAPX__EMBEDDER__RATE_WINDOW_MS", "0", "embedder.rate_window_ms"),
            ("MAPX__METRICS__BIND", "everywhere", "metrics.bind"),
            ("MAPX__METRICS__BIND", "0.0.0.0:9464", "metrics.bind"),
            ("MAPX__AUTH__JWT_SECRET", "short", "auth.jwt_secret"),
            ("MAPX__AUTH__JWKS_URL", "http://keys.example.org/jwks", "auth.jwks_url"),
            ("MAPX__AUTH__JWKS_URL", "file:///etc/passwd", "auth.jwks_url"),
            ("MAPX__AUTH__ADMIN_TOKEN", "guessed", "auth.admin_token"),
            ("MAPX__AUTH__READ_TOKEN", "with a space in its middle", "auth.read_token"),
            ("MAPX__AUTH__ADMIN_CLAIM", "admin", "auth.admin_claim"),
            ("MAPX__AUTH__READ_CLAIM", "role=reader", "auth.read_claim"),
            ("MAPX__AUTH__ANONYMOUS_READ", "true", "auth.anonymous_read"),
            ("MAPX__AUTH__LEEWAY_SECONDS", "3600", "auth.leeway_seconds"),
            ("MAPX__SERVER__CORS_ORIGINS", "*", "server.cors_origins"),
            ("MAPX__SERVER__CORS_ORIGINS", "https://a.example, https://b.example/", "server.cors_origins"),
            ("MAPX__SERVER__MAX_CONCURRENT_REQUESTS", "0", "server.max_concurrent_requests"),
            ("MAPX__EMBEDDER__THRESHOLD", "1.5", "embedder.threshold"),
            ("MAPX__LOG__LEVEL", "nonsense=loud", "log.level"),
            ("MAPX__DATABASE__SYNCHRONOUS", "never", "database.synchronous"),
        ];
        for (name, value, key) in bad {
            let error = load(&[(name, value)]).unwrap_err();
            assert!(error.contains(key), "{name}={value}: {error}");
        }
        assert!(load(&[("MAPX__SERVER__BIND", "0.0.0.0:80"), ("MAPX__AUTH__ALLOW_INSECURE", "true")]).is_ok());
    }

    #[test]
    fn an_address_that_others_reach_needs_authentication_and_an_admin_token_alone_is_none() {
        let everywhere = ("MAPX__SERVER__BIND", "0.0.0.0:80");
        let secret = ("MAPX__AUTH__JWT_SECRET", "0123456789abcdef0123456789abcdef");
        let token = ("MAPX__AUTH__ADMIN_TOKEN", "0123456789abcdef");
        let error = load(&[everywhere, token]).unwrap_err();
        assert!(error.contains("server.bind") && error.contains("auth.jwt_secret"), "{error}");
        load(&[everywhere, secret]).unwrap();
        load(&[("MAPX__METRICS__BIND", "0.0.0.0:9464"), ("MAPX__AUTH__METRICS_TOKEN", token.1)]).unwrap();
        let error = load(&[token, ("MAPX__AUTH__READ_TOKEN", token.1)]).unwrap_err();
        assert!(error.contains("auth.read_token: is the same as auth.admin_token"), "{error}");
        assert!(!error.contains(token.1), "{error}");
    }

    #[test]
    fn a_list_is_a_list_in_a_file_and_has_commas_in_a_variable() {
        let of = |settings: Settings| settings.server.cors_origins.iter().map(str::to_owned).collect::<Vec<_>>();
        let both = ["https://a.example", "http://localhost:5173"];
        let file = load_file(r#"server.cors_origins = ["https://a.example", "http://localhost:5173"]"#).unwrap();
        assert_eq!(of(file), both);
        let variable = [("MAPX__SERVER__CORS_ORIGINS", "https://a.example, http://localhost:5173")];
        assert_eq!(of(load(&variable).unwrap()), both);
    }

    #[test]
    fn roles_apart_need_a_broker_and_a_database_that_both_reach() {
        let rabbit = ("MAPX__BROKER__URL", "amqp://broker");
        for role in [Role::Serve, Role::Worker] {
            let error = load(&[]).unwrap().check_role(role).unwrap_err().to_string();
            assert!(error.contains("broker.url") && error.contains(role.as_str()), "{error}");
            let error = load(&[rabbit]).unwrap().check_role(role).unwrap_err().to_string();
            assert!(error.contains("database.url") && error.contains(role.as_str()), "{error}");
        }
        load(&[rabbit]).unwrap().check_role(Role::All).unwrap();
    }

    #[test]
    fn secrets_are_not_printed() {
        let settings = load(&[("OPENAI_API_KEY", "sk-hidden")]).unwrap();
        assert_eq!(settings.embedder.api_key.expose(), "sk-hidden");
        assert!(!settings.to_toml().contains("sk-hidden"));
        assert!(!format!("{settings:?}").contains("sk-hidden"));
        let broker = [("MAPX__BROKER__URL", "amqp://u:hidden@broker"), ("MAPX__BROKER__PASSWORD", "hidden, too")];
        let settings = load(&broker).unwrap();
        assert!(!format!("{settings:?}{}", settings.to_toml()).contains("hidden"));
        let tokens = ["JWT_SECRET", "ADMIN_TOKEN", "READ_TOKEN", "METRICS_TOKEN"];
        let values =
            tokens.map(|name| (format!("MAPX__AUTH__{name}"), format!("hidden-hidden-hidden-hidden-{name}")));
        let settings = load(&values.each_ref().map(|(name, value)| (name.as_str(), value.as_str()))).unwrap();
        assert!(!format!("{settings:?}{}", settings.to_toml()).contains("hidden"));
        let own = load(&[("OPENAI_API_KEY", "a"), ("MAPX__EMBEDDER__API_KEY", "007")]).unwrap();
        assert_eq!(own.embedder.api_key.expose(), "007");
    }

    #[test]
    fn what_is_printed_can_be_read_again() {
        let printed = load(&[]).unwrap().to_toml();
        assert_eq!(load_file(&printed).unwrap().to_toml(), printed);
    }
    #[test]
    fn a_schedule_is_a_list_in_a_file_and_a_text_in_the_environment() {
        let schedule = |settings: Settings| settings.webhook.retry_schedule_ms;
        let of_mapx = [5_000, 300_000, 1_800_000, 7_200_000, 18_000_000, 36_000_000, 36_000_000];
        assert_eq!(schedule(load(&[]).unwrap()), of_mapx);
        assert_eq!(schedule(load_file("[webhook]\nretry_schedule_ms = [10, 20]").unwrap()), [10, 20]);
        assert_eq!(schedule(load(&[("MAPX__WEBHOOK__RETRY_SCHEDULE_MS", "10, 20")]).unwrap()), [10, 20]);
        assert_eq!(schedule(load(&[("MAPX__WEBHOOK__RETRY_SCHEDULE_MS", "[10]")]).unwrap()), [10]);
        for (value, told) in [("soon", "retry_schedule_ms"), ("0", "webhook.retry_schedule_ms: 0 is not from 1")] {
            let problem = load(&[("MAPX__WEBHOOK__RETRY_SCHEDULE_MS", value)]).unwrap_err();
            assert!(problem.contains(told), "{problem}");
        }
        let problem = load(&[("MAPX__WEBHOOK__RETENTION_DAYS", "1")]).unwrap_err();
        assert!(problem.starts_with("webhook.retention_days"), "{problem}");
    }

    #[test]
    fn the_settings_of_the_container_image_are_valid() {
        let settings = load_file(include_str!("../../config/production.toml")).unwrap();
        assert!(!settings.server.bind.ip().is_loopback());
        settings.check_role(Role::All).unwrap();
    }
}
