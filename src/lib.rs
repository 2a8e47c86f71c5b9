//! Keeps the vector embeddings of recommendations fresh without ever making a user wait for a model.

pub mod broker;
pub mod config;
pub mod db;
pub mod domain;
pub mod embedder;
pub mod relay;
pub mod worker;
