//! One connection to the server: how it is made, what it is called, and what its failures are called.

use std::fmt::Display;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use lapin::tcp::{RustlsConnector, RustlsConnectorConfig};
use lapin::uri::{AMQPAuthority, AMQPQueryString, AMQPScheme, AMQPUri, AMQPUserInfo};
use lapin::{AsyncTcpStream, Connection, ConnectionProperties, ErrorKind};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tokio::net::lookup_host;
use tokio::time::timeout;

use super::BuildError;
use super::message::long;
use crate::config::broker::AmqpServer;

/// To reach the server, and again for the handshakes.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Seconds without a sign of life after which either side gives the other up, twice over.
const HEARTBEAT: u16 = 10;

const ACCESS_REFUSED: u16 = 403;
const NOT_ALLOWED: u16 = 530;

/// Where to connect to, and as whom.
pub(super) struct Address {
    server: AmqpServer,
    /// For TLS.
    connector: Option<RustlsConnector>,
    role: &'static str,
    /// `@HOST pid PID`.
    process: String,
}

impl Address {
    /// # Errors
    /// When `broker.ca_file` can't be used.
    pub fn new(server: AmqpServer, ca_file: &str, role: &'static str, host: &str) -> Result<Self, BuildError> {
        let connector = if server.tls { Some(connector(ca_file)?) } else { None };
        Ok(Self { server, connector, role, process: format!("@{host} pid {}", std::process::id()) })
    }

    /// Opens a connection that RabbitMQ shows as, for instance, `mapx-embeddings serve publish @host pid 123`.
    ///
    /// # Errors
    /// A sentence for a person that names the setting and not the password.
    pub async fn connect(self: &Arc<Self>, purpose: &str) -> Result<Connection, String> {
        // What went wrong before AMQP: lapin opens the socket on a thread of its own and hands on less.
        let failure: Arc<Mutex<Option<String>>> = Arc::default();
        let (address, noted) = (self.clone(), failure.clone());
        let runtime = lapin::runtime::default_runtime().map_err(|error| described(&error))?;
        let connecting = Connection::connector(
            self.uri(),
            runtime,
            async move |_, runtime| {
                let opened = async {
                    let addresses = address.addresses().await?;
                    let reaching = timeout(CONNECT_TIMEOUT, AsyncTcpStream::connect(&runtime, addresses)).await;
                    let stream = reaching.map_err(|_| address.unreachable(&no_answer()))?;
                    let stream = stream.map_err(|error| address.unreachable(&error))?;
                    let Some(connector) = &address.connector else { return Ok(stream) };
                    let encrypting =
                        timeout(CONNECT_TIMEOUT, stream.into_rustls(connector, &address.server.host)).await;
                    encrypting
                        .map_err(|_| address.unencrypted(&no_answer()))?
                        .map_err(|error| address.unencrypted(&error))
                };
                opened.await.map_err(|problem: String| {
                    *noted.lock().unwrap_or_else(PoisonError::into_inner) = Some(problem.clone());
                    lapin::Error::from(io::Error::other(problem))
                })
            },
            self.properties(purpose),
        );
        // The socket has limits of its own; what is left is the server's part of the handshake.
        match timeout(CONNECT_TIMEOUT * 3, connecting).await {
            Ok(Ok(connection)) => Ok(connection),
            Ok(Err(error)) => {
                let failure = failure.lock().unwrap_or_else(PoisonError::into_inner).take();
                Err(failure.unwrap_or_else(|| self.refusal(&error)))
            }
            Err(_) => {
                Err(format!("broker.url: {} takes connections and says nothing; is it RabbitMQ?", self.place()))
            }
        }
    }

    async fn addresses(&self) -> Result<Vec<SocketAddr>, String> {
        let looking = timeout(CONNECT_TIMEOUT, lookup_host((self.server.host.as_str(), self.server.port))).await;
        let found =
            looking.map_err(|_| self.unreachable(&no_answer()))?.map_err(|error| self.unreachable(&error))?;
        Ok(found.collect())
    }

    fn properties(&self, purpose: &str) -> ConnectionProperties {
        ConnectionProperties::default()
            .with_connection_name(long(format!("mapx-embeddings {} {purpose} {}", self.role, self.process)))
            .with_client_property("product".into(), long("mapx-embeddings"))
            .with_client_property("version".into(), long(env!("CARGO_PKG_VERSION")))
    }

    fn uri(&self) -> AMQPUri {
        let AmqpServer { tls, host, port, vhost, username, password } = self.server.clone();
        let userinfo = AMQPUserInfo { username, password: password.expose().to_owned() };
        AMQPUri {
            scheme: if tls { AMQPScheme::AMQPS } else { AMQPScheme::AMQP },
            authority: AMQPAuthority { userinfo, host, port },
            vhost,
            query: AMQPQueryString { heartbeat: Some(HEARTBEAT), ..AMQPQueryString::default() },
        }
    }

    fn unreachable(&self, problem: &dyn Display) -> String {
        format!("broker.url: can't reach {}: {problem}", self.place())
    }

    fn unencrypted(&self, problem: &dyn Display) -> String {
        let place = self.place();
        format!("broker.url: no TLS with {place}: {problem}; broker.ca_file names a private certificate authority")
    }

    fn place(&self) -> String {
        format!("{}:{}", self.server.host, self.server.port)
    }

    /// What the server answered to the handshake.
    fn refusal(&self, error: &lapin::Error) -> String {
        let (place, said) = (self.place(), described(error));
        let AmqpServer { vhost, username, .. } = &self.server;
        match error.kind() {
            ErrorKind::ProtocolError(refused) if refused.get_id() == ACCESS_REFUSED => format!(
                "broker.url: {place} refuses the user {username:?} or the password ({said}); set broker.username and \
                 broker.password"
            ),
            ErrorKind::ProtocolError(refused) if refused.get_id() == NOT_ALLOWED => {
                format!("broker.url: {place} has no vhost {vhost:?} that {username:?} may use ({said})")
            }
            _ => format!("broker.url: {place} ended the handshake: {said}"),
        }
    }
}

fn no_answer() -> String {
    format!("no answer within {} seconds", CONNECT_TIMEOUT.as_secs())
}

/// An error in one line: the server's own words where there are any.
pub(super) fn described(error: &lapin::Error) -> String {
    match error.kind() {
        ErrorKind::ProtocolError(said) => said.get_message().to_string(),
        ErrorKind::IOError(error) => error.to_string(),
        ErrorKind::MissingHeartbeatError => "the server gives no sign of life".to_owned(),
        _ => error.to_string(),
    }
}

/// Trusts the authority in the file alone, or those of the system.
fn connector(ca_file: &str) -> Result<RustlsConnector, BuildError> {
    let config = if ca_file.is_empty() {
        RustlsConnectorConfig::new_with_native_certs().map_err(|error| BuildError::Roots(error.to_string()))?
    } else {
        let problem = |problem: String| BuildError::CaFile { path: ca_file.to_owned(), problem };
        let read = CertificateDer::pem_file_iter(Path::new(ca_file)).map_err(|error| problem(error.to_string()))?;
        let certificates: Result<Vec<_>, _> = read.collect();
        let certificates = certificates.map_err(|error| problem(error.to_string()))?;
        if certificates.is_empty() {
            return Err(problem("there is no certificate in it".to_owned()));
        }
        RustlsConnectorConfig::default().with_parsable_certificates(certificates)
    };
    config.connector_with_no_client_auth().map_err(|error| BuildError::Roots(error.to_string()))
}
