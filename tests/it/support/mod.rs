//! What the tests share.

pub mod app;
pub mod broker;
pub mod data;
pub mod provider;
pub mod servers;
pub mod services;
pub mod stored;
