//! The numbers of the README for RabbitMQ and PostgreSQL, printed by `scripts/bench production`. Each stands
//! beside what the servers alone do in the same run, as a ratio: on a shared machine a time says little.

mod drain;
mod latency;
mod saves;
mod stack;

#[tokio::main]
async fn main() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    saves::run().await;
    latency::run().await;
    drain::run().await;
}
