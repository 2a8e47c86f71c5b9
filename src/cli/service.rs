//! The service that a command talks to: one that runs, or one of its own for as long as it needs it.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::Target;
use super::client::Client;
use crate::app::App;
use crate::config::secret::Secret;
use crate::config::{Role, Settings};

/// How long a running service may take to say that it is one.
const LOOK: Duration = Duration::from_secs(2);

pub struct Service {
    pub client: Client,
    own: Option<(CancellationToken, JoinHandle<anyhow::Result<()>>)>,
}

impl Service {
    /// The service at the stated address, else the one at `server.bind`, else one of our own on a free port
    /// over the same database.
    pub async fn find(mut settings: Settings, target: &Target) -> anyhow::Result<Self> {
        let client = target.client(&settings)?;
        if target.url.is_some() || client.is_alive(LOOK).await {
            return Ok(Self { client, own: None });
        }
        settings.server.bind = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        Self::start(settings).await
    }

    /// Starts a service in this process.
    pub async fn start(mut settings: Settings) -> anyhow::Result<Self> {
        // Who can start it operates it, whether or not anybody else does.
        if settings.auth.is_on() && settings.auth.admin_token.is_empty() {
            settings.auth.admin_token = Secret::new(Uuid::new_v4().to_string());
        }
        let token = settings.auth.admin_token.clone();
        let app = App::build(settings, Role::All).await?;
        let client =
            Client::new(&format!("http://{}", app.addr()), Some(&token).filter(|token| !token.is_empty()))?;
        let shutdown = CancellationToken::new();
        let running = tokio::spawn(app.run_until(shutdown.clone()));
        Ok(Self { client, own: Some((shutdown, running)) })
    }

    /// Whether it ends with the command.
    pub fn is_own(&self) -> bool {
        self.own.is_some()
    }

    /// Ends a service of our own in good order.
    pub async fn end(self) -> anyhow::Result<()> {
        let Some((shutdown, running)) = self.own else { return Ok(()) };
        shutdown.cancel();
        running.await?
    }

    /// Serves on until `stop`, then ends as [`Service::end`] does.
    pub async fn serve_until(self, stop: CancellationToken) -> anyhow::Result<()> {
        stop.cancelled().await;
        self.end().await
    }
}
