//! The numbers of the README for RabbitMQ and PostgreSQL, printed by `scripts/bench production`. Each stands
//! beside what the servers alone do in the same run, as a ratio: on a shared machine a time says little.

mod cpu;
mod drain;
mod latency;
mod saves;
mod stack;

/// All parts, or those that are named: `cargo bench --bench production -- drain`; of a drain only those tables that are
/// named, too, as with `-- drain 1536-none`.
#[tokio::main]
async fn main() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let named: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let wanted = |part: &str| named.is_empty() || named.iter().any(|name| name == part);
    if wanted("saves") {
        saves::run().await;
    }
    if wanted("latency") {
        latency::run().await;
    }
    if wanted("drain") {
        drain::run(&named).await;
    }
}
