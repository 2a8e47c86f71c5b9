//! The service that a command talks to: one that runs, or one of its own for as long as it needs it.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::Target;
use super::client::Client;
use crate::app::App;
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
        if let Some(url) = &target.url {
            return Ok(Self { client: Client::new(url)?, own: None });
        }
        let client = Client::new(&format!("http://{}", settings.server.bind))?;
        if client.is_alive(LOOK).await {
            return Ok(Self { client, own: None });
        }
        settings.server.bind = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        Self::start(App::build(settings, Role::All).await?)
    }

    /// Starts a built service in this process.
    pub fn start(app: App) -> anyhow::Result<Self> {
        let client = Client::new(&format!("http://{}", app.addr()))?;
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
