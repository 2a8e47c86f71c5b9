//! The section `broker`, and what its URL says.

use percent_encoding::percent_decode_str;
use serde::{Deserialize, Serialize};
use url::Url;

use super::secret::{Secret, ServerUrl};

/// Tasks in one message at most.
pub const MAX_BUNDLE: u64 = 25;

const EMBEDDED: &str = "embedded";
const FORM: &str = "must be \"embedded\", amqp://HOST:PORT/VHOST or amqps://HOST:PORT/VHOST";

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BrokerSettings {
    pub url: ServerUrl,
    pub username: String,
    pub password: Secret,
    pub ca_file: String,
    pub prefix: String,
    pub window: u64,
    pub bundle: usize,
}

/// A RabbitMQ server and how to get in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AmqpServer {
    pub tls: bool,
    /// A name or an address; an IPv6 address without its brackets.
    pub host: String,
    pub port: u16,
    pub vhost: String,
    pub username: String,
    pub password: Secret,
}

impl BrokerSettings {
    pub fn is_embedded(&self) -> bool {
        self.url.expose() == EMBEDDED
    }

    /// The server that the URL and the separate credentials name, or `None` for the embedded broker.
    ///
    /// # Errors
    /// What is wrong with the URL, without its password.
    pub fn server(&self) -> Result<Option<AmqpServer>, String> {
        if self.is_embedded() {
            return Ok(None);
        }
        let mut server = parse(self.url.expose())?;
        if !self.username.is_empty() {
            server.username = self.username.clone();
        }
        if !self.password.is_empty() {
            server.password = self.password.clone();
        }
        Ok(Some(server))
    }
}

fn parse(text: &str) -> Result<AmqpServer, String> {
    let url = Url::parse(text).map_err(|problem| {
        format!(
            "{FORM}: {problem}; in a URL, characters of a password such as @ / : are percent-encoded, \
             broker.password takes them as they are"
        )
    })?;
    let (tls, port) = match url.scheme() {
        "amqp" => (false, 5672),
        "amqps" => (true, 5671),
        _ => return Err(FORM.to_owned()),
    };
    let host =
        url.host_str().filter(|host| !host.is_empty()).ok_or_else(|| format!("{FORM}: the host is missing"))?;
    if url.query().is_some() || url.fragment().is_some() {
        return Err(format!("{FORM}, without parameters: there is nothing to tune"));
    }
    Ok(AmqpServer {
        tls,
        host: decoded(host.trim_start_matches('[').trim_end_matches(']'))?,
        port: url.port().unwrap_or(port),
        // Strictly, "/" at the end names a vhost with an empty name, which nobody has and many write.
        vhost: match url.path().trim_start_matches('/') {
            "" => "/".to_owned(),
            vhost => decoded(vhost)?,
        },
        username: if url.username().is_empty() { "guest".to_owned() } else { decoded(url.username())? },
        password: Secret::new(url.password().map_or(Ok("guest".to_owned()), decoded)?),
    })
}

fn decoded(text: &str) -> Result<String, String> {
    let text = percent_decode_str(text).decode_utf8().map_err(|_| format!("{FORM}, percent-encoded as UTF-8"))?;
    Ok(text.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(url: &str) -> BrokerSettings {
        let (username, password) = (String::new(), Secret::default());
        BrokerSettings {
            url: ServerUrl::new(url),
            username,
            password,
            ca_file: String::new(),
            prefix: "mapx".into(),
            window: 1,
            bundle: 1,
        }
    }

    fn server(url: &str) -> AmqpServer {
        settings(url).server().expect("a good URL").expect("a server")
    }

    #[test]
    fn what_the_url_leaves_out_has_rabbitmqs_defaults() {
        let plain = AmqpServer {
            tls: false,
            host: "broker".into(),
            port: 5672,
            vhost: "/".into(),
            username: "guest".into(),
            password: Secret::new("guest"),
        };
        for url in ["amqp://broker", "amqp://broker/", "amqp://broker:5672/%2f", "amqp://guest:guest@broker"] {
            assert_eq!(server(url), plain, "{url}");
        }
        assert_eq!(server("amqps://broker"), AmqpServer { tls: true, port: 5671, ..plain });
        assert_eq!(settings("embedded").server(), Ok(None));
    }

    #[test]
    fn credentials_and_vhosts_are_percent_decoded() {
        let server = server("amqps://us%40er:p%2Fa%3As%20s@[::1]:15000/team%2Fmapx");
        assert_eq!((server.host.as_str(), server.port, server.vhost.as_str()), ("::1", 15_000, "team/mapx"));
        assert_eq!((server.username.as_str(), server.password.expose()), ("us@er", "p/a:s s"));
    }

    #[test]
    fn separate_credentials_win_and_are_taken_as_they_are() {
        let mut settings = settings("amqp://other:wrong@broker");
        settings.username = "mapx".into();
        settings.password = Secret::new("a@b/c%20:ü");
        let server = settings.server().expect("a good URL").expect("a server");
        assert_eq!((server.username.as_str(), server.password.expose()), ("mapx", "a@b/c%20:ü"));
    }

    #[test]
    fn a_bad_url_is_refused_without_its_password() {
        let bad = [
            "kafka://broker",
            "amqp://",
            "amqp:///vhost",
            "amqp://user:hidden@",
            "amqp://user:hidden@broker:99999",
            "amqp://user:hid/den@broker",
            "amqp://user:hidden@broker/%ff",
            "amqp://user:hidden@broker?heartbeat=5",
            "localhost:5672",
            "",
        ];
        for url in bad {
            let settings = settings(url);
            let error = settings.server().expect_err(url);
            assert!(error.contains("amqp://HOST") && !error.contains("hid"), "{url}: {error}");
            assert!(!format!("{settings:?}").contains("hid"), "{settings:?}");
        }
    }
}
