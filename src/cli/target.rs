//! Which service a command asks, and with which token.

use clap::Args;

use super::client::Client;
use crate::config::Settings;
use crate::config::secret::Secret;

/// Which service to ask.
#[derive(Debug, Args)]
pub struct Target {
    /// The service's address; by default the one at server.bind
    #[arg(long, value_name = "URL", global = true)]
    pub url: Option<String>,
    /// The token to show; without it and --url the configuration's own auth.admin_token
    // The environment's is meant: what stands in a command line, every process of the machine can read.
    #[arg(long, value_name = "TOKEN", global = true, env = "MAPX_TOKEN", hide_env_values = true, value_parser = secret)]
    token: Option<Secret>,
}

fn secret(text: &str) -> Result<Secret, std::convert::Infallible> {
    Ok(Secret::new(text.trim()))
}

impl Target {
    pub fn client(&self, settings: &Settings) -> anyhow::Result<Client> {
        match &self.url {
            Some(url) => Client::new(url, self.token.as_ref()),
            None => Client::new(&format!("http://{}", settings.server.bind), self.token_for_own(settings)),
        }
    }

    /// The configuration's token goes to the service of that configuration, and to no other address.
    fn token_for_own<'s>(&'s self, settings: &'s Settings) -> Option<&'s Secret> {
        self.token.as_ref().or_else(|| Some(&settings.auth.admin_token).filter(|token| !token.is_empty()))
    }
}
