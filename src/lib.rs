//! Keeps the vector embeddings of recommendations fresh without ever making a user wait for a model.
//!
//! Data moves one way, and so do imports: `http` → `db` → `relay` → `broker` → `worker` → `embedder` → `db`.
//! `tests/architecture.rs` checks it.

pub mod app;
mod auth;
pub mod broker;
mod budget;
mod busy;
pub mod cli;

pub mod config;
pub mod db;
pub mod domain;
pub mod embedder;
mod heartbeat;
pub mod http;
mod measures;
mod metrics;
mod regeneration;
mod relay;
pub mod search;
pub mod shutdown;
pub mod telemetry;
mod traces;
mod webhook;
mod worker;
