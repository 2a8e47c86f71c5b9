//! Parses the command line and switches to the role.

use std::process::ExitCode;

use clap::Parser;
use mapx_embeddings::cli::Cli;

#[tokio::main]
async fn main() -> ExitCode {
    // First thing: every TLS client of the process takes its cryptography from here.
    let _ = rustls::crypto::ring::default_provider().install_default();
    match Cli::parse().run().await {
        Ok(code) => code,
        Err(error) => mapx_embeddings::cli::report(&error),
    }
}
